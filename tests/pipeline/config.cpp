#include <relay/pipeline/config.hpp>

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <relay/core/file.hpp>
#include <relay/core/json_parser.hpp>

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

std::vector<std::string> keys() {
  std::vector<std::string> names;
  PipelineConfig config;
  PipelineConfig::each([&](std::string_view name, auto&) { names.emplace_back(name); }, config);
  return names;
}

PipelineConfig of_all_tasks() {
  PipelineConfig config;
  set(config, "tasks=arithmetic,edit_distance,longest_increasing_subsequence,own_data");
  return config;
}
/// A user's own examples are in files, which there must be.
PipelineConfig of_three_tasks() {
  PipelineConfig config;
  set(config, "tasks=arithmetic,edit_distance,longest_increasing_subsequence");
  return config;
}

/// A value of the key's type that differs from its default.
std::string other_value(const std::string& key) {
  std::string value;
  PipelineConfig config;
  PipelineConfig::each(
      [&](std::string_view name, auto& field) {
        using T = std::remove_reference_t<decltype(field)>;
        if (name != key) return;
        if constexpr (std::same_as<T, bool>)
          value = field ? "false" : "true";
        else if constexpr (std::is_enum_v<T>)
          value = detail::spellings<T>()[1 - static_cast<std::size_t>(field)];
        else if constexpr (std::same_as<T, std::vector<std::string>>)
          value = "longest_increasing_subsequence,edit_distance";
        else if constexpr (std::same_as<T, std::vector<double>>)
          value = "7,0.5,1e+20";
        else if constexpr (std::floating_point<T>)
          value = "0.123456789012345";
        else
          value = "7";
      },
      config);
  return value;
}

}  // namespace

TEST_CASE("every key is there once, can be set, and comes back from JSON") {
  const auto names = keys();
  CHECK(names.size() == 121);
  CHECK(std::set<std::string>(names.begin(), names.end()).size() == names.size());
  for (const std::string& key : names) {
    CAPTURE(key);
    PipelineConfig config = of_all_tasks();
    set(config, key, other_value(key));
    const Json json = to_json(config), defaults = to_json(of_all_tasks());
    for (const std::string& other : names) {
      const Json* found = json.find(other);
      if (key == "tasks")
        CHECK((found != nullptr) == !(other.starts_with("arithmetic.") || other.starts_with("own_data.")));
      else
        CHECK((json.at(other) == defaults.at(other)) == (other != key));
    }
    CHECK(to_json(config_from_json(parse_json(json.dump(), "test"), "test")) == json);
    PipelineConfig same = of_all_tasks();
    set(same, key + "=" + other_value(key));
    CHECK(to_json(same) == json);
  }
}

TEST_CASE("what is no value of the key's type is refused, and nothing is set") {
  for (const std::string& key : keys())
    for (const std::string value :
         {"", "x", "1x", " 1", "0x1", "nan", "inf", "1e999", "99999999999999999999999", "[1]", "1,,2", ",1", "1,"}) {
      if (key == "tasks" || (key.starts_with("own_data.") && says(to_json(of_all_tasks()).at(key).dump(), "\"") && key != "own_data.splitting")) continue;                                                // any words
      if (value == "" && (key.ends_with(".weights") || key.ends_with(".powers") || (key.ends_with("chains") && key != "ar_relay.chains" && key != "ar_relay.keep_chains"))) continue;  // no numbers
      if (value == " 1" && to_json(of_all_tasks()).at(key).is_array()) continue;  // lists may have blanks
      if (value == "99999999999999999999999" && says(error_of([&] {
                                                       PipelineConfig c;
                                                       set(c, key, value);
                                                     }),
                                                     "no error"))
        continue;  // a real number may be as large as that
      CAPTURE(key);
      CAPTURE(value);
      PipelineConfig config = of_all_tasks();
      const std::string error = error_of([&] { set(config, key, value); });
      if (value != "1," || says(error, " must be "))
        CHECK(says(error, key + " must be "));
      else
        CHECK(error == key + " ends in a comma: '1,'");
      if (value.find(',') == value.npos) CHECK(says(error, "'" + value + "'"));
      CHECK(to_json(config) == to_json(of_all_tasks()));
    }
}

TEST_CASE("lists: values with commas between them, in the file as they are") {
  PipelineConfig config;
  set(config, "tasks=edit_distance,arithmetic");
  CHECK(config.tasks == std::vector<std::string>{"edit_distance", "arithmetic"});
  set(config, "ar.weights=1,2.5");
  CHECK(config.ar.weights == std::vector<double>{1, 2.5});
  set(config, "ar_self.chains=4000,3000,1000");
  const Json json = to_json(config);
  CHECK(json.at("tasks").dump() == R"(["edit_distance","arithmetic"])");
  CHECK(json.at("ar.weights").dump() == "[1,2.5]");
  CHECK(json.at("ar_self.chains").dump() == "[4000,3000,1000]");
  CHECK(json.at("ar_relay.weights").dump() == "[]");
  CHECK(config_from_json(json, "f").tasks == config.tasks);
  CHECK(to_json(config_from_json(json, "f")) == json);
  set(config, "ar.weights=");
  CHECK(config.ar.weights.empty());
  CHECK(error_of([&] { set(config, "ar.weights=1,"); }) == "ar.weights ends in a comma: '1,'");
  CHECK(error_of([&] { set(config, "ar.weights=1,x"); }) == "ar.weights must be a number in range, not 'x'");
}

TEST_CASE("where there is one task, lengths.KEY and task.KEY are its own") {
  PipelineConfig config;
  set(config, "task.modulus=7");
  set(config, "lengths.longest=4");
  CHECK(config.arithmetic.modulus == 7);
  CHECK(config.arithmetic_training.lengths.longest == 4);
  CHECK(config.edit_distance_training.lengths.longest == PipelineConfig{}.edit_distance_training.lengths.longest);
  set(config, "tasks=longest_increasing_subsequence");
  set(config, "task.group=4");
  set(config, "lengths.test_longest=30");
  CHECK(config.subsequence.group == 4);
  CHECK(config.subsequence_training.test_longest == 30);
  set(config, "lengths.extra_columns=3");  // of all tasks
  CHECK(config.extra_columns == 3);
  const Json json = to_json(config);
  CHECK(json.find("arithmetic.modulus") == nullptr);
  CHECK(json.find("lengths.test_longest") == nullptr);
  CHECK(json.at("longest_increasing_subsequence.test_longest") == Json(30));
  CHECK(says(error_of([&] { set(config, "task.modulus=7"); }), "unknown key 'task.modulus'"));

  PipelineConfig two = of_all_tasks();
  CHECK(says(error_of([&] { set(two, "lengths.longest=4"); }), "unknown key 'lengths.longest': did you mean '"));
  CHECK(says(error_of([&] { set(two, "task.modulus=7"); }), "unknown key 'task.modulus': did you mean 'arithmetic.modulus'?"));
}

TEST_CASE("unknown keys get the nearest one suggested") {
  PipelineConfig config;
  const auto error = [&](const char* assignment) { return error_of([&] { set(config, assignment); }); };
  CHECK(error("model.widht=3") == "unknown key 'model.widht': did you mean 'model.width'?");
  CHECK(error("modulus=3") == "unknown key 'modulus': did you mean 'arithmetic.modulus'?");
  CHECK(error("task.modulos=3") == "unknown key 'task.modulos': did you mean 'arithmetic.modulus'?");
  CHECK(error("lengths.longer=3") == "unknown key 'lengths.longer': did you mean 'arithmetic.longest'?");
  CHECK(error("tasks.modulus=3") == "unknown key 'tasks.modulus': did you mean 'arithmetic.modulus'?");
  CHECK(error("Batch=3") == "unknown key 'Batch': did you mean 'batch'?");
  CHECK(error("ar_relay.chain=3") == "unknown key 'ar_relay.chain': did you mean 'ar_relay.chains'?");
  CHECK(error("batch") == "'batch' is not a setting: write key=value");
  CHECK(error("") == "'' is not a setting: write key=value");
}

TEST_CASE("a configuration from JSON has every key and no other") {
  const auto read = [](const std::string& text) {
    return error_of([&] { config_from_json(parse_json(text, "f"), "f"); });
  };
  const Json whole = to_json(of_all_tasks());
  CHECK(read(whole.dump()) == "no error");
  CHECK(read(to_json(PipelineConfig{}).dump()) == "no error");  // of one task: without the others' keys
  for (const std::string& key : keys()) {
    Json without = Json::object();
    for (const auto& member : whole.as_object())
      if (member.key != key) without.set(member.key, member.value);
    CAPTURE(key);
    if (key == "tasks")  // then the demo's task is taken
      CHECK(says(read(without.dump()), "f: there is no \"tasks\""));
    else
      CHECK(says(read(without.dump()), "f: there is no \"" + key + "\": the file is damaged, or of another version of relay"));
  }
  CHECK(read("{\"bacth\":3}") == "f: unknown key 'bacth': did you mean 'batch'?");
  CHECK(read("{\"batch\":\"three\"}") == "f: batch must be a whole number in range, not 'three'");
  CHECK(read("{\"batch\":[3]}") == "f: batch must be a whole number in range, not '[3]'");
  CHECK(says(read("{\"ar.weights\":[[3]]}"), "f: ar.weights must be a number"));
  CHECK(says(read("[]"), "f must be an object"));
}

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

TEST_CASE("a preset: lines of key = value, and comments") {
  const PipelineConfig config = read_preset("# a comment\n\n  tasks = edit_distance\t# another\nedit_distance.letters=4\r\nlengths.longest = 7\n"
                                            "edit_distance.rows = differences\nar.weights = 2", "f");
  CHECK(config.tasks == std::vector<std::string>{"edit_distance"});
  CHECK(config.edit_distance.letters == 4);
  CHECK(config.edit_distance_training.lengths.longest == 7);
  CHECK(config.edit_distance.rows == EditDistance::Rows::differences);
  CHECK(config.ar.weights == std::vector<double>{2});
  CHECK(to_json(read_preset("", "f")) == to_json(PipelineConfig{}));
  CHECK(to_json(read_preset("\n#\n \n", "f")) == to_json(PipelineConfig{}));
  const auto error = [](const char* text) { return error_of([&] { read_preset(text, "my.preset"); }); };
  CHECK(error("batch = 3\nbacth = 4\n") == "my.preset:2: unknown key 'bacth': did you mean 'batch'?");
  CHECK(error("\n\nbatch = three") == "my.preset:3: batch must be a whole number in range, not 'three'");
  CHECK(error("batch\n") == "my.preset:1: 'batch' is not a setting: write key = value");
  CHECK(error("batch = 3\n# batch = 4\nbatch = 3\n") == "my.preset:3: batch is set twice: remove one of them");
  CHECK(error("arithmetic.longest = 3\nlengths.longest = 4\n") == "my.preset:2: lengths.longest is set twice: remove one of them");
  CHECK(error("ar.weights = 1,\n") == "my.preset:1: ar.weights ends in a comma: '1,'");
}

TEST_CASE("the presets that relay has: demo is the defaults, and all are sound") {
  const std::string folder = RELAY_TESTS "/../examples/presets/";
  const auto read = [&](const std::string& name) {
    const std::string path = folder + name + ".preset";
    return read_preset(read_file(path), path);
  };
  CHECK(to_json(read("demo")) == to_json(PipelineConfig{}));
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    CAPTURE(entry.path().string());
    REQUIRE(entry.path().extension() == ".preset");
    const PipelineConfig config = read(entry.path().stem().string());
    if (config.tasks != std::vector<std::string>{"own_data"})
      CHECK_NOTHROW(config.check());
    else
      CHECK(error_of([&] { config.check(); }) == "own_data.train is empty: give the file of examples to train on");
  }
  CHECK(read("small").tasks.size() == 3);
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
  for (const char* setting : {"ar.powers=0,2,1", "ar.curriculum=0.5", "edit_distance.longest=5", "edit_distance.test_longest=9", "edit_distance.share=2", "arithmetic.split_from=4",
                              "longest_increasing_subsequence.test_longest=22", "ar.weights=1,2,0.5"})
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
  CHECK((shares[0].split_from == 4 && shares[1].split_from == 3));
  CHECK((shares[1].lengths.shortest == 1 && shares[1].lengths.longest == 5));
}

TEST_CASE("several settings: tasks first, whatever their order; a key of a task that is not trained is an error") {
  PipelineConfig config;
  set_all(config, std::vector<std::string>{"lengths.longest=7", "tasks=edit_distance", "batch=9"});
  CHECK(config.edit_distance_training.lengths.longest == 7);
  CHECK(config.arithmetic_training.lengths.longest == PipelineConfig{}.arithmetic_training.lengths.longest);
  CHECK(config.batch == 9);
  CHECK(error_of([&] { set_all(config, std::vector<std::string>{"arithmetic.longest=3"}); }) ==
        "arithmetic.longest is of a task that is not trained, tasks=edit_distance: leave it out, or add the task");
  CHECK(error_of([&] { set_all(config, std::vector<std::string>{"batch"}); }) == "'batch' is not a setting: write key=value");
  set_all(config, std::vector<std::string>{"tasks=arithmetic, edit_distance", "ar.weights=1, 2"});
  CHECK(config.tasks == std::vector<std::string>{"arithmetic", "edit_distance"});
  CHECK(config.ar.weights == std::vector<double>{1, 2});
}

TEST_CASE("presets: a byte order mark is no word; a line about a task that is not trained is named") {
  CHECK(read_preset("\xef\xbb\xbftasks = edit_distance\n", "f").tasks.front() == "edit_distance");
  CHECK(read_preset("lengths.longest = 5\ntasks = edit_distance\n", "f").edit_distance_training.lengths.longest == 5);
  CHECK(error_of([] { read_preset("batch = 4\nedit_distance.letters = 4\n", "f"); }).starts_with("f:2: edit_distance.letters is of a task"));
}
