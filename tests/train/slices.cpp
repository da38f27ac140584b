// A batch in slices: the same gradient from less memory; and the merged data of fine-tuning, with a table of shares and with chains that
// are made when they are drawn.
#include <relay/train/trainer.hpp>

#include <cmath>
#include <cstring>
#include <map>

#include <relay/backend/cpu.hpp>
#include <relay/backend/shapes.hpp>
#include <relay/task/edit_distance.hpp>
#include <relay/task/arithmetic.hpp>
#include <relay/train/data.hpp>
#include <relay/train/memory_plan.hpp>
#include <relay/train/next_token.hpp>
#include <relay/train/unroll.hpp>

#include <doctest/doctest.h>

using namespace relay;

namespace {

const Arithmetic task{.modulus = 5};
using Batch = std::vector<Example>;

Batch batch_of(int step, int size = 23) {
  Random random(Key(11).fold(static_cast<std::uint64_t>(step)));
  Batch batch;
  for (int i = 0; i < size; ++i) batch.push_back(task.generate(1 + random.below(4), random));
  return batch;
}

/// An auto-regressive model after some steps in so many lanes and slices.
template <class B>
struct Trained {
  CausalTransformer<B> model, gradient;
  Losses losses;
  std::size_t bytes;
};
template <class B>
Trained<B> train(int lanes, int slices, int steps, double dropout, int threads = 1) {
  Threads pool(threads);
  CausalTransformer<B> model({.width = 12, .layers = 1, .heads = 2, .dropout = dropout}, task.vocabulary().size(), Seed{1});
  const NextToken<CausalTransformer<B>, Arithmetic> objective(task);
  Trainer trainer(model, objective, {.rate = 3e-3}, {.steps = 60}, Seed{5}, pool, lanes, slices);
  Losses losses;
  for (int i = 0; i < steps; ++i) losses = trainer.step(batch_of(i)).losses;
  const std::size_t bytes = trainer.bytes();
  return {std::move(model), trainer.gradient(), losses, bytes};
}

template <class Model>
std::string bits(const Model& model) {
  std::string out;
  for_each_parameter(
      [&](std::string_view, const auto& tensor) {
        out.append(reinterpret_cast<const char*>(tensor.data()), static_cast<std::size_t>(tensor.size()) * sizeof tensor.data()[0]);
      },
      model);
  return out;
}

}  // namespace

TEST_CASE("slices cut the batch, not the gradient, and take less memory") {
  const auto whole = train<Cpu<double>>(2, 1, 1, 0);
  for (const int slices : {2, 5, 23, 40}) {  // 40: more slices than examples
    CAPTURE(slices);
    const auto cut = train<Cpu<double>>(2, slices, 1, 0);
    CHECK(cut.losses.objective == doctest::Approx(whole.losses.objective).epsilon(1e-12));
    CHECK(cut.losses.value.count == whole.losses.value.count);
    CHECK(cut.bytes < whole.bytes);
    for_each_parameter(
        [](std::string_view, const auto& a, const auto& b) {
          double worst = 0;
          for (long i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a.data()[i] - b.data()[i]));
          CHECK(worst < 1e-12);
        },
        whole.gradient, cut.gradient);
  }
}

TEST_CASE("in slices, too, the bits are those of any number of threads") {
  const std::string once = bits(train<Cpu<float>>(3, 4, 6, 0.2).model);
  CHECK(bits(train<Cpu<float>>(3, 4, 6, 0.2, 2).model) == once);
  CHECK(bits(train<Cpu<float>>(3, 4, 6, 0.2, 5).model) == once);
  CHECK(bits(train<Cpu<float>>(3, 2, 6, 0.2).model) != once);  // dropout depends on the slice
}

TEST_CASE("after reserve no batch in slices makes a step ask for memory, and the plan is of one slice") {
  constexpr int size = 32, lanes = 2, slices = 4;
  const ExampleStream data(task, {.shortest = 1, .longest = 4, .power = 1}, size, Key(3));
  const Example largest = task.largest(4);
  Threads pool(2);
  using Model = CausalTransformer<Cpu<float>>;
  Model model({.width = 12, .layers = 1, .heads = 2}, task.vocabulary().size(), Seed{1});
  const NextToken<Model, Arithmetic> objective(task);
  Trainer trainer(model, objective, {}, {.steps = 60}, Seed{5}, pool, lanes, slices);
  const std::string before = bits(model);
  trainer.reserve(largest, size);
  CHECK(bits(model) == before);
  const std::size_t bytes = trainer.bytes();
  for (int i = 0; i < 30; ++i) trainer.step(data(i));
  CHECK(trainer.bytes() == bytes);

  using Shape = CausalTransformer<Shapes<float>>;
  const auto plan = [&](int in) {
    return plan_memory([&](Shapes<float>::Device device) { return Shape({.width = 12, .layers = 1, .heads = 2}, task.vocabulary().size(), Seed{}, device); },
                       NextToken<Shape, Arithmetic>(task), largest, size, lanes, in);
  };
  CHECK(plan(1).activations > 2 * plan(slices).activations);
  CHECK(plan(slices).gradients == plan(1).gradients);
  CHECK(largest_share(512, 4, 16) == 10);
  CHECK(largest_share(5, 4, 16) == 1);
  CHECK(largest_share(32, 4, 1) == largest_share(32, 4));
  CHECK_THROWS_AS(largest_share(32, 4, 0), Error);
  CHECK_THROWS_AS(Trainer(model, objective, {}, {.steps = 60}, Seed{5}, pool, lanes, 0), Error);
}

TEST_CASE("merged data: each task has a share of its own") {
  const Mixture mixture({task, EditDistance{.letters = 3, .longest = 6}});
  const MixtureStream stream(mixture, {{.lengths = {.shortest = 1, .longest = 2}}, {.lengths = {.shortest = 1, .longest = 2}}}, 50, Key(1));
  Batch others = mixture.examples(0, 4, 30, Key(2), Split::all);
  for (Example& e : mixture.examples(1, 4, 10, Key(2), Split::all)) others.push_back(std::move(e));
  const MergedStream merged(stream, others, {0.75, 0.1}, Key(3));
  std::map<int, int> all, long_ones;
  for (int step = 0; step < 200; ++step) {
    const Batch batch = merged(step), plain = stream(step);
    for (std::size_t i = 0; i < batch.size(); ++i) {
      REQUIRE(batch[i].task == plain[i].task);
      ++all[batch[i].task];
      if (batch[i].length == 4)
        ++long_ones[batch[i].task];
      else
        REQUIRE(batch[i] == plain[i]);
    }
  }
  for (const auto& [which, p] : {std::pair(0, 0.75), {1, 0.1}}) {
    const double n = all[which];
    CHECK(std::abs(long_ones[which] - n * p) < 5 * std::sqrt(n * p * (1 - p)));
  }
  CHECK_THROWS_AS(MergedStream(stream, {}, {0.5, 0}, Key(3)), Error);
  CHECK(MergedStream(stream, {}, {0.0, 0.0}, Key(3))(1) == stream(1));
}

TEST_CASE("merged data: what is drawn may be made when it is drawn, or be nothing") {
  const ExampleStream<Arithmetic> stream(task, {.shortest = 1, .longest = 2, .power = 1}, 100, Key(11));
  const Batch solved = examples_of_length(task, 6, 50, Key(12), Split::all);
  Batch problems = solved;
  for (Example& e : problems) e.rounds.clear(), e.answer = Vocabulary::pad;
  const auto solve = [](std::span<const Example> drawn) {
    std::vector<std::optional<Example>> out;
    for (const Example& e : drawn) {
      Example made = task.solve(e.problem);
      out.push_back(made);
    }
    return out;
  };
  const MergedStream merged(stream, solved, 0.6, Key(13)), made(stream, problems, {0.6}, Key(13), solve);
  for (int step = 0; step < 20; ++step) CHECK(made(step) == merged(step));
  const MergedStream some(stream, problems, {0.6}, Key(13), [&](std::span<const Example> drawn) {
    auto out = solve(drawn);
    for (std::size_t i = 0; i < out.size(); i += 2) out[i].reset();
    return out;
  });
  for (int step = 0; step < 20; ++step) {
    const Batch batch = some(step), plain = stream(step), whole = merged(step);
    int drawn = 0;
    for (std::size_t i = 0; i < batch.size(); ++i) {
      if (whole[i] == plain[i])
        CHECK(batch[i] == plain[i]);
      else
        CHECK(batch[i] == (drawn++ % 2 == 0 ? plain[i] : whole[i]));
    }
    CHECK(drawn > 30);
  }
}
