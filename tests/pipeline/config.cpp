#include <relay/pipeline/config.hpp>

#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

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
        else if constexpr (std::same_as<T, Normalisation>)
          value = field == Normalisation::mean ? "sum" : "mean";
        else if constexpr (std::same_as<T, Precision>)
          value = field == Precision::float32 ? "bf16" : "float32";
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
  CHECK(names.size() == 49);
  CHECK(std::set<std::string>(names.begin(), names.end()).size() == names.size());
  for (const std::string& key : names) {
    CAPTURE(key);
    PipelineConfig config;
    set(config, key, other_value(key));
    const Json json = to_json(config), defaults = to_json(PipelineConfig{});
    for (const std::string& other : names) CHECK((json.at(other) == defaults.at(other)) == (other != key));
    CHECK(to_json(config_from_json(parse_json(json.dump(), "test"), "test")) == json);
    PipelineConfig same;
    set(same, key + "=" + other_value(key));
    CHECK(to_json(same) == json);
  }
}

TEST_CASE("what is no value of the key's type is refused, and nothing is set") {
  for (const std::string& key : keys())
    for (const std::string value :
         {"", "x", "1x", " 1", "0x1", "nan", "inf", "1e999", "99999999999999999999999", "[1]"}) {
      if (value == "99999999999999999999999" && says(error_of([&] {
                                                       PipelineConfig c;
                                                       set(c, key, value);
                                                     }),
                                                     "no error"))
        continue;  // a real number may be as large as that
      CAPTURE(key);
      CAPTURE(value);
      PipelineConfig config;
      const std::string error = error_of([&] { set(config, key, value); });
      CHECK(says(error, key + " must be "));
      CHECK(says(error, "'" + value + "'"));
      CHECK(to_json(config) == to_json(PipelineConfig{}));
    }
}

TEST_CASE("unknown keys get the nearest one suggested") {
  PipelineConfig config;
  const auto error = [&](const char* assignment) { return error_of([&] { set(config, assignment); }); };
  CHECK(error("model.widht=3") == "unknown key 'model.widht': did you mean 'model.width'?");
  CHECK(error("modulus=3") == "unknown key 'modulus': did you mean 'task.modulus'?");
  CHECK(error("Batch=3") == "unknown key 'Batch': did you mean 'batch'?");
  CHECK(error("ar_relay.chain=3") == "unknown key 'ar_relay.chain': did you mean 'ar_relay.chains'?");
  CHECK(error("batch") == "'batch' is not a setting: write key=value");
  CHECK(error("") == "'' is not a setting: write key=value");
}

TEST_CASE("a configuration from JSON has every key and no other") {
  const auto read = [](const std::string& text) {
    return error_of([&] { config_from_json(parse_json(text, "f"), "f"); });
  };
  const std::string text = to_json(PipelineConfig{}).dump();
  CHECK(read(text) == "no error");
  for (const std::string& key : keys()) {
    std::string without = text;
    const std::size_t at = without.find("\"" + key + "\":");
    const std::size_t end = without.find_first_of(",}", at);
    without.erase(at, without[end] == ',' ? end + 1 - at : end - at);
    if (without[without.size() - 2] == ',') without.erase(without.size() - 2, 1);
    CAPTURE(key);
    CHECK(says(read(without), "f"));
    CHECK(says(read(without), "\"" + key + "\""));
  }
  CHECK(read("{\"bacth\":3}") == "f: unknown key 'bacth': did you mean 'batch'?");
  CHECK(read("{\"batch\":\"three\"}") == "f: batch must be a whole number in range, not 'three'");
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
                         {"model.positions=220", "set model.positions=221 or more"},
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

TEST_CASE("presets, and what follows from a configuration") {
  CHECK_NOTHROW(preset("demo").check());
  CHECK(error_of([] { preset("dmeo"); }) == "unknown preset 'dmeo': there is 'demo'");
  CHECK(preset("demo").longest_test() == preset("demo").lengths.longest + 4);
  PipelineConfig config;
  config.lengths.longest = 5;
  CHECK(config.longest_test() == 9);
  config.test_longest = 6;
  CHECK(config.longest_test() == 6);
  CHECK(config.optimiser(config.tuned).rate == config.tuned.rate);
  CHECK(config.optimiser(config.tuned).decay == config.adamw.decay);
  CHECK(config.schedule(config.ar).steps == config.ar.steps);
  CHECK(!config.limit());
  config.memory_limit = 3000;
  CHECK(config.limit() == std::size_t{3000} * 1024 * 1024);
}
