#include <relay/core/json_parser.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>

#include <doctest/doctest.h>

#include <relay/core/random.hpp>

using namespace relay;

namespace {

std::string error(const std::string& text) {
  try {
    parse_json(text, "f");
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

std::string again(const std::string& text) { return parse_json(text, "f").dump(); }

}  // namespace

TEST_CASE("what is written is read back") {
  for (const char* text :
       {R"({"a":[1,2.5,-3e-07,true,false,null],"b":{"c":"d"},"":[]})", "[]", "{}", "\"\"", "0", "-0", "[[[]]]"})
    CHECK(again(text) == text);
  CHECK(again(" {\r\n\t\"a\" : [ 1 , 2 ] } \n") == R"({"a":[1,2]})");
  CHECK(again("1E2") == "100");
  CHECK(again("0.50e+1") == "5");
}

TEST_CASE("strings: escapes and surrogate pairs") {
  CHECK(parse_json(R"("\"\\\/\b\f\n\r\t")", "f").as_string() == "\"\\/\b\f\n\r\t");
  CHECK(parse_json(R"("\u0041\u00e9\u2264\ud83d\ude00")", "f").as_string() == "A\u00e9\u2264\U0001F600");
  CHECK(parse_json(R"("\u0000")", "f").as_string() == std::string(1, '\0'));
  CHECK(again("\"\u00e9\u2264\U0001F600\"") == "\"\u00e9\u2264\U0001F600\"");
}

TEST_CASE("every double comes back bit for bit") {
  Random random{Key(3)};
  for (int i = 0; i < 20000; ++i) {
    const double v = std::bit_cast<double>((std::uint64_t{random.bits()} << 32) | random.bits());
    if (!std::isfinite(v)) continue;
    REQUIRE(std::bit_cast<std::uint64_t>(parse_json(Json(v).dump(), "f").as_number()) ==
            std::bit_cast<std::uint64_t>(v));
    const float f = std::bit_cast<float>(random.bits());
    if (std::isfinite(f)) REQUIRE(static_cast<float>(parse_json(Json(f).dump(), "f").as_number()) == f);
  }
}

TEST_CASE("errors name the source, the line, the column and what was expected") {
  CHECK(error("") ==
        "f: line 1, column 1 (end): expected a value: an object, array, string, number, true, false or null");
  CHECK(error("{\n  \"\u00e9\": 1,\n  \"b\" 2}") == "f: line 3, column 7: expected ':' after the key \"b\"");
  CHECK(error("[\"\u00e9\u00e9\" 1]") == "f: line 1, column 7: expected ',' or ']'");
  CHECK(error("{\"a\":1") == "f: line 1, column 7 (end): expected ',' or '}'");
  CHECK(error("{\"a\":1,}") == "f: line 1, column 8: expected a key in double quotes");
  CHECK(error("[1,]") ==
        "f: line 1, column 4: expected a value: an object, array, string, number, true, false or null");
  CHECK(error("{a:1}") == "f: line 1, column 2: expected a key in double quotes");
  CHECK(error("1 2") == "f: line 1, column 3: expected nothing after the value");
  CHECK(error("{\"a\":1, \"a\":2}") == "f: line 1, column 9: the key \"a\" stands twice in one object");
  CHECK(error("01") == "f: line 1, column 2: a number must not start with 0");
  CHECK(error("-") == "f: line 1, column 2 (end): expected a digit");
  CHECK(error("1.") == "f: line 1, column 3 (end): expected a digit");
  CHECK(error("1e+") == "f: line 1, column 4 (end): expected a digit");
  CHECK(error("[1e999]") == "f: line 1, column 2: the number is too large or too small for a double");
  CHECK(error("\"a") == "f: line 1, column 3 (end): expected '\"' at the end of the string");
  CHECK(error("\"a\nb\"") == "f: line 1, column 3: a control character in a string must be escaped");
  CHECK(error("\"\xff\"") == "f: line 1, column 2: the string is not UTF-8");
  CHECK(error(R"("\x")") == "f: line 1, column 3: expected one of \" \\ / b f n r t u after '\\'");
  CHECK(error(R"("\u12g4")") == "f: line 1, column 6: expected four hexadecimal digits after \\u");
  CHECK(error(R"("\ud83d")") ==
        "f: line 1, column 8: expected the second half of a surrogate pair, \\udc00 to \\udfff");
  CHECK(error(R"("\ude00")") == "f: line 1, column 8: the second half of a surrogate pair without its first");
  for (const char* bad : {"tru", "nul", "+1", ".5", "NaN", "Infinity", "'a'", "[1 2]", "]", "}", "// c", "[1}",
                          "{\"a\"}", "\xef\xbb\xbf{}"})
    CHECK(error(bad) != "no error");
  CHECK(error(std::string("1\0", 2)) != "no error");
}

TEST_CASE("of one line of a file, errors name the column alone") {
  CHECK(parse_json_line("[1]", "f:7").dump() == "[1]");
  try {
    parse_json_line("[1,]", "f:7");
    FAIL("no error");
  } catch (const Error& e) {
    CHECK(std::string(e.what()) == "f:7: column 4: expected a value: an object, array, string, number, true, false or null");
  }
}

TEST_CASE("nesting has a limit") {
  const auto nested = [](std::size_t n) { return std::string(n, '[') + std::string(n, ']'); };
  CHECK(error(nested(128)) == "no error");
  CHECK(error(nested(130)) == "f: line 1, column 130: nested deeper than 128 levels");
  CHECK(error(std::string(1000000, '[')) == "f: line 1, column 130: nested deeper than 128 levels");
}
