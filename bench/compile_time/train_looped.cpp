// What bench/compile_time.sh compiles: a program of a user that trains a looped model, in 30 lines.
#include <relay/relay.hpp>

#include <cstdio>

using namespace relay;

int main() {
  const Arithmetic task{.modulus = 5};
  LoopedTransformer<Cpu<float>> model({.width = 64, .layers = 3, .heads = 4, .rotary_base = 100, .query_key_bias = 1.5},
                                      {.normalise = true}, task.vocabulary().size(), Seed{1});
  const auto objective = loop_objective(model, Aligned{}, {.answer_weight = 0.1, .over_round = Normalisation::sum});
  const int steps = 4000;
  Threads threads(2);
  Trainer trainer(model, objective, {.rate = 4e-3}, {.steps = steps}, Seed{1}, threads);

  Progress progress("looped", 0, steps);
  const ExampleStream data(task, {.shortest = 1, .longest = 6}, 32, Key(1));
  trainer.fit(data, steps, progress);

  for (int length = 1; length <= 10; ++length) {
    const auto examples = examples_of_length(task, length, 500, Key(2), Split::test);
    const Accuracy a = accuracy(solve_looped(model, std::span(examples), threads), examples);
    std::printf("%2d operators: answer %.3f, whole chain %.3f\n", length, a.answer(), a.chain());
  }
  const Example chain = solve(model, task.parse("(1+2)*3-4/2"));
  std::printf("%s", chain_text(task, chain).c_str());
}
