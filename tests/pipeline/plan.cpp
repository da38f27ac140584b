// pipeline/plan.hpp: nothing a training is given is larger than planned; what is chosen under a limit; the table.
#include <relay/pipeline/plan.hpp>
#include <relay/pipeline/settings.hpp>

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

PipelineConfig of_all_tasks() {
  PipelineConfig config;
  set(config, "tasks=arithmetic,edit_distance,longest_increasing_subsequence");
  return config;
}

constexpr std::size_t mib = 1 << 20;

}  // namespace

TEST_CASE("no problem, round or text is larger than the largest") {
  const PipelineConfig config = of_all_tasks();
  const Mixture mixture = config.mixture(), alone = PipelineConfig{}.mixture();
  Random random(Key(1));
  const auto check = [&](const Mixture& m, int task, int length, int columns, int draws) {
    const Example largest = m.joint(task, m.task(task).largest(length));
    CAPTURE(m.task(task).name);
    CAPTURE(length);
    CHECK(largest.columns() == columns);
    REQUIRE(static_cast<int>(largest.rounds.size()) == largest.iterations);
    bool reached = false;
    for (int i = 0; i < draws; ++i) {
      const Example e = m.generate(task, length, random);
      CHECK(e.columns() <= largest.columns());
      CHECK(e.iterations <= largest.iterations);
      for (std::size_t t = 0; t < e.rounds.size(); ++t) CHECK(e.rounds[t].size() <= largest.rounds[t].size());
      CHECK(text_tokens(m, e) <= text_tokens(m, largest));
      CHECK(text_tokens(m, e) == static_cast<int>(e.problem.size() + m.text(e).size()) - 1);
      reached = reached || e.columns() == largest.columns();
    }
    CHECK((reached || (task == 0 && length > 3)));
  };
  for (int n = 1; n <= 9; ++n) check(alone, 0, n, 4 * n, 1000);
  for (const int n : {1, 3, 6}) check(mixture, 0, n, 1 + 4 * n, 300);
  for (const int n : {1, 2, 5, 8}) check(mixture, 1, n, 1 + 2 * n + 4, 300);
  for (const int n : {1, 3, 15}) check(mixture, 2, n, 1 + std::max(n + 1, 11), 100);
}

TEST_CASE("the largest row has as many columns and iterations as any task's, the largest text as many tokens") {
  PipelineConfig config = of_all_tasks();
  const Mixture mixture = config.mixture();
  const Example row = largest_row(mixture, config);
  CHECK(row.columns() == 1 + 4 * 6 + config.extra_columns);  // arithmetic's
  CHECK(row.iterations == 6);
  set(config, "edit_distance.longest=9");
  const Mixture longer = config.mixture();
  CHECK(largest_row(longer, config).iterations == 9);
  CHECK(largest_row(longer, config).columns() == 1 + 4 * 6 + config.extra_columns);

  const PipelineConfig one;
  const Mixture alone = one.mixture();
  CHECK(largest_row(alone, one).columns() == 4 * 6 + 8);
  CHECK(text_tokens(alone, largest_text(alone, one)) == 24 + (20 + 16 + 12 + 8 + 4 + 2) - 1);
  for (const int tokens : {5, 85})  // no smaller than what is trained
    CHECK(text_tokens(alone, largest_text(alone, one, tokens)) == 85);
  for (const int tokens : {86, 200, 1000}) CHECK(text_tokens(alone, largest_text(alone, one, tokens)) == tokens);
  for (const int tokens : {300, 1000}) CHECK(text_tokens(longer, largest_text(longer, config, tokens)) == tokens);
  PipelineConfig shortest;  // a text of one round
  set(shortest, "lengths.longest=1");
  CHECK(text_tokens(shortest.mixture(), largest_text(shortest.mixture(), shortest, 50)) == 50);

  CHECK(longest_written(alone, one) == 40 * 10 + 4);
  PipelineConfig tight = one;
  set(tight, "model.positions=300");
  CHECK(longest_written(alone, tight) == 300);
  set(tight, "lengths.test_longest=6");
  CHECK(longest_written(tight.mixture(), tight) == 0);
}

TEST_CASE("no task's training needs more than planned for the mixture") {
  PipelineConfig config = of_all_tasks();
  for (const char* setting : {"model.width=16", "model.heads=2", "model.directional_heads=1", "edit_distance.longest=9"}) set(config, setting);
  for (const int group : {10, 3, 1})  // of 1: LIS has the most iterations, and the least to say in each
    for (const char* layout : {"flush_right", "in_place"}) {
      set(config, message("longest_increasing_subsequence.group=", group));
      set(config, message("longest_increasing_subsequence.layout=", layout));
      const Mixture mixture = config.mixture();
      using Backend = Shapes<float>;
      using Model = LoopedTransformer<Backend>;
      const StagePlan planned = plan_looped<float>(mixture, config, "looped_aligned", Aligned{}, config.loss);
      for (int task = 0; task < mixture.size(); ++task)
        for (const Keep keep : {Keep::everything, Keep::inputs}) {
          Example largest = mixture.joint(task, mixture.task(task).largest(config.training(mixture.task(task).name).lengths.longest));
          largest.width = largest.columns() + config.extra_columns;
          const MemoryPlan alone = plan_memory(
              [&](Backend::Device device) { return Model(config.model, config.loop, mixture.vocabulary().size(), Seed{}, device); },
              Unroll<Model, Aligned, Mixture::Placement>(Aligned{}, config.loss, mixture.placement(), mixture.vocabulary().first_value(), keep),
              largest, config.batch, config.lanes);
          CAPTURE(group);
          CAPTURE(layout);
          CAPTURE(mixture.task(task).name);
          CHECK(alone.activations <= planned.of(keep).activations);
        }
    }
}

TEST_CASE("the trainings of the demo: the looped ones may recompute, and chains are the longest texts") {
  const PipelineConfig config;
  const auto stages = plan_stages<float>(config.mixture(), config);
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
  set(alone, "lengths.test_longest=6");
  CHECK(plan_stages<float>(alone.mixture(), alone)[3].stored.activations == stages[2].stored.activations);
  CHECK(plan_stages<double>(config.mixture(), config)[0].stored.parameters > stages[0].stored.parameters);
}

TEST_CASE("a limit decides what is kept; recompute=true does in any case; what fits neither way is an error") {
  PipelineConfig config;
  const auto stages = plan_stages<float>(config.mixture(), config);
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
  PipelineConfig config;
  config.batch = 1 << 20;
  config.lanes = 1;
  CHECK(says(error_of([&] { plan_stages<float>(config.mixture(), config); }), "lower the batch, or have more lanes"));
  config = PipelineConfig{};
  config.model.width = 8192;
  config.model.layers = 100;
  const auto stages = plan_stages<float>(config.mixture(), config);
  CHECK(stages[0].stored.total() > std::size_t{1} << 40);
}

TEST_CASE("the table") {
  PipelineConfig config;
  std::vector<StagePlan> stages{{"looped_aligned", {mib / 4, 3 * mib / 4, 4 * mib, 2 * mib, 90 * mib},
                                 MemoryPlan{mib / 4, 3 * mib / 4, 4 * mib, 2 * mib, 30 * mib}},
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
