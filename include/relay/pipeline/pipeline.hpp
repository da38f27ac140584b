// The RELAY pipeline, stage by stage:
//
//   1. train looped_aligned (iteration t prints round t), looped_vanilla (answer only) and ar (token by token) on short problems
//   2. looped_aligned writes chains for longer problems, none filtered
//   3. fine-tune ar on them, merged with the trained range: ar_relay
//   4. evaluate all four by length
//
// A stage whose result is in the run directory is not run again, and a training goes on from its checkpoint: a run that was
// stopped, at any moment and in any way, ends in the same bits.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <relay/core/threads.hpp>
#include <relay/io/checkpoint.hpp>
#include <relay/pipeline/evaluate.hpp>
#include <relay/pipeline/plan.hpp>
#include <relay/pipeline/run_directory.hpp>
#include <relay/pipeline/solve.hpp>
#include <relay/task/jsonl.hpp>
#include <relay/train/metrics.hpp>
#include <relay/train/next_token.hpp>
#include <relay/train/progress.hpp>
#include <relay/train/unroll.hpp>

namespace relay {

/// The run was asked to stop; it has written a checkpoint.
class Interrupted : public Error {
 public:
  using Error::Error;
};

/// Who looks on.
struct Observer {
  std::FILE* out = stderr;                                       // progress; null: silent
  std::function<bool()> interrupted = [] { return false; };      // asked after every step
};

template <class B>
class Pipeline {
 public:
  using Looped = LoopedTransformer<B>;
  using Causal = CausalTransformer<B>;
  static constexpr int steps_per_line = 50;  // of metrics.jsonl

  Pipeline(RunDirectory directory, const PipelineConfig& config, Threads& threads, Observer observer = {})
      : directory_(std::move(directory)), config_(config), task_{.modulus = config.modulus}, vocabulary_(task_.vocabulary()),
        threads_(&threads), observer_(std::move(observer)) {}

  /// All stages; what is done already is not done again. Returns the table's rows.
  std::vector<ResultRow> run() {
    config_.check();
    if (config_.limit())  // before anything is trained
      for (const StagePlan& stage : plan_stages<typename B::Scalar>(config_)) stage.keep(config_);
    make_directories(directory_.path());
    const FileLock lock(directory_.path() + "/lock",
                        message("another relay is at work in ", directory_.path(), ": wait for it, or choose another --out"));
    directory_.begin(config_);
    const Looped aligned = train_looped("looped_aligned", config_.aligned, Aligned{}, config_.loss);
    const Looped vanilla = train_looped("looped_vanilla", config_.vanilla, AnswerOnly{}, AlignmentLoss{});
    const Causal ar = train_ar();
    write_chains(aligned);
    const Causal tuned = fine_tune(ar);
    std::vector<ResultRow> rows;
    say("evaluating ", config_.samples, " problems of each length ", config_.lengths.shortest, "..", config_.longest_test());
    evaluate("looped_aligned", looped_solver(aligned), rows);
    evaluate("looped_vanilla", looped_solver(vanilla), rows);
    evaluate("ar", causal_solver(ar), rows);
    evaluate("ar_relay", causal_solver(tuned), rows);
    write_file_atomically(directory_.results_file(), results_json(to_json(config_), rows).dump() + "\n");
    return rows;
  }

  /// A finished model of the run.
  Looped looped(std::string_view name) const {
    Looped model = new_looped();
    check_metadata(load_model(directory_.model_file(name), model), name, directory_.model_file(name));
    prepare(model);
    return model;
  }
  Causal causal(std::string_view name) const {
    Causal model = new_causal();
    check_metadata(load_model(directory_.model_file(name), model), name, directory_.model_file(name));
    prepare(model);
    return model;
  }

  using Solver = std::function<std::vector<Solution>(std::span<const Example>)>;

  /// What a finished model of the run makes of problems; `name` is one of models().
  Solver solver(std::string_view name) const {
    const std::string file = directory_.model_file(name);
    require(exists(file), directory_.path(), " has no model '", name, "' yet: `relay pipeline --out ", directory_.path(),
            "` goes on with the run");
    if (name.starts_with("looped")) return looped_solver(looped(name));
    return causal_solver(causal(name));
  }
  static const std::vector<std::string>& models() {
    static const std::vector<std::string> names{"looped_aligned", "looped_vanilla", "ar", "ar_relay"};
    return names;
  }

  const Arithmetic& task() const { return task_; }
  const PipelineConfig& config() const { return config_; }

  /// Test problems of one length, which no training has seen (where a length has enough problems).
  std::vector<Example> test_examples(int length, int count, Key key) const {
    return examples_of_length(task_, length, count, key,
                              ExampleStream<Arithmetic>::split_of(length, config_.split_from, Split::test));
  }

 private:
  /// Every stage draws from a stream of its own.
  enum class Stream : std::uint64_t { model = 1, data, dropout, chains, merge, test, width };
  Key key(Stream stream, std::string_view stage) const {
    Key k = Key(static_cast<std::uint64_t>(config_.seed)).fold(static_cast<std::uint64_t>(stream));
    for (const char c : stage) k = k.fold(static_cast<unsigned char>(c));
    return k;
  }

  Looped new_looped() const {
    return Looped(config_.model, config_.loop, vocabulary_.size(), Seed{key(Stream::model, "looped").value});
  }
  Causal new_causal() const { return Causal(config_.model, vocabulary_.size(), Seed{key(Stream::model, "ar").value}); }

  ExampleStream<Arithmetic> stream(std::string_view stage) const {
    return {task_, config_.lengths, config_.batch, key(Stream::data, stage), config_.split_from};
  }

  template <Supervision S>
  Looped train_looped(std::string_view name, const StageConfig& stage, S supervision, const AlignmentLoss& loss) {
    Looped model = new_looped();
    const StagePlan plan = plan_looped<typename B::Scalar>(config_, name, supervision, loss);
    const Unroll<Looped, S> objective(supervision, loss, {}, vocabulary_.first_value(), plan.keep(config_));
    train(plan, model, objective, stage, WidenedStream(stream(name), config_.extra_columns, key(Stream::width, name)),
          largest_problem(config_.lengths.longest, config_.extra_columns));
    return model;
  }

  Causal train_ar() {
    Causal model = new_causal();
    const int longest = longest_text(config_.lengths.longest);
    train(plan_causal<typename B::Scalar>(config_, "ar", longest), model, NextToken<Causal, Arithmetic>(task_), config_.ar,
          stream("ar"), largest_text(longest));
    return model;
  }

  Causal fine_tune(const Causal& ar) {
    Causal model = ar;
    std::vector<Example> chains;
    if (!exists(directory_.model_file("ar_relay"))) chains = chains_to_learn(model.positions());
    const double share = chains.empty() ? 0 : config_.share;
    int longest = longest_text(config_.lengths.longest);
    for (const Example& e : chains) longest = std::max(longest, text_tokens(task_, e));
    train(plan_causal<typename B::Scalar>(config_, "ar_relay", longest), model, NextToken<Causal, Arithmetic>(task_), config_.tuned,
          MergedStream<Arithmetic>(stream("ar_relay"), std::move(chains), share, key(Stream::merge, "ar_relay")),
          largest_text(longest));
    return model;
  }

  /// What the looped model wrote, but for what a model of so many positions cannot read.
  std::vector<Example> chains_to_learn(int positions) const {
    std::vector<Example> chains;
    for (int length = config_.lengths.longest + 1; length <= config_.longest_test(); ++length) {
      auto some = read_jsonl(directory_.chains_file(length), Arithmetic::name, vocabulary_);
      chains.insert(chains.end(), std::make_move_iterator(some.begin()), std::make_move_iterator(some.end()));
    }
    // A weak looped model may write more than the auto-regressive model, which reads all but the text's last token, can read.
    // Only the length is looked at: whether a chain is right nobody knows.
    const std::size_t written = chains.size();
    const std::size_t dropped = std::erase_if(chains, [&](const Example& e) {
      return text_tokens(task_, e) > positions;
    });
    if (dropped > 0)
      say("ar_relay: ", dropped, " of ", written, " written chains are dropped: with their problems they are longer than ",
          positions, " tokens, the model's limit (model.positions)", chains.empty() ? "; none is left to learn from" : "");
    return chains;
  }

  /// Trains from the beginning, from a checkpoint, or not at all where the finished model is there. No example of the data is
  /// larger than `largest`.
  template <class Model, class Objective, class Data>
  void train(const StagePlan& plan, Model& model, const Objective& objective, const StageConfig& stage, const Data& data,
             const Example& largest) {
    const std::string& name = plan.name;
    if (exists(directory_.model_file(name))) {
      check_metadata(load_model(directory_.model_file(name), model), name, directory_.model_file(name));
      prepare(model);
      remove_file(directory_.checkpoint_file(name));  // left where the run was killed between saving and removing
      say(name, ": trained already");
      return;
    }
    const Keep keep = plan.keep(config_);
    const MemoryPlan& needs = plan.of(keep);
    say(name, ": memory ", mebibytes(needs.total()), " MiB: parameters ", mebibytes(needs.parameters + needs.laid_out), ", gradients ",
        mebibytes(needs.gradients), ", moments ", mebibytes(needs.moments), ", activations ", mebibytes(needs.activations),
        keep == Keep::inputs ? ", recomputed" : ", stored");
    Trainer trainer(model, objective, config_.optimiser(stage), config_.schedule(stage),
                    Seed{key(Stream::dropout, name).value}, *threads_, config_.lanes);
    const std::string checkpoint = directory_.checkpoint_file(name);
    Meter meter;
    if (exists(checkpoint)) {
      const Metadata about = load_checkpoint(checkpoint, model, trainer.optimiser);
      check_metadata(about, name, checkpoint);
      meter = read_meter(about, checkpoint);
      require(trainer.optimiser.steps < stage.steps, checkpoint, " is after step ", trainer.optimiser.steps, ", but ", name,
              " has ", stage.steps, " steps: remove the checkpoint to train ", name, " anew");
      say(name, ": goes on after step ", trainer.optimiser.steps);
    }
    const MetricsLog log(directory_.metrics_file());
    try {
      log.rewind(name, trainer.optimiser.steps);
    } catch (const Error& error) {
      fail("training ", name, ": ", error.what(), ": repair ", directory_.metrics_file(), " or remove it");
    }
    const auto save = [&] {
      Metadata about = metadata(name);
      about["meter"] = write_meter(meter);
      save_checkpoint(checkpoint, model, trainer.optimiser, about);
    };

    const double started = seconds_now();
    Progress progress(name, trainer.optimiser.steps, stage.steps, observer_.out);
    const auto after = [&](const StepReport& report) {
      const bool end = report.step == stage.steps, stop = !end && observer_.interrupted();
      meter.add(report);
      if (report.step % steps_per_line == 0 || end) {
        log.write(name, meter, seconds_now() - started);
        meter = {};
      }
      if (stop || (!end && report.step % config_.checkpoint_every == 0)) save();
      return !stop;
    };
    bool finished = false;
    try {
      trainer.reserve(largest, config_.batch);
      finished = trainer.fit(data, stage.steps, progress, after);
    } catch (const Error& error) {
      fail("training ", name, ": ", error.what());
    }
    if (!finished)
      throw Interrupted(message("stopped ", name, " after step ", trainer.optimiser.steps, " of ", stage.steps,
                                "; the same command goes on from there"));
    save_model(directory_.model_file(name), model, metadata(name));
    prepare(model);
    remove_file(checkpoint);
  }

  /// Refuses a file of the right shape that is another model's, or another run's.
  void check_metadata(const Metadata& found, std::string_view name, const std::string& file) const {
    for (const auto& [key, value] : metadata(name)) {
      const auto entry = found.find(key);
      require(entry != found.end() && entry->second == value, file, " is not of this run: its ", key, " is ",
              entry == found.end() ? "missing" : entry->second, ", not ", value, ": put the right file back, or remove it");
    }
  }

  /// The reports since the last line of metrics.jsonl, so that a resumed training writes the same next line.
  static void each_number(auto&& visit, auto& meter) {
    visit(meter.steps), visit(meter.samples), visit(meter.losses.objective), visit(meter.gradient_norm);
    for (auto* loss : {&meter.losses.value, &meter.losses.structure, &meter.losses.answer})
      visit(loss->sum), visit(loss->count), visit(loss->right);
  }
  static std::string write_meter(const Meter& meter) {
    Json numbers = Json::array();
    each_number([&](const auto& number) { numbers.push(number); }, meter);
    return numbers.dump();
  }
  static Meter read_meter(const Metadata& metadata, const std::string& path) {
    const auto found = metadata.find("meter");
    const std::string where = path + ": \"meter\" of the metadata";
    const std::string text = found == metadata.end() ? "" : found->second;
    const Json numbers = parse_json(text, where);
    Meter meter;
    std::size_t i = 0;
    each_number(
        [&](auto& number) {
          require(i < numbers.as_array(where).size(), where, " has too few numbers: give a checkpoint of this run");
          const Json& stored = numbers.as_array()[i++];
          if constexpr (std::floating_point<std::remove_reference_t<decltype(number)>>)
            number = stored.as_number(where);
          else
            number = static_cast<std::remove_reference_t<decltype(number)>>(stored.as_integer(where));
        },
        meter);
    return meter;
  }

  /// The looped model's chains for lengths beyond the trained ones, as they are.
  void write_chains(const Looped& model) {
    for (int length = config_.lengths.longest + 1; length <= config_.longest_test(); ++length) {
      const std::string file = directory_.chains_file(length);
      if (exists(file)) continue;
      if (observer_.interrupted()) throw Interrupted("stopped while writing chains; the same command goes on from there");
      const auto problems = examples_of_length(task_, length, config_.chains, key(Stream::chains, ""), Split::train);
      const auto chains = solve_looped(model, std::span<const Example>(problems), *threads_);
      std::vector<Example> written;
      for (const Solution& chain : chains) written.push_back(chain.example);
      write_jsonl(file, Arithmetic::name, vocabulary_, written);
      say("chains for ", length, " operators: ", chains.size(), " written, ",
          static_cast<double>(accuracy(chains, problems).chains) / static_cast<double>(chains.size()), " of them right");
    }
  }

  Solver looped_solver(Looped model) const {
    return [model = std::move(model), threads = threads_](std::span<const Example> problems) {
      return solve_looped(model, problems, *threads);
    };
  }
  Solver causal_solver(Causal model) const {
    return [model = std::move(model), threads = threads_, task = task_](std::span<const Example> problems) {
      return solve_causal(model, problems, *threads, task);
    };
  }

  void evaluate(std::string_view name, const Solver& solve, std::vector<ResultRow>& rows) const {
    for (int length = config_.lengths.shortest; length <= config_.longest_test(); ++length) {
      if (observer_.interrupted()) throw Interrupted("stopped while evaluating; the same command goes on from there");
      const auto examples = test_examples(length, config_.samples, key(Stream::test, ""));
      rows.push_back({std::string(name), std::string(Arithmetic::name), length, accuracy(solve(examples), examples)});
    }
  }

  std::map<std::string, std::string> metadata(std::string_view name) const {
    return {{"model", std::string(name)}, {"seed", std::to_string(config_.seed)}};
  }

  void say(const auto&... parts) const {
    if (observer_.out) std::fprintf(observer_.out, "%s\n", message(parts...).c_str());
  }

  RunDirectory directory_;
  PipelineConfig config_;
  Arithmetic task_;
  Vocabulary vocabulary_;
  Threads* threads_;
  Observer observer_;
};

}  // namespace relay
