// What each training of the pipeline needs in memory, before it runs, and whether its loop stores or recomputes.
//
// Planned is the worst: a batch of problems with brackets around all operators but one, widened as far as they may be, and for
// ar_relay chains of looped_aligned as long as they could be if every round were wrong. What a stage is given is less, never more.
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

/// An example of which an auto-regressive model reads so many tokens, nearly all of them written after the problem.
inline Example largest_text(int tokens) {
  Example e = largest_problem(1, 0);
  const int written = std::max(0, tokens + 1 - static_cast<int>(e.problem.size()) - 2);  // without the answer and <eos>
  e.rounds.insert(e.rounds.begin(), Tokens(static_cast<std::size_t>(written), expression::equals));
  return e;
}

/// The most tokens that an auto-regressive model reads of a problem and a chain without a mistake.
inline int longest_text(int operators) { return 2 * operators * (operators + 1) + 1; }

/// Of an example, what an auto-regressive model reads: all but the text's last token.
inline int text_tokens(const Arithmetic& task, const Example& e) {
  return static_cast<int>(e.problem.size() + task.text_size(e)) - 1;
}

/// The memory of training a looped model.
template <class Scalar, Supervision S>
StagePlan plan_looped(const PipelineConfig& config, std::string_view name, const S& supervision, const AlignmentLoss& loss) {
  using Backend = Shapes<Scalar>;
  using Model = LoopedTransformer<Backend>;
  const Vocabulary vocabulary = Arithmetic{.modulus = config.modulus}.vocabulary();
  const auto plan = [&](Keep keep) {
    return plan_memory(
        [&](typename Backend::Device device) { return Model(config.model, config.loop, vocabulary.size(), Seed{}, device); },
        Unroll<Model, S>(supervision, loss, {}, vocabulary.first_value(), keep),
        largest_problem(config.lengths.longest, config.extra_columns), config.batch, config.lanes);
  };
  return {std::string(name), plan(Keep::everything), plan(Keep::inputs)};
}

/// The memory of training an auto-regressive model that reads at most so many tokens of an example.
template <class Scalar>
StagePlan plan_causal(const PipelineConfig& config, std::string_view name, int tokens) {
  using Backend = Shapes<Scalar>;
  using Model = CausalTransformer<Backend>;
  const Arithmetic task{.modulus = config.modulus};
  const int size = task.vocabulary().size();
  return {std::string(name),
          plan_memory([&](typename Backend::Device device) { return Model(config.model, size, Seed{}, device); },
                      NextToken<Model, Arithmetic>(task), largest_text(tokens), config.batch, config.lanes),
          {}};
}

/// All trainings, in their order.
template <class Scalar>
std::vector<StagePlan> plan_stages(const PipelineConfig& config) {
  const int longest = longest_text(config.lengths.longest), tested = config.longest_test();
  // The looped model may print rounds as wide as the problem's row, however wrong; what is too long to be read is dropped.
  const bool chains = tested > config.lengths.longest && config.share > 0;
  const int written = chains ? std::min(config.model.positions, 4 * tested * tested + 1) : 0;
  return {plan_looped<Scalar>(config, "looped_aligned", Aligned{}, config.loss),
          plan_looped<Scalar>(config, "looped_vanilla", AnswerOnly{}, AlignmentLoss{}), plan_causal<Scalar>(config, "ar", longest),
          plan_causal<Scalar>(config, "ar_relay", std::max(longest, written))};
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
