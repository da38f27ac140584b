#include <relay/pipeline/pipeline.hpp>

#include <filesystem>
#include <map>
#include <set>
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

/// All three tasks, and two phases of the baselines.
PipelineConfig tiny_mixture() {
  PipelineConfig config;
  for (const char* setting :
       {"tasks=arithmetic,edit_distance,longest_increasing_subsequence", "arithmetic.longest=2", "arithmetic.test_longest=4",
        "edit_distance.longest=3", "edit_distance.letters=3", "edit_distance.rows=differences", "edit_distance.test_longest=4",
        "longest_increasing_subsequence.longest=4", "longest_increasing_subsequence.test_longest=6",
        "longest_increasing_subsequence.group=3", "longest_increasing_subsequence.limit=20",
        "longest_increasing_subsequence.layout=in_place", "model.ordered_numbers=true", "looped_aligned.answer=rounds", "loop.inject=true",
        "model.width=8", "model.layers=1", "model.heads=2", "model.dropout=0.2", "model.positions=128", "batch=6",
        "looped_aligned.steps=12", "looped_aligned.weights=1,2,0.5", "looped_vanilla.steps=8", "ar.steps=12", "ar_relay.steps=8",
        "ar_self.phases=2", "ar_self.steps=7", "ar_self.chains=12,8", "checkpoint_every=5", "ar_relay.chains=10", "evaluate.samples=10"})
    set(config, setting);
  return config;
}

/// The models of a run of that configuration.
std::vector<std::string> models_of(const PipelineConfig& config) {
  Threads threads(1);
  return Pipeline<Backend>(RunDirectory(""), config, threads).models();
}

/// Everything in a folder, by name.
std::string whole_folder(const std::string& path) {
  std::map<std::string, std::string> files;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path))
    if (entry.is_regular_file()) files[entry.path().string().substr(path.size())] = read_file(entry.path().string());
  std::string all;
  for (const auto& [name, bytes] : files) all += name + "\n" + bytes;
  return all;
}

/// Everything a run ends in, but for the seconds in its log.
std::string results(const std::string& path) {
  const RunDirectory run(path);
  std::string all = read_file(run.config_file()) + read_file(run.results_file()) + read_file(run.diagnostics_file());
  std::size_t models = 0;
  for (const std::string& name : models_of(run.config())) {
    CHECK(exists(run.model_file(name)));
    CHECK(!exists(run.checkpoint_file(name)));
    ++models;
  }
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(path + "/models")) --models;
  CHECK(models == 0);  // there are no others: those of earlier phases are removed
  for (const char* folder : {"/models", "/chains", "/evaluation"}) all += whole_folder(path + folder);
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
/// What f(out) prints to a file.
std::string said_by(auto&& f) {
  std::FILE* out = std::tmpfile();
  REQUIRE(out);
  f(out);
  std::rewind(out);
  std::string text(1 << 16, '\0');
  text.resize(std::fread(text.data(), 1, text.size(), out));
  std::fclose(out);
  return text;
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
  const auto test = pipeline.test_examples(0, 3, 50, Key(9));
  for (const std::string& name : pipeline.models()) {
    const auto chains = pipeline.solver(name)(test);
    REQUIRE(chains.size() == test.size());
    for (std::size_t i = 0; i < test.size(); ++i) CHECK(chains[i].example.problem == test[i].problem);
  }
  for (const Example& e : test) CHECK(held_out(e.problem));

  // Chains are written for training problems alone, one of each asked length.
  for (const int length : {3, 4}) {
    const auto chains = read_jsonl(RunDirectory("one").chains_file("looped_aligned", "arithmetic", length), "arithmetic", pipeline.mixture().vocabulary());
    CHECK(chains.size() == 20);
    for (const Example& e : chains) {
      CHECK(e.length == length);
      CHECK(!held_out(e.problem));
    }
  }
}

TEST_CASE("a mixture of all tasks, with own chains as baselines: the same bits with any number of threads") {
  const PipelineConfig config = tiny_mixture();
  const std::string once = run("mixture_one", config, 1);
  CHECK(run("mixture_two", config, 2) == once);
  CHECK(run("mixture_three", config, 3) == once);
  CHECK(run("mixture_one", config, 1) == once);

  Threads threads(1);
  const RunDirectory directory("mixture_one");
  const Pipeline<Backend> pipeline(directory, config, threads);
  const Mixture& mixture = pipeline.mixture();
  CHECK(pipeline.models() ==
        std::vector<std::string>{"looped_aligned", "looped_vanilla", "ar", "ar_relay", "ar_self_loop", "ar_self_truth"});

  // Of each task and longer length as many chains as asked for, of training problems, spelled without the task's token.
  const std::vector<std::vector<int>> longer = {{3, 4}, {4}, {5, 6}};
  for (int task = 0; task < 3; ++task) {
    const std::string& name = mixture.task(task).name;
    for (const int length : longer[static_cast<std::size_t>(task)]) {
      const auto chains = read_jsonl(directory.chains_file("looped_aligned", name, length), name, mixture.vocabulary());
      CHECK(chains.size() == 10);
      for (const Example& e : chains) {
        CHECK(e.length == length);
        CHECK(mixture.vocabulary().spelling(e.problem.front()) != Mixture::task_token(name));
      }
    }
  }
  // A phase writes one length, as many problems as its number says at most, and only where there is a length to go to.
  for (const char* model : {"ar_self_loop", "ar_self_truth"}) {
    const std::string first = message(model, "_1"), second = model;
    for (int task = 0; task < 3; ++task) {
      const std::string& name = mixture.task(task).name;
      const int longest = config.training(name).lengths.longest, last = config.training(name).last_test();
      REQUIRE(exists(directory.chains_file(first, name, longest + 1)));
      CHECK(read_jsonl(directory.chains_file(first, name, longest + 1), name, mixture.vocabulary()).size() <= 12);
      CHECK(!exists(directory.chains_file(first, name, longest + 2)));
      CHECK(exists(directory.chains_file(second, name, longest + 2)) == (longest + 2 <= last));
      CHECK(!exists(directory.chains_file(second, name, longest + 1)));
      CHECK(!exists(directory.chains_file(second, name, longest + 3)));
    }
  }

  // Chains: the task's answer is read from the rounds, and every problem is the test data's.
  for (int task = 0; task < 3; ++task) {
    const auto test = pipeline.test_examples(task, 4, 10, Key(9));
    REQUIRE(test.size() == 10);
    for (const Example& e : test) {
      CHECK(e.task == task);
      CHECK(held_out(mixture.own(e).problem));
    }
    for (const std::string& name : pipeline.models()) {
      const auto chains = pipeline.solver(name)(test);
      REQUIRE(chains.size() == test.size());
      for (std::size_t i = 0; i < test.size(); ++i) {
        CHECK(chains[i].example.problem == test[i].problem);
        if (name == "looped_aligned") CHECK(chains[i].example.answer == mixture.answer(chains[i].example));
      }
    }
  }

  // The files for people: a row of each model, task and length; entries but of looped_vanilla; the claims; what the data was.
  const Json rows = parse_json(read_file(directory.results_file()), "").at("rows");
  CHECK(rows.as_array().size() == 6 * (4 + 4 + 4));
  const Json found = parse_json(read_file(directory.diagnostics_file()), "");
  CHECK(found.at("entries").as_array().size() == 5 * (4 + 4 + 4));
  for (const Json& entry : found.at("entries").as_array()) {
    CHECK(entry.at("model").as_string() != "looped_vanilla");
    CHECK(entry.at("samples").as_integer() == 10);
  }
  for (const Json& chain : found.at("gallery").as_array()) CHECK(!chain.at("problem").as_string().empty());
  std::set<std::int64_t> claims;
  for (const Json& claim : found.at("claims").as_array()) claims.insert(claim.at("claim").as_integer());
  CHECK(claims == std::set<std::int64_t>{1, 2, 3, 4, 5, 6});
  std::set<std::string> hashes;
  for (const Json& set : found.at("data").as_array()) hashes.insert(set.at("hash").as_string());
  CHECK(hashes.size() == 6);  // of three tasks, what is trained and what is tested
  CHECK(parse_json(read_file(directory.machine_file()), "").at("seconds").find("ar_self_loop_1") != nullptr);
}

TEST_CASE("the baselines keep the chains that the judge agrees with, and no others") {
  PipelineConfig config = tiny();
  for (const char* setting : {"ar_self.phases=1", "ar_self.steps=6", "ar_self.chains=40", "ar.steps=40"}) set(config, setting);
  const std::string said = said_by([&](std::FILE* out) { run("judged", config, 1, {.out = out}); });
  const RunDirectory directory("judged");
  Threads threads(1);
  const Pipeline<Backend> pipeline(directory, config, threads);
  const Arithmetic task = config.arithmetic;
  const auto loop = read_jsonl(directory.chains_file("ar_self_loop", "arithmetic", 3), "arithmetic", task.vocabulary());
  const auto truth = read_jsonl(directory.chains_file("ar_self_truth", "arithmetic", 3), "arithmetic", task.vocabulary());
  CHECK(says(said, message("chains of ar_self_loop for arithmetic 3: 40 written, ", loop.size(), " kept, ")));
  CHECK(says(said, message("chains of ar_self_truth for arithmetic 3: 40 written, ", truth.size(), " kept, ")));
  CHECK(loop.size() < 40);
  CHECK(truth.size() < 40);
  for (const Example& e : truth) CHECK(e.answer == task.solve(e.problem).answer);
  const auto again = pipeline.solver("looped_vanilla");
  for (Example e : loop) {
    e.iterations = 3;
    const Token written = e.answer;
    CHECK(again(std::span(&e, 1)).front().example.answer == written);
  }
}

TEST_CASE("stopped after every few steps it ends in the same bits") {
  for (const bool mixed : {false, true}) {
    const PipelineConfig config = mixed ? tiny_mixture() : tiny();
    const std::string name = mixed ? "mixed" : "single", once = run(name + "_whole", config);
    for (const int patience : mixed ? std::vector{6} : std::vector{2, 3, 7}) {  // 1 would not let a file of chains be begun
      const std::string path = name + "_stopped_" + std::to_string(patience);
      const std::string last = mixed ? "/models/ar_self_truth.safetensors" : "/models/ar_relay.safetensors";
      int stops = 0;
      while (!exists(path + last)) {
        REQUIRE(++stops < 100);
        int asked = 0;
        CHECK_THROWS_AS(run(path, config, 2, {.out = nullptr, .interrupted = [&] { return ++asked == patience; }}), Interrupted);
      }
      CHECK(stops >= 4);
      CHECK_THROWS_WITH_AS(run(path, config, 1, {.out = nullptr, .interrupted = [] { return true; }}),
                           "stopped while evaluating; the same command goes on from there", Interrupted);
      CHECK(run(path, config) == once);
    }
  }
}

TEST_CASE("an evaluation that was stopped goes on with the model it was at") {
  const std::string once = run("evaluated", tiny());
  const RunDirectory directory("evaluated");
  for (const char* name : {"ar", "ar_relay"}) remove_file(directory.evaluation_file(name));
  remove_file(directory.results_file());
  remove_file(directory.diagnostics_file());
  int asked = 0;  // once for each length, 1 .. 4
  CHECK_THROWS_WITH_AS(run("evaluated", tiny(), 1, {.out = nullptr, .interrupted = [&] { return ++asked == 5; }}),
                       "stopped while evaluating; the same command goes on from there", Interrupted);
  CHECK(exists(directory.evaluation_file("ar")));
  CHECK(!exists(directory.evaluation_file("ar_relay")));
  CHECK(!exists(directory.results_file()));
  const std::string said = said_by([&](std::FILE* out) { CHECK(run("evaluated", tiny(), 1, {.out = out}) == once); });
  CHECK(says(said, "evaluating ar_relay on 20 problems of each length\n"));
  CHECK(!says(said, "evaluating ar on"));
  CHECK(!says(said, "evaluating looped"));

  // Of another model, or of none that is known, it is made again; a damaged one is named.
  std::string other = read_file(directory.evaluation_file("ar"));
  const std::size_t of = other.find("\"of\":\"") + 6;
  other[of] = other[of] == '0' ? '1' : '0';
  for (const std::string& text : {other, std::string("{}\n")}) {
    write_file_atomically(directory.evaluation_file("ar"), text);
    CHECK(run("evaluated", tiny()) == once);
  }
  write_file_atomically(directory.evaluation_file("ar"), "{\n");
  CHECK(says(error_of([&] { run("evaluated", tiny()); }), "evaluated/evaluation/ar.json"));
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
  for (const std::string& name : models_of(config))
    CHECK(read_file(RunDirectory("stored").model_file(name)) == read_file(RunDirectory("recomputed").model_file(name)));
}

TEST_CASE("under a memory limit a loop recomputes: the same models; too small a limit is refused before anything is begun") {
  PipelineConfig config = tiny();
  for (const char* setting : {"model.width=64", "lengths.extra_columns=20", "batch=40", "lanes=1", "ar_relay.share=0"})
    set(config, setting);
  const auto stages = plan_stages<float>(config.mixture(), config);
  std::size_t least = 0;
  for (const StagePlan& stage : stages) least = std::max(least, stage.recomputed.value_or(stage.stored).total());
  config.memory_limit = static_cast<int>(mebibytes(least));
  REQUIRE(stages[0].stored.total() > config.limit().value());
  CHECK(stages[0].keep(config) == Keep::inputs);

  const std::string said = said_by([&](std::FILE* out) { run("limited", config, 1, {.out = out}); });
  CHECK(says(said, message("looped_aligned: memory ", mebibytes(stages[0].recomputed->total()), " MiB: parameters 1, gradients 1, ")));
  CHECK(says(said, ", recomputed\n"));
  CHECK(says(said, "ar: memory "));
  CHECK(says(said, ", stored\n"));
  PipelineConfig free = config;
  free.memory_limit = 0;
  run("unlimited", free);
  for (const std::string& name : models_of(config))
    CHECK(read_file(RunDirectory("limited").model_file(name)) == read_file(RunDirectory("unlimited").model_file(name)));

  config.memory_limit = 1;
  CHECK(says(error_of([&] { run("not_begun", config); }), "but the limit is 1 MiB: lower the batch, or the lanes"));
  CHECK(!exists("not_begun"));
}

TEST_CASE("nothing beyond the trained lengths: no chains, and fine-tuning on the trained range") {
  PipelineConfig config = tiny();
  set(config, "lengths.test_longest=2");
  run("short", config);
  const Json json = parse_json(read_file("short/results.json"), "results.json");
  CHECK(json.at("rows").as_array().size() == 8);
}

TEST_CASE("chains longer than the model can read are dropped, and nothing else about them matters") {
  PipelineConfig config = tiny();
  set(config, "model.positions=41");  // the least for 4 operators
  run("tight", config);
  const RunDirectory directory("tight");
  const Arithmetic task{.modulus = config.arithmetic.modulus};
  const Vocabulary vocabulary = task.vocabulary();

  // Fine-tunes again, on these chains.
  const auto tune = [&](const std::vector<Example>& three, const std::vector<Example>& four, std::string& said) {
    write_jsonl(directory.chains_file("looped_aligned", "arithmetic", 3), Arithmetic::name, vocabulary, three);
    write_jsonl(directory.chains_file("looped_aligned", "arithmetic", 4), Arithmetic::name, vocabulary, four);
    remove_file(directory.model_file("ar_relay"));
    remove_file(directory.metrics_file());
    said = said_by([&](std::FILE* out) { run("tight", config, 1, {.out = out}); });
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

  const std::string chains = read_file(directory.chains_file("looped_aligned", "arithmetic", 3));
  write_file_atomically(directory.chains_file("looped_aligned", "arithmetic", 3), chains.substr(0, chains.size() - 20));
  CHECK(says(error_of([&] { run("broken", tiny()); }), "broken/chains/looped_aligned/arithmetic_03.jsonl:20"));
  write_file_atomically(directory.chains_file("looped_aligned", "arithmetic", 3), chains);

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
  const std::string text = said_by([&](std::FILE* out) {
    run("heard", tiny(), 1, {.out = out});
    run("heard", tiny(), 1, {.out = out});
  });
  for (const char* words :
       {"looped_aligned ", "looped_vanilla ", "ar ", "ar_relay ", "chains of looped_aligned for arithmetic 3: 20 written, 20 kept, ",
        " of them right\n", "evaluating looped_aligned on 20 problems of each length\n", "evaluating ar_relay on 20 problems",
        "ar: trained already\n"})
    CHECK(says(text, words));
  CHECK(!says(text, "\r"));
}
