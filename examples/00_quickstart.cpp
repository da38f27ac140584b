// A looped model learns arithmetic modulo 3, one step of the chain per iteration, and solves an expression step by step.
#include <relay/relay.hpp>
using namespace relay;

int main() {
  const Arithmetic task{.modulus = 3};
  LoopedTransformer<Cpu<float>> model({.width = 32, .layers = 2, .heads = 4, .rotary_base = 100, .query_key_bias = 1.5},
                                      {.normalise = true}, task.vocabulary().size(), Seed{1});

  // Iteration t of the loop learns to print round t of the chain, e.g. (1+2)*2= -> 0*2= -> 0
  const auto objective = loop_objective(model, Aligned{}, {.answer_weight = 0.1, .over_round = Normalisation::sum});
  const int steps = 800;
  Threads threads(2);
  Trainer trainer(model, objective, {.rate = 4e-3}, {.steps = steps}, Seed{1}, threads);
  trainer.fit(ExampleStream(task, {.shortest = 1, .longest = 2}, 32, Key(1)), steps, Progress("looped", 0, steps));

  const Example chain = solve(model, task.parse("(1+2)*2"));
  std::printf("%s\n%s", task.print(chain.problem).c_str(), chain_text(task, chain).c_str());
  return task.verify(chain).right() ? 0 : 1;
}
