// Reading JSON, strictly: UTF-8 only, no comments, no trailing commas, no duplicate keys, nothing after the value, and
// at most 128 levels deep. Every error names the source, line and column, and what was expected there.
#pragma once

#include <charconv>
#include <cstddef>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <relay/core/json.hpp>
#include <relay/core/require.hpp>

namespace relay {

namespace detail {

class JsonParser {
 public:
  JsonParser(std::string_view text, std::string_view where, bool one_line = false)
      : text_(text), where_(where), one_line_(one_line) {}

  Json document() {
    Json value = this->value(0);
    space();
    if (at_ < text_.size()) wrong("expected nothing after the value");
    return value;
  }

 private:
  static constexpr int deepest = 128;

  template <class... Parts>
  [[noreturn]] void wrong(const Parts&... parts) const {
    int line = 1, column = 1;
    for (const char c : text_.substr(0, at_)) {
      if (c == '\n')
        ++line, column = 1;
      else if ((static_cast<unsigned char>(c) & 0xC0u) != 0x80u)
        ++column;  // characters, not bytes
    }
    fail(where_, ": ", one_line_ ? "" : message("line ", line, ", "), "column ", column, at_ < text_.size() ? "" : " (end)", ": ",
         parts...);
  }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool take(char c) { return peek() == c && at_ < text_.size() ? (++at_, true) : false; }
  bool take(std::string_view word) {
    return text_.substr(at_, word.size()) == word ? (at_ += word.size(), true) : false;
  }
  void space() {
    while (peek() == ' ' || peek() == '\n' || peek() == '\t' || peek() == '\r') ++at_;
  }

  Json value(int depth) {
    space();
    if (depth > deepest) wrong("nested deeper than ", deepest, " levels");
    const char c = peek();
    if (c == '{') return object(depth);
    if (c == '[') return array(depth);
    if (c == '"') return Json(string());
    if (c == '-' || (c >= '0' && c <= '9')) return Json(number());
    if (take("true")) return Json(true);
    if (take("false")) return Json(false);
    if (take("null")) return Json(nullptr);
    wrong("expected a value: an object, array, string, number, true, false or null");
  }

  Json object(int depth) {
    Json out = Json::object();
    ++at_;
    space();
    if (take('}')) return out;
    do {
      space();
      if (peek() != '"') wrong("expected a key in double quotes");
      const std::size_t start = at_;
      std::string key = string();
      if (out.find(key)) at_ = start, wrong("the key \"", key, "\" stands twice in one object");
      space();
      if (!take(':')) wrong("expected ':' after the key \"", key, "\"");
      out.set(key, value(depth + 1));
      space();
    } while (take(','));
    if (!take('}')) wrong("expected ',' or '}'");
    return out;
  }

  Json array(int depth) {
    Json out = Json::array();
    ++at_;
    space();
    if (take(']')) return out;
    do {
      out.push(value(depth + 1));
      space();
    } while (take(','));
    if (!take(']')) wrong("expected ',' or ']'");
    return out;
  }

  void digits() {
    if (peek() < '0' || peek() > '9') wrong("expected a digit");
    while (peek() >= '0' && peek() <= '9') ++at_;
  }

  double number() {
    const std::size_t start = at_;
    take('-');
    if (take('0')) {
      if (peek() >= '0' && peek() <= '9') wrong("a number must not start with 0");
    } else {
      digits();
    }
    if (take('.')) digits();
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      digits();
    }
    double out = 0;
    if (std::from_chars(text_.data() + start, text_.data() + at_, out).ec != std::errc{})
      at_ = start, wrong("the number is too large or too small for a double");
    return out;
  }

  unsigned hex4() {
    unsigned code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = peek();
      const char letter = static_cast<char>(c | 0x20);
      if (c >= '0' && c <= '9')
        code = code * 16 + static_cast<unsigned>(c - '0');
      else if (letter >= 'a' && letter <= 'f')
        code = code * 16 + static_cast<unsigned>(letter - 'a' + 10);
      else
        wrong("expected four hexadecimal digits after \\u");
    }
    return code;
  }

  void escape(std::string& out) {
    constexpr std::string_view names = "\"\\/bfnrt", meanings = "\"\\/\b\f\n\r\t";
    if (const auto i = names.find(peek()); i != names.npos && at_ < text_.size())
      return ++at_, out += meanings[i], void();
    if (!take('u')) wrong("expected one of \" \\ / b f n r t u after '\\'");
    unsigned code = hex4();
    if (code >= 0xD800 && code <= 0xDBFF) {  // the first half of a pair
      const unsigned low = take("\\u") ? hex4() : 0;
      if (low < 0xDC00 || low > 0xDFFF) wrong("expected the second half of a surrogate pair, \\udc00 to \\udfff");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code <= 0xDFFF) {
      wrong("the second half of a surrogate pair without its first");
    }
    const auto put = [&](unsigned byte) { out += static_cast<char>(byte); };
    if (code < 0x80) return put(code);
    if (code < 0x800) return put(0xC0 | code >> 6), put(0x80 | (code & 63));
    if (code < 0x10000) return put(0xE0 | code >> 12), put(0x80 | (code >> 6 & 63)), put(0x80 | (code & 63));
    put(0xF0 | code >> 18), put(0x80 | (code >> 12 & 63)), put(0x80 | (code >> 6 & 63)), put(0x80 | (code & 63));
  }

  std::string string() {
    std::string out;
    for (++at_; !take('"');) {
      if (at_ == text_.size()) wrong("expected '\"' at the end of the string");
      if (static_cast<unsigned char>(peek()) < 0x20) wrong("a control character in a string must be escaped");
      if (take('\\')) {
        escape(out);
        continue;
      }
      const int bytes = utf8_length(text_, at_);
      if (bytes == 0) wrong("the string is not UTF-8");
      out.append(text_, at_, static_cast<std::size_t>(bytes));
      at_ += static_cast<std::size_t>(bytes);
    }
    return out;
  }

  std::string_view text_, where_;
  bool one_line_;
  std::size_t at_ = 0;
};

}  // namespace detail

/// The value that `text` spells; errors begin with `where`, the name of a file, say.
inline Json parse_json(std::string_view text, std::string_view where) {
  return detail::JsonParser(text, where).document();
}

/// The same for one line of a file, which `where` names: errors give the column alone.
inline Json parse_json_line(std::string_view text, std::string_view where) {
  return detail::JsonParser(text, where, true).document();
}

}  // namespace relay
