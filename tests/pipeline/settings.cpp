#include <relay/pipeline/settings.hpp>

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
  CHECK(names.size() == 126);
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
      const bool words = key.starts_with("own_data.") && says(to_json(of_all_tasks()).at(key).dump(), "\"") && key != "own_data.splitting";
      if (key == "tasks" || words) continue;  // any words
      const bool chains = key.ends_with("chains") && key != "ar_relay.chains" && key != "ar_relay.keep_chains";
      if (value == "" && (key.ends_with(".weights") || key.ends_with(".powers") || chains)) continue;  // no numbers
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
