// train/memory_plan.hpp: planned bytes against what the CPU takes, and what is chosen under a limit.
#include <relay/train/memory_plan.hpp>

#include <cmath>
#include <string>

#include <relay/backend/cpu.hpp>
#include <relay/task/arithmetic.hpp>
#include <relay/train/next_token.hpp>
#include <relay/train/unroll.hpp>

#include <doctest/doctest.h>

using namespace relay;

namespace {

const Arithmetic task{.modulus = 5};
TransformerConfig config{.width = 64, .layers = 2, .heads = 4, .dropout = 0.1, .directional_heads = 2, .positions = 256};
constexpr int batch = 13;

Example largest() {
  Random random(Key(5));
  Example e = task.generate(6, random);
  e.width = e.columns() + 9;
  return e;
}

template <class B>
auto looped(typename B::Device device = {}) {
  return LoopedTransformer<B>(config, {.inject = true, .signal = true, .normalise = true}, task.vocabulary().size(), Seed{1}, device);
}
template <class B>
auto causal(typename B::Device device = {}) {
  return CausalTransformer<B>(config, task.vocabulary().size(), Seed{1}, device);
}
template <class Model>
auto next_token() {
  return NextToken<Model, Arithmetic>(task);
}

/// The plan of make<Shapes>, and what training make<Cpu> takes, for some numbers of lanes.
void check(auto&& make, auto&& objective_of) {
  using Planned = Shapes<float>;
  using Real = Cpu<float>;
  const auto planned_make = [&](auto device) { return make(static_cast<Planned*>(nullptr), device); };
  const auto planned_model = planned_make(Planned::Device{});
  const auto planned_objective = objective_of(planned_model);
  Real::Memory memory;
  {
    const auto model = make(static_cast<Real*>(nullptr), Real::Device{&memory});
    const std::size_t parameters = memory.used();
    CHECK(parameters >= static_cast<std::size_t>(count_parameters(model)) * sizeof(float));
    for (const int lanes : {1, 4}) {
      const MemoryPlan plan = plan_memory(planned_make, planned_objective, largest(), batch, lanes);
      CHECK(plan.parameters == parameters);
      CHECK(plan.gradients == static_cast<std::size_t>(lanes) * parameters);
      CHECK(plan.moments == 2 * parameters);
      std::size_t weights = 0;
      for_each_parameter([&](const auto& t) { weights += t.rows() > 1 ? static_cast<std::size_t>(t.size()) * sizeof(float) : 0; }, model);
      const bool digits = config.width >= 96 && cpu::machine_level() == cpu::Level::amx_bf16;
      CHECK(plan.laid_out >= (digits ? 3 * weights / 2 : 2 * weights));
      CHECK(static_cast<double>(plan.laid_out) <= (digits ? 2.3 : 2.6) * static_cast<double>(weights));  // what size classes round up
      CHECK(plan.total() == plan.laid_out + plan.activations + (3 + static_cast<std::size_t>(lanes)) * parameters);

      auto trained = make(static_cast<Real*>(nullptr), Real::Device{});
      const auto objective = objective_of(trained);
      Threads threads(1);
      Trainer trainer(trained, objective, {}, {.steps = 100}, Seed{5}, threads, lanes);
      trainer.reserve(largest(), batch);
      // Within 2 % and 256 KiB a lane: what an operation packs for itself is an estimate.
      const double planned = static_cast<double>(plan.activations), taken = static_cast<double>(trainer.bytes());
      CHECK(std::abs(taken - planned) <= 0.02 * planned + lanes * 262144.0);
      trainer.step(std::vector<Example>(batch, largest()));
      CHECK(static_cast<double>(trainer.bytes()) == taken);
    }
  }
}

std::string error_of(auto&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

}  // namespace

TEST_CASE("a looped model, stored and recomputed") {
  for (const Keep keep : {Keep::everything, Keep::inputs})
    check([]<class B>(B*, typename B::Device device) { return looped<B>(device); },
          [&](const auto& model) { return loop_objective(model, Aligned{}, {}, {}, 0, keep); });
}

TEST_CASE("a causal model") {
  check([]<class B>(B*, typename B::Device device) { return causal<B>(device); },
        [](const auto& model) { return next_token<std::remove_cvref_t<decltype(model)>>(); });
}

TEST_CASE("models whose weights AMX multiplies as digits, where there is AMX") {
  config.width = 128;
  check([]<class B>(B*, typename B::Device device) { return looped<B>(device); },
        [&](const auto& model) { return loop_objective(model, Aligned{}, {}, {}, 0, Keep::everything); });
  check([]<class B>(B*, typename B::Device device) { return causal<B>(device); },
        [](const auto& model) { return next_token<std::remove_cvref_t<decltype(model)>>(); });
  config.width = 64;
}

TEST_CASE("recomputing needs less, more iterations and examples need more") {
  using B = Shapes<float>;
  const auto make = [](B::Device device) { return looped<B>(device); };
  const auto plan = [&](Keep keep, int examples, int lanes, const Example& e) {
    return plan_memory(make, loop_objective(looped<B>(), Aligned{}, {}, {}, 0, keep), e, examples, lanes).activations;
  };
  const std::size_t stored = plan(Keep::everything, batch, 1, largest());
  CHECK(plan(Keep::inputs, batch, 1, largest()) < stored / 2);
  CHECK(plan(Keep::everything, 2 * batch, 1, largest()) > stored * 3 / 2);
  Example shorter = largest();
  shorter.iterations = 3;
  CHECK(plan(Keep::everything, batch, 1, shorter) < stored * 2 / 3);
}

TEST_CASE("what is kept: everything if it fits, else inputs if that does, else an error that says what to lower") {
  constexpr std::size_t mib = 1 << 20;
  const MemoryPlan everything{.parameters = 2 * mib, .gradients = 8 * mib, .moments = 4 * mib, .activations = 100 * mib};
  MemoryPlan inputs = everything;
  inputs.activations = 30 * mib - 5;
  CHECK(everything.total() == 114 * mib);
  CHECK(choose_keep("x", everything, inputs, {}) == Keep::everything);
  CHECK(choose_keep("x", everything, inputs, 114 * mib) == Keep::everything);
  CHECK(choose_keep("x", everything, inputs, 114 * mib - 1) == Keep::inputs);
  CHECK(choose_keep("x", everything, inputs, 44 * mib) == Keep::inputs);
  CHECK(error_of([&] { choose_keep("looped_aligned", everything, inputs, 43 * mib); }) ==
        "looped_aligned, recomputing what it does not store, needs 44 MiB (parameters 2, gradients 8, moments 4, activations "
        "30), but the limit is 43 MiB: lower the batch, or the lanes, or the model's size, or have more slices, or raise the limit");
  CHECK(error_of([&] { require_fits("ar", everything, 114 * mib); }) == "no error");
  CHECK(error_of([&] { require_fits("ar", everything, {}); }) == "no error");
  CHECK(error_of([&] { require_fits("ar", everything, 100 * mib); }).starts_with("ar needs 114 MiB (parameters 2, "));
}

TEST_CASE("a lane's largest share") {
  CHECK(largest_share(32, 1) == 32);
  CHECK(largest_share(32, 4) == 10);
  CHECK(largest_share(33, 4) == 11);
  CHECK(largest_share(3, 4) == 3);
  CHECK(largest_share(1, 1024) == 1);
  CHECK_THROWS_AS(largest_share(0, 1), Error);
}
