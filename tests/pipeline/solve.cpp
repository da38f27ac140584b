#include <relay/pipeline/solve.hpp>

#include <span>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <relay/backend/cpu.hpp>
#include <relay/model/causal_transformer.hpp>
#include <relay/model/looped_transformer.hpp>
#include <relay/task/arithmetic.hpp>

using namespace relay;

namespace {

using Backend = Cpu<float>;

const Arithmetic task{.modulus = 5};
const TransformerConfig config{.width = 16, .layers = 1, .heads = 2, .positions = 256};

std::vector<Example> problems(int count, Key key) {
  std::vector<Example> examples;
  for (int i = 0; i < count; ++i) {
    Random random(key.fold(static_cast<std::uint64_t>(i)));
    examples.push_back(task.generate(1 + random.below(6), random));
  }
  return examples;
}

LoopedTransformer<Backend> looped() { return {config, {.normalise = true}, task.vocabulary().size(), Seed{3}}; }
CausalTransformer<Backend> causal() { return {config, task.vocabulary().size(), Seed{4}}; }

void same(const std::vector<Solution>& a, const std::vector<Solution>& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(i);
    CHECK(a[i].example == b[i].example);
    CHECK(a[i].cut == b[i].cut);
    CHECK(a[i].confidence == doctest::Approx(b[i].confidence).epsilon(1e-4));
  }
}

/// One after another, in the given order.
std::vector<Solution> one_by_one(std::span<const Example> list, auto&& solve) {
  std::vector<Solution> chains;
  for (std::size_t i = 0; i < list.size(); ++i) chains.push_back(solve(list.subspan(i, 1)).front());
  return chains;
}

}  // namespace

TEST_CASE("a looped model's chains: a round per iteration") {
  const auto model = looped();
  Threads threads(1);
  const auto list = problems(150, Key(1));
  const auto chains = solve_looped(model, std::span(list), threads);
  REQUIRE(chains.size() == list.size());
  for (std::size_t i = 0; i < list.size(); ++i) {
    const Example& e = chains[i].example;
    CHECK(e.problem == list[i].problem);
    CHECK(e.length == list[i].length);
    CHECK(static_cast<int>(e.rounds.size()) == list[i].iterations);
    for (const Tokens& round : e.rounds) CHECK(round.size() <= list[i].problem.size());
    CHECK(e.answer >= 0);
    CHECK(chains[i].confidence > 0);
    CHECK(chains[i].confidence <= 1);
  }
}

TEST_CASE("a looped model's chains depend on neither threads nor neighbours nor what stands in the problems") {
  const auto model = looped();
  Threads one(1), three(3);
  const auto list = problems(150, Key(2));
  const auto chains = solve_looped(model, std::span(list), one);
  const auto threaded = solve_looped(model, std::span(list), three);
  for (std::size_t i = 0; i < list.size(); ++i) CHECK(chains[i].confidence == threaded[i].confidence);
  same(chains, threaded);
  same(chains, one_by_one(list, [&](auto some) { return solve_looped(model, some, one); }));

  std::vector<Example> open = list;  // still to be solved
  for (Example& e : open) e.rounds.clear(), e.answer = Vocabulary::pad;
  same(chains, solve_looped(model, std::span<const Example>(open), one));
  CHECK(solve_looped(model, std::span<const Example>(), one).empty());
  CHECK(solve(model, open[7]) == chains[7].example);
}

TEST_CASE("an auto-regressive model's chains depend on neither threads nor neighbours") {
  const auto model = causal();
  Threads one(1), three(3);
  const auto list = problems(150, Key(3));
  const auto chains = solve_causal(model, std::span(list), one, task);
  REQUIRE(chains.size() == list.size());
  same(chains, solve_causal(model, std::span(list), three, task));
  same(chains, one_by_one(list, [&](auto some) { return solve_causal(model, some, one, task); }));
  for (std::size_t i = 0; i < list.size(); ++i) {
    CHECK(chains[i].example.problem == list[i].problem);
    std::size_t tokens = 0;
    for (const Tokens& round : chains[i].example.rounds) tokens += round.size();
    CHECK(tokens <= list[i].problem.size() * static_cast<std::size_t>(list[i].iterations + 1));
  }
  CHECK(solve_causal(model, std::span<const Example>(), one, task).empty());
}

TEST_CASE("a chain that the model's limit cuts is marked, and depends on its neighbours no more than others") {
  const int positions = 40;
  const CausalTransformer<Backend> model({.width = 16, .layers = 1, .heads = 2, .positions = positions},
                                         task.vocabulary().size(), Seed{4});
  Threads one(1);
  const auto list = problems(150, Key(3));
  const auto chains = solve_causal(model, std::span(list), one, task);
  same(chains, one_by_one(list, [&](auto some) { return solve_causal(model, some, one, task); }));
  int cut = 0, whole = 0;
  for (std::size_t i = 0; i < list.size(); ++i) {
    const std::size_t problem = list[i].problem.size(), own = problem * static_cast<std::size_t>(list[i].iterations + 1);
    std::size_t tokens = 0;
    for (const Tokens& round : chains[i].example.rounds) tokens += round.size();
    CHECK(problem + tokens <= positions);
    if (chains[i].cut) CHECK((problem + tokens == positions && tokens < own));
    (chains[i].cut ? cut : whole) += 1;
  }
  CHECK(cut > 0);
  CHECK(whole > 0);
  for (const Solution& chain : solve_causal(causal(), std::span(list), one, task)) CHECK_FALSE(chain.cut);  // of 256 positions
  for (const Solution& chain : solve_looped(looped(), std::span(list), one)) CHECK_FALSE(chain.cut);
}

TEST_CASE("a problem beyond the model's limit is an error") {
  Random random{Key(5)};
  Threads one(1);
  const std::vector<Example> longer = {task.generate(200, random)};  // 401 tokens or more
  CHECK_THROWS_AS(solve_looped(looped(), std::span(longer), one), Error);
  CHECK_THROWS_AS(solve_causal(causal(), std::span(longer), one, task), Error);
}

TEST_CASE("a chain as text, every line judged") {
  Example chain = task.solve(task.parse("(1+2)*2-1").problem);
  CHECK(chain_text(task, chain) ==
        "   1  3*2-1=                                   right\n"
        "   2  1-1=                                     right\n"
        "   3  0                                        right\n"
        "  answer 0                                     right\n");
  chain.rounds[1] = task.parse("2-1").problem;
  chain.answer = expression::number(1);
  const std::string text = chain_text(task, chain);
  CHECK(text.find("   2  2-1=                                     WRONG: expected 1-1=\n") != text.npos);
  CHECK(text.find("  answer 1                                     WRONG\n") != text.npos);
}
