// Text that a person typed, and errors about it: one line that shows the text and points at the character.
//
//   expression "1+&": column 3 ('&'): expected a number 0..10 or '('
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <relay/core/require.hpp>

namespace relay {

struct TypedText {
  std::string_view what, text;  // what is it meant to be: "expression", "words"

  /// Throws an error that points at a byte of the text.
  template <class... Parts>
  [[noreturn]] void wrong(std::size_t at, const Parts&... parts) const {
    const std::size_t end = character_end(at);
    fail(what, " \"", excerpt(at), "\": column ", column(at), at < text.size() ? " ('" + printable(text.substr(at, end - at)) + "')" : " (end)",
         ": ", parts...);
  }

  /// The character at that byte, from 1.
  std::size_t column(std::size_t at) const {
    std::size_t out = 1;
    for (const char c : text.substr(0, at)) out += !continues(c);
    return out;
  }

 private:
  static constexpr bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0u) == 0x80u; }  // a UTF-8 character

  // For messages: one line, control characters made visible, and of a long text the part around the character.
  std::size_t character_end(std::size_t at) const {
    std::size_t end = at < text.size() ? at + 1 : at;
    while (end < text.size() && end < at + 4 && continues(text[end])) ++end;
    return end;
  }
  std::string excerpt(std::size_t at) const {
    constexpr std::size_t around = 30;
    std::size_t first = text.size() > 2 * around && at > around ? at - around : 0;
    std::size_t last = text.size() > 2 * around && text.size() - at > around ? at + around : text.size();
    while (first > 0 && continues(text[first])) --first;
    while (last < text.size() && continues(text[last])) ++last;
    return (first > 0 ? "..." : "") + printable(text.substr(first, last - first)) + (last < text.size() ? "..." : "");
  }
  static std::string printable(std::string_view part) {
    constexpr char hex[] = "0123456789abcdef";
    std::string out;
    for (const char c : part) {
      const unsigned char byte = static_cast<unsigned char>(c);
      if (byte >= 0x20 && byte != 0x7f)
        out += c;
      else
        ((out += "\\x") += hex[byte >> 4]) += hex[byte & 15];
    }
    return out;
  }
};

}  // namespace relay
