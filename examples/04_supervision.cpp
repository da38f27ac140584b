// A supervision policy of one's own: a lambda that says what iteration t of T is asked, with what weight, and whether it learns.
//
// Here the first round counts double, because no later one can be right without it. Beside it, for as many steps, the same model
// that is asked for the answer alone (AnswerOnly, the vanilla looped model): what its iterations mean is its own secret.
#include <cstdio>

#include <relay/relay.hpp>

using namespace relay;

/// Trains a small model on one and two operators modulo 3 and returns its accuracy at two.
template <Supervision S>
Accuracy train(const char* name, const S& supervision) {
  const Arithmetic task{.modulus = 3};
  LoopedTransformer<Cpu<float>> model({.width = 32, .layers = 2, .heads = 4, .rotary_base = 100, .query_key_bias = 1.5},
                                      {.normalise = true}, task.vocabulary().size(), Seed{1});
  const auto objective = loop_objective(model, supervision, {.answer_weight = 0.1, .over_round = Normalisation::sum});
  const int steps = 800;
  Threads threads(2);
  Trainer trainer(model, objective, {.rate = 4e-3}, {.steps = steps}, Seed{1}, threads);
  trainer.fit(ExampleStream(task, {.shortest = 1, .longest = 2}, 32, Key(1)), steps, Progress(name, 0, steps));

  const auto examples = examples_of_length(task, 2, 500, Key(2), Split::all);
  const Accuracy a = accuracy(solve_looped(model, std::span(examples), threads), examples);
  std::printf("%-14s two operators: answer %.3f, whole chain %.3f\n", name, a.answer(), a.chain());
  return a;
}

int main() {
  const auto first_counts_double = [](int t, int iterations) {
    return Asked{.round = t, .weight = t == 1 ? 2.0 : 1.0, .answer = t == iterations};
  };
  const Accuracy own = train("policy of mine", first_counts_double), vanilla = train("answer only", AnswerOnly{});
  return own.answer() > 0.9 && own.chain() > 0.9 && vanilla.chain() < 0.1 ? 0 : 1;
}
