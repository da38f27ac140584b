#include <relay/train/supervision.hpp>

#include <vector>

#include <doctest/doctest.h>

using namespace relay;

namespace {

/// The rounds that iterations 1 .. T are asked for; the answer must be asked of the last one alone.
std::vector<int> rounds(const Supervision auto& policy, int iterations) {
  std::vector<int> list;
  for (int t = 1; t <= iterations; ++t) {
    const Asked asked = policy(t, iterations);
    CHECK(asked.answer == (t == iterations));
    CHECK((asked.weight == 1 && asked.answer_weight == 1 && asked.learns));
    list.push_back(asked.round);
  }
  return list;
}

}  // namespace

TEST_CASE("what each policy asks") {
  using List = std::vector<int>;
  CHECK(rounds(Aligned(), 4) == List{1, 2, 3, 4});
  CHECK(rounds(AnswerOnly(), 4) == List{0, 0, 0, 0});
  CHECK(rounds(EveryKthRound{2}, 5) == List{0, 2, 0, 4, 5});
  CHECK(rounds(EveryKthRound{3}, 6) == List{0, 0, 3, 0, 0, 6});
  CHECK(rounds(EveryKthRound{9}, 2) == List{0, 2});
  CHECK(rounds(LastIterations{2}, 4) == List{0, 0, 3, 4});
  CHECK(rounds(LastIterations{9}, 3) == List{1, 2, 3});
  CHECK(rounds(LastIterations{0}, 3) == List{0, 0, 0});
  CHECK_THROWS_WITH_AS(EveryKthRound{0}(1, 1), "every k-th round: k must be at least 1, not 0", Error);
}

TEST_CASE("a lambda is a policy; what answers another question is none") {
  const auto own = [](int t, int iterations) {
    return Asked{.round = t, .weight = 1.0 / t, .answer = t == iterations};
  };
  static_assert(Supervision<decltype(own)>);
  CHECK(own(4, 5).weight == 0.25);
  const auto later = [](int t, int iterations) {  // the answer of every iteration, the later the more
    return Asked{.round = t, .answer = true, .answer_weight = 1.0 * t / iterations, .learns = t > 1};
  };
  static_assert(Supervision<decltype(later)>);
  CHECK(later(2, 4).answer_weight == 0.5);
  const auto number = [](int, int) { return 1; };
  static_assert(!Supervision<decltype(number)>);
  static_assert(!Supervision<int>);
}
