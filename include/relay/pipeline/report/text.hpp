// Text of a report: escaping, and numbers with the digits that say something.
#pragma once

#include <cmath>
#include <cstdio>
#include <string>
#include <string_view>

#include <relay/core/require.hpp>

namespace relay::report {

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
  return message(fixed(value, value > 0 && value < 9.95 ? 1 : 0), "\u00A0%");
}

/// 1234567 as 1 234 567, with narrow spaces that do not break.
inline std::string grouped(double value) {
  std::string text = fixed(value, 0);
  for (int i = static_cast<int>(text.size()) - 3; i > (value < 0 ? 1 : 0); i -= 3)
    text.insert(static_cast<std::size_t>(i), "\u202F");
  return text;
}

inline std::string duration(double seconds) {
  if (seconds < 10) return message(fixed(seconds, 1), " s");
  if (seconds < 60) return message(fixed(seconds, 0), " s");
  const long whole = std::lround(seconds);
  const auto two = [](long n) { return message(n < 10 ? "0" : "", n); };
  if (seconds < 3600) return message(whole / 60, " min ", two(whole % 60), " s");
  return message(whole / 3600, " h ", two(whole / 60 % 60), " min");
}

/// edit_distance as a person writes it.
inline std::string spoken(std::string_view name) {
  std::string out(name);
  for (char& c : out)
    if (c == '_') c = ' ';
  return out;
}

/// "1 length", "2 lengths".
inline std::string counted(std::size_t n, std::string_view what) { return message(n, " ", what, n == 1 ? "" : "s"); }

}  // namespace relay::report
