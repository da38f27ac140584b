#include <relay/task/expression.hpp>

#include <string>
#include <string_view>

#include <doctest/doctest.h>

using namespace relay;
using namespace relay::expression;

namespace {

Tokens tokens(std::string_view text) {  // one digit a number
  constexpr std::string_view symbols = "   +-*/()=0123456789";
  Tokens out;
  for (const char c : text) out.push_back(static_cast<Token>(symbols.find(c)));
  return out;
}

std::string reduce(std::string_view text) {
  const Tokens e = tokens(text);
  const auto r = leftmost(e);
  if (!r) return "nothing";
  return std::string(text.substr(r->first, r->last - r->first)) + " at " + std::to_string(r->op);
}

}  // namespace

TEST_CASE("primes and inverses") {
  int primes = 0;
  for (int p = -3; p <= 997; ++p) {
    if (!is_prime(p)) continue;
    ++primes;
    for (int a = 1; a < p; ++a) REQUIRE(a * inverse(a, p) % p == 1);
  }
  CHECK(primes == 168);
}

TEST_CASE("the four operations undo each other; only division by zero has no value") {
  for (const int p : {2, 3, 11})
    for (int a = 0; a < p; ++a)
      for (int b = 0; b < p; ++b) {
        CHECK(apply(minus, *apply(plus, a, b, p), b, p) == a);
        if (b != 0)
          CHECK(apply(times, *apply(over, a, b, p), b, p) == a);
        else
          CHECK(!apply(over, a, b, p));
      }
}

TEST_CASE("what reduces first") {
  CHECK(reduce("1+2*3") == "2*3 at 3");
  CHECK(reduce("1*2+3") == "1*2 at 1");
  CHECK(reduce("1-2-3") == "1-2 at 1");
  CHECK(reduce("1/2/3") == "1/2 at 1");
  CHECK(reduce("1-(2+3)") == "(2+3) at 4");
  CHECK(reduce("1+(2+3*4)") == "3*4 at 6");
  CHECK(reduce("(1+2)/3") == "(1+2) at 2");
  CHECK(reduce("(1+2+3)/4") == "1+2 at 2");
  CHECK(reduce("1*(2-3)+4*5") == "(2-3) at 4");
  CHECK(reduce("1+2*(3-4)") == "(3-4) at 6");
  CHECK(reduce("7") == "nothing");
  CHECK(reduce("") == "nothing");
  CHECK(reduce("1+") == "nothing");
  CHECK(reduce("(1)+2") == "nothing");
}

TEST_CASE("brackets are needed where the neighbours would take the numbers") {
  const Token none = Vocabulary::pad;
  for (const Token op : {plus, minus, times, over}) {
    CHECK(needs_brackets(over, op, none));
    CHECK(!needs_brackets(none, op, none));
    CHECK(!needs_brackets(plus, op, minus));
    CHECK(!needs_brackets(open, op, close));
    for (const Token before : {times, minus}) CHECK(needs_brackets(before, op, none) == is_sum(op));
    for (const Token after : {times, over}) CHECK(needs_brackets(none, op, after) == is_sum(op));
  }
}

TEST_CASE("what is an expression") {
  for (const char* good : {"1", "1+2", "(1+2)", "(1+2)*3", "1/(2*3)-4", "1-(2-(3+4))", "(1+(2*3))"})
    CHECK_MESSAGE(well_formed(tokens(good), 10), good);
  for (const char* bad : {"", "+", "1+", "+1", "1 2", "(1+2", "1+2)", "()", "(3)", "((1+2))", "1(2+3)", "(1+2)3",
                          "1+=", "1=", ")1+2(", "1++2"})
    CHECK_MESSAGE(!well_formed(tokens(bad), 10), bad);
  CHECK(!well_formed(tokens("1+7"), 7));
  CHECK(!well_formed(Tokens{zero, -5, zero}, 7));
}

TEST_CASE("every expression reduces to one number, one operator at a time") {
  for (const char* text : {"1+2*3-(4+5)*6", "(1+(2*3))+4", "1-(2-(3-(4-5)))", "2*3*4*(1+1)*(1+1*2)"}) {
    Tokens e = tokens(text);
    while (const auto r = leftmost(e)) {
      e[r->first] = number(*value(e, *r, 11));
      e.erase(e.begin() + static_cast<std::ptrdiff_t>(r->first) + 1, e.begin() + static_cast<std::ptrdiff_t>(r->last));
      REQUIRE(well_formed(e, 11));
    }
    CHECK(e.size() == 1);
  }
}

TEST_CASE("printing shows whatever a model wrote") {
  CHECK(print(tokens("(1+2)*3=")) == "(1+2)*3=");
  CHECK(print(Tokens{number(10), over, number(5)}) == "10/5");
  CHECK(print(Tokens{number(1), number(2), 0, 1, 2, -7}) == "1 2<pad><sep><eos><?>");
  CHECK(print(Tokens{}).empty());
}
