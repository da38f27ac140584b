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

/// An example with as many columns and iterations as any of the trained ones has, and in every iteration as many of them asked.
inline Example largest_row(const Mixture& mixture, const PipelineConfig& config) {
  const auto placement = mixture.placement();
  std::vector<Example> all;        // the largest of each task
  std::vector<std::size_t> asked;  // columns, by iteration
  int columns = 0;
  for (int i = 0; i < mixture.size(); ++i) {
    const Example& e = all.emplace_back(mixture.joint(i, mixture.task(i).largest(config.training(mixture.task(i).name).lengths.longest)));
    columns = std::max(columns, e.columns());
    asked.resize(std::max(asked.size(), e.rounds.size()));
    for (std::size_t t = 0; t < e.rounds.size(); ++t)
      asked[t] = std::max(asked[t], placement.columns(e, static_cast<int>(t) + 1).size());
  }
  for (Example& e : all) e.width = columns + config.extra_columns;
  for (Example e : all) {  // one of them with more and longer rounds, of a task that can place them
    e.iterations = static_cast<int>(asked.size());
    e.rounds.resize(asked.size(), e.rounds.empty() ? Tokens() : Tokens(e.rounds.back()));
    bool enough = true;
    for (std::size_t t = 0; t < asked.size(); ++t) {
      const auto placed = [&] { return placement.columns(e, static_cast<int>(t) + 1).size(); };
      if (const std::size_t n = placed(); n < asked[t]) e.rounds[t].resize(e.rounds[t].size() + asked[t] - n, e.problem.back());
      enough = enough && placed() >= asked[t];
    }
    if (enough) return e;
  }
  return *std::max_element(all.begin(), all.end(), [](const Example& a, const Example& b) { return a.iterations < b.iterations; });
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

/// The memory of training a looped model, on a backend that keeps so much.
template <class Scalar, Keeping keeping = keeping_on_cpu<Scalar>, Supervision S>
StagePlan plan_looped(const Mixture& mixture, const PipelineConfig& config, std::string_view name, const S& supervision,
                      const AlignmentLoss& loss) {
  using Backend = Shapes<Scalar, keeping>;
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
template <class Scalar, Keeping keeping = keeping_on_cpu<Scalar>>
StagePlan plan_causal(const Mixture& mixture, const PipelineConfig& config, std::string_view name, const Example& largest) {
  using Backend = Shapes<Scalar, keeping>;
  using Model = CausalTransformer<Backend>;
  const int size = mixture.vocabulary().size();
  return {std::string(name),
          plan_memory([&](typename Backend::Device device) { return Model(config.causal_model(), size, Seed{}, device); },
                      NextToken<Model, Mixture>(mixture), largest, config.batch, config.lanes, config.slices),
          {}};
}

/// All trainings, in their order; those on own chains need what ar_relay needs.
template <class Scalar, Keeping keeping = keeping_on_cpu<Scalar>>
std::vector<StagePlan> plan_stages(const Mixture& mixture, const PipelineConfig& config) {
  const int written = longest_written(mixture, config);
  return {plan_looped<Scalar, keeping>(mixture, config, "looped_aligned", Aligned{}, config.loss),
          plan_looped<Scalar, keeping>(mixture, config, "looped_vanilla", AnswerOnly{}, AlignmentLoss{}),
          plan_causal<Scalar, keeping>(mixture, config, "ar", largest_text(mixture, config)),
          plan_causal<Scalar, keeping>(mixture, config, "ar_relay", largest_text(mixture, config, written))};
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
