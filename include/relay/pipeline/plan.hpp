// What each training of the pipeline needs in memory, before it runs, and whether its loop stores or recomputes.
//
// Planned is the worst: a batch of the largest problems of any task, widened as far as they may be, and for models that learn from
// written chains, chains as long as they could be if every round were wrong. What a stage is given is less, never more.
#pragma once

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <relay/model/causal_transformer.hpp>
#include <relay/model/looped_transformer.hpp>
#include <relay/pipeline/config.hpp>
#include <relay/train/memory_plan.hpp>
#include <relay/train/next_token.hpp>
#include <relay/train/unroll.hpp>

namespace relay {

struct StagePlan {
  std::string name;
  MemoryPlan stored;                     // of a training that keeps all that backward needs
  std::optional<MemoryPlan> recomputed;  // of a looped model, one that keeps the inputs of its iterations alone

  /// What it is to keep under the configuration's limit; throws where nothing fits.
  Keep keep(const PipelineConfig& config) const {
    if (!recomputed) require_fits(message("training ", name), stored, config.limit());
    if (!recomputed) return Keep::everything;
    if (!config.recompute) return choose_keep(message("training ", name), stored, *recomputed, config.limit());
    require_fits(message("training ", name), *recomputed, config.limit());
    return Keep::inputs;
  }
  const MemoryPlan& of(Keep keep) const { return keep == Keep::inputs ? recomputed.value() : stored; }
};

/// An example with as many columns, and as many iterations, as any of the trained ones has.
inline Example largest_row(const Mixture& mixture, const PipelineConfig& config) {
  Example largest;
  int columns = 0;
  for (int i = 0; i < mixture.size(); ++i) {
    Example e = mixture.joint(i, mixture.task(i).largest(config.training(mixture.task(i).name).lengths.longest));
    columns = std::max(columns, e.columns());
    if (e.iterations > largest.iterations) largest = std::move(e);
  }
  largest.width = columns + config.extra_columns;
  return largest;
}

/// Of an example, what an auto-regressive model reads: all but the text's last token.
inline int text_tokens(const Mixture& mixture, const Example& e) {
  return static_cast<int>(e.problem.size() + mixture.text_size(e)) - 1;
}

/// The trained example of which an auto-regressive model reads the most; where that is less than `tokens`, with a longer first round.
inline Example largest_text(const Mixture& mixture, const PipelineConfig& config, int tokens = 0) {
  Example largest;
  int most = 0;
  for (int i = 0; i < mixture.size(); ++i) {
    Example e = mixture.joint(i, mixture.task(i).largest(config.training(mixture.task(i).name).lengths.longest));
    const int size = text_tokens(mixture, e);
    if (size > most) most = size, largest = std::move(e);
  }
  if (tokens > most) {
    if (largest.rounds.size() < 2) largest.rounds.insert(largest.rounds.begin(), Tokens());
    Tokens& round = largest.rounds.front();
    round.insert(round.begin(), static_cast<std::size_t>(tokens - most), largest.problem.back());
  }
  return largest;
}

/// The most tokens that an auto-regressive model may read of a chain that another model, or itself, wrote for a longer problem: rounds as wide
/// as the problem's row, however wrong. What is too long to be read is dropped. 0 where none is learned from.
inline int longest_written(const Mixture& mixture, const PipelineConfig& config) {
  long most = 0;
  for (int i = 0; i < mixture.size(); ++i) {
    const TaskConfig& t = config.training(mixture.task(i).name);
    if (!config.learns_chains(t)) continue;
    const Example e = mixture.joint(i, mixture.task(i).largest(t.last_test()));
    most = std::max(most, static_cast<long>(e.columns()) * e.iterations + 4);
  }
  return static_cast<int>(std::min<long>(most, config.model.positions));
}

/// The memory of training a looped model.
template <class Scalar, Supervision S>
StagePlan plan_looped(const Mixture& mixture, const PipelineConfig& config, std::string_view name, const S& supervision,
                      const AlignmentLoss& loss) {
  using Backend = Shapes<Scalar>;
  using Model = LoopedTransformer<Backend>;
  const Vocabulary& vocabulary = mixture.vocabulary();
  const auto plan = [&](Keep keep) {
    return plan_memory(
        [&](typename Backend::Device device) { return Model(config.model, config.loop, vocabulary.size(), Seed{}, device); },
        Unroll<Model, S, Mixture::Placement>(supervision, loss, mixture.placement(), vocabulary.first_value(), keep),
        largest_row(mixture, config), config.batch, config.lanes, config.slices);
  };
  return {std::string(name), plan(Keep::everything), plan(Keep::inputs)};
}

/// The memory of training an auto-regressive model on examples no larger than `largest`.
template <class Scalar>
StagePlan plan_causal(const Mixture& mixture, const PipelineConfig& config, std::string_view name, const Example& largest) {
  using Backend = Shapes<Scalar>;
  using Model = CausalTransformer<Backend>;
  const int size = mixture.vocabulary().size();
  return {std::string(name),
          plan_memory([&](typename Backend::Device device) { return Model(config.model, size, Seed{}, device); },
                      NextToken<Model, Mixture>(mixture), largest, config.batch, config.lanes, config.slices),
          {}};
}

/// All trainings, in their order; those on own chains need what ar_relay needs.
template <class Scalar>
std::vector<StagePlan> plan_stages(const Mixture& mixture, const PipelineConfig& config) {
  const int written = longest_written(mixture, config);
  return {plan_looped<Scalar>(mixture, config, "looped_aligned", Aligned{}, config.loss),
          plan_looped<Scalar>(mixture, config, "looped_vanilla", AnswerOnly{}, AlignmentLoss{}),
          plan_causal<Scalar>(mixture, config, "ar", largest_text(mixture, config)),
          plan_causal<Scalar>(mixture, config, "ar_relay", largest_text(mixture, config, written))};
}

/// One line per training: what it needs, stored or recomputed, and which it is to be.
inline std::string plan_table(const std::vector<StagePlan>& stages, const PipelineConfig& config) {
  char line[200];
  const auto mib = [](std::size_t bytes) { return static_cast<double>(bytes) / (1 << 20); };
  std::snprintf(line, sizeof line, "%-16s %10s %10s %10s | %10s %10s | %10s\n", "MiB", "parameters", "gradients", "moments", "stored",
                "recomputed", "total");
  std::string out = line;
  for (const StagePlan& stage : stages) {
    const MemoryPlan& s = stage.stored;
    std::snprintf(line, sizeof line, "%-16s %10.1f %10.1f %10.1f | %10.1f", stage.name.c_str(), mib(s.parameters + s.laid_out), mib(s.gradients),
                  mib(s.moments), mib(s.activations));
    out += line;
    if (stage.recomputed)
      std::snprintf(line, sizeof line, " %10.1f |", mib(stage.recomputed->activations));
    else
      std::snprintf(line, sizeof line, " %10s |", "");
    out += line;
    try {
      const Keep keep = stage.keep(config);
      std::snprintf(line, sizeof line, " %10.1f %s\n", mib(stage.of(keep).total()), keep == Keep::inputs ? "recomputed" : "stored");
    } catch (const Error&) {
      std::snprintf(line, sizeof line, " %10.1f does not fit\n", mib(stage.of(stage.recomputed ? Keep::inputs : Keep::everything).total()));
    }
    out += line;
  }
  return out;
}

}  // namespace relay
