#include <relay/task/vocabulary.hpp>

#include <string>

#include <doctest/doctest.h>

using namespace relay;

TEST_CASE("the special tokens come first, the values last") {
  const Vocabulary vocabulary({"+", "="}, {"0", "1", "2"});
  CHECK(vocabulary.size() == 8);
  CHECK(vocabulary.token("<pad>") == Vocabulary::pad);
  CHECK(vocabulary.token("<sep>") == Vocabulary::sep);
  CHECK(vocabulary.token("<eos>") == Vocabulary::eos);
  CHECK(vocabulary.token("+") == 3);
  CHECK(vocabulary.first_value() == 5);
  for (Token t = 0; t < vocabulary.size(); ++t) {
    CHECK(vocabulary.token(vocabulary.spelling(t)) == t);
    CHECK(vocabulary.is_value(t) == (t >= 5));
  }
}

TEST_CASE("spelling a sequence") {
  const Vocabulary vocabulary({"+", "="}, {"0", "1"});
  const Tokens tokens = {6, 3, 5, 4};
  CHECK(vocabulary.spell(tokens) == "1 + 0 =");
  CHECK(vocabulary.spell(tokens, "") == "1+0=");
  CHECK(vocabulary.spell(Tokens{}).empty());
}

TEST_CASE("unknown and repeated tokens are refused") {
  const Vocabulary vocabulary({"+"}, {"0"});
  CHECK(vocabulary.contains("0"));
  CHECK(!vocabulary.contains("1"));
  CHECK_THROWS_WITH_AS(vocabulary.token("1"), "the vocabulary has no token '1'", Error);
  CHECK_THROWS_WITH_AS(vocabulary.spelling(5), "token 5 is outside the vocabulary of 5 tokens", Error);
  CHECK_THROWS_AS(vocabulary.spelling(-1), Error);
  CHECK_THROWS_WITH_AS(Vocabulary({"+"}, {"+"}),
                       "the vocabulary has the token '+' twice: give each token its own spelling", Error);
  CHECK_THROWS_AS(Vocabulary({"<pad>"}, {}), Error);
}
