// Load a model and solve an expression with it, in 20 lines; and, so that there is one, train and save a tiny model first.
#include <cstdio>
#include <string>

#include <relay/relay.hpp>

using namespace relay;

const Arithmetic mod3{.modulus = 3};
const TransformerConfig sizes{.width = 32, .layers = 2, .heads = 4, .rotary_base = 100, .query_key_bias = 1.5};
const LoopConfig looping{.normalise = true};
using Model = LoopedTransformer<Cpu<float>>;

/// A file holds weights, not sizes: the model is made as it was when it was saved; any other is refused, in words.
bool load_and_solve(const std::string& file, const std::string& expression) {
  Model model(sizes, looping, mod3.vocabulary().size(), Seed{});
  const Metadata about = load_model(file, model);
  const Example problem = mod3.parse(expression);
  const Example chain = solve(model, problem);
  std::printf("%s (%s)\n\n%s\n%s", file.c_str(), about.at("trained").c_str(), mod3.print(problem.problem).c_str(),
              chain_text(mod3, chain).c_str());
  return mod3.verify(chain).right();
}

void train_and_save(const std::string& file) {
  Model model(sizes, looping, mod3.vocabulary().size(), Seed{1});
  const auto objective = loop_objective(model, Aligned{}, {.answer_weight = 0.1, .over_round = Normalisation::sum});
  const int steps = 800;
  Threads threads(2);
  Trainer trainer(model, objective, {.rate = 4e-3}, {.steps = steps}, Seed{1}, threads);
  trainer.fit(ExampleStream(mod3, {.shortest = 1, .longest = 2}, 32, Key(1)), steps, Progress("looped", 0, steps));
  save_model(file, model, {{"trained", "1..2 operators modulo 3"}});
}

int main() {
  const std::string file = "tiny.safetensors";
  train_and_save(file);
  const bool solved = load_and_solve(file, "2/(1+1)");

  // What is no expression is an error that points at the character.
  try {
    load_and_solve(file, "2/(1+1");
  } catch (const Error& error) {
    std::printf("\n%s\n", error.what());
    return solved ? 0 : 1;
  }
  return 1;
}
