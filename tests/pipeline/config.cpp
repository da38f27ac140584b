#include <relay/pipeline/config.hpp>

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <relay/pipeline/settings.hpp>

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

/// A user's own examples are in files, which there must be.
PipelineConfig of_three_tasks() {
  PipelineConfig config;
  set(config, "tasks=arithmetic,edit_distance,longest_increasing_subsequence");
  return config;
}

}  // namespace

TEST_CASE("the check names the key and its range") {
  CHECK_NOTHROW(PipelineConfig{}.check());
  struct Case {
    const char* assignment;
    const char* words;
  };
  for (const Case& c :
       std::vector<Case>{{"task.modulus=8", "the modulus is 8, but must be a prime"},
                         {"lengths.longest=0", "lengths.longest is 0, but must be 1 .. 200"},
                         {"lengths.shortest=7", "lengths.shortest is 7, but must be 1 .. 6"},
                         {"lengths.power=11", "lengths.power is 11, but must be -10 .. 10"},
                         {"lengths.test_longest=3", "lengths.test_longest is 3, but must be 6 .. 200"},
                         {"lengths.split_from=0", "lengths.split_from is 0"},
                         {"model.width=1", "model.width is 1, but must be 2 .. 16384"},
                         {"model.width=60", "model.width is 60, but must be a multiple of twice model.heads (4)"},
                         {"model.layers=0", "model.layers is 0"},
                         {"model.heads=0", "model.heads is 0, but must be 1 .. 64"},
                         {"model.hidden=-1", "model.hidden is -1"},
                         {"model.dropout=1", "model.dropout is 1, but must be 0 .. 0.99"},
                         {"model.rotary_base=1", "model.rotary_base is 1"},
                         {"model.directional_heads=5", "model.directional_heads is 5, but must be 0 .. 4"},
                         {"model.heads_without_rotary=5", "model.heads_without_rotary is 5, but must be 0 .. 4"},
                         {"model.query_key_bias=-1", "model.query_key_bias is -1"},
                         {"model.distance_bias=-1", "model.distance_bias is -1"},
                         {"model.positions=220", "a chain of arithmetic of length 10 may have 221 tokens: set model.positions=221 or more"},
                         {"lengths.share=0", "lengths.share is 0, but must be"},
                         {"lengths.test_shortest=11", "lengths.test_shortest is 11, but must be 0 .. 10"},
                         {"tasks=", "tasks is empty: name at least one"},
                         {"tasks=arithmetic,sorting", "unknown task 'sorting': there are arithmetic, edit_distance and longest_increasing_subsequence"},
                         {"tasks=arithmetic,arithmetic", "the task arithmetic is in the mixture twice: name each once"},
                         {"ar.weights=1,2", "ar.weights has 2 numbers, but there are 1 tasks: give one each, or none"},
                         {"ar.powers=1,2", "ar.powers has 2 numbers, but there are 1 tasks: give one each, or none"},
                         {"ar.powers=11", "ar.powers is 11, but must be -10 .. 10"},
                         {"ar.curriculum=1.5", "ar.curriculum is 1.5, but must be 0 .. 1"},
                         {"ar.decay=11", "ar.decay is 11, but must be 0 .. 10"},
                         {"ar.heads_without_rotary=5", "ar.heads_without_rotary is 5, but must be 0 .. 4"},
                         {"ar_self.weights=0", "ar_self.weights is 0, but must be"},
                         {"ar_self.phases=-1", "ar_self.phases is -1, but must be 0 .. 100"},
                         {"ar_self.chains=", "ar_self.chains is empty: give a number of problems for each phase"},
                         {"ar_self.chains=0", "ar_self.chains is 0, but must be 1"},
                         {"ar_self.steps=0", "ar_self.steps is 0"},
                         {"lengths.extra_columns=-1", "lengths.extra_columns is -1"},
                         {"loop.window=-1", "loop.window is -1"},
                         {"loss.lambda=-1", "loss.lambda is -1"},
                         {"loss.answer_weight=-1", "loss.answer_weight is -1"},
                         {"adamw.beta1=1", "adamw.beta1 is 1"},
                         {"adamw.beta2=1", "adamw.beta2 is 1"},
                         {"adamw.decay=-1", "adamw.decay is -1"},
                         {"adamw.clip=-1", "adamw.clip is -1"},
                         {"schedule.warm_up=1.5", "schedule.warm_up is 1.5, but must be 0 .. 1"},
                         {"schedule.final=-0.5", "schedule.final is -0.5"},
                         {"batch=0", "batch is 0, but must be 1 .. 1048576"},
                         {"lanes=1025", "lanes is 1025, but must be 1 .. 1024"},
                         {"looped_aligned.steps=0", "looped_aligned.steps is 0, but must be 1 .. 1000000000"},
                         {"looped_vanilla.rate=0", "looped_vanilla.rate is 0"},
                         {"ar.steps=-5", "ar.steps is -5"},
                         {"ar_relay.rate=100", "ar_relay.rate is 100"},
                         {"ar_relay.chains=0", "ar_relay.chains is 0"},
                         {"ar_relay.share=2", "ar_relay.share is 2"},
                         {"evaluate.samples=0", "evaluate.samples is 0"},
                         {"checkpoint_every=0", "checkpoint_every is 0"},
                         {"memory_limit=-1", "memory_limit is -1, but must be 0 .. 1000000000"},
                         {"seed=9007199254740992", "seed is 9007199254740992"}}) {
    CAPTURE(c.assignment);
    PipelineConfig config;
    set(config, c.assignment);
    CHECK(says(error_of([&] { config.check(); }), c.words));
  }
  PipelineConfig wide;
  set(wide, "model.positions=300");
  set(wide, "lengths.extra_columns=277");
  CHECK(says(error_of([&] { wide.check(); }), "set model.positions=301 or more, or a smaller lengths.extra_columns"));
  PipelineConfig config;
  set(config, "seed=-9007199254740991");
  CHECK_NOTHROW(config.check());
  CHECK(config_from_json(to_json(config), "").seed == -9007199254740991);
}

TEST_CASE("the check of a mixture names the task's own keys") {
  struct Case {
    const char* assignment;
    const char* words;
  };
  for (const Case& c : std::vector<Case>{
           {"arithmetic.longest=201", "arithmetic.longest is 201, but must be 1 .. 200"},
           {"edit_distance.longest=101", "edit_distance.longest is 101, but must be 1 .. 100"},
           {"edit_distance.letters=27", "edit_distance: there are 27 letters"},
           {"longest_increasing_subsequence.test_longest=14", "longest_increasing_subsequence.test_longest is 14, but must be 15 .. 124"},
           {"longest_increasing_subsequence.group=0", "longest_increasing_subsequence: the group is 0"},
           {"longest_increasing_subsequence.limit=20", "longest_increasing_subsequence.longest is 15, but must be 1 .. 9"},
           {"ar_relay.weights=1,2", "ar_relay.weights has 2 numbers, but there are 3 tasks"},
           {"model.positions=100", "model.positions is 100, but a chain of arithmetic of length 10 may have 222 tokens"}}) {
    CAPTURE(c.assignment);
    PipelineConfig config = of_three_tasks();
    CHECK_NOTHROW(config.check());
    set(config, c.assignment);
    CHECK(says(error_of([&] { config.check(); }), c.words));
  }
}

TEST_CASE("what follows from a configuration") {
  PipelineConfig config;
  TaskConfig& training = config.arithmetic_training;
  CHECK(training.last_test() == training.lengths.longest + 4);
  CHECK(training.first_test() == training.lengths.shortest);
  training.test_longest = 6;
  training.test_shortest = 3;
  CHECK(training.last_test() == 6);
  CHECK(training.first_test() == 3);
  CHECK(&config.training("arithmetic") == &config.arithmetic_training);
  CHECK(&config.training("edit_distance") == &config.edit_distance_training);
  CHECK(&config.training("longest_increasing_subsequence") == &config.subsequence_training);
  CHECK(error_of([&] { config.training("sorting"); }) ==
        "unknown task 'sorting': there are arithmetic, edit_distance and longest_increasing_subsequence");
  CHECK(config.optimiser(config.tuned).rate == config.tuned.rate);
  CHECK(config.optimiser(config.tuned).decay == config.adamw.decay);
  CHECK(config.schedule(config.ar).steps == config.ar.steps);
  CHECK(!config.limit());
  config.memory_limit = 3000;
  CHECK(config.limit() == std::size_t{3000} * 1024 * 1024);
}

TEST_CASE("a mixture has room for all lengths asked for, and each task its share and weight") {
  PipelineConfig config = of_three_tasks();
  for (const char* setting : {"ar.powers=0,2,1", "ar.curriculum=0.5", "edit_distance.longest=5", "edit_distance.test_longest=9",
                              "edit_distance.share=2", "arithmetic.split_from=4", "longest_increasing_subsequence.test_longest=22", "ar.weights=1,2,0.5"})
    set(config, setting);
  const Mixture mixture = config.mixture();
  REQUIRE(mixture.size() == 3);
  CHECK(mixture.task(0).name == "arithmetic");
  CHECK(mixture.task(1).name == "edit_distance");
  CHECK(mixture.task(2).name == "longest_increasing_subsequence");
  Random random(Key(1));
  CHECK(mixture.generate(1, 9, random).length == 9);
  CHECK_THROWS_AS(mixture.generate(1, 10, random), Error);
  CHECK(mixture.generate(2, 22, random).length == 22);
  CHECK_THROWS_AS(mixture.generate(2, 23, random), Error);
  const auto shares = config.shares(mixture, config.ar), alike = config.shares(mixture, config.aligned);
  REQUIRE(shares.size() == 3);
  CHECK((shares[0].share == 1 && shares[1].share == 2 && shares[2].share == 1));
  CHECK((shares[0].weight == 1 && shares[1].weight == 2 && shares[2].weight == 0.5));
  CHECK((alike[0].weight == 1 && alike[1].weight == 1 && alike[2].weight == 1));
  CHECK((shares[0].lengths.power == 0 && shares[1].lengths.power == 2 && alike[0].lengths.power == 2));
  CHECK((shares[0].curriculum == config.ar.steps / 2 && alike[0].curriculum == 0));
  config.ar.decay = 0;
  CHECK((config.optimiser(config.ar).decay == 0 && config.optimiser(config.aligned).decay == config.adamw.decay));
  CHECK((shares[0].split_from == 4 && shares[1].split_from == 3));
  CHECK((shares[1].lengths.shortest == 1 && shares[1].lengths.longest == 5));
}
