#include <relay/pipeline/accuracy.hpp>

#include <doctest/doctest.h>

using namespace relay;

namespace {

Example chain(std::vector<Tokens> rounds, Token answer) {
  Example example;
  example.rounds = std::move(rounds);
  example.answer = answer;
  return example;
}

}  // namespace

TEST_CASE("by hand") {
  const Example truth = chain({{11, 3, 12, 9}, {13}}, 13);
  Accuracy a;
  CHECK(a.answer() == 0);
  CHECK(a.chain() == 0);
  CHECK(a.token() == 0);

  a.add(truth, truth);
  CHECK(a.samples == 1);
  CHECK(a.answers == 1);
  CHECK(a.chains == 1);
  CHECK(a.tokens == 5);
  CHECK(a.token_count == 5);

  a = {};
  a.add(chain({{11, 3, 14, 9}, {13}}, 13), truth);  // a token wrong, the answer right
  CHECK(a.answers == 1);
  CHECK(a.chains == 0);
  CHECK(a.tokens == 4);

  a = {};
  a.add(chain({{11, 3, 12, 9}, {13}}, 12), truth);  // the answer head alone is wrong
  CHECK(a.answers == 0);
  CHECK(a.chains == 0);
  CHECK(a.tokens == 5);

  a = {};
  a.add(chain({{3, 12, 9}, {10, 13}}, 13), truth);  // too short, too long: compared from the right
  CHECK(a.tokens == 4);
  CHECK(a.chains == 0);

  a = {};
  a.add(chain({{11, 3, 12, 9}}, 13), truth);  // a round is missing
  CHECK(a.tokens == 4);
  CHECK(a.chains == 0);
  a.add(chain({}, Vocabulary::pad), truth);   // everything is missing
  a.add(chain({{}, {}, {7, 7}}, 13), truth);  // a round too many
  CHECK(a.samples == 3);
  CHECK(a.answers == 2);
  CHECK(a.chains == 0);
  CHECK(a.tokens == 4);
  CHECK(a.token_count == 15);
  CHECK(a.answer() == doctest::Approx(2.0 / 3));
  CHECK(a.token() == doctest::Approx(4.0 / 15));
}

TEST_CASE("of many") {
  const std::vector<Example> truth = {chain({{10}}, 10), chain({{11}}, 11)};
  const std::vector<Solution> written = {{.example = truth[0]}, {.example = truth[0]}};
  const Accuracy a = accuracy(written, truth);
  CHECK(a.answer() == 0.5);
  CHECK(a.chain() == 0.5);
  CHECK(a.token() == 0.5);
  CHECK_THROWS_WITH_AS(accuracy(std::span(written).first(1), truth), "accuracy of 1 chains against 2 examples", Error);
}
