// Writing chains: the auto-regressive model with its cache, and the looped model, one problem and sixty-four at a time.
#include "measure.hpp"

using namespace relay;
using namespace bench;

namespace {

/// Greedy generation of 50 tokens after each prompt (no token stops it); counts new tokens.
void BM_Generate(benchmark::State& state) {
  const Arithmetic task{.modulus = 5};
  const CausalTransformer<Backend> model(demo(), task.vocabulary().size(), Seed{1});
  const int batch = static_cast<int>(state.range(0));
  std::vector<Tokens> prompts;
  for (const Example& e : examples_of_length(task, 6, batch, Key(1), Split::all)) prompts.push_back(e.problem);
  Backend::Memory memory;
  for (auto _ : state)
    benchmark::DoNotOptimize(generate(model, std::span<const Tokens>(prompts), {.batch = batch, .new_tokens = 50, .stop = -1},
                                      Backend::Device{&memory}));
  rate(state, "tokens", 50.0 * batch);
}
BENCHMARK(BM_Generate)->Arg(1)->Arg(64)->ArgName("batch")->Unit(benchmark::kMillisecond);

void BM_SolveLooped(benchmark::State& state) {
  const Arithmetic task{.modulus = 5};
  const LoopedTransformer<Backend> model(demo(), {.normalise = true}, task.vocabulary().size(), Seed{1});
  const auto problems = examples_of_length(task, 6, static_cast<int>(state.range(0)), Key(1), Split::all);
  Threads threads(1);
  for (auto _ : state) benchmark::DoNotOptimize(solve_looped(model, std::span<const Example>(problems), threads));
  rate(state, "problems", static_cast<double>(problems.size()));
}
BENCHMARK(BM_SolveLooped)->Arg(1)->Arg(64)->ArgName("batch")->Unit(benchmark::kMillisecond);

}  // namespace
