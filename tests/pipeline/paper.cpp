// What the paper's preset needs of the pipeline: tables of samples, chains on demand, an evaluation that goes on, lines of the log.
#include <relay/pipeline/pipeline.hpp>

#include <numeric>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <relay/backend/cpu.hpp>

using namespace relay;

namespace {

using Backend = Cpu<float>;

PipelineConfig tiny() {
  PipelineConfig config;
  for (const char* setting :
       {"tasks=arithmetic,edit_distance", "arithmetic.longest=2", "arithmetic.test_longest=4", "edit_distance.longest=3",
        "edit_distance.letters=3", "edit_distance.test_longest=4", "model.width=8", "model.layers=1", "model.heads=2", "model.dropout=0.2",
        "model.positions=400", "batch=8", "slices=2", "looped_aligned.steps=12", "looped_vanilla.steps=4", "ar.steps=8", "ar_relay.steps=14",
        "ar_relay.weights=1,3", "checkpoint_every=5", "arithmetic.chains=9,4", "arithmetic.in_range=10", "edit_distance.chains=7",
        "edit_distance.in_range=2", "evaluate.samples=10"})
    set(config, setting);
  return config;
}

struct Run {
  std::string path, said;
  RunDirectory directory{path};

  std::string model(std::string_view name) const { return read_file(directory.model_file(name)); }
};

Run run(const std::string& path, const PipelineConfig& config, int threads = 1, std::function<bool()> interrupted = [] { return false; }) {
  Threads pool(threads);
  std::FILE* out = std::tmpfile();
  REQUIRE(out);
  const auto read = [&] {
    std::rewind(out);
    std::string said(1 << 16, '\0');
    said.resize(std::fread(said.data(), 1, said.size(), out));
    std::fclose(out);
    return said;
  };
  try {
    Pipeline<Backend>(RunDirectory(path), config, pool, {.out = out, .interrupted = std::move(interrupted)}).run();
  } catch (...) {
    read();
    throw;
  }
  return {path, read()};
}

std::string error_of(auto&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}
bool says(const std::string& text, std::string_view words) { return text.find(words) != text.npos; }

}  // namespace

TEST_CASE("the paper's preset: its tables add up to 100 k samples a task, and everything fits") {
  const std::string file = RELAY_TESTS "/../examples/presets/paper.preset";
  const PipelineConfig config = read_preset(read_file(file), file);
  config.check();
  for (const std::string& name : config.tasks) {
    const TaskConfig& t = config.training(name);
    CHECK(static_cast<int>(t.chains.size()) == t.last_test() - t.lengths.longest);
    const int written = std::accumulate(t.chains.begin(), t.chains.end(), 0);
    CHECK(written + t.in_range == 100000);
    CHECK(config.share_of_chains(t, static_cast<std::size_t>(written)) == doctest::Approx(written / 1e5));
    CHECK(config.chains_of(t, t.lengths.longest + 1) == t.chains.front());
    CHECK(config.chains_of(t, t.last_test()) == t.chains.back());
    CHECK(config.chains_of(t, t.last_test() + 7) == t.chains.back());
    CHECK(config.self_chains_of(t, 1) == 15000);
    CHECK(config.self_chains_of(t, 9) == t.self_chains.back());
    for (int length = t.lengths.shortest; length <= t.last_test(); ++length) {  // no round is wider than its problem
      const Example e = config.mixture().task(static_cast<int>(&name - config.tasks.data())).largest(length);
      CHECK(e.columns() == static_cast<int>(e.problem.size()));
    }
  }
  const auto stages = plan_stages<float>(config.mixture(), config);
  for (const StagePlan& stage : stages) CHECK((stage.recomputed ? *stage.recomputed : stage.stored).total() < std::size_t{8} << 30);
}

TEST_CASE("without tables all lengths and tasks are alike") {
  PipelineConfig config;
  const TaskConfig& t = config.training("arithmetic");
  CHECK(config.chains_of(t, 7) == 2500);
  CHECK(config.chains_of(t, 10) == 2500);
  CHECK(config.share_of_chains(t, 12) == 0.6);
  CHECK(config.share_of_chains(t, 0) == 0);
  CHECK(config.self_chains_of(t, 3) == 2500);
  set(config, "ar_self.chains=5,4,3");
  CHECK(config.self_chains_of(t, 2) == 4);
  set(config, "arithmetic.self_chains=7,6");
  CHECK(config.self_chains_of(t, 2) == 6);
  CHECK(config.learns_chains(t));
  config.share = 0;
  CHECK(!config.learns_chains(t));
  config.arithmetic_training.in_range = 1;
  CHECK(config.learns_chains(t));
  config.arithmetic_training.test_longest = 6;
  CHECK(!config.learns_chains(t));
  CHECK(says(error_of([&] {
               set(config, "arithmetic.chains=5,-1");
               config.check();
             }),
             "lengths.chains is -1, but must be 0 .. 10000000"));
}

TEST_CASE("chains on demand are those in files: the same models, and no files") {
  PipelineConfig config = tiny();
  const Run kept = run("kept", config);
  CHECK(exists("kept/chains/looped_aligned/arithmetic_03.jsonl"));
  CHECK(read_jsonl("kept/chains/looped_aligned/arithmetic_04.jsonl", "arithmetic", config.mixture().vocabulary()).size() == 4);
  REQUIRE(!says(kept.said, "dropped"));
  set(config, "ar_relay.keep_chains=false");
  for (const int threads : {1, 3}) {
    const Run drawn = run("drawn_" + std::to_string(threads), config, threads);
    for (const char* name : {"looped_aligned", "looped_vanilla", "ar", "ar_relay"}) CHECK(drawn.model(name) == kept.model(name));
    CHECK(files_in(drawn.path + "/chains").empty());
  }
  set(config, "looped_aligned.answer=rounds");
  const Run other = run("answers", config);
  CHECK(other.model("looped_aligned") == kept.model("looped_aligned"));
  set(config, "ar_relay.keep_chains=true");
  CHECK(run("answers_kept", config).model("ar_relay") == other.model("ar_relay"));
  set(config, "edit_distance.in_range=20");  // another share is another model
  CHECK(run("share", config).model("ar_relay") != other.model("ar_relay"));
}

TEST_CASE("on demand, a chain that is too long to be read leaves the example that stood there") {
  PipelineConfig config = tiny();
  for (const char* setting : {"arithmetic.test_longest=2", "ar_relay.keep_chains=false"}) set(config, setting);
  const Mixture mixture = config.mixture();
  config.model.positions = text_tokens(mixture, mixture.joint(1, mixture.task(1).largest(4)));  // just enough for true chains
  // A looped model that fills all its rows, in a run that goes on with it.
  const auto begin = [&](const std::string& path) {
    const RunDirectory directory(path);
    directory.begin(config);
    LoopedTransformer<Backend> model(config.model, config.loop, mixture.vocabulary().size(), Seed{1});
    Backend::Tensor& bias = model.chain_head.bias;
    bias.data()[bias.size() - 1] = 1000;
    save_model(directory.model_file("looped_aligned"), model, {{"model", "looped_aligned"}, {"seed", "1"}});
    return run(path, config);
  };
  const Run drawn = begin("long_drawn");
  config.keep_chains = true;
  const Run kept = begin("long_kept");
  CHECK(says(kept.said, "ar_relay: 7 of 7 written chains are dropped"));
  CHECK(drawn.model("ar_relay") == kept.model("ar_relay"));  // both have learned from the trained lengths alone
  CHECK(drawn.model("ar_relay") != drawn.model("ar"));
}

TEST_CASE("stopped after every few steps and lengths, on demand, it ends in the same bits, and evaluation goes on where it was") {
  PipelineConfig config = tiny();
  for (const char* setting : {"ar_relay.keep_chains=false", "evaluate.samples=150"}) set(config, setting);  // 150: in portions
  run("whole", config);
  for (const int patience : {2, 5}) {  // less than a length has portions would never end
    const std::string path = "stopped_" + std::to_string(patience);
    int stops = 0, half_evaluated = 0;
    for (bool done = false; !done; ++stops) {
      REQUIRE(stops < 200);
      int asked = 0;
      try {
        run(path, config, 2, [&] { return asked++ >= patience; });
        done = true;
      } catch (const Interrupted&) {
        half_evaluated += exists(path + "/evaluation/looped_aligned.begun.json");
      }
    }
    CHECK(stops >= 8);
    CHECK(half_evaluated >= 1);
    for (const char* file : {"results.json", "diagnostics.json", "models/ar_relay.safetensors", "evaluation/ar.json"})
      CHECK(read_file(path + "/" + file) == read_file(std::string("whole/") + file));
    CHECK(files_in(path + "/evaluation") == files_in("whole/evaluation"));
    CHECK(files_in(path + "/checkpoints").empty());
  }
}

TEST_CASE("a line of the log for as many steps as asked") {
  PipelineConfig config = tiny();
  set(config, "log_every=4");
  run("logged", config);
  std::map<std::string, std::vector<std::int64_t>> steps;
  const std::string log = read_file("logged/metrics.jsonl");
  for (std::size_t begin = 0, end; (end = log.find('\n', begin)) != log.npos; begin = end + 1) {
    const Json line = parse_json(log.substr(begin, end - begin), "log");
    steps[line.at("stage", "log").as_string()].push_back(line.at("step", "log").as_integer());
  }
  CHECK(steps["looped_aligned"] == std::vector<std::int64_t>{4, 8, 12});
  CHECK(steps["ar_relay"] == std::vector<std::int64_t>{4, 8, 12, 14});
}
