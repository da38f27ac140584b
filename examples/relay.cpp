// The relay program: the whole pipeline from the command line, and what its models make of a problem.
//
//   relay pipeline --preset demo --out DIR      relay solve --run DIR "(1+2)*2-1"
//   relay data --task arithmetic --length 8     relay evaluate --run DIR --model ar_relay --lengths 1..12
//   relay train --data train.jsonl --test test.jsonl --out DIR
//   relay report --run DIR
//   relay plan --preset demo --set model.width=256 memory_limit=2000
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include <relay/pipeline/report.hpp>
#include <relay/relay.hpp>

#include "presets.hpp"  // made of presets/*.preset
#include "relay_run.hpp"

using namespace relay;

#ifndef RELAY_CUDA  // else they are in relay_cuda.cpp
std::string why_no_gpu() {
  return "this relay was built without CUDA: configure with -DRELAY_CUDA=ON where NVIDIA's CUDA toolkit is and build it again, or take the CPU backend";
}
std::unique_ptr<Run> run_on_gpu(const RunDirectory&, const PipelineConfig&, Threads&, const Observer&) { fail(why_no_gpu()); }
#endif

namespace {

volatile std::sig_atomic_t stop_asked = 0;

/// Standard output that tells when it could not be written.
void print(const std::string& text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size() && std::fflush(stdout) == 0;
  require(written, "cannot write standard output: ", std::strerror(errno), ": write to a file or disk with room");
}

template <class... Values>
std::string format(const char* pattern, Values... values) {
  char text[400];
  std::snprintf(text, sizeof text, pattern, values...);
  return text;
}

struct Range {
  int first, last;
};

/// "1..12", or one number.
Range parse_range(std::string_view text) {
  const auto number = [&](std::string_view part) {
    int value = 0;
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), value);
    require(error == std::errc() && end == part.data() + part.size() && value >= 1 && value <= 1000, "--lengths is '", text,
            "', but must be FIRST..LAST or one number, from 1 to 1000");
    return value;
  };
  const std::size_t dots = text.find("..");
  const Range range = dots == text.npos ? Range{number(text), number(text)}
                                        : Range{number(text.substr(0, dots)), number(text.substr(dots + 2))};
  require(range.first <= range.last, "--lengths is '", text, "', but its first length is above its last");
  return range;
}

/// The configuration of a preset: a name, or the path of a file.
PipelineConfig preset(const std::string& name) {
  std::string names;
  for (const Preset& p : presets) {
    if (p.name == name) return read_preset(p.text, message("preset ", name));
    names += (names.empty() ? "" : &p == &presets.back() ? " and " : ", ") + std::string(p.name);
  }
  require(exists(name), "unknown preset '", name, "': there are ", names, ", or give the path of a file");
  return read_preset(read_file(name), name);
}

struct Options {
  std::string preset = "demo", directory, task, model, lengths, data, test, longer, backend = "cpu";
  std::vector<std::string> settings, problems;
  std::int64_t seed = 1, count = 1000;
  int threads = 0, length = 0;
  double minutes = 0;  // after which a run stops; 0: none
  bool seed_given = false, characters = false;
};

/// A run on the backend that was asked for, in the precision of its configuration.
std::unique_ptr<Run> run_of(const Options& options, const RunDirectory& directory, const PipelineConfig& config, Threads& threads,
                            const Observer& observer = {}) {
  if (options.backend == "cuda") return run_on_gpu(directory, config, threads, observer);
  return run_on<Cpu<float>, Cpu<bf16>>(directory, config, threads, observer);
}

/// Each training, and the models before it, must fit into the machine.
void check_memory(const PipelineConfig& config) {
  const double there = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  double models = 0;
  for (const StagePlan& stage : plan_stages<float>(config.mixture(), config)) {
    const double needed = models + static_cast<double>(stage.of(stage.keep(config)).total());
    require(needed <= there, "there is not enough memory: training ", stage.name, " needs ", std::ceil(needed / 1e9),
            " GB, but this machine has ", std::floor(there / 1e9),
            ": lower model.width, model.layers, batch or lanes, or set memory_limit, in MiB, so that less is stored");
    models += static_cast<double>(stage.stored.parameters + stage.stored.laid_out);
  }
}

/// Ctrl-C and a polite kill end the run after a checkpoint; a second one ends it at once.
void stop_after_checkpoint(int signal) {
  stop_asked = 1;
  std::signal(signal, SIG_DFL);
}

/// Trains and evaluates all that the configuration asks for, or goes on with it, for as many minutes as were given.
void run(const RunDirectory& directory, const PipelineConfig& config, const Options& options, Threads& threads) {
  const double started = seconds_now();
  std::signal(SIGINT, stop_after_checkpoint);
  std::signal(SIGTERM, stop_after_checkpoint);
  config.check();
  if (options.backend == "cpu") check_memory(config);
  const auto stop = [&] { return stop_asked != 0 || (options.minutes > 0 && seconds_now() - started >= 60 * options.minutes); };
  const std::vector<ResultRow> rows = run_of(options, directory, config, threads, {.interrupted = stop})->run();
  std::string out;
  for (const std::string& task : config.tasks) {
    const TaskConfig& t = config.training(task);
    out += format("\n%s: accuracy of the answer by length; trained on %d..%d, beyond the bar on none.\n\n", task.c_str(), t.lengths.shortest,
                  t.lengths.longest) +
           results_table(rows, task, t.lengths.longest);
  }
  print(out);
  write_report(directory.path());
  print(format("\n%s and %s in %.0f s with %d threads.\n", directory.results_file().c_str(), directory.report_file().c_str(),
                     seconds_now() - started, threads.count()));
}

void run_pipeline(const Options& options, Threads& threads) {
  const RunDirectory directory(options.directory);
  PipelineConfig config = directory.begun() ? directory.config() : preset(options.preset);
  preset(options.preset);  // an unknown name is an error even when the run is there already
  if (options.seed_given) config.seed = options.seed;
  set_all(config, options.settings);
  run(directory, config, options, threads);
}

/// The pipeline on a user's own examples. Their lengths are those of the files, where --set does not say otherwise.
void train(const Options& options, Threads& threads) {
  PipelineConfig config = preset(options.preset);
  require(config.tasks == std::vector<std::string>{"own_data"}, "the preset ", options.preset, " is for other tasks: choose one with tasks = own_data");
  config.own_data.train = options.data, config.own_data.test = options.test, config.own_data.problems = options.longer;
  config.own_data.splitting = options.characters ? Splitting::characters : Splitting::whitespace;
  const RecordedTask task = config.own_data.load();
  config.own_data.content = task.options();
  for (std::string* path : {&config.own_data.train, &config.own_data.test, &config.own_data.problems})
    if (!path->empty()) *path = std::filesystem::absolute(*path).string();  // the run is gone on with from any folder
  TaskConfig& lengths = config.own_data_training;
  lengths.lengths.shortest = task.train().lengths().front();
  lengths.lengths.longest = task.train().lengths().back();
  lengths.test_longest = lengths.lengths.longest;
  for (const ByLength* list : {&task.test(), &task.problems()})
    if (!list->empty()) lengths.test_longest = std::max(lengths.test_longest, list->lengths().back());
  if (!task.test().empty()) lengths.test_shortest = std::min(lengths.lengths.shortest, task.test().lengths().front());
  if (options.seed_given) config.seed = options.seed;
  set_all(config, options.settings);
  if (const auto words = task.untrained(); !words.empty())
    std::fprintf(stderr, "note: %zu tokens are in no training example, and no model can know them: %s%s\n", words.size(), words.front().c_str(),
                 words.size() > 1 ? ", ..." : "");
  const auto problems = task.problems().all();
  const auto short_ones = std::count_if(problems.begin(), problems.end(), [&](const Example& e) { return e.length <= lengths.lengths.longest; });
  if (short_ones > 0)
    std::fprintf(stderr, "note: %ld of the problems in %s are not longer than what is trained, and no chains are written for them\n",
                 static_cast<long>(short_ones), options.longer.c_str());
  run(RunDirectory(options.directory), config, options, threads);
}

void report(const Options& options) {
  const RunDirectory directory(options.directory);
  require(directory.begun(), options.directory, " holds no run: there is no config.json; `relay pipeline --out ", options.directory, "` makes one");
  require(exists(directory.results_file()), options.directory, " has no results.json yet: `relay pipeline --out ", options.directory,
          "` goes on with the run");
  write_report(directory.path());
  print(report_tables(read_report_data(directory.path())) + "\n" + directory.report_file() + "\n");
}

/// On either backend, whether there is a GPU here or not.
std::vector<StagePlan> plan_of(const PipelineConfig& config, std::string_view backend) {
  if (backend == "cpu") return plan_stages<float>(config.mixture(), config);
  return config.precision == Precision::bf16 ? plan_stages<float, keeping_on_gpu<bf16>>(config.mixture(), config)
                                             : plan_stages<float, keeping_on_gpu<float>>(config.mixture(), config);
}

void plan(const Options& options) {
  PipelineConfig config = preset(options.preset);
  set_all(config, options.settings);
  config.check();
  const auto stages = plan_of(config, options.backend);
  print(plan_table(stages, config));
  for (const StagePlan& stage : stages) stage.keep(config);  // throws where nothing fits
}

void solve_problem(const Mixture& mixture, const PipelineConfig& config, int task,
                   const std::vector<std::pair<std::string, Run::Solver>>& solvers, const std::string& text) {
  const Example problem = mixture.parse(task, text);
  std::string answer = "not known";  // of what was not recorded
  if (mixture.verify(problem).known) answer = mixture.print(task, {mixture.solve(problem).answer});
  std::string out = mixture.print(task, problem.problem) + "   " + mixture.task(task).options() + ", the answer is " + answer + "\n";
  for (const auto& [name, solver] : solvers) {
    const Solution solution = solver(std::span(&problem, 1)).front();
    Example chain = solution.example;
    out += "\n" + name + "\n";
    if (name == "looped_vanilla") {
      out += "      (was never taught rounds: its answer only)\n";
      chain.rounds.clear();
    }
    out += chain_text(mixture, chain);
    if (solution.cut)
      out += format("      (cut: problem and chain came to the model's limit, model.positions=%d, before the chain ended)\n",
                    config.model.positions);
  }
  print(out + "\n");
}

/// The task that --task names; a run of one task needs none.
int task_of(const Options& options, const Mixture& mixture) {
  if (!options.task.empty()) return mixture.index(options.task);
  std::string names;
  for (int i = 0; i < mixture.size(); ++i) names += (i == 0 ? "" : i + 1 == mixture.size() ? " or " : ", ") + mixture.task(i).name;
  require(mixture.single(), options.directory, " has several tasks: say which, --task ", names);
  return 0;
}

void solve(const Options& options, const RunDirectory& directory, const PipelineConfig& config, Threads& threads) {
  const auto run = run_of(options, directory, config, threads);
  const Mixture& mixture = run->mixture();
  const int task = task_of(options, mixture);
  for (const std::string& text : options.problems) mixture.parse(task, text);  // before anything is printed
  std::vector<std::pair<std::string, Run::Solver>> solvers;
  for (const std::string& name : run->models())
    if (exists(directory.model_file(name))) solvers.emplace_back(name, run->solver(name));
  require(!solvers.empty(), options.directory, " has no trained model yet: `relay pipeline --out ", options.directory,
          "` goes on with the run");
  for (const std::string& text : options.problems) solve_problem(mixture, config, task, solvers, text);
  if (!options.problems.empty()) return;
  std::string line;
  for (int number = 1; std::getline(std::cin, line); ++number) {
    try {
      solve_problem(mixture, config, task, solvers, line);
    } catch (const Error& error) {
      fail("line ", number, ": ", error.what());
    }
  }
  require(!std::cin.bad() && std::ferror(stdin) == 0, "cannot read standard input: give a file or problems");
}

void data(const Options& options) {
  require(options.count >= 1 && options.count <= 1'000'000'000, "--count is ", options.count, ", but must be 1 .. 1000000000");
  require(options.length >= 1, "--length is ", options.length, ", but must be at least 1");
  PipelineConfig config{.tasks = {options.task}, .arithmetic = {}};  // the paper's problems
  config.training(options.task);                                      // throws for an unknown task
  for (const std::string& setting : options.settings) {
    const bool known = options.task == Arithmetic::name     ? setting.starts_with("modulus=")
                       : options.task == EditDistance::name ? setting.starts_with("letters=")
                                                            : setting.starts_with("group=") || setting.starts_with("limit=");
    require(known, "'", setting, "' is not a setting of ", options.task, ": there is ",
            options.task == Arithmetic::name     ? "modulus=PRIME"
            : options.task == EditDistance::name ? "letters=NUMBER"
                                                 : "group=NUMBER and limit=NUMBER");
    set(config, options.task + "." + setting);
  }
  TaskConfig& training = options.task == EditDistance::name                   ? config.edit_distance_training
                         : options.task == LongestIncreasingSubsequence::name ? config.subsequence_training
                                                                              : config.arithmetic_training;
  training.lengths.longest = training.test_longest = options.length;
  const Mixture mixture = config.mixture();
  const AnyTask& task = mixture.task(0);
  const Key key(static_cast<std::uint64_t>(options.seed));
  std::string out;
  for (std::int64_t i = 0; i < options.count; ++i) {
    Random random(key.fold(static_cast<std::uint64_t>(options.length)).fold(static_cast<std::uint64_t>(i)));
    out += to_jsonl(task.name, mixture.vocabulary(), task.generate(options.length, random)) + "\n";
    if (out.size() > 1 << 16 || i + 1 == options.count) {
      print(out);
      out.clear();
    }
  }
}

void check_evaluation(const Options& options) {
  parse_range(options.lengths);
  require(options.count >= 1 && options.count <= 1'000'000, "--count is ", options.count, ", but must be 1 .. 1000000");
}

void evaluate(const Options& options, const RunDirectory& directory, const PipelineConfig& config, Threads& threads) {
  const Range lengths = parse_range(options.lengths);
  const auto run = run_of(options, directory, config, threads);
  const int task = task_of(options, run->mixture());
  const std::vector<std::string> models = run->models();
  std::string names;
  for (const std::string& name : models) names += (names.empty() ? "" : name == models.back() ? " and " : ", ") + name;
  require(std::find(models.begin(), models.end(), options.model) != models.end(), "unknown model '", options.model, "': there are ", names);
  const auto solver = run->solver(options.model);
  print(format("%s\n%8s %8s %8s %8s %8s\n", options.model.c_str(), "length", "samples", "answer", "chain", "token"));
  long cut = 0;
  for (int length = lengths.first; length <= lengths.last; ++length) {
    const auto examples =
        run->test_examples(task, length, static_cast<int>(options.count), Key(static_cast<std::uint64_t>(options.seed)));
    const auto solutions = solver(examples);
    cut += std::count_if(solutions.begin(), solutions.end(), [](const Solution& s) { return s.cut; });
    const Accuracy a = accuracy(solutions, examples);
    print(format("%8d %8ld %8.4f %8.4f %8.4f\n", length, a.samples, a.answer(), a.chain(), a.token()));
  }
  if (cut > 0)
    std::fprintf(stderr, "%ld of these chains were cut: problem and chain came to the model's limit, model.positions=%d\n", cut,
                 config.model.positions);
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app("Looped transformers aligned with chains of thought, and auto-regressive models taught by them.", "relay");
  app.require_subcommand(1);
  const auto backend_option = [&](CLI::App* command) {
    command->add_option("--backend", options.backend, "where to compute: cpu, or cuda, a GPU (default: cpu)");
  };
  const auto machine_options = [&](CLI::App* command) {
    command->add_option("--threads", options.threads, "threads to compute with; changes no result (default: all cores; with a GPU two)")
        ->check(CLI::Range(1, 1024));
    backend_option(command);
  };
  const auto minutes_option = [&](CLI::App* command) {
    command
        ->add_option("--minutes", options.minutes,
                     "stop after so long, with a checkpoint and exit code 130: the same command goes on (default: no limit)")
        ->check(CLI::Range(1e-3, 1e6));
  };
  CLI::App* pipeline = app.add_subcommand("pipeline", "train all models, or go on with a run");
  pipeline->add_option("--preset", options.preset, "the configuration to start from: a name, or a file");
  pipeline->add_option("--out", options.directory, "the directory of the run")->required();
  CLI::Option* seed = pipeline->add_option("--seed", options.seed, "everything random follows from it");
  pipeline->add_option("--set", options.settings, "key=value, e.g. task.modulus=7; the keys are those of config.json");
  machine_options(pipeline);
  minutes_option(pipeline);

  CLI::App* train_command = app.add_subcommand("train", "the pipeline on your own examples");
  train_command->add_option("--data", options.data, "examples to train on, JSON lines")->required();
  train_command->add_option("--test", options.test, "examples to test with")->required();
  train_command->add_option("--problems", options.longer, "longer problems, without rounds, for looped_aligned to write chains for");
  train_command->add_flag("--characters", options.characters, "texts are split into characters, not at blanks");
  train_command->add_option("--out", options.directory, "the directory of the run")->required();
  train_command->add_option("--preset", options.preset, "the configuration to start from: a name, or a file (default: own_data)");
  CLI::Option* train_seed = train_command->add_option("--seed", options.seed, "everything random follows from it");
  train_command->add_option("--set", options.settings, "key=value; the keys are those of config.json");
  machine_options(train_command);
  minutes_option(train_command);

  CLI::App* plan_command = app.add_subcommand("plan", "print the memory that each training needs, before it runs");
  plan_command->add_option("--preset", options.preset, "the configuration to start from: a name, or a file");
  plan_command->add_option("--set", options.settings, "key=value, e.g. memory_limit=100 (MiB); the keys are those of config.json");
  backend_option(plan_command);

  CLI::App* report_command = app.add_subcommand("report", "write report.html of a finished run, and print its main figures");
  report_command->add_option("--run", options.directory, "the directory of the run")->required();

  CLI::App* solve_command = app.add_subcommand("solve", "let the models of a run solve problems, step by step");
  solve_command->add_option("--run", options.directory, "the directory of the run")->required();
  solve_command->add_option("--task", options.task, "which task the problems are of, where the run has several");
  solve_command->add_option("problem", options.problems, "e.g. \"(1+2)*2-1\", \"kitten sitting\" or \"9 7 12 7 15\"; none: one a line from standard input");
  machine_options(solve_command);

  CLI::App* data_command = app.add_subcommand("data", "print examples of a task as JSONL");
  data_command->add_option("--task", options.task, "arithmetic, edit_distance or longest_increasing_subsequence")->required();
  data_command->add_option("--length", options.length, "operators, letters of the shorter word, or numbers")->required();
  data_command->add_option("--count", options.count, "how many (default: 1000)");
  data_command->add_option("--seed", options.seed, "everything random follows from it");
  data_command->add_option("--set", options.settings, "modulus=PRIME, letters=NUMBER, group=NUMBER or limit=NUMBER");

  CLI::App* evaluate_command = app.add_subcommand("evaluate", "measure a model of a run by length");
  evaluate_command->add_option("--run", options.directory, "the directory of the run")->required();
  evaluate_command->add_option("--model", options.model, "looped_aligned, looped_vanilla, ar, ar_relay, ...")->required();
  evaluate_command->add_option("--task", options.task, "where the run has several");
  evaluate_command->add_option("--lengths", options.lengths, "FIRST..LAST")->required();
  evaluate_command->add_option("--count", options.count, "problems of each length (default: 1000)");
  evaluate_command->add_option("--seed", options.seed, "of the test problems");
  machine_options(evaluate_command);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    const auto parsed = app.get_subcommands();
    if (parsed.empty() && argc > 1 && argv[1][0] != '-')
      fail("unknown command '", argv[1], "': there are pipeline, train, report, plan, solve, data and evaluate");
    fail(error.what(), ": see relay ", parsed.empty() ? "" : parsed.front()->get_name() + " ", "--help");
  }
  for (CLI::App* command : {pipeline, train_command, solve_command, evaluate_command, report_command})
    require(!command->parsed() || !options.directory.empty(), command == pipeline || command == train_command ? "--out" : "--run",
            " is empty: give the path of a folder");
  require(options.backend == "cpu" || options.backend == "cuda", "--backend is '", options.backend, "', but must be cpu or cuda");
  if (options.backend == "cuda" && !plan_command->parsed())  // before anything is written
    if (const std::string why = why_no_gpu(); !why.empty()) fail("--backend cuda: ", why);
  options.seed_given = seed->count() > 0 || train_seed->count() > 0;
  if (train_command->parsed() && train_command->count("--preset") == 0) options.preset = "own_data";
  if (plan_command->parsed()) {
    plan(options);
    return 0;
  }
  if (report_command->parsed()) {
    report(options);
    return 0;
  }
  if (data_command->parsed()) {
    data(options);
    return 0;
  }
  // A GPU is given its work by one thread, while another draws the next batch (lanes, if there are several, may come from both).
  const int all = options.backend == "cuda" ? 2 : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  Threads threads(options.threads > 0 ? options.threads : all);
  if (pipeline->parsed()) run_pipeline(options, threads);
  if (train_command->parsed()) train(options, threads);
  if (evaluate_command->parsed()) check_evaluation(options);
  if (solve_command->parsed() || evaluate_command->parsed()) {
    const RunDirectory directory(options.directory);
    const PipelineConfig config = directory.config();
    if (solve_command->parsed())
      solve(options, directory, config, threads);
    else
      evaluate(options, directory, config, threads);
  }
  return 0;
}

/// One line, whatever a person typed and a message quotes: control characters made visible.
void complain(std::string_view what) {
  std::string line = "relay: ";
  for (const char c : what) {
    if (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f)
      line += c;
    else
      line += c == '\n' ? "\\n" : "\\" + std::to_string(static_cast<int>(c));
  }
  std::fprintf(stderr, "%s\n", line.c_str());
}

}  // namespace

int main(int argc, char** argv) {
  std::signal(SIGXFSZ, SIG_IGN);  // a file beyond the limit is an error that is reported, like a full disk
  try {
    return run(argc, argv);
  } catch (const relay::Interrupted& stopped) {
    if (isatty(2)) std::fputc('\n', stderr);  // below the progress bar
    complain(stopped.what());
    return 130;
  } catch (const std::bad_alloc&) {
    complain("there is not enough memory for this: ask for less, or for a smaller model or batch");
    return 1;
  } catch (const std::exception& error) {
    complain(error.what());
    return 1;
  }
}
