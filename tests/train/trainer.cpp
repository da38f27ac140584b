#include <relay/train/trainer.hpp>

#include <cstring>

#include <relay/backend/cpu.hpp>
#include <relay/task/arithmetic.hpp>
#include <relay/train/data.hpp>
#include <relay/train/next_token.hpp>
#include <relay/train/unroll.hpp>

#include <doctest/doctest.h>

using namespace relay;

namespace {

const Arithmetic task{.modulus = 5};
using Batch = std::vector<Example>;

/// The batch of a step: a pure function of its number, problems of 1 to 4 operators.
Batch batch_of(int step, int size = 9) {
  Random random(Key(11).fold(static_cast<std::uint64_t>(step)));
  Batch batch;
  for (int i = 0; i < size; ++i) batch.push_back(task.generate(1 + random.below(4), random));
  return batch;
}

template <class B>
LoopedTransformer<B> model_of(LoopedTransformer<B>*) {
  return LoopedTransformer<B>({.width = 12, .layers = 1, .heads = 2, .dropout = 0.1},
                              {.inject = true, .normalise = true}, task.vocabulary().size(), Seed{1});
}
template <class B>
CausalTransformer<B> model_of(CausalTransformer<B>*) {
  return CausalTransformer<B>({.width = 12, .layers = 2, .heads = 2, .dropout = 0.1}, task.vocabulary().size(),
                              Seed{1});
}
template <class B>
Unroll<LoopedTransformer<B>> objective_of(LoopedTransformer<B>*) {
  return Unroll<LoopedTransformer<B>>();
}
template <class B>
NextToken<CausalTransformer<B>, Arithmetic> objective_of(CausalTransformer<B>*) {
  return NextToken<CausalTransformer<B>, Arithmetic>(task);
}

template <class Model>
bool same_bits(const Model& a, const Model& b) {
  bool same = true;
  for_each_parameter(
      [&](std::string_view, const auto& x, const auto& y) {
        const auto u = Model::Backend::download(x), v = Model::Backend::download(y);
        same = same && u.size() == v.size() && std::memcmp(u.data(), v.data(), u.size() * sizeof u[0]) == 0;
      },
      a, b);
  return same;
}

const LinearSchedule schedule{.steps = 60};

/// An objective that refuses to stage examples of negative weight.
template <class Objective>
struct Refusing : Objective {
  void stage(std::span<const Example* const> examples, typename Objective::Staged& staged) const {
    for (const Example* e : examples) require(e->weight >= 0, "a negative weight");
    Objective::stage(examples, staged);
  }
};

template <class Model>
struct Trained {
  Model model;
  double loss;
};

template <class Model>
Trained<Model> train(int threads, int steps, int lanes = 4) {
  Threads pool(threads);
  Trained<Model> out{model_of(static_cast<Model*>(nullptr)), 0};
  const auto objective = objective_of(static_cast<Model*>(nullptr));
  Trainer trainer(out.model, objective, {.rate = 3e-3}, schedule, Seed{5}, pool, lanes);
  for (int i = 0; i < steps; ++i) out.loss = trainer.step(batch_of(i)).losses.objective;
  return out;
}

}  // namespace

TEST_CASE_TEMPLATE("1, 2 and 3 threads: the same weights after 50 steps, bit for bit", Model,
                   LoopedTransformer<Cpu<float>>, CausalTransformer<Cpu<float>>) {
  const auto one = train<Model>(1, 50);
  for (const int threads : {2, 3}) {
    const auto more = train<Model>(threads, 50);
    CHECK(same_bits(one.model, more.model));
    CHECK(one.loss == more.loss);
  }
  CHECK_FALSE(same_bits(one.model, model_of(static_cast<Model*>(nullptr))));
  CHECK(one.loss < train<Model>(1, 1).loss);  // and it learns
}

TEST_CASE_TEMPLATE("stopped and resumed: the same bits as never stopped", Model, LoopedTransformer<Cpu<float>>,
                   CausalTransformer<Cpu<float>>) {
  const auto whole = train<Model>(2, 12);
  Threads pool(2);
  auto model = model_of(static_cast<Model*>(nullptr));
  const auto objective = objective_of(static_cast<Model*>(nullptr));
  {
    Trainer first(model, objective, {.rate = 3e-3}, schedule, Seed{5}, pool);
    for (int i = 0; i < 7; ++i) first.step(batch_of(i));
    Model copy = model;  // all that a checkpoint holds: the weights, the moments and the number of steps
    Trainer second(copy, objective, {.rate = 3e-3}, schedule, Seed{5}, pool);
    second.optimiser.first = first.optimiser.first;
    second.optimiser.second = first.optimiser.second;
    second.optimiser.steps = first.optimiser.steps;
    for (int i = 7; i < 12; ++i) second.step(batch_of(i));
    CHECK(same_bits(copy, whole.model));
  }
}

TEST_CASE_TEMPLATE("once warmed up, a step asks the system for no memory", Model, LoopedTransformer<Cpu<float>>,
                   CausalTransformer<Cpu<float>>) {
  Threads pool(2);
  auto model = model_of(static_cast<Model*>(nullptr));
  const auto objective = objective_of(static_cast<Model*>(nullptr));
  Trainer trainer(model, objective, {}, schedule, Seed{5}, pool);
  const std::vector<Batch> batches{batch_of(0), batch_of(1), batch_of(2)};
  for (int round = 0; round < 4; ++round)
    for (const Batch& batch : batches) trainer.step(batch);
  const long warm = trainer.allocations();
  CHECK(warm > 0);
  for (int round = 0; round < 5; ++round)
    for (const Batch& batch : batches) trainer.step(batch);
  CHECK(trainer.allocations() == warm);
}

TEST_CASE_TEMPLATE("after reserve, no batch makes a step ask the system for memory, and all bits are the same", Model,
                   LoopedTransformer<Cpu<float>>, CausalTransformer<Cpu<float>>) {
  constexpr int size = 32;
  const WidenedStream data(ExampleStream(task, {.shortest = 1, .longest = 6, .power = 2}, size, Key(3)), 8, Key(4));
  Example largest;  // of problems of 6 operators: nothing is longer than with all brackets, and 8 columns more
  largest.iterations = 6;
  largest.problem = Tokens(24, expression::equals);
  largest.width = 32;
  for (const std::size_t n : {20, 16, 12, 8, 4, 1}) largest.rounds.push_back(Tokens(n, expression::equals));
  largest.answer = expression::number(1);
  Threads pool(2);
  auto model = model_of(static_cast<Model*>(nullptr)), other = model;
  const auto objective = objective_of(static_cast<Model*>(nullptr));
  Trainer trainer(model, objective, {}, {.steps = 200}, Seed{5}, pool), plain(other, objective, {}, {.steps = 200}, Seed{5}, pool);
  CHECK(trainer.allocations() == 0);
  trainer.reserve(largest, size);
  CHECK(same_bits(model, other));
  CHECK(trainer.optimiser.steps == 0);
  const long allocations = trainer.allocations();
  const std::size_t bytes = trainer.bytes();
  CHECK(allocations > 0);
  for (int i = 0; i < 200; ++i) {
    const auto batch = data(i);
    CHECK(trainer.step(batch).losses.objective == plain.step(batch).losses.objective);
  }
  CHECK(trainer.allocations() == allocations);
  CHECK(trainer.bytes() == bytes);
  CHECK(plain.allocations() > 0);
  CHECK(same_bits(model, other));
}

TEST_CASE_TEMPLATE("lanes cut the batch, not the gradient", Model, LoopedTransformer<Cpu<double>>,
                   CausalTransformer<Cpu<double>>) {
  // Without dropout: what is dropped depends on the place in the lane.
  const auto gradient = [](int lanes) {
    Threads pool(1);
    auto model = model_of(static_cast<Model*>(nullptr));
    const auto plain = [] {
      if constexpr (requires(Model & m) { m.loop; })
        return Model({.width = 12, .layers = 1, .heads = 2}, {.inject = true}, task.vocabulary().size(), Seed{1});
      else
        return Model({.width = 12, .layers = 1, .heads = 2}, task.vocabulary().size(), Seed{1});
    };
    model = plain();
    const auto objective = objective_of(static_cast<Model*>(nullptr));
    Trainer trainer(model, objective, {}, schedule, Seed{5}, pool, lanes);
    const StepReport report = trainer.step(batch_of(0));
    return std::pair(trainer.gradient(), report.losses.objective);
  };
  const auto [one, loss] = gradient(1);
  for (const int lanes : {2, 5, 20}) {  // 20: more lanes than examples
    const auto [cut, cut_loss] = gradient(lanes);
    CHECK(cut_loss == doctest::Approx(loss).epsilon(1e-12));
    for_each_parameter(
        [](std::string_view, const auto& a, const auto& b) {
          double worst = 0;
          for (long i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a.data()[i] - b.data()[i]));
          CHECK(worst < 1e-12);
        },
        one, cut);
  }
}

TEST_CASE_TEMPLATE("a batch that is made ready a step before: the same bits, whatever comes instead of it", Model, LoopedTransformer<Cpu<float>>,
                   CausalTransformer<Cpu<float>>) {
  const Refusing<decltype(objective_of(static_cast<Model*>(nullptr)))> objective{objective_of(static_cast<Model*>(nullptr))};
  for (const int threads : {1, 3})
    for (const int slices : {1, 2}) {
      Threads pool(threads);
      auto model = model_of(static_cast<Model*>(nullptr)), other = model;
      Trainer ready(model, objective, {.rate = 3e-3}, schedule, Seed{5}, pool, 2, slices);
      Trainer plain(other, objective, {.rate = 3e-3}, schedule, Seed{5}, pool, 2, slices);
      std::vector<Batch> batches;
      for (int i = 0; i < 12; ++i) batches.push_back(batch_of(i, 5 + i % 4));
      const auto step = [&](std::size_t i, std::span<const Example> next) {
        const StepReport told = ready.step(batches[i], [&] { return next; }), untold = plain.step(batches[i]);
        CHECK(told.losses.objective == untold.losses.objective);
        CHECK(told.gradient_norm == untold.gradient_norm);
        CHECK(told.samples == untold.samples);
        CHECK(same_bits(model, other));
      };
      step(0, batches[1]);
      step(1, batches[1]);  // itself
      step(1, batches[2]);
      step(3, batches[4]);  // another than the one that was announced
      batches[4].pop_back();
      step(4, batches[5]);  // the one that was announced, but of another size
      step(5, std::span(batches[6]).first(3));
      step(6, {});
      step(7, batches[8]);
      batches[8][0] = batches[9][0];
      ready.forget_next();
      step(8, batches[9]);
      ready.reserve(batches[9][0], 9);
      step(9, batches[10]);
      // An error while it is made ready is of the step that needs it.
      Batch broken = batches[11];
      broken[2].weight = -1;
      CHECK(ready.step(batches[10], [&] { return std::span<const Example>(broken); }).losses.objective == plain.step(batches[10]).losses.objective);
      CHECK_THROWS_WITH_AS(ready.step(broken, [&] { return std::span<const Example>(batches[11]); }), "a negative weight", Error);
      batches[11].front() = batches[10].front();  // after an error nothing is announced
      CHECK(same_bits(model, other));
      step(11, {});
    }
}

TEST_CASE("fit: batches by number, callbacks in order, and any of them ends it") {
  using Model = LoopedTransformer<Cpu<float>>;
  Threads pool(1);
  auto model = model_of(static_cast<Model*>(nullptr));
  const auto objective = objective_of(static_cast<Model*>(nullptr));
  Trainer trainer(model, objective, {.rate = 2e-3}, schedule, Seed{5}, pool, 2);
  std::vector<int> asked, seen;
  const auto data = [&](int step) {
    asked.push_back(step);
    return batch_of(step, 3);
  };
  const auto watch = [&](const StepReport& report) {
    seen.push_back(report.step);
    CHECK(report.samples == 3);
    CHECK(report.gradient_norm > 0);
    CHECK(report.losses.answer.count == 3);
  };
  CHECK(trainer.fit(data, 3, watch));
  CHECK(asked == std::vector<int>{0, 1, 2});
  CHECK(seen == std::vector<int>{1, 2, 3});
  CHECK_FALSE(trainer.fit(data, 10, watch, [](const StepReport& report) { return report.step < 5; }));
  CHECK(trainer.optimiser.steps == 5);
  CHECK(asked.back() == 5);  // in vain
  CHECK(trainer.fit(data, 5, watch));  // nothing left to do
  CHECK(trainer.optimiser.steps == 5);
}

TEST_CASE("fit asks for the next batch while it takes a step, and for none beyond the last; an error there is that of its own step") {
  using Model = LoopedTransformer<Cpu<float>>;
  const auto objective = objective_of(static_cast<Model*>(nullptr));
  for (const int threads : {1, 3}) {
    Threads pool(threads);
    auto model = model_of(static_cast<Model*>(nullptr)), stepped = model;
    Trainer trainer(model, objective, {.rate = 2e-3}, schedule, Seed{5}, pool, 2), by_hand(stepped, objective, {.rate = 2e-3}, schedule, Seed{5}, pool, 2);
    int asked = 0, ahead = 0;
    const auto data = [&](int step) {
      CHECK(step == asked++);
      if (step == 4) throw Error("no batch 4");
      return batch_of(step, 3);
    };
    CHECK_THROWS_WITH_AS(trainer.fit(data, 9, [&](const StepReport& report) { ahead += asked == report.step + 1; }), "no batch 4", Error);
    CHECK(asked == 5);
    CHECK(ahead == 4);
    CHECK(trainer.optimiser.steps == 4);
    for (int step = 0; step < 4; ++step) by_hand.step(batch_of(step, 3));
    CHECK(same_bits(model, stepped));
  }
  struct Busy {  // wants the threads for itself
    int* asked;
    bool uses_threads() const { return true; }
    Batch operator()(int step) const {
      ++*asked;
      return batch_of(step, 3);
    }
  };
  Threads pool(2);
  auto model = model_of(static_cast<Model*>(nullptr));
  Trainer trainer(model, objective, {}, schedule, Seed{5}, pool, 2);
  int asked = 0;
  trainer.fit(Busy{&asked}, 3, [&](const StepReport& report) { CHECK(asked == report.step); });
}

TEST_CASE("no examples, no lanes: refused; an error in a lane comes out of step") {
  using Model = LoopedTransformer<Cpu<float>>;
  Threads pool(2);
  auto model = model_of(static_cast<Model*>(nullptr));
  const auto objective = objective_of(static_cast<Model*>(nullptr));
  Trainer trainer(model, objective, {}, schedule, Seed{5}, pool);
  CHECK_THROWS_WITH_AS(trainer.step(Batch()), "a training step needs at least one example", Error);
  CHECK_THROWS_AS(Trainer(model, objective, {}, schedule, Seed{5}, pool, 0), Error);
  Batch bad = batch_of(0);
  bad[4].rounds.pop_back();
  const auto before = model;
  CHECK_THROWS_AS(trainer.step(bad), Error);
  CHECK(same_bits(model, before));
  CHECK(trainer.step(batch_of(0)).step == 1);
}
