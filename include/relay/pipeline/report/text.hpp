// Text of a report: escaping, and numbers with the digits that say something.
#pragma once

#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdio>
#include <initializer_list>
#include <string>
#include <string_view>

namespace relay::report {

/// A text or a whole number, as one of the parts of `join`; lives as long as its expression.
class Part {
 public:
  Part(const char* text) : text_(text) {}
  Part(std::string_view text) : text_(text) {}
  Part(const std::string& text) : text_(text) {}
  template <std::integral T>
  Part(T number) : number_(std::to_string(number)), text_(number_) {}
  Part(const Part&) = delete;
  Part& operator=(const Part&) = delete;
  std::string_view text() const { return text_; }

 private:
  std::string number_;
  std::string_view text_;
};

/// The parts one after another: `message`, but one function, where that is one per list of types. A report has hundreds, and
/// whoever includes relay would wait for them.
inline std::string join(std::initializer_list<Part> parts) {
  std::size_t size = 0;
  for (const Part& part : parts) size += part.text().size();
  std::string out;
  out.reserve(size);
  for (const Part& part : parts) out += part.text();
  return out;
}

/// Text as HTML, in an element or between double quotes; control characters, which HTML forbids, as U+FFFD.
inline std::string escape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else if (c == '\'')
      out += "&#39;";
    else if ((static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') || c == 0x7F)
      out += "\xEF\xBF\xBD";
    else
      out += c;
  }
  return out;
}

/// With so many digits after the point.
inline std::string fixed(double value, int digits) {
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

/// The same without zeros at the end: for coordinates.
inline std::string brief(double value, int digits = 1) {
  std::string text = fixed(value, digits);
  if (text.find('.') != text.npos) {
    while (text.back() == '0') text.pop_back();
    if (text.back() == '.') text.pop_back();
  }
  return text == "-0" ? "0" : text;
}

/// Three digits that count.
inline std::string significant(double value) {
  char text[64];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

/// A share in percent: one digit after the point below ten.
inline std::string percent(double share) {
  const double value = share * 100;
  if (value > 0 && value < 0.05) return "<0.1\u00A0%";
  return join({fixed(value, value > 0 && value < 9.95 ? 1 : 0), "\u00A0%"});
}

/// 1234567 as 1 234 567, with narrow spaces that do not break.
inline std::string grouped(double value) {
  std::string text = fixed(value, 0);
  for (int i = static_cast<int>(text.size()) - 3; i > (value < 0 ? 1 : 0); i -= 3)
    text.insert(static_cast<std::size_t>(i), "\u202F");
  return text;
}

inline std::string duration(double seconds) {
  if (seconds < 10) return join({fixed(seconds, 1), " s"});
  if (seconds < 60) return join({fixed(seconds, 0), " s"});
  const long whole = std::lround(seconds);
  const auto two = [](long n) { return join({n < 10 ? "0" : "", n}); };
  if (seconds < 3600) return join({whole / 60, " min ", two(whole % 60), " s"});
  return join({whole / 3600, " h ", two(whole / 60 % 60), " min"});
}

/// edit_distance as a person writes it.
inline std::string spoken(std::string_view name) {
  std::string out(name);
  for (char& c : out)
    if (c == '_') c = ' ';
  return out;
}

/// "1 length", "2 lengths".
inline std::string counted(std::size_t n, std::string_view what) { return join({n, " ", what, n == 1 ? "" : "s"}); }

}  // namespace relay::report
