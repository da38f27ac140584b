// Everything a run of the pipeline depends on, by name: what --set changes, what config.json and results.json hold.
//
// `each` names every key once, in the order a person reads them. The number of threads is not among them: it changes nothing.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <relay/layer/looped.hpp>
#include <relay/layer/transformer_block.hpp>
#include <relay/task/arithmetic.hpp>
#include <relay/task/edit_distance.hpp>
#include <relay/task/longest_increasing_subsequence.hpp>
#include <relay/task/mixture.hpp>
#include <relay/task/recorded.hpp>
#include <relay/train/adamw.hpp>
#include <relay/train/data.hpp>
#include <relay/train/supervision.hpp>

namespace relay {

/// One training: how many steps at what peak learning rate; for each task, in the order of `tasks`, what its loss weighs, and how its lengths
/// are drawn, P(length) ~ length^power.
struct StageConfig {
  int steps = 1000;
  double rate = 1e-3;
  std::vector<double> weights{};  // none: all the same
  std::vector<double> powers{};   // none: the tasks' own
  double curriculum = 0;          // the part of the steps over which lengths grow from the shortest to all
  double decay = -1;              // of the weights; negative: adamw.decay
};

/// What the products of linear layers are computed in; everything else is float32 (backend/cpu.hpp).
enum class Precision { float32, bf16 };

/// Where the answer of a looped model that was taught rounds is read: by its answer head, or as what its rounds say.
enum class AnswerFrom { head, rounds };

/// How one task is trained and tested.
struct TaskConfig {
  Lengths lengths;                           // trained
  int test_shortest = 0, test_longest = 0;   // 0: as trained; four more than trained
  int split_from = 3;                        // shorter problems are too few to keep any for testing alone
  double share = 1;                          // how often it is drawn, among those of all tasks
  // A table of the merged data of fine-tuning: chains of each length beyond the trained ones, the last number going on, and examples of
  // the trained lengths, of which each is drawn as often as a chain. None, and 0: as `ar_relay` has them.
  std::vector<int> chains{};
  int in_range = 0;
  std::vector<int> self_chains{};  // problems for each phase of fine-tuning on own chains; none: as `ar_self` has them

  int first_test() const { return test_shortest > 0 ? test_shortest : lengths.shortest; }
  int last_test() const { return test_longest > 0 ? test_longest : lengths.longest + 4; }
};

/// A user's own examples (task/recorded.hpp).
struct OwnDataConfig {
  static constexpr std::string_view name = "own_data";
  std::string train, test, problems;  // files; the last two may be left out
  Splitting splitting = Splitting::whitespace;
  std::string content;  // what the files held when a run was begun; empty: it is not begun

  RecordedTask load() const {
    require(!train.empty(), "own_data.train is empty: give the file of examples to train on");
    RecordedTask task = RecordedTask::load({.data = train, .test = test, .problems = problems, .tokens = splitting});
    require(content.empty() || task.options() == content, "the run was begun with other examples (", content, ") than its files hold now (",
            task.options(), "), and its tokens would have other numbers: put the files back that ", train, " and the others were, or make a new run");
    task.name = name;
    return task;
  }
};

/// The defaults are the demo: five numbers, chains of up to six steps, minutes on two cores.
struct PipelineConfig {
  std::int64_t seed = 1;
  std::vector<std::string> tasks{"arithmetic"};
  Arithmetic arithmetic{.modulus = 5};
  EditDistance edit_distance{};
  LongestIncreasingSubsequence subsequence{};
  OwnDataConfig own_data{};
  TaskConfig arithmetic_training{.lengths = {.shortest = 1, .longest = 6, .power = 2}};
  TaskConfig edit_distance_training{.lengths = {.shortest = 1, .longest = 6, .power = 1}};
  TaskConfig subsequence_training{.lengths = {.shortest = 3, .longest = 15, .power = 1}};
  TaskConfig own_data_training{.lengths = {.shortest = 1, .longest = 1, .power = 0}, .split_from = 1};
  int extra_columns = 8;  // a looped model's rows in training are up to so many columns wider than their problems
  TransformerConfig model{.width = 64,
                          .layers = 3,
                          .heads = 4,
                          .rotary_base = 100,
                          .directional_heads = 2,  // of the looped models; a causal one has none
                          .distance_bias = 4,
                          .positions = 1024};
  int ar_heads_without_rotary = 0;  // of the auto-regressive models; model.heads_without_rotary is the looped ones'
  bool ordered_numbers = false;  // embeddings of numbers start ordered by value
  LoopConfig loop{.normalise = true};
  bool recompute = false;
  AlignmentLoss loss{.lambda = 1, .answer_weight = 0.1, .over_round = Normalisation::sum};
  AdamWConfig adamw{.decay = 0.3};
  double warm_up = 0.03, final = 0.02;
  int batch = 32, lanes = 4, slices = 1;
  StageConfig aligned{10000, 4e-3}, vanilla{1000, 4e-3}, ar{2500, 3e-3}, tuned{1400, 1.5e-3};
  AnswerFrom answer = AnswerFrom::head;
  int chains = 2500;        // written for each longer length
  bool keep_chains = true;  // in files; else each is written when a batch has it, and is gone after it
  double share = 0.6;       // of them in a batch of the fine-tuning; the rest is the trained range
  int phases = 0;           // of fine-tuning on the auto-regressive model's own chains, each a length longer; 0: not done
  StageConfig self{500, 1e-3};
  std::vector<double> self_chains{2500};  // problems it is asked for in each phase; the last number goes on
  int samples = 500;        // test problems of each length
  int checkpoint_every = 500;
  int log_every = 50;       // steps to a line of metrics.jsonl
  int memory_limit = 0;     // of one training, in MiB; 0: none
  Precision precision = Precision::float32;

  static void each(auto&& visit, auto& c) {
    visit("seed", c.seed);
    visit("tasks", c.tasks);
    visit("arithmetic.modulus", c.arithmetic.modulus);
    each_of_task("arithmetic", visit, c.arithmetic_training);
    visit("edit_distance.letters", c.edit_distance.letters);
    visit("edit_distance.rows", c.edit_distance.rows);
    each_of_task("edit_distance", visit, c.edit_distance_training);
    visit("longest_increasing_subsequence.group", c.subsequence.group);
    visit("longest_increasing_subsequence.limit", c.subsequence.limit);
    visit("longest_increasing_subsequence.layout", c.subsequence.layout);
    each_of_task("longest_increasing_subsequence", visit, c.subsequence_training);
    visit("own_data.train", c.own_data.train);
    visit("own_data.test", c.own_data.test);
    visit("own_data.problems", c.own_data.problems);
    visit("own_data.splitting", c.own_data.splitting);
    visit("own_data.content", c.own_data.content);
    each_of_task("own_data", visit, c.own_data_training);
    visit("lengths.extra_columns", c.extra_columns);
    visit("model.width", c.model.width);
    visit("model.layers", c.model.layers);
    visit("model.heads", c.model.heads);
    visit("model.hidden", c.model.hidden);
    visit("model.dropout", c.model.dropout);
    visit("model.rotary_base", c.model.rotary_base);
    visit("model.heads_without_rotary", c.model.heads_without_rotary);
    visit("model.directional_heads", c.model.directional_heads);
    visit("model.query_key_bias", c.model.query_key_bias);
    visit("model.distance_bias", c.model.distance_bias);
    visit("model.positions", c.model.positions);
    visit("model.ordered_numbers", c.ordered_numbers);
    visit("loop.inject", c.loop.inject);
    visit("loop.signal", c.loop.signal);
    visit("loop.normalise", c.loop.normalise);
    visit("loop.reembed", c.loop.reembed);
    visit("loop.window", c.loop.window);
    visit("loop.recompute", c.recompute);
    visit("loss.lambda", c.loss.lambda);
    visit("loss.answer_weight", c.loss.answer_weight);
    visit("loss.over_round", c.loss.over_round);
    visit("adamw.beta1", c.adamw.beta1);
    visit("adamw.beta2", c.adamw.beta2);
    visit("adamw.decay", c.adamw.decay);
    visit("adamw.clip", c.adamw.clip);
    visit("schedule.warm_up", c.warm_up);
    visit("schedule.final", c.final);
    visit("batch", c.batch);
    visit("lanes", c.lanes);
    visit("slices", c.slices);
    each_of_stage("looped_aligned", visit, c.aligned);
    visit("looped_aligned.answer", c.answer);
    each_of_stage("looped_vanilla", visit, c.vanilla);
    each_of_stage("ar", visit, c.ar);
    visit("ar.heads_without_rotary", c.ar_heads_without_rotary);
    each_of_stage("ar_relay", visit, c.tuned);
    visit("ar_relay.chains", c.chains);
    visit("ar_relay.share", c.share);
    visit("ar_relay.keep_chains", c.keep_chains);
    visit("ar_self.phases", c.phases);
    each_of_stage("ar_self", visit, c.self);
    visit("ar_self.chains", c.self_chains);
    visit("evaluate.samples", c.samples);
    visit("checkpoint_every", c.checkpoint_every);
    visit("log_every", c.log_every);
    visit("memory_limit", c.memory_limit);
    visit("precision", c.precision);
  }

  /// How a task is trained, by its name.
  const TaskConfig& training(std::string_view task) const {
    if (task == EditDistance::name) return edit_distance_training;
    if (task == LongestIncreasingSubsequence::name) return subsequence_training;
    if (task == OwnDataConfig::name) return own_data_training;
    require(task == Arithmetic::name, "unknown task '", task,
            "': there are arithmetic, edit_distance and longest_increasing_subsequence");
    return arithmetic_training;
  }
  /// The tasks, with room for all lengths that are asked of them.
  Mixture mixture() const {
    std::vector<AnyTask> list;
    for (const std::string& name : tasks) {
      const int longest = std::max(training(name).lengths.longest, training(name).last_test());
      if (name == EditDistance::name) {
        EditDistance task = edit_distance;
        task.longest = longest;
        list.emplace_back(task);
      } else if (name == LongestIncreasingSubsequence::name) {
        LongestIncreasingSubsequence task = subsequence;
        task.longest = longest;
        list.emplace_back(task);
      } else if (name == OwnDataConfig::name) {
        list.emplace_back(own_data.load());
      } else {
        list.emplace_back(arithmetic);
      }
    }
    return Mixture(std::move(list));
  }
  /// What a training draws of each task.
  std::vector<TaskShare> shares(const Mixture& mixture, const StageConfig& stage) const {
    std::vector<TaskShare> list;
    for (std::size_t i = 0; i < tasks.size(); ++i) {
      const TaskConfig& t = training(tasks[i]);
      Lengths lengths = t.lengths;
      lengths.known = mixture.task(static_cast<int>(i)).lengths();
      if (!stage.powers.empty()) lengths.power = stage.powers[i];
      list.push_back({lengths, t.share, stage.weights.empty() ? 1 : stage.weights[i], t.split_from,
                      static_cast<int>(stage.curriculum * stage.steps)});
    }
    return list;
  }

  /// Of the auto-regressive models.
  TransformerConfig causal_model() const {
    TransformerConfig config = model;
    config.heads_without_rotary = ar_heads_without_rotary;
    return config;
  }
  /// The chains that looped_aligned writes for a task's problems of a length beyond the trained ones.
  int chains_of(const TaskConfig& t, int length) const { return t.chains.empty() ? chains : going_on(t.chains, length - t.lengths.longest); }
  /// The problems of a task that an auto-regressive model is asked for in a phase, 1, 2, ...
  int self_chains_of(const TaskConfig& t, int phase) const {
    return t.self_chains.empty() ? static_cast<int>(going_on(self_chains, phase)) : going_on(t.self_chains, phase);
  }
  /// How many of a task's examples are written chains in fine-tuning, where there are so many.
  double share_of_chains(const TaskConfig& t, std::size_t written) const {
    const auto n = static_cast<double>(written);
    return written == 0 ? 0 : t.in_range > 0 ? n / (n + t.in_range) : share;
  }
  /// Does a task's fine-tuning read chains at all?
  bool learns_chains(const TaskConfig& t) const { return t.last_test() > t.lengths.longest && (t.in_range > 0 || share > 0); }

  LinearSchedule schedule(const StageConfig& stage) const {
    return {.steps = stage.steps, .warm_up = warm_up, .final = final};
  }
  /// Of one training, in bytes.
  std::optional<std::size_t> limit() const {
    return memory_limit > 0 ? std::optional(static_cast<std::size_t>(memory_limit) << 20) : std::nullopt;
  }
  AdamWConfig optimiser(const StageConfig& stage) const {
    AdamWConfig config = adamw;
    config.rate = stage.rate;
    if (stage.decay >= 0) config.decay = stage.decay;
    return config;
  }

  /// Throws, naming the key, where a value makes no sense, alone or for the tasks.
  void check() const {
    check_values();
    check_sizes(mixture());
  }
  void check_values() const;
  /// Is the model large enough for all that the tasks ask of it?
  void check_sizes(const Mixture& mixture) const;

 private:
  /// The n-th number of a list, from 1 on; the last one goes on.
  template <class N>
  static N going_on(const std::vector<N>& list, int n) {
    return list[std::min(static_cast<std::size_t>(n), list.size()) - 1];
  }

  static void each_of_task(const std::string& name, auto&& visit, auto& t) {
    visit(name + ".shortest", t.lengths.shortest);
    visit(name + ".longest", t.lengths.longest);
    visit(name + ".power", t.lengths.power);
    visit(name + ".test_shortest", t.test_shortest);
    visit(name + ".test_longest", t.test_longest);
    visit(name + ".split_from", t.split_from);
    visit(name + ".share", t.share);
    visit(name + ".chains", t.chains);
    visit(name + ".in_range", t.in_range);
    visit(name + ".self_chains", t.self_chains);
  }
  static void each_of_stage(const std::string& name, auto&& visit, auto& stage) {
    visit(name + ".steps", stage.steps);
    visit(name + ".rate", stage.rate);
    visit(name + ".weights", stage.weights);
    visit(name + ".powers", stage.powers);
    visit(name + ".curriculum", stage.curriculum);
    visit(name + ".decay", stage.decay);
  }
};

inline void PipelineConfig::check_values() const {
  require(!tasks.empty(), "tasks is empty: name at least one, e.g. tasks=arithmetic");
  const auto show = [](double v) {  // whole numbers in full
    return v == std::floor(v) && std::abs(v) < 1e15 ? message(static_cast<std::int64_t>(v)) : message(v);
  };
  const auto in = [&](std::string_view key, double value, double low, double high) {
    require(value >= low && value <= high, key, " is ", show(value), ", but must be ", show(low), " .. ", show(high));
  };
  constexpr std::int64_t most = std::int64_t{1} << 53;  // beyond it config.json could not tell two seeds apart
  require(-most < seed && seed < most, "seed is ", seed, ", but must be ", 1 - most, " .. ", most - 1);
  for (const std::string& name : tasks) {
    const TaskConfig& t = training(name);  // throws for an unknown name
    const int limit = name == Arithmetic::name ? 200 : name == EditDistance::name ? 100
                      : name == OwnDataConfig::name                 ? 1000000
                                                                    : (subsequence.limit - 1) / 2;
    const std::string key = tasks.size() == 1 ? "lengths" : name;  // as a person writes it
    in(key + ".longest", t.lengths.longest, 1, limit);
    in(key + ".shortest", t.lengths.shortest, 1, t.lengths.longest);
    in(key + ".power", t.lengths.power, -10, 10);
    if (t.test_longest != 0) in(key + ".test_longest", t.test_longest, t.lengths.longest, limit);
    in(key + ".test_shortest", t.test_shortest, 0, t.last_test());
    in(key + ".split_from", t.split_from, 1, 1000);
    in(key + ".share", t.share, 1e-6, 1e6);
    for (const int n : t.chains) in(key + ".chains", n, 0, 1e7);
    in(key + ".in_range", t.in_range, 0, 1e9);
    for (const int n : t.self_chains) in(key + ".self_chains", n, 0, 1e7);
  }
  in("lengths.extra_columns", extra_columns, 0, 1000);
  in("model.width", model.width, 2, 16384);
  in("model.layers", model.layers, 1, 1000);
  in("model.heads", model.heads, 1, model.width);
  require(model.width % (2 * model.heads) == 0, "model.width is ", model.width, ", but must be a multiple of twice model.heads (",
          model.heads, "): rotary positions turn pairs");
  in("model.hidden", model.hidden, 0, 1 << 17);
  in("model.dropout", model.dropout, 0, 0.99);
  in("model.rotary_base", model.rotary_base, 1.001, 1e9);
  in("model.heads_without_rotary", model.heads_without_rotary, 0, model.heads);
  in("ar.heads_without_rotary", ar_heads_without_rotary, 0, model.heads);
  in("model.directional_heads", model.directional_heads, 0, model.heads - model.heads_without_rotary);
  in("model.query_key_bias", model.query_key_bias, 0, 100);
  in("model.distance_bias", model.distance_bias, 0, 100);
  in("model.positions", model.positions, 8, 1 << 20);
  in("loop.window", loop.window, 0, 1000);
  in("loss.lambda", loss.lambda, 0, 1e6);
  in("loss.answer_weight", loss.answer_weight, 0, 1e6);
  in("adamw.beta1", adamw.beta1, 0, 0.99999);
  in("adamw.beta2", adamw.beta2, 0, 0.99999);
  in("adamw.decay", adamw.decay, 0, 10);
  in("adamw.clip", adamw.clip, 0, 1e6);
  in("schedule.warm_up", warm_up, 0, 1);
  in("schedule.final", final, 0, 1);
  in("batch", batch, 1, 1 << 20);
  in("lanes", lanes, 1, 1024);
  in("slices", slices, 1, batch);
  const auto stage = [&](const std::string& name, const StageConfig& s) {
    in(name + ".steps", s.steps, 1, 1e9);
    in(name + ".rate", s.rate, 1e-12, 10);
    require(s.weights.empty() || s.weights.size() == tasks.size(), name, ".weights has ", s.weights.size(), " numbers, but there are ",
            tasks.size(), " tasks: give one each, or none");
    for (const double weight : s.weights) in(name + ".weights", weight, 1e-6, 1e6);
    require(s.powers.empty() || s.powers.size() == tasks.size(), name, ".powers has ", s.powers.size(), " numbers, but there are ",
            tasks.size(), " tasks: give one each, or none");
    for (const double power : s.powers) in(name + ".powers", power, -10, 10);
    in(name + ".curriculum", s.curriculum, 0, 1);
    if (s.decay >= 0) in(name + ".decay", s.decay, 0, 10);
  };
  stage("looped_aligned", aligned);
  stage("looped_vanilla", vanilla);
  stage("ar", ar);
  stage("ar_relay", tuned);
  in("ar_relay.chains", chains, 1, 1e7);
  in("ar_relay.share", share, 0, 1);
  in("ar_self.phases", phases, 0, 100);
  stage("ar_self", self);
  require(!self_chains.empty(), "ar_self.chains is empty: give a number of problems for each phase, e.g. ar_self.chains=2500");
  for (const double n : self_chains) in("ar_self.chains", n, 1, 1e7);
  in("evaluate.samples", samples, 1, 1e7);
  in("checkpoint_every", checkpoint_every, 1, 1e9);
  in("log_every", log_every, 1, 1e9);
  in("memory_limit", memory_limit, 0, 1e9);
}

inline void PipelineConfig::check_sizes(const Mixture& mixture) const {
  for (int i = 0; i < mixture.size(); ++i) {
    const TaskConfig& t = training(mixture.task(i).name);
    const Example longest = mixture.joint(i, mixture.task(i).largest(t.last_test()));
    const int tokens = static_cast<int>(longest.problem.size() + mixture.text_size(longest)) - 1;
    require(tokens <= model.positions, "model.positions is ", model.positions, ", but a chain of ", mixture.task(i).name, " of length ",
            t.last_test(), " may have ", tokens, " tokens: set model.positions=", tokens, " or more, or shorter lengths");
    const int row = std::max(mixture.joint(i, mixture.task(i).largest(t.lengths.longest)).columns() + extra_columns, longest.columns());
    require(row <= model.positions, "model.positions is ", model.positions, ", but rows of the looped model may have ", row,
            " columns: set model.positions=", row, " or more, or a smaller lengths.extra_columns");
  }
}

}  // namespace relay
