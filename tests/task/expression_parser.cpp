#include <relay/task/expression_parser.hpp>

#include <string>
#include <string_view>

#include <doctest/doctest.h>

using namespace relay;
using namespace relay::expression;

namespace {

std::string written(std::string_view text, int modulus = 11) { return print(Parser(text, modulus).parse().tokens); }

std::string error(std::string_view text, int modulus = 11) {
  try {
    Parser(text, modulus).parse();
  } catch (const Error& e) {
    CHECK(std::string_view(e.what()).find('\n') == std::string_view::npos);
    return e.what();
  }
  return "no error";
}

std::string repeat(int n, std::string_view part) {
  std::string out;
  for (int i = 0; i < n; ++i) out += part;
  return out;
}

}  // namespace

TEST_CASE("spaces, one '=' and leading zeros are free") {
  for (const char* text : {"1+2*3", "1+2*3=", " 1 +\t2* 3 ", "1+2*3 = ", "01+2*003\r\n"})
    CHECK(written(text) == "1+2*3");
  CHECK(written("10/7") == "10/7");
}

TEST_CASE("brackets nobody needs are dropped, those needed are kept") {
  CHECK(written("(2*3)+4") == "2*3+4");
  CHECK(written("((1+2))") == "1+2");
  CHECK(written("(3)+(((4)))") == "3+4");
  CHECK(written("(1+2)*3") == "(1+2)*3");
  CHECK(written("1+(2+3)") == "1+2+3");
  CHECK(written("1+(2-3)") == "1+2-3");
  CHECK(written("1-(2+3)") == "1-(2+3)");
  CHECK(written("1-(2-3)") == "1-(2-3)");
  CHECK(written("1-(2*3)") == "1-2*3");
  CHECK(written("2*(3*4)") == "2*3*4");
  CHECK(written("2*(3/4)") == "2*3/4");
  CHECK(written("2/(3*4)") == "2/(3*4)");
  CHECK(written("2/(3/4)") == "2/(3/4)");
  CHECK(written("(2/3)/4") == "2/3/4");
  CHECK(written("(1+2)-(3*4)/(5-6)") == "1+2-3*4/(5-6)");
}

TEST_CASE("each token knows where it stood") {
  const std::string_view text = " (1+ 2)*3";
  const Parsed parsed = Parser(text, 11).parse();
  CHECK(print(parsed.tokens) == "(1+2)*3");
  REQUIRE(parsed.at.size() == parsed.tokens.size());
  for (std::size_t i = 0; i < parsed.at.size(); ++i)
    if (!is_number(parsed.tokens[i]) && is_operator(parsed.tokens[i]))
      CHECK(text.substr(parsed.at[i], 1) == print(Tokens{parsed.tokens[i]}));
}

TEST_CASE("errors point at the character") {
  CHECK(error("1+&") == "expression \"1+&\": column 3 ('&'): expected a number 0..10 or '('");
  CHECK(error("1&2") == "expression \"1&2\": column 2 ('&'): expected an operator (+ - * /) or the end");
  CHECK(error("") == "expression \"\": column 1 (end): the expression is empty: write one such as (1+2)*3");
  CHECK(error("  ") == "expression \"  \": column 3 (end): the expression is empty: write one such as (1+2)*3");
  CHECK(error("=") == "expression \"=\": column 1 ('='): expected a number 0..10 or '('");
  CHECK(error("(1+2") ==
        "expression \"(1+2\": column 5 (end): expected ')' or an operator: the '(' of column 1 is still open");
  CHECK(error("(1+2=") ==
        "expression \"(1+2=\": column 5 ('='): expected ')' or an operator: the '(' of column 1 is still open");
  CHECK(error("1+2)") == "expression \"1+2)\": column 4 (')'): no '(' is open here: remove this ')' or add a '('");
  CHECK(error("1 2") == "expression \"1 2\": column 3 ('2'): expected an operator (+ - * /) between two numbers");
  CHECK(error("2(3+4)") == "expression \"2(3+4)\": column 2 ('('): expected an operator (+ - * /) between two numbers");
  CHECK(error("(1+2)(3+4)") ==
        "expression \"(1+2)(3+4)\": column 6 ('('): expected an operator (+ - * /) between two numbers");
  CHECK(error("(1 2)") == "expression \"(1 2)\": column 4 ('2'): expected an operator (+ - * /) between two numbers");
  CHECK(error("1+()") == "expression \"1+()\": column 4 (')'): expected a number 0..10 or '('");
  CHECK(error("1+") == "expression \"1+\": column 3 (end): expected a number 0..10 or '('");
  CHECK(error("1+*2") == "expression \"1+*2\": column 3 ('*'): expected a number 0..10 or '('");
  CHECK(
      error("-3+1") ==
      "expression \"-3+1\": column 1 ('-'): expected a number 0..10 or '(': there is no minus sign, write 0-3 for -3");
  CHECK(error("1=2") == "expression \"1=2\": column 3 ('2'): expected nothing after '='");
  CHECK(error("1+2==") == "expression \"1+2==\": column 5 ('='): expected nothing after '='");
  CHECK(error("7") == "expression \"7\": column 1 ('7'): expected at least one operator (+ - * /), as in 1+2");
  CHECK(error("((7))=") ==
        "expression \"((7))=\": column 3 ('7'): expected at least one operator (+ - * /), as in 1+2");
  CHECK(error("1+11") == "expression \"1+11\": column 3 ('1'): the number is too large: expected 0..10 (modulus 11)");
  CHECK(error("1+99999999999999999999") ==
        "expression \"1+99999999999999999999\": column 3 ('9'): the number is too large: expected 0..10 (modulus 11)");
  CHECK(error("1+3", 3) == "expression \"1+3\": column 3 ('3'): the number is too large: expected 0..2 (modulus 3)");
  CHECK(error("1.5+2") == "expression \"1.5+2\": column 2 ('.'): expected an operator (+ - * /) or the end");
}

TEST_CASE("errors stay on one line and short, and count characters, not bytes") {
  CHECK(error("1+2\u00d73") ==
        "expression \"1+2\u00d73\": column 4 ('\u00d7'): expected an operator (+ - * /) or the end");
  CHECK(error("1+\u00d7&") == "expression \"1+\u00d7&\": column 3 ('\u00d7'): expected a number 0..10 or '('");
  CHECK(error("1+\n2 3") ==
        "expression \"1+\\x0a2 3\": column 6 ('3'): expected an operator (+ - * /) between two numbers");
  CHECK(error(std::string_view("1+\0", 3)) ==
        "expression \"1+\\x00\": column 3 ('\\x00'): expected a number 0..10 or '('");
  const std::string dots = repeat(100, "1+") + "&" + repeat(100, "+1");
  CHECK(error(dots) == "expression \"..." + repeat(15, "1+") + "&" + repeat(14, "+1") +
                           "+...\": column 201 ('&'): expected a number 0..10 or '('");
  CHECK(error("\x80\xff").size() < 120);
}

TEST_CASE("depth and number of operators have limits") {
  CHECK(written(repeat(200, "(") + "1+2" + repeat(200, ")")) == "1+2");
  CHECK(error(repeat(201, "(")).find("column 201 ('('): more than 200 brackets open at once") != std::string::npos);
  CHECK(error(repeat(1000000, "(")).find("more than 200 brackets open at once") != std::string::npos);
  CHECK(error("1" + repeat(1000, "+1")) == "no error");
  CHECK(error("1" + repeat(1001, "+1")).find("column 2002 ('+'): more than 1000 operators") != std::string::npos);
  CHECK(error("1" + repeat(1000000, "*1")).find("more than 1000 operators") != std::string::npos);
}
