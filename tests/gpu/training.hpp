// A small training and a text, the same on every backend.
#pragma once

#include <cstdint>
#include <vector>

#include <relay/model/generate.hpp>
#include <relay/task/arithmetic.hpp>
#include <relay/train/data.hpp>
#include <relay/train/trainer.hpp>
#include <relay/train/unroll.hpp>

namespace training {

struct Trained {
  std::vector<double> losses;  // of every step
  std::vector<float> weights;  // of all parameters
};
using Text = std::vector<std::int32_t>;

/// The first steps of examples/00_quickstart.cpp.
template <class B>
Trained train() {
  using namespace relay;
  const Arithmetic task{.modulus = 3};
  LoopedTransformer<B> model({.width = 32, .layers = 2, .heads = 4, .rotary_base = 100, .query_key_bias = 1.5}, {.normalise = true},
                             task.vocabulary().size(), Seed{1});
  const auto objective = loop_objective(model, Aligned{}, {.answer_weight = 0.1, .over_round = Normalisation::sum});
  const int steps = 20;
  Threads threads(1);
  Trainer trainer(model, objective, {.rate = 4e-3}, {.steps = steps}, Seed{1}, threads, 1);
  Trained result;
  trainer.fit(ExampleStream(task, {.shortest = 1, .longest = 2}, 32, Key(1)), steps,
              [&](const StepReport& report) { result.losses.push_back(report.losses.objective); });
  for_each_parameter(
      [&](std::string_view, const auto& weight) {
        const auto values = B::download(weight);
        result.weights.insert(result.weights.end(), values.begin(), values.end());
      },
      model);
  return result;
}

/// What a model writes whose greedy texts do not soon repeat themselves.
template <class B>
std::vector<Text> write() {
  using namespace relay;
  CausalTransformer<B> model({.width = 32, .layers = 2, .heads = 4, .positions = 128}, 17, Seed{2});
  std::uint64_t number = 0;
  for_each_parameter(
      [&](std::string_view, auto& weight) {
        Random random(Key(3).fold(number++));
        auto values = B::download(weight);
        for (auto& v : values) v += static_cast<float>(0.3 * random.normal());
        B::upload(values, weight);
      },
      model);
  std::vector<Text> prompts;
  for (int i = 1; i <= 12; ++i) {
    Random random(Key(4).fold(static_cast<std::uint64_t>(i)));
    prompts.emplace_back();
    for (int t = 0; t < i; ++t) prompts.back().push_back(3 + random.below(14));
  }
  return generate(model, std::span<const Text>(prompts), {.batch = 8, .new_tokens = 40});  // the last four wait for a slot
}

// On the CPU; host/cuda.cpp.
Trained train_on_cpu();
std::vector<Text> write_on_cpu();

}  // namespace training
