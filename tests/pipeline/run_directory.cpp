#include <relay/pipeline/run_directory.hpp>

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

}  // namespace

TEST_CASE("the names of what is in it") {
  const RunDirectory run("some/where");
  CHECK(run.config_file() == "some/where/config.json");
  CHECK(run.metrics_file() == "some/where/metrics.jsonl");
  CHECK(run.results_file() == "some/where/results.json");
  CHECK(run.model_file("ar") == "some/where/models/ar.safetensors");
  CHECK(run.checkpoint_file("ar") == "some/where/checkpoints/ar.safetensors");
  CHECK(run.chains_file("looped_aligned", "arithmetic", 8) == "some/where/chains/looped_aligned/arithmetic_08.jsonl");
  CHECK(run.chains_file("ar_self_loop_1", "edit_distance", 12) == "some/where/chains/ar_self_loop_1/edit_distance_12.jsonl");
  CHECK(run.evaluation_file("ar") == "some/where/evaluation/ar.json");
  CHECK(run.diagnostics_file() == "some/where/diagnostics.json");
  CHECK(run.machine_file() == "some/where/machine.json");
}

TEST_CASE("a run goes on with the configuration it was begun with") {
  const RunDirectory run("begun/deeper");
  CHECK(!run.begun());
  CHECK(says(error_of([&] { run.config(); }), "begun/deeper holds no run"));
  PipelineConfig config;
  config.seed = 5;
  config.model.dropout = 0.1;
  run.begin(config);
  CHECK(run.begun());
  for (const char* folder : {"models", "checkpoints", "chains", "evaluation"}) CHECK(exists("begun/deeper/" + std::string(folder)));
  CHECK(to_json(run.config()) == to_json(config));
  const std::string file = read_file(run.config_file());
  CHECK_NOTHROW(run.begin(config));

  PipelineConfig other = config;
  other.model.dropout = 0.2;
  CHECK(error_of([&] { run.begin(other); }) ==
        "begun/deeper was begun with model.dropout=0.1, not 0.2: use the same settings to go on, or another --out");
  other = config;
  other.arithmetic.modulus = 4;
  CHECK(says(error_of([&] { run.begin(other); }), "was begun with arithmetic.modulus=5, not 4"));
  CHECK(says(error_of([&] { RunDirectory("begun/other").begin(other); }), "the modulus is 4"));
  other = config;
  other.tasks = {"edit_distance"};
  CHECK(error_of([&] { run.begin(other); }) ==
        R"(begun/deeper was begun with tasks=["arithmetic"], not ["edit_distance"]: use the same settings to go on, or another --out)");
  other = config;
  set(other, "edit_distance.letters=5");  // of a task that is not in use
  CHECK_NOTHROW(run.begin(other));
  CHECK(read_file(run.config_file()) == file);
}

TEST_CASE("a wrong configuration makes nothing") {
  PipelineConfig config;
  config.batch = 0;
  CHECK(says(error_of([&] { RunDirectory("wrong").begin(config); }), "batch is 0"));
  CHECK(!exists("wrong"));
}

TEST_CASE("a damaged configuration is an error that names the file") {
  const RunDirectory run("damaged");
  run.begin({});
  const std::string good = read_file(run.config_file());
  for (std::size_t size = 0; size + 2 < good.size(); size += 50) {
    write_file_atomically(run.config_file(), good.substr(0, size));
    CHECK(says(error_of([&] { run.config(); }), "damaged/config.json"));
    CHECK(says(error_of([&] { run.begin({}); }), "damaged/config.json"));
    CHECK(read_file(run.config_file()) == good.substr(0, size));
  }
}

TEST_CASE("a file in the way is left as it is") {
  write_file_atomically("in_the_way", "text");
  CHECK(says(error_of([] { RunDirectory("in_the_way").begin({}); }), "is a file: choose another path"));
  CHECK(says(error_of([] { RunDirectory("in_the_way/run").begin({}); }), "is a file: choose another path"));
  CHECK(read_file("in_the_way") == "text");
}
