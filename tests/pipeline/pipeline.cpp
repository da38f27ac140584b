#include <relay/pipeline/pipeline.hpp>

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
       {"lengths.longest=2", "lengths.test_longest=4", "model.width=8", "model.layers=1", "model.heads=2",
        "model.dropout=0.2", "model.positions=128", "batch=6", "looped_aligned.steps=12", "looped_vanilla.steps=8",
        "ar.steps=12", "ar_relay.steps=8", "checkpoint_every=5", "ar_relay.chains=20", "evaluate.samples=20"})
    set(config, setting);
  return config;
}

/// Everything a run ends in, but for the seconds in its log.
std::string results(const std::string& path) {
  const RunDirectory run(path);
  std::string all = read_file(run.config_file()) + read_file(run.results_file());
  for (const std::string& name : Pipeline<Backend>::models()) {
    all += read_file(run.model_file(name));
    CHECK(!exists(run.checkpoint_file(name)));
  }
  const PipelineConfig config = run.config();
  for (int length = config.lengths.longest + 1; length <= config.longest_test(); ++length)
    all += read_file(run.chains_file(length));
  std::string log = read_file(run.metrics_file());
  for (std::size_t at; (at = log.find(",\"seconds\":")) != log.npos;) log.erase(at, log.find('}', at) - at);
  return all + log;
}

std::string run(const std::string& path, const PipelineConfig& config, int threads = 1,
                Observer observer = {.out = nullptr}) {
  Threads pool(threads);
  Pipeline<Backend>(RunDirectory(path), config, pool, std::move(observer)).run();
  return results(path);
}

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

TEST_CASE("a run gives the same bits with any number of threads, and does nothing twice") {
  const std::string once = run("one", tiny(), 1);
  CHECK(run("two", tiny(), 2) == once);
  CHECK(run("three", tiny(), 3) == once);
  CHECK(run("one", tiny(), 1) == once);
  PipelineConfig other = tiny();
  other.seed = 2;
  CHECK(run("other", other) != once);

  Threads threads(1);
  const Pipeline<Backend> pipeline(RunDirectory("one"), tiny(), threads);
  const auto test = pipeline.test_examples(3, 50, Key(9));
  for (const std::string& name : pipeline.models()) {
    const auto chains = pipeline.solver(name)(test);
    REQUIRE(chains.size() == test.size());
    for (std::size_t i = 0; i < test.size(); ++i) CHECK(chains[i].example.problem == test[i].problem);
  }
  for (const Example& e : test) CHECK(held_out(e.problem));

  // Chains are written for training problems alone, one of each asked length.
  for (const int length : {3, 4}) {
    const auto chains = read_jsonl(RunDirectory("one").chains_file(length), "arithmetic", pipeline.task().vocabulary());
    CHECK(chains.size() == 20);
    for (const Example& e : chains) {
      CHECK(e.length == length);
      CHECK(!held_out(e.problem));
    }
  }
}

TEST_CASE("stopped after every few steps it ends in the same bits") {
  const std::string once = run("whole", tiny());
  for (const int patience : {2, 3, 7}) {  // 1 would not let a file of chains be begun
    const std::string path = "stopped_" + std::to_string(patience);
    int stops = 0;
    while (!exists(path + "/models/ar_relay.safetensors")) {  // evaluation starts anew each time: it would never end so
      REQUIRE(++stops < 100);
      int asked = 0;
      CHECK_THROWS_AS(run(path, tiny(), 2, {.out = nullptr, .interrupted = [&] { return ++asked == patience; }}),
                      Interrupted);
    }
    CHECK(stops >= 4);
    CHECK_THROWS_WITH_AS(run(path, tiny(), 1, {.out = nullptr, .interrupted = [] { return true; }}),
                         "stopped while evaluating; the same command goes on from there", Interrupted);
    CHECK(run(path, tiny()) == once);
  }
}

TEST_CASE("a half-written line of the log, and files half written by a crash, are no obstacle") {
  const std::string once = run("intact", tiny());
  int asked = 0;
  CHECK_THROWS_AS(run("crashed", tiny(), 1, {.out = nullptr, .interrupted = [&] { return ++asked == 17; }}),
                  Interrupted);
  const RunDirectory directory("crashed");
  REQUIRE(exists(directory.model_file("looped_aligned")));
  append_to_file(directory.metrics_file(), R"({"stage":"looped_vanilla","st)");
  write_file_atomically(directory.checkpoint_file("looped_vanilla") + ".tmp", "half a check");
  write_file_atomically(directory.model_file("ar") + ".tmp", "half a mod");
  CHECK(run("crashed", tiny()) == once);
}

TEST_CASE("recomputed traces, and options of the loop, go through every stage") {
  PipelineConfig config = tiny();
  for (const char* setting : {"loop.inject=true", "loop.signal=true", "loop.window=2", "loss.over_round=mean"})
    set(config, setting);
  run("stored", config);
  set(config, "loop.recompute=true");
  run("recomputed", config);
  for (const std::string& name : Pipeline<Backend>::models())
    CHECK(read_file(RunDirectory("stored").model_file(name)) == read_file(RunDirectory("recomputed").model_file(name)));
}

TEST_CASE("under a memory limit a loop recomputes: the same models; too small a limit is refused before anything is begun") {
  PipelineConfig config = tiny();
  for (const char* setting : {"model.width=64", "lengths.extra_columns=20", "batch=40", "lanes=1", "ar_relay.share=0"})
    set(config, setting);
  const auto stages = plan_stages<float>(config);
  std::size_t least = 0;
  for (const StagePlan& stage : stages) least = std::max(least, stage.recomputed.value_or(stage.stored).total());
  config.memory_limit = static_cast<int>(mebibytes(least));
  REQUIRE(stages[0].stored.total() > config.limit().value());
  CHECK(stages[0].keep(config) == Keep::inputs);

  std::FILE* out = std::tmpfile();
  REQUIRE(out);
  run("limited", config, 1, {.out = out});
  std::rewind(out);
  std::string said(1 << 14, '\0');
  said.resize(std::fread(said.data(), 1, said.size(), out));
  std::fclose(out);
  CHECK(says(said, message("looped_aligned: memory ", mebibytes(stages[0].recomputed->total()), " MiB: parameters 1, gradients 1, ")));
  CHECK(says(said, ", recomputed\n"));
  CHECK(says(said, "ar: memory "));
  CHECK(says(said, ", stored\n"));
  PipelineConfig free = config;
  free.memory_limit = 0;
  run("unlimited", free);
  for (const std::string& name : Pipeline<Backend>::models())
    CHECK(read_file(RunDirectory("limited").model_file(name)) == read_file(RunDirectory("unlimited").model_file(name)));

  config.memory_limit = 1;
  CHECK(says(error_of([&] { run("not_begun", config); }), "but the limit is 1 MiB: lower the batch, or the lanes"));
  CHECK(!exists("not_begun"));
}

TEST_CASE("nothing beyond the trained lengths: no chains, and fine-tuning on the trained range") {
  PipelineConfig config = tiny();
  config.test_longest = config.lengths.longest;
  run("short", config);
  const Json json = parse_json(read_file("short/results.json"), "results.json");
  CHECK(json.at("rows").as_array().size() == 8);
}

TEST_CASE("chains longer than the model can read are dropped, and nothing else about them matters") {
  PipelineConfig config = tiny();
  set(config, "model.positions=41");  // the least for 4 operators
  run("tight", config);
  const RunDirectory directory("tight");
  const Arithmetic task{.modulus = config.modulus};
  const Vocabulary vocabulary = task.vocabulary();

  // Fine-tunes again, on these chains.
  const auto tune = [&](const std::vector<Example>& three, const std::vector<Example>& four, std::string& said) {
    write_jsonl(directory.chains_file(3), Arithmetic::name, vocabulary, three);
    write_jsonl(directory.chains_file(4), Arithmetic::name, vocabulary, four);
    remove_file(directory.model_file("ar_relay"));
    remove_file(directory.metrics_file());
    std::FILE* out = std::tmpfile();
    REQUIRE(out);
    run("tight", config, 1, {.out = out});
    std::rewind(out);
    said.resize(1 << 14);
    said.resize(std::fread(said.data(), 1, said.size(), out));
    std::fclose(out);
    return read_file(directory.model_file("ar_relay"));
  };
  /// A chain of 41 tokens and as many as are asked for more, with its problem and without <eos>; wrong all over.
  const auto chain = [&](int more) {
    Example e = task.parse("1+2+3+4");
    const std::size_t left = 41 - e.problem.size() - 1 + static_cast<std::size_t>(more);
    e.rounds = {Tokens(left, expression::equals), {expression::number(2)}};
    e.answer = expression::number(2);
    return e;
  };
  CHECK(chain(0).problem.size() + task.text(chain(0)).size() == 42);

  std::string said;
  const std::string fits = tune({chain(0), chain(-1)}, {chain(-2)}, said);
  CHECK(!says(said, "dropped"));
  CHECK(tune({chain(1), chain(0), chain(-1)}, {chain(30), chain(-2)}, said) == fits);
  CHECK(says(said, "ar_relay: 2 of 5 written chains are dropped: with their problems they are longer than 41 tokens, the model's "
                   "limit (model.positions)\n"));

  const std::string none = tune({chain(1)}, {chain(2), chain(3)}, said);
  CHECK(says(said, "ar_relay: 3 of 3 written chains are dropped: "));
  CHECK(says(said, "; none is left to learn from\n"));
  CHECK(none != fits);
  PipelineConfig alone = config;  // the trained range alone
  alone.share = 0;
  run("alone", alone);
  CHECK(none == read_file(RunDirectory("alone").model_file("ar_relay")));
}

TEST_CASE("what a run cannot go on from is an error that names it") {
  run("broken", tiny());
  const RunDirectory directory("broken");
  Threads threads(1);
  const Pipeline<Backend> pipeline(directory, tiny(), threads, {.out = nullptr});

  PipelineConfig other = tiny();
  other.batch = 7;
  CHECK(says(error_of([&] { run("broken", other); }), "broken was begun with batch=6, not 7"));
  {
    const FileLock lock("broken/lock", "");
    CHECK(says(error_of([&] { run("broken", tiny()); }), "another relay is at work in broken"));
  }
  remove_file(directory.model_file("ar_relay"));
  CHECK(says(error_of([&] { pipeline.solver("ar_relay"); }), "broken has no model 'ar_relay' yet"));
  CHECK(says(error_of([&] { pipeline.solver("looped_aligned_"); }), "broken has no model 'looped_aligned_' yet"));

  const std::string chains = read_file(directory.chains_file(3));
  write_file_atomically(directory.chains_file(3), chains.substr(0, chains.size() - 20));
  CHECK(says(error_of([&] { run("broken", tiny()); }), "broken/chains/length_03.jsonl:20"));
  write_file_atomically(directory.chains_file(3), chains);

  write_file_atomically(directory.metrics_file(), "no JSON\n");
  CHECK(says(error_of([&] { run("broken", tiny()); }), "repair broken/metrics.jsonl or remove it"));
  remove_file(directory.metrics_file());

  const std::string model = read_file(directory.model_file("ar"));
  write_file_atomically(directory.model_file("ar"), model.substr(0, model.size() / 2));
  CHECK(says(error_of([&] { run("broken", tiny()); }), "broken/models/ar.safetensors"));
  write_file_atomically(directory.model_file("ar"), read_file(directory.model_file("looped_vanilla")));
  CHECK(says(error_of([&] { run("broken", tiny()); }), "of another model or configuration"));
  write_file_atomically(directory.model_file("ar"), model);

  write_file_atomically(directory.checkpoint_file("ar_relay"), model);
  CHECK(says(error_of([&] { run("broken", tiny()); }), "holds a model without its optimiser"));
  remove_file(directory.checkpoint_file("ar_relay"));
  CHECK_NOTHROW(run("broken", tiny()));

  PipelineConfig wild = tiny();
  for (const char* setting : {"ar.rate=10", "adamw.decay=10", "adamw.clip=0", "ar.steps=100"}) set(wild, setting);
  CHECK(says(error_of([&] { run("wild", wild); }), "training ar: the gradient is not finite at step "));
}

TEST_CASE("a run without an observer's file is silent; with one it says what it does") {
  std::FILE* out = std::tmpfile();
  REQUIRE(out);
  run("heard", tiny(), 1, {.out = out});
  run("heard", tiny(), 1, {.out = out});
  std::rewind(out);
  std::string text(1 << 14, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), out));
  std::fclose(out);
  for (const char* words :
       {"looped_aligned ", "looped_vanilla ", "ar ", "ar_relay ", "chains for 3 operators: 20 written, ",
        "evaluating 20 problems of each length 1..4\n", "ar: trained already\n"})
    CHECK(says(text, words));
  CHECK(!says(text, "\r"));
}
