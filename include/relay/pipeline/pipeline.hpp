// The RELAY pipeline, stage by stage:
//
//   1. train looped_aligned (iteration t prints round t), looped_vanilla (answer only) and ar (token by token) on short problems
//   2. looped_aligned writes chains for longer problems, none filtered: into files, or each when it is drawn (ar_relay.keep_chains)
//   3. fine-tune ar on them, merged with the trained range: ar_relay
//   4. the baselines, where phases are asked for: ar writes chains for problems a little longer than it knows, those are kept whose
//      answer agrees with looped_vanilla (ar_self_loop) or with the truth (ar_self_truth), ar is fine-tuned on them, and again
//   5. evaluate all models by task and length
//
// A stage whose result is in the run directory is not run again, and a training goes on from its checkpoint: a run that was
// stopped, at any moment and in any way, ends in the same bits.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <relay/core/threads.hpp>
#include <relay/io/checkpoint.hpp>
#include <relay/pipeline/claims.hpp>
#include <relay/pipeline/diagnosis.hpp>
#include <relay/pipeline/evaluate.hpp>
#include <relay/pipeline/machine.hpp>
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

  Pipeline(RunDirectory directory, const PipelineConfig& config, Threads& threads, Observer observer = {})
      : Pipeline(std::move(directory), config, config.mixture(), threads, std::move(observer)) {}

  /// Of tasks of one's own; the configuration says how each is trained.
  Pipeline(RunDirectory directory, const PipelineConfig& config, Mixture mixture, Threads& threads, Observer observer = {})
      : directory_(std::move(directory)), config_(config), mixture_(std::move(mixture)), threads_(&threads), observer_(std::move(observer)) {}

  Pipeline(const Pipeline&) = delete;  // placements point at the mixture
  Pipeline& operator=(const Pipeline&) = delete;

  /// All stages; what is done already is not done again. Returns the table's rows.
  std::vector<ResultRow> run() {
    config_.check_values();
    config_.check_sizes(mixture_);
    if (config_.limit())  // before anything is trained
      for (const StagePlan& stage : plan_stages<typename B::Scalar, keeping_of<B>()>(mixture_, config_)) stage.keep(config_);
    make_directories(directory_.path());
    const FileLock lock(directory_.path() + "/lock",
                        message("another relay is at work in ", directory_.path(), ": wait for it, or choose another --out"));
    directory_.begin(config_);
    const Looped aligned = train_looped("looped_aligned", config_.aligned, Aligned{}, config_.loss);
    const Looped vanilla = train_looped("looped_vanilla", config_.vanilla, AnswerOnly{}, AlignmentLoss{});
    const Causal ar = train_ar();
    const Causal tuned = tune_on_relay_chains(aligned, ar);
    std::optional<Causal> self_loop, self_truth;
    if (config_.phases > 0) {
      self_loop = tune_on_own_chains("ar_self_loop", ar, [&](std::span<const Example> problems) {
        std::vector<Token> answers;
        for (const Solution& s : looped_solver("looped_vanilla", vanilla)(problems)) answers.push_back(s.example.answer);
        return answers;
      });
      self_truth = tune_on_own_chains("ar_self_truth", ar, [](std::span<const Example> problems) {
        std::vector<Token> answers;
        for (const Example& e : problems) answers.push_back(e.answer);
        return answers;
      });
    }
    evaluate("looped_aligned", looped_solver("looped_aligned", aligned));
    evaluate("looped_vanilla", looped_solver("looped_vanilla", vanilla));
    evaluate("ar", causal_solver(ar));
    evaluate("ar_relay", causal_solver(tuned));
    if (self_loop) evaluate("ar_self_loop", causal_solver(*self_loop));
    if (self_truth) evaluate("ar_self_truth", causal_solver(*self_truth));
    return write_results();
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
    if (name.starts_with("looped")) return looped_solver(name, looped(name));
    return causal_solver(causal(name));
  }
  /// The names of the run's models, in the order they are trained.
  std::vector<std::string> models() const {
    std::vector<std::string> names{"looped_aligned", "looped_vanilla", "ar", "ar_relay"};
    if (config_.phases > 0) names.insert(names.end(), {"ar_self_loop", "ar_self_truth"});
    return names;
  }

  const Mixture& mixture() const { return mixture_; }
  const PipelineConfig& config() const { return config_; }

  /// Test problems of one task and length, which no training has seen (where a length has enough problems).
  std::vector<Example> test_examples(int task, int length, int count, Key key) const {
    const int split_from = training(task).split_from;
    return mixture_.examples(task, length, count, of_task(key, task), length >= split_from ? Split::test : Split::all);
  }

 private:
  /// Every stage draws from a stream of its own.
  enum class Stream : std::uint64_t { model = 1, data, dropout, chains, merge, test, width, numbers };
  Key key(Stream stream, std::string_view stage) const {
    Key k = Key(static_cast<std::uint64_t>(config_.seed)).fold(static_cast<std::uint64_t>(stream));
    for (const char c : stage) k = k.fold(static_cast<unsigned char>(c));
    return k;
  }

  /// Several tasks draw from streams of their own.
  Key of_task(Key key, int task) const { return mixture_.single() ? key : key.fold(static_cast<std::uint64_t>(task)); }
  const TaskConfig& training(int task) const { return config_.training(mixture_.task(task).name); }

  Looped new_looped() const {
    Looped model(config_.model, config_.loop, mixture_.vocabulary().size(), Seed{key(Stream::model, "looped").value});
    order_numbers(model.embedding, "looped");
    return model;
  }
  Causal new_causal() const {
    Causal model(config_.causal_model(), mixture_.vocabulary().size(), Seed{key(Stream::model, "ar").value});
    order_numbers(model.embedding, "ar");
    return model;
  }
  void order_numbers(Embedding<B>& embedding, std::string_view model) const {
    if (!config_.ordered_numbers) return;
    std::vector<std::optional<double>> numbers;
    for (const std::string& spelling : mixture_.vocabulary().spellings()) numbers.push_back(Vocabulary::number(spelling));
    initialise_ordered<B>(embedding.weight, 0.5, numbers, key(Stream::numbers, model));
  }

  MixtureStream stream(std::string_view name, const StageConfig& stage) const {
    return {mixture_, config_.shares(mixture_, stage), config_.batch, key(Stream::data, name)};
  }

  template <Supervision S>
  Looped train_looped(std::string_view name, const StageConfig& stage, S supervision, const AlignmentLoss& loss) {
    Looped model = new_looped();
    const StagePlan plan = plan_looped<typename B::Scalar, keeping_of<B>()>(mixture_, config_, name, supervision, loss);
    const Unroll<Looped, S, Mixture::Placement> objective(supervision, loss, mixture_.placement(), mixture_.vocabulary().first_value(),
                                                          plan.keep(config_));
    train(plan, model, objective, stage, WidenedStream(stream(name, stage), config_.extra_columns, key(Stream::width, name)),
          largest_row(mixture_, config_));
    return model;
  }

  Causal train_ar() {
    Causal model = new_causal();
    const Example largest = largest_text(mixture_, config_);
    train(plan_causal<typename B::Scalar, keeping_of<B>()>(mixture_, config_, "ar", largest), model, NextToken<Causal, Mixture>(mixture_), config_.ar,
          stream("ar", config_.ar), largest);
    return model;
  }

  /// ar, tuned on what looped_aligned writes for lengths beyond the trained ones.
  Causal tune_on_relay_chains(const Looped& aligned, const Causal& ar) {
    const std::string name = "ar_relay", writer = "looped_aligned";
    if (config_.keep_chains) {
      write_relay_chains(aligned);
      return fine_tune(name, ar, config_.tuned, chains_to_learn(name, {writer}, ar.positions()));
    }
    std::vector<Example> problems;  // a chain is a pure function of its problem and the model: it can be written again at any time
    if (!exists(directory_.model_file(name)))
      each_relay_length([&](int task, int length) {
        for (Example& e : chain_problems(writer, task, length, config_.chains_of(training(task), length))) {
          e.rounds = std::vector<Tokens>();
          problems.push_back(std::move(e));
        }
      });
    return fine_tune(name, ar, config_.tuned, std::move(problems),
                     [this, solve = looped_solver(writer, aligned), positions = ar.positions()](std::span<const Example> drawn) {
                       std::vector<std::optional<Example>> chains;
                       for (Solution& s : solve(drawn))
                         chains.push_back(text_tokens(mixture_, s.example) <= positions ? std::optional(std::move(s.example)) : std::nullopt);
                       return chains;
                     });
  }

  /// `from`, tuned on chains, merged with the trained range; or on what `finish` makes of the chains' problems when they are drawn.
  Causal fine_tune(std::string_view name, const Causal& from, const StageConfig& stage, std::vector<Example> chains,
                   typename MergedStream<MixtureStream>::Finish finish = {}) {
    Causal model = from;
    std::vector<std::size_t> counts(static_cast<std::size_t>(mixture_.size()));
    int longest = finish ? longest_written(mixture_, config_) : 0;
    for (Example& e : chains) {
      e.weight = stage.weights.empty() ? 1 : stage.weights[static_cast<std::size_t>(e.task)];
      ++counts[static_cast<std::size_t>(e.task)];
      if (!finish) longest = std::max(longest, text_tokens(mixture_, e));
    }
    std::vector<double> shares;
    for (int task = 0; task < mixture_.size(); ++task)
      shares.push_back(config_.share_of_chains(training(task), counts[static_cast<std::size_t>(task)]));
    const Example largest = largest_text(mixture_, config_, longest);
    train(plan_causal<typename B::Scalar, keeping_of<B>()>(mixture_, config_, name, largest), model, NextToken<Causal, Mixture>(mixture_), stage,
          MergedStream(stream(name, stage), chains, shares, key(Stream::merge, name), std::move(finish)), largest);
    return model;
  }

  /// ar, tuned phase by phase on its own chains for problems a length longer each time: those whose answer `judge` agrees with.
  Causal tune_on_own_chains(const std::string& name, const Causal& ar, auto&& judge) {
    const auto phase_name = [&](int phase) { return phase == config_.phases ? name : message(name, "_", phase); };
    Causal model = ar;
    std::vector<std::string> writers;
    int done = config_.phases;  // the last finished phase; those before it need not be there any more
    while (done > 0 && !exists(directory_.model_file(phase_name(done)))) --done;
    for (int phase = 1; phase <= config_.phases; ++phase) {
      const std::string stage = phase_name(phase);
      writers.push_back(stage);
      if (phase < done) continue;
      if (phase > done) write_own_chains(stage, phase, model, judge);
      StageConfig config = config_.self;
      model = fine_tune(stage, model, config, chains_to_learn(stage, writers, model.positions()));
      if (phase > 1) remove_file(directory_.model_file(phase_name(phase - 1)));
    }
    return model;
  }

  void write_own_chains(const std::string& stage, int phase, const Causal& model, auto&& judge) {
    for (int task = 0; task < mixture_.size(); ++task) {
      const int length = training(task).lengths.longest + phase;
      if (length > training(task).last_test() || chain_problems(stage, task, length, 1).empty()) continue;
      write_chains(stage, task, length, config_.self_chains_of(training(task), phase), [&](std::span<const Example> problems) {
        const std::vector<Solution> written = causal_solver(model)(problems);
        const std::vector<Token> answers = judge(problems);
        std::vector<std::optional<Solution>> kept;
        for (std::size_t i = 0; i < problems.size(); ++i)
          kept.push_back(!written[i].cut && answers[i] != Vocabulary::pad && written[i].example.answer == answers[i]
                             ? std::optional(written[i])
                             : std::nullopt);  // <pad>: no answer, or nobody knows it
        return kept;
      });
    }
  }

  /// The looped model's chains for lengths beyond the trained ones, as they are.
  void write_relay_chains(const Looped& model) {
    each_relay_length([&](int task, int length) {
      write_chains("looped_aligned", task, length, config_.chains_of(training(task), length), [&](std::span<const Example> problems) {
        const std::vector<Solution> written = looped_solver("looped_aligned", model)(problems);
        return std::vector<std::optional<Solution>>(written.begin(), written.end());
      });
    });
  }

  /// f(task, length) for every length beyond the trained ones.
  void each_relay_length(auto&& f) const {
    for (int task = 0; task < mixture_.size(); ++task)
      for (int length = training(task).lengths.longest + 1; length <= training(task).last_test(); ++length)
        if (!chain_problems("looped_aligned", task, length, 1).empty()) f(task, length);  // recorded data have what they have
  }

  /// The problems that `stage` writes chains for.
  std::vector<Example> chain_problems(std::string_view stage, int task, int length, int count) const {
    const std::string_view stream = stage == "looped_aligned" ? "" : stage;
    return mixture_.examples(task, length, count, of_task(key(Stream::chains, stream), task), Split::train);
  }

  /// Writes what `solve` keeps of the chains for `count` problems, for `stage` to learn from.
  void write_chains(std::string_view stage, int task, int length, int count, auto&& solve) {
    const std::string& name = mixture_.task(task).name;
    const std::string file = directory_.chains_file(stage, name, length);
    if (exists(file)) return;
    if (observer_.interrupted()) throw Interrupted("stopped while writing chains; the same command goes on from there");
    const double started = seconds_now();
    const auto problems = chain_problems(stage, task, length, count);
    const auto solutions = solve(std::span<const Example>(problems));
    std::vector<Example> written;
    Accuracy accuracy;
    for (std::size_t i = 0; i < problems.size(); ++i)
      if (solutions[i]) {
        written.push_back(solutions[i]->example);
        accuracy.add(written.back(), problems[i]);
        if (!mixture_.single()) written.back().problem.erase(written.back().problem.begin());  // the task's token: "task" says it
      }
    make_directories(file.substr(0, file.rfind('/')));
    write_jsonl(file, name, mixture_.vocabulary(), written);
    const bool known = std::all_of(problems.begin(), problems.end(), [](const Example& e) { return !e.rounds.empty(); });
    if (!problems.empty())
      say("chains of ", stage, " for ", name, " ", length, ": ", problems.size(), " written, ", written.size(), " kept, ",
          known ? message(accuracy.chain(), " of them right") : "nobody knows how many of them right");
    count_seconds("chains", seconds_now() - started);
  }

  /// What `writers` wrote, but for what a model of so many positions cannot read; nothing where the stage has learned it.
  std::vector<Example> chains_to_learn(std::string_view stage, const std::vector<std::string>& writers, int positions) const {
    std::vector<Example> chains;
    if (exists(directory_.model_file(stage))) return chains;
    for (const std::string& writer : writers)
      each_relay_length([&](int task, int length) {
        const std::string& name = mixture_.task(task).name;
        const std::string file = directory_.chains_file(writer, name, length);
        if (writer != "looped_aligned" && !exists(file)) return;  // a phase writes one length
        for (Example& e : read_jsonl(file, name, mixture_.vocabulary())) {
          e.task = task;
          if (!mixture_.single()) e.problem.insert(e.problem.begin(), mixture_.vocabulary().token(Mixture::task_token(name)));
          chains.push_back(std::move(e));
        }
      });
    // A weak model may write more than the auto-regressive one, which reads all but the text's last token, can read.
    // Only the length is looked at: whether a chain is right nobody knows.
    const std::size_t written = chains.size();
    const std::size_t dropped = std::erase_if(chains, [&](const Example& e) {
      return text_tokens(mixture_, e) > positions;
    });
    if (dropped > 0)
      say(stage, ": ", dropped, " of ", written, " written chains are dropped: with their problems they are longer than ", positions,
          " tokens, the model's limit (model.positions)", chains.empty() ? "; none is left to learn from" : "");
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
      remove_checkpoint(directory_.checkpoint_file(name));  // left where the run was killed between saving and removing
      say(name, ": trained already");
      return;
    }
    const Keep keep = plan.keep(config_);
    const MemoryPlan& needs = plan.of(keep);
    say(name, ": memory ", mebibytes(needs.total()), " MiB: parameters ", mebibytes(needs.parameters + needs.laid_out), ", gradients ",
        mebibytes(needs.gradients), ", moments ", mebibytes(needs.moments), ", activations ", mebibytes(needs.activations),
        keep == Keep::inputs ? ", recomputed" : ", stored");
    Trainer trainer(model, objective, config_.optimiser(stage), config_.schedule(stage),
                    Seed{key(Stream::dropout, name).value}, *threads_, config_.lanes, config_.slices);
    const std::string checkpoint = directory_.checkpoint_file(name);
    Meter meter;
    if (exists(checkpoint)) {
      const Metadata about = load_checkpoint(checkpoint, model, trainer.optimiser);
      check_metadata(about, name, checkpoint);
      const auto found = about.find("meter");
      meter = read_meter(found == about.end() ? "" : found->second, checkpoint + ": \"meter\" of the metadata");
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
      if (report.step % config_.log_every == 0 || end) {
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
    count_seconds(name, seconds_now() - started);
    if (!finished)
      throw Interrupted(message("stopped ", name, " after step ", trainer.optimiser.steps, " of ", stage.steps,
                                "; the same command goes on from there"));
    save_model(directory_.model_file(name), model, metadata(name));
    prepare(model);
    remove_checkpoint(checkpoint);
  }

  void count_seconds(std::string_view stage, double seconds) const {
    std::string gpu;
    if constexpr (requires { B::gpu(); }) gpu = B::gpu();
    add_seconds(directory_.machine_file(), stage, seconds, threads_->count(), gpu);
  }

  /// Refuses a file of the right shape that is another model's, or another run's.
  void check_metadata(const Metadata& found, std::string_view name, const std::string& file) const {
    for (const auto& [key, value] : metadata(name)) {
      const auto entry = found.find(key);
      require(entry != found.end() && entry->second == value, file, " is not of this run: its ", key, " is ",
              entry == found.end() ? "missing" : entry->second, ", not ", value, ": put the right file back, or remove it");
    }
  }

  Solver looped_solver(std::string_view name, Looped model) const {
    const bool from_rounds = name == "looped_aligned" && config_.answer == AnswerFrom::rounds;
    prepare(model);
    return [this, from_rounds, model = std::move(model)](std::span<const Example> problems) {
      std::vector<Solution> solutions = solve_looped(model, problems, *threads_, mixture_.placement());
      for (Solution& s : solutions)
        if (from_rounds) {
          s.example.answer = mixture_.answer(s.example);
          s.confidence = s.rounds_confidence;  // nobody has read the head
        }
      return solutions;
    };
  }
  Solver causal_solver(Causal model) const {
    prepare(model);
    return [this, model = std::move(model)](std::span<const Example> problems) {
      return solve_causal(model, problems, *threads_, mixture_);
    };
  }

  /// Writes what a model makes of the test problems: {"of", "rows", "entries", "gallery"}. What is stopped leaves the lengths that are done.
  /// "of" is the fingerprint of the model's file: what another model of that name did is not taken for this one's.
  void evaluate(const std::string& name, const Solver& solve) const {
    const std::string file = directory_.evaluation_file(name), begun = directory_.begun_evaluation_file(name);
    const std::string of = in_digits(fingerprint(read_file(directory_.model_file(name))));
    const auto of_this_model = [&](const std::string& path) {
      if (!exists(path)) return false;
      const Json json = parse_json(read_file(path), path);
      const Json* found = json.find("of");
      return found && *found == Json(of);
    };
    if (of_this_model(file)) return remove_file(begun);
    Json rows = Json::array(), entries = Json::array(), gallery = Json::array();
    int done = 0, at = 0;  // lengths, of all tasks
    if (of_this_model(begun)) {
      const Json json = parse_json(read_file(begun), begun);
      rows = json.at("rows", begun), entries = json.at("entries", begun), gallery = json.at("gallery", begun);
      done = static_cast<int>(json.at("done", begun).as_integer(begun));
    }
    const auto found = [&] { return Json::object().set("of", of).set("rows", rows).set("entries", entries).set("gallery", gallery); };
    const double started = seconds_now();
    double saved = started;
    const auto save = [&] {
      write_file_atomically(begun, found().set("done", done).dump() + "\n");
      saved = seconds_now();
    };
    if (done == 0)
      say("evaluating ", name, " on ", config_.samples, " problems of each length");
    else
      say("evaluating ", name, ": goes on after ", done, " lengths");
    for (int task = 0; task < mixture_.size(); ++task) {
      const TaskConfig& t = training(task);
      for (int length = t.first_test(); length <= t.last_test(); ++length) {
        if (++at <= done) continue;
        if (seconds_now() - saved > 60) save();
        const std::vector<Example> examples = test_examples(task, length, config_.samples, key(Stream::test, ""));
        std::vector<Solution> solutions;
        const std::size_t portion = 64 * static_cast<std::size_t>(threads_->count());  // after which it may be stopped
        for (std::size_t first = 0; first == 0 || first < examples.size(); first += portion) {
          if (observer_.interrupted()) {
            if (done > 0) save();
            count_seconds("evaluation", seconds_now() - started);
            throw Interrupted("stopped while evaluating; the same command goes on from there");
          }
          const auto problems = std::span(examples).subspan(first, std::min(portion, examples.size() - first));
          for (Solution& s : solve(problems)) solutions.push_back(std::move(s));
        }
        done = at;
        if (examples.empty()) continue;  // recorded data have what they have
        rows.push(to_json(ResultRow(name, mixture_.task(task).name, length, accuracy(solutions, examples))));
        if (name == "looped_vanilla") continue;  // it was never taught rounds
        Diagnosis diagnosis;
        for (std::size_t i = 0; i < examples.size(); ++i) diagnosis.add(solutions[i], examples[i]);
        Json entry = Json::object().set("model", name).set("task", mixture_.task(task).name).set("length", length);
        diagnosis.write(entry);
        entries.push(std::move(entry));
        if (length == t.lengths.longest || length == t.last_test()) add_to_gallery(name, solutions, examples, gallery);
      }
    }
    write_file_atomically(file, found().dump() + "\n");
    remove_file(begun);
    count_seconds("evaluation", seconds_now() - started);
  }

  /// The first chain that is right, and the first two that are not.
  void add_to_gallery(const std::string& name, const std::vector<Solution>& solutions, const std::vector<Example>& truth, Json& gallery) const {
    int right = 1, wrong = 2;
    for (std::size_t i = 0; i < truth.size(); ++i) {
      const Example& e = solutions[i].example;
      int& left = e.rounds == truth[i].rounds && e.answer == truth[i].answer ? right : wrong;
      if (left-- > 0) gallery.push(gallery_chain(mixture_, name, e, truth[i]));
    }
  }

  /// results.json and diagnostics.json, from the evaluations of all models.
  std::vector<ResultRow> write_results() const {
    std::vector<ResultRow> rows;
    Json entries = Json::array(), gallery = Json::array();
    for (const std::string& name : models()) {
      const std::string file = directory_.evaluation_file(name);
      const Json json = parse_json(read_file(file), file);
      for (const Json& row : json.at("rows", file).as_array(file)) rows.push_back(result_row(row, file));
      for (const Json& entry : json.at("entries", file).as_array(file)) entries.push(entry);
      for (const Json& chain : json.at("gallery", file).as_array(file)) gallery.push(chain);
    }
    write_file_atomically(directory_.results_file(), results_json(to_json(config_), rows).dump() + "\n");
    Json claims = to_json(judge_claims(config_, rows, entries));
    write_file_atomically(directory_.diagnostics_file(), Json::object()
                                                             .set("entries", entries)
                                                             .set("gallery", gallery)
                                                             .set("claims", claims)
                                                             .set("data", data_sets())
                                                             .dump() +
                                                             "\n");
    return rows;
  }

  /// By what the data of each task can be known again: options, seed, and a hash of the test problems and of the first trained ones.
  Json data_sets() const {
    Json list = Json::array();
    for (int task = 0; task < mixture_.size(); ++task) {
      const TaskConfig& t = training(task);
      const auto add = [&](const char* part, const std::vector<Example>& examples) {
        std::string lines;
        for (const Example& e : examples) lines += to_jsonl(mixture_.task(task).name, mixture_.vocabulary(), e) + "\n";
        list.push(Json::object()
                      .set("task", mixture_.task(task).name)
                      .set("options", mixture_.task(task).options())
                      .set("seed", config_.seed)
                      .set("part", part)
                      .set("samples", static_cast<long>(examples.size()))
                      .set("hash", in_digits(fingerprint(lines))));
      };
      std::vector<Example> trained;
      for (int step = 0; step < 4; ++step)
        for (Example& e : stream("looped_aligned", config_.aligned)(step))
          if (e.task == task) trained.push_back(std::move(e));
      add("trained, of the first four batches", trained);
      std::vector<Example> tested;
      for (int length = t.first_test(); length <= t.last_test(); ++length)
        for (Example& e : test_examples(task, length, config_.samples, key(Stream::test, ""))) tested.push_back(std::move(e));
      add("test", tested);
    }
    return list;
  }

  std::map<std::string, std::string> metadata(std::string_view name) const {
    return {{"model", std::string(name)}, {"seed", std::to_string(config_.seed)}};
  }

  void say(const auto&... parts) const {
    if (observer_.out) std::fprintf(observer_.out, "%s\n", message(parts...).c_str());
  }

  RunDirectory directory_;
  PipelineConfig config_;
  Mixture mixture_;
  Threads* threads_;
  Observer observer_;
};

}  // namespace relay
