// pipeline/plan.hpp: nothing a training is given is larger than planned; what is chosen under a limit; the table.
#include <relay/pipeline/plan.hpp>

#include <string>

#include <doctest/doctest.h>

using namespace relay;

namespace {

std::string error_of(auto&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}
bool says(const std::string& text, const std::string& words) { return text.find(words) != text.npos; }

constexpr std::size_t mib = 1 << 20;

}  // namespace

TEST_CASE("no problem, round or text is larger than the largest") {
  const Arithmetic task{.modulus = 5};
  Random random(Key(1));
  for (int n = 1; n <= 9; ++n) {
    const Example largest = largest_problem(n, 5);
    CHECK(largest.columns() == 4 * n + 5);
    CHECK(largest.iterations == n);
    REQUIRE(largest.rounds.size() == static_cast<std::size_t>(n));
    CHECK(text_tokens(task, largest) == longest_text(n));
    bool reached = false;
    for (int i = 0; i < 2000; ++i) {
      const Example e = task.generate(n, random);
      CHECK(e.problem.size() <= largest.problem.size());
      for (std::size_t t = 0; t < e.rounds.size(); ++t) CHECK(e.rounds[t].size() <= largest.rounds[t].size());
      CHECK(text_tokens(task, e) <= longest_text(n));
      reached = reached || e.problem.size() == largest.problem.size();
    }
    if (n <= 3) CHECK(reached);
  }
  for (const int tokens : {5, 6, 20, 1000}) {
    CHECK(text_tokens(task, largest_text(tokens)) == tokens);
    CHECK(largest_text(tokens).problem.size() == 4);
  }
}

TEST_CASE("the trainings of the demo: the looped ones may recompute, and chains are the longest texts") {
  const PipelineConfig config = preset("demo");
  const auto stages = plan_stages<float>(config);
  REQUIRE(stages.size() == 4);
  CHECK((stages[0].name == "looped_aligned" && stages[1].name == "looped_vanilla" && stages[2].name == "ar" && stages[3].name == "ar_relay"));
  for (const StagePlan& stage : stages) {
    CHECK(stage.recomputed.has_value() == stage.name.starts_with("looped"));
    CHECK(stage.stored.gradients == 4 * stage.stored.parameters);
    CHECK(stage.keep(config) == Keep::everything);
    if (!stage.recomputed) continue;
    CHECK(stage.recomputed->parameters == stage.stored.parameters);
    CHECK(stage.recomputed->activations < stage.stored.activations / 2);
  }
  CHECK(stages[1].stored.activations < stages[0].stored.activations);  // the answer alone is asked
  CHECK(stages[3].stored.activations > stages[2].stored.activations);
  PipelineConfig alone = config;
  alone.test_longest = alone.lengths.longest;
  CHECK(plan_stages<float>(alone)[3].stored.activations == stages[2].stored.activations);
  CHECK(plan_stages<double>(config)[0].stored.parameters > stages[0].stored.parameters);
}

TEST_CASE("a limit decides what is kept; recompute=true does in any case; what fits neither way is an error") {
  PipelineConfig config = preset("demo");
  const auto stages = plan_stages<float>(config);
  const std::size_t stored = stages[0].stored.total(), recomputed = stages[0].recomputed->total();
  config.memory_limit = static_cast<int>(stored / mib) + 1;
  CHECK(stages[0].keep(config) == Keep::everything);
  CHECK(&stages[0].of(Keep::everything) == &stages[0].stored);
  config.memory_limit = static_cast<int>(stored / mib);
  CHECK(stages[0].keep(config) == Keep::inputs);
  CHECK(&stages[0].of(Keep::inputs) == &*stages[0].recomputed);
  config.memory_limit = static_cast<int>(recomputed / mib);
  CHECK(says(error_of([&] { stages[0].keep(config); }), "training looped_aligned, recomputing what it does not store, needs "));
  CHECK(says(error_of([&] { stages[0].keep(config); }), message("but the limit is ", config.memory_limit, " MiB: lower the batch, or the lanes")));
  CHECK(says(error_of([&] { stages[3].keep(config); }), "training ar_relay needs "));
  config.memory_limit = 0;
  config.recompute = true;
  CHECK(stages[0].keep(config) == Keep::inputs);
  CHECK(stages[2].keep(config) == Keep::everything);
  config.memory_limit = 1;
  CHECK(says(error_of([&] { stages[0].keep(config); }), "training looped_aligned needs "));
}

TEST_CASE("a batch that cannot be is refused, and a large model is planned without its memory") {
  PipelineConfig config = preset("demo");
  config.batch = 1 << 20;
  config.lanes = 1;
  CHECK(says(error_of([&] { plan_stages<float>(config); }), "lower the batch, or have more lanes"));
  config = preset("demo");
  config.model.width = 8192;
  config.model.layers = 100;
  const auto stages = plan_stages<float>(config);
  CHECK(stages[0].stored.total() > std::size_t{1} << 40);
}

TEST_CASE("the table") {
  PipelineConfig config = preset("demo");
  std::vector<StagePlan> stages{{"looped_aligned", {mib / 4, 3 * mib / 4, 4 * mib, 2 * mib, 90 * mib}, MemoryPlan{mib / 4, 3 * mib / 4, 4 * mib, 2 * mib, 30 * mib}},
                                {"ar", {mib / 4, 3 * mib / 4, 4 * mib, 2 * mib, 50 * mib + mib / 2}, {}}};
  CHECK(plan_table(stages, config) ==
        "MiB              parameters  gradients    moments |     stored recomputed |      total\n"
        "looped_aligned          1.0        4.0        2.0 |       90.0       30.0 |       97.0 stored\n"
        "ar                      1.0        4.0        2.0 |       50.5            |       57.5 stored\n");
  config.memory_limit = 50;
  CHECK(plan_table(stages, config) ==
        "MiB              parameters  gradients    moments |     stored recomputed |      total\n"
        "looped_aligned          1.0        4.0        2.0 |       90.0       30.0 |       37.0 recomputed\n"
        "ar                      1.0        4.0        2.0 |       50.5            |       57.5 does not fit\n");
}
