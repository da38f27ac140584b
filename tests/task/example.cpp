#include <relay/task/example.hpp>

#include <doctest/doctest.h>

using namespace relay;

namespace {

struct Echo {  // the smallest task there is
  static constexpr const char* name = "echo";
  Vocabulary vocabulary() const { return Vocabulary({}, {"a"}); }
  Example generate(int length, Random&) const {
    return {.length = length, .iterations = 1, .problem = {3}, .rounds = {{3}}, .answer = 3};
  }
  Tokens text(const Example& example) const { return {example.answer, Vocabulary::eos}; }
  Example read(const Example& problem, const Tokens&) const { return problem; }
};

struct Mute {
  static constexpr const char* name = "mute";
  Vocabulary vocabulary() const { return Vocabulary({}, {"a"}); }
};

}  // namespace

TEST_CASE("what is a task") {
  CHECK(Task<Echo>);
  CHECK(!Task<Mute>);
}

TEST_CASE("a row is as wide as the problem unless the task says otherwise") {
  Example example;
  CHECK(example.columns() == 0);
  example.problem = {3, 4, 5};
  CHECK(example.columns() == 3);
  example.width = 7;
  CHECK(example.columns() == 7);
  Example other = example;
  CHECK(other == example);
  other.rounds.push_back({3});
  CHECK(other != example);
}

TEST_CASE("a chain is right when every step, the answer and the number of rounds are") {
  Verdict verdict{.steps = {{}, {}}, .answer_right = true, .complete = true};
  CHECK(verdict.right());
  verdict.steps[1] = {false, "expected 3"};
  CHECK(!verdict.right());
  verdict.steps[1] = {};
  verdict.answer_right = false;
  CHECK(!verdict.right());
  verdict.answer_right = true;
  verdict.complete = false;
  CHECK(!verdict.right());
}
