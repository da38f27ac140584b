// A small strict JSON value (RFC 8259): null, boolean, number, string, array, and object in the order it was written.
//
// For configurations, metrics, chains as JSONL and the header of safetensors. Our own because nlohmann's costs more
// than a second per translation unit, and everything a user includes has 2.5 seconds in all. Numbers are doubles and
// come back bit for bit; NaN and infinity are refused, and so are integers a double cannot hold. This is the value and
// its text; json_parser.hpp reads it.
#pragma once

#include <charconv>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <relay/core/require.hpp>

namespace relay {

namespace detail {

/// One key of an object. A template, so that it may hold the Json that is not complete yet where it is named.
template <class Value>
struct JsonMember {
  std::string key;
  Value value;
  bool operator==(const JsonMember&) const = default;
};

}  // namespace detail

class Json {
 public:
  using Member = detail::JsonMember<Json>;
  using Array = std::vector<Json>;
  using Object = std::vector<Member>;

  Json() = default;
  Json(std::nullptr_t) {}
  Json(std::string text) : value_(std::move(text)) {}
  Json(std::string_view text) : value_(std::string(text)) {}
  Json(const char* text) : value_(std::string(text)) {}
  template <class T>
  requires(std::is_arithmetic_v<T> && !std::same_as<T, char>) Json(T v);

  static Json array() { return Json(Value(Array())); }
  static Json object() { return Json(Value(Object())); }
  template <class Range>
  static Json array(const Range& items);

  /// On one line, without spaces.
  std::string dump() const;

  bool is_null() const { return value_.index() == 0; }
  bool is_bool() const { return value_.index() == 1; }
  bool is_number() const { return value_.index() == 2; }
  bool is_string() const { return value_.index() == 3; }
  bool is_array() const { return value_.index() == 4; }
  bool is_object() const { return value_.index() == 5; }
  /// "a string", for errors.
  const char* kind() const {
    constexpr const char* names[] = {"null", "a boolean", "a number", "a string", "an array", "an object"};
    return names[value_.index()];
  }

  /// The value as a C++ type; an error says `what` had to be a number, a string, ...
  bool as_bool(std::string_view what = "the value") const { return as<bool>("true or false", what); }
  double as_number(std::string_view what = "the value") const { return as<double>("a number", what); }
  std::int64_t as_integer(std::string_view what = "the value") const;
  const std::string& as_string(std::string_view what = "the value") const { return as<std::string>("a string", what); }
  const Array& as_array(std::string_view what = "the value") const { return as<Array>("an array", what); }
  const Object& as_object(std::string_view what = "the value") const { return as<Object>("an object", what); }

  /// The value under `key` of an object; `at` throws where there is none, `find` gives null.
  const Json& at(std::string_view key, std::string_view what = "the object") const;
  const Json* find(std::string_view key, std::string_view what = "the value") const;

  /// Building: a new key goes last, a known one gets the new value; `set` makes a null an object, `push` an array.
  Json& set(std::string_view key, Json value);
  Json& push(Json value);

  bool operator==(const Json& other) const { return value_ == other.value_; }

 private:
  using Value = std::variant<std::nullptr_t, bool, double, std::string, Array, Object>;
  explicit Json(Value value) : value_(std::move(value)) {}

  template <class T>
  const T& as(std::string_view wanted, std::string_view what) const {
    const T* held = std::get_if<T>(&value_);
    require(held != nullptr, what, " must be ", wanted, ", but is ", kind());
    return *held;
  }
  void append_to(std::string& out) const;

  Value value_;
};

namespace detail {

/// Bytes of the UTF-8 character at text[i], 0 when there is none: no overlong forms, no surrogates, nothing past
/// 10ffff.
inline int utf8_length(std::string_view text, std::size_t i) {
  const auto byte = [&](std::size_t k) { return k < text.size() ? static_cast<unsigned char>(text[k]) : 0u; };
  const auto tail = [&](std::size_t k) { return (byte(k) & 0xC0u) == 0x80u; };
  const unsigned a = byte(i), b = byte(i + 1);
  if (a < 0x80) return i < text.size() ? 1 : 0;
  if (a >= 0xC2 && a <= 0xDF) return tail(i + 1) ? 2 : 0;
  if (a >= 0xE0 && a <= 0xEF) {
    const bool bad = (a == 0xE0 && b < 0xA0) || (a == 0xED && b > 0x9F);
    return !bad && tail(i + 1) && tail(i + 2) ? 3 : 0;
  }
  if (a >= 0xF0 && a <= 0xF4) {
    const bool bad = (a == 0xF0 && b < 0x90) || (a == 0xF4 && b > 0x8F);
    return !bad && tail(i + 1) && tail(i + 2) && tail(i + 3) ? 4 : 0;
  }
  return 0;
}

inline void append_json_string(std::string& out, std::string_view text) {
  constexpr char hex[] = "0123456789abcdef";
  out += '"';
  for (std::size_t i = 0; i < text.size();) {
    const int bytes = utf8_length(text, i);
    require(bytes > 0, "byte ", i + 1, " of a text is not UTF-8: JSON cannot hold it");
    const char c = text[i];
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20)
          ((out += "\\u00") += hex[c >> 4]) += hex[c & 15];
        else
          out.append(text, i, static_cast<std::size_t>(bytes));
    }
    i += static_cast<std::size_t>(bytes);
  }
  out += '"';
}

}  // namespace detail

template <class T>
requires(std::is_arithmetic_v<T> && !std::same_as<T, char>) Json::Json(T v) {
  if constexpr (std::same_as<T, bool>) {
    value_ = v;
  } else if constexpr (std::same_as<T, float>) {  // the shortest text of the float, so that 0.1f is written 0.1
    char digits[32];
    double shortest = v;
    if (std::isfinite(v)) std::from_chars(digits, std::to_chars(digits, digits + sizeof digits, v).ptr, shortest);
    value_ = shortest;
  } else {
    if constexpr (std::integral<T>)
      require(std::in_range<std::int64_t>(v) && std::abs(static_cast<double>(v)) <= 0x1p53, "the integer ", v,
              " is beyond 2^53: JSON numbers are doubles, store it as a string");
    value_ = static_cast<double>(v);
  }
}

template <class Range>
Json Json::array(const Range& items) {
  Json out = array();
  for (const auto& item : items) out.push(Json(item));
  return out;
}

inline std::int64_t Json::as_integer(std::string_view what) const {
  const double v = as<double>("a whole number", what);
  require(v == std::floor(v) && std::abs(v) <= 0x1p53, what, " must be a whole number, but is ", v);
  return static_cast<std::int64_t>(v);
}

inline const Json* Json::find(std::string_view key, std::string_view what) const {
  for (const Member& member : as_object(what))
    if (member.key == key) return &member.value;
  return nullptr;
}

inline const Json& Json::at(std::string_view key, std::string_view what) const {
  const Json* found = find(key, what);
  require(found != nullptr, what, " has no \"", key, "\"");
  return *found;
}

inline Json& Json::set(std::string_view key, Json value) {
  if (is_null()) value_ = Object();
  as_object();  // throws for anything else
  Object* members = std::get_if<Object>(&value_);
  for (Member& member : *members)
    if (member.key == key) return member.value = std::move(value), *this;
  members->push_back({std::string(key), std::move(value)});
  return *this;
}

inline Json& Json::push(Json value) {
  if (is_null()) value_ = Array();
  as_array();  // throws for anything else
  std::get_if<Array>(&value_)->push_back(std::move(value));
  return *this;
}

inline std::string Json::dump() const {
  std::string out;
  append_to(out);
  return out;
}

inline void Json::append_to(std::string& out) const {
  if (is_null()) {
    out += "null";
  } else if (is_bool()) {
    out += as_bool() ? "true" : "false";
  } else if (is_number()) {
    const double v = as_number();
    require(std::isfinite(v), "JSON cannot hold the number ", v);
    char digits[32];
    const bool whole = v == std::floor(v) && std::abs(v) <= 0x1p53 && !(v == 0 && std::signbit(v));
    const auto end = whole ? std::to_chars(digits, digits + sizeof digits, static_cast<std::int64_t>(v))
                           : std::to_chars(digits, digits + sizeof digits, v);
    out.append(digits, end.ptr);
  } else if (is_string()) {
    detail::append_json_string(out, as_string());
  } else if (is_array()) {
    out += '[';
    for (const char* between = ""; const Json& item : as_array())
      out += std::exchange(between, ","), item.append_to(out);
    out += ']';
  } else {
    out += '{';
    for (const char* between = ""; const Member& member : as_object()) {
      out += std::exchange(between, ",");
      detail::append_json_string(out, member.key);
      out += ':';
      member.value.append_to(out);
    }
    out += '}';
  }
}

}  // namespace relay
