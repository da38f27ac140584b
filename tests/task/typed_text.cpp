#include <relay/task/typed_text.hpp>

#include <string>

#include <doctest/doctest.h>

using namespace relay;

namespace {

std::string error(std::string_view text, std::size_t at) {
  try {
    TypedText{"words", text}.wrong(at, "expected ", 2);
  } catch (const Error& e) {
    return e.what();
  }
}

}  // namespace

TEST_CASE("an error shows the text and points at the character, not the byte") {
  CHECK(error("ab &", 3) == "words \"ab &\": column 4 ('&'): expected 2");
  CHECK(error("ab", 2) == "words \"ab\": column 3 (end): expected 2");
  CHECK(error("", 0) == "words \"\": column 1 (end): expected 2");
  CHECK(error("\xc3\xa4\xc3\xb6x", 2) == "words \"\xc3\xa4\xc3\xb6x\": column 2 ('\xc3\xb6'): expected 2");
  CHECK(TypedText{"words", "\xc3\xa4\xc3\xb6x"}.column(4) == 3);
}

TEST_CASE("it is one line, and of a long text the part around the character") {
  CHECK(error("a\n\x01", 1) == "words \"a\\x0a\\x01\": column 2 ('\\x0a'): expected 2");
  const std::string text = std::string(100, 'a') + "&" + std::string(100, 'b');
  CHECK(error(text, 100) == "words \"..." + std::string(30, 'a') + "&" + std::string(29, 'b') + "...\": column 101 ('&'): expected 2");
  CHECK(error(text, 0) == "words \"" + std::string(30, 'a') + "...\": column 1 ('a'): expected 2");
}
