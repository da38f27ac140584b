// How exact training in float32 is, whatever products of floats go through: gradients of a whole model beside those in double. Where the CPU has AMX,
// Cpu<float> multiplies as digits (backend/cpu/digits.hpp), and is compared with floats that are multiplied as they are.
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <type_traits>
#include <vector>

#include <relay/backend/cpu.hpp>
#include <relay/core/parameters.hpp>
#include <relay/task/arithmetic.hpp>
#include <relay/train/data.hpp>
#include <relay/train/trainer.hpp>
#include <relay/train/unroll.hpp>

#include <doctest/doctest.h>

using namespace relay;

namespace {

using Values = std::vector<std::vector<double>>;  // of a model's parameters, one by one

const Arithmetic task{.modulus = 5};

template <class B>
LoopedTransformer<B> make() {
  return {{.width = 128, .layers = 2, .heads = 4, .rotary_base = 100, .query_key_bias = 1.5}, {.normalise = true}, task.vocabulary().size(), Seed{1}};
}

auto objective_of(const auto& model) { return loop_objective(model, Aligned{}, {.answer_weight = 0.1, .over_round = Normalisation::sum}); }

Values values_of(const auto& model) {
  Values values;
  for_each_parameter([&](const auto& t) { values.emplace_back(t.data(), t.data() + t.size()); }, model);
  return values;
}

template <class B>
Values gradient(const Values& weights, const std::vector<Example>& batch) {
  auto model = make<B>();
  std::size_t i = 0;
  for_each_parameter(
      [&](auto& t) {
        std::transform(weights[i].begin(), weights[i].end(), t.data(), [](double x) { return static_cast<typename B::Scalar>(x); });
        ++i;
      },
      model);
  prepare(model);
  std::vector<const Example*> examples;
  for (const Example& e : batch) examples.push_back(&e);
  const auto objective = objective_of(model);
  typename std::remove_const_t<decltype(objective)>::Workspace workspace{{}};
  auto sum = zeros_like(model);
  objective(model, examples, static_cast<double>(examples.size()), {}, workspace, sum);
  return values_of(sum);
}

/// |a - b| / |b|, and the error that half of the elements have at most, and 99 in 100.
struct Off {
  double norm, half, most;
};
Off off(const Values& a, const Values& b) {
  double difference = 0, size = 0;
  std::vector<double> of_elements;
  for (std::size_t p = 0; p < a.size(); ++p)
    for (std::size_t i = 0; i < a[p].size(); ++i) {
      difference += std::pow(a[p][i] - b[p][i], 2), size += std::pow(b[p][i], 2);
      if (b[p][i] != 0) of_elements.push_back(std::abs(a[p][i] / b[p][i] - 1));
    }
  std::sort(of_elements.begin(), of_elements.end());
  return {std::sqrt(difference / size), of_elements[of_elements.size() / 2], of_elements[of_elements.size() * 99 / 100]};
}

}  // namespace

TEST_CASE("a model's gradients in float32 are as exact as products of floats as they are make them, new and trained") {
  auto model = make<Cpu<float>>();
  const auto objective = objective_of(model);
  Threads threads(1);
  const int steps = 40;
  Trainer trainer(model, objective, {.rate = 2e-3}, {.steps = steps}, Seed{1}, threads);
  const ExampleStream stream(task, {.shortest = 1, .longest = 3}, 16, Key(1));
  for (int step = 0; step <= steps; ++step) {
    if (step == 0 || step == steps) {
      CAPTURE(step);
      const Values weights = values_of(model);
      std::vector<Example> batch = stream(1000 + step);
      batch.resize(8);
      const Values exact = gradient<Cpu<double>>(weights, batch);
      const Off ours = off(gradient<Cpu<float>>(weights, batch), exact), floats = off(gradient<Cpu<float, cpu::Level::avx512>>(weights, batch), exact);
      MESSAGE("off by ", ours.norm, ", elements ", ours.half, " to ", ours.most, "; of floats ", floats.norm, ", ", floats.half, " to ", floats.most);
      CHECK(floats.norm < 2e-6);
      CHECK(ours.norm < 1.5 * floats.norm);
      CHECK(ours.half < 1.5 * floats.half);
      CHECK(ours.most < 1.5 * floats.most);
    }
    if (step < steps) trainer.step(stream(step));
  }
}
