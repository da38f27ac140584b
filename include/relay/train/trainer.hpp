// Trainer: a batch is cut into lanes, each lane runs its forward and backward on one thread with its own traces and gradient,
// the gradients are added in lane order, AdamW takes a step.
//
// Where a whole batch takes too much memory, or more than the processor's cache, it is cut into slices before: every lane goes through
// its examples of one slice after the other, in the buffers of one, and adds up their gradients.
//
// The numbers of lanes and slices are configuration, the number of threads is not: the same bits for any number of threads. A step is a
// function of (model, moments, step number, examples), so a run that is stopped and resumed gives the same bits too.
//
// What the host has to do for a batch before the device can begin (dealing it, and what the objective stages: texts, tokens, what is asked of
// which row) is done while the step before is computed, if the batch is known by then: step(examples, meanwhile).
#pragma once

#include <algorithm>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <relay/core/threads.hpp>
#include <relay/task/example.hpp>
#include <relay/train/adamw.hpp>
#include <relay/train/loss.hpp>

namespace relay {

/// What a step did.
struct StepReport {
  int step = 0;
  Losses losses;
  double rate = 0;
  double gradient_norm = 0;
  long samples = 0;  // of this step
};

/// The examples of a batch that one lane is dealt at most, as copies of the largest. More than its even share: lanes are dealt like
/// costs, and many small examples may have more rows than a few large ones of the same cost.
inline int largest_share(int batch, int lanes) {
  require(batch >= 1 && lanes >= 1, "a batch has at least one example and one lane, not ", batch, " and ", lanes);
  return lanes == 1 ? batch : static_cast<int>(std::min<long>(batch, (batch + lanes - 1L) / lanes + 1 + lanes / 4));
}
/// The same of a batch that is cut into slices: a slice is dealt like a batch of its own.
inline int largest_share(int batch, int lanes, int slices) {
  require(slices >= 1, "a batch is cut into at least one slice, not ", slices);
  return largest_share((batch + slices - 1) / slices, lanes);
}

namespace detail {

/// What an objective makes of examples before the device is needed, if it does: Objective::Staged.
template <class Objective>
struct StagedOf {
  struct type {};
};
template <class Objective>
  requires requires { typename Objective::Staged; }
struct StagedOf<Objective> {
  using type = typename Objective::Staged;
};

/// Whether it may leave rows out, and knows how not to, which takes the most memory.
template <class Objective>
concept StagesAllRows = requires(const Objective& objective, std::span<const Example* const> examples, typename Objective::Staged& staged) {
  objective.stage_all_rows(examples, staged);
};

}  // namespace detail

template <class Model, class Objective>
class Trainer {
 public:
  using Backend = typename Model::Backend;

  /// The model, the objective and the threads must outlive the trainer.
  Trainer(Model& model, const Objective& objective, AdamWConfig adamw, LinearSchedule schedule, Seed seed, Threads& threads,
          int lanes = 4, int slices = 1)
      : optimiser(model, adamw), model_(&model), objective_(&objective), schedule_(schedule), seed_(seed), threads_(&threads), slices_(slices) {
    require(lanes >= 1, "a batch is cut into at least one lane, not ", lanes);
    require(slices >= 1, "a batch is cut into at least one slice, not ", slices);
    for (int i = 0; i < lanes; ++i) lanes_.push_back(std::make_unique<Lane>(model));
    for (Dealt* batch : {&now_, &next_}) batch->shares = std::vector<Share>(static_cast<std::size_t>(lanes) * static_cast<std::size_t>(slices));
  }

  AdamW<Model> optimiser;

  /// `meanwhile` is called once, on any thread, beside the last lanes or after them. It may return the batch of the next step, as a span of
  /// examples (an empty one: it is not known), which is then made ready while this step is computed. Those examples must stay where they are,
  /// and as they are, and so must what the objective makes of them, until the next call of step(), which knows them by their place and number, or of
  /// forget_next(). A step of others is as ever, and so is one after a step that has thrown.
  StepReport step(std::span<const Example> examples, auto&& meanwhile) {
    const std::span<const Example> announced = std::exchange(announced_, {});
    require(!examples.empty(), "a training step needs at least one example");
    if (announced.data() == examples.data() && announced.size() == examples.size())
      std::swap(now_, next_);
    else
      deal(examples, now_);
    std::span<const Example> following;
    prepare(*model_);
    run_lanes([&] {
      if constexpr (std::is_void_v<decltype(meanwhile())>)
        meanwhile();
      else
        following = made_ready(meanwhile());
    });
    StepReport report;
    Model& sum = lanes_.front()->gradient;
    for (std::size_t i = 0; i < lanes_.size(); ++i) {
      report.losses += lanes_[i]->losses;
      if (i == 0) continue;
      gradients_.assign(sum, lanes_[i]->gradient);
      gradients_.visit(threads_, [](std::size_t, auto& to, const auto& from) { Backend::add(from, to); });
    }
    const double factor = schedule_(optimiser.steps + 1);
    report.rate = factor * optimiser.config().rate;
    report.gradient_norm = optimiser.step(*model_, sum, factor, threads_);
    report.step = optimiser.steps;
    report.samples = static_cast<long>(examples.size());
    announced_ = following;
    return report;
  }

  StepReport step(std::span<const Example> examples) {
    return step(examples, [] {});
  }

  /// The batch that was to be the next may change, or go.
  void forget_next() { announced_ = {}; }

  /// Gives every lane the buffers that batches of `batch` examples need, none of them larger than `largest` (columns, iterations,
  /// text): the objective runs on a lane's largest share of such a batch, and changes neither model nor optimiser. Later steps
  /// give the same bits, and ask the system for no memory but where a lane is dealt more than that.
  void reserve(const Example& largest, int batch) {
    const int share = largest_share(batch, static_cast<int>(lanes_.size()), slices_);
    forget_next();
    by_cost_.reserve(static_cast<std::size_t>(batch));
    load_.reserve(lanes_.size());
    for (Dealt* dealt : {&now_, &next_}) {
      for (std::size_t i = 0; i < dealt->shares.size(); ++i) {
        auto& examples = dealt->shares[i].examples;
        examples.reserve(static_cast<std::size_t>((batch + slices_ - 1) / slices_));
        examples.assign(static_cast<std::size_t>(share), &largest);
        if constexpr (detail::StagesAllRows<Objective>)
          objective_->stage_all_rows(examples, dealt->shares[i].staged);
        else
          stage(dealt->shares[i]);
        if (i >= lanes_.size()) examples.clear();  // the first slice is all that is run
      }
      dealt->total = share * objective_->size(largest);
      dealt->staged = true;
    }
    prepare(*model_);
    run_lanes([] {});
    for (auto& lane : lanes_) clear(lane->gradient);
  }

  /// Takes steps until `steps` have been taken in all. data(i) gives the batch of step i, counted from 0; each of `after` is
  /// called with the report of a step, and ends the training by returning false. Returns whether all steps were taken.
  /// data(i) is asked for while step i - 1 is computed, on any thread, and perhaps in vain; after it, where data.uses_threads(). What it
  /// gives, if it is a view, stays as it is until step i is done.
  bool fit(auto&& data, int steps, auto&&... after) {
    std::optional<std::remove_cvref_t<decltype(data(0))>> batches[2];  // of this step and the next one; neither moves
    const Forgetting end{this};                                        // they go
    std::exception_ptr error;                                          // of data: it belongs to the step that needs it
    for (int at = 0; optimiser.steps < steps; at = 1 - at) {
      if (error) std::rethrow_exception(error);
      auto &batch = batches[at], &next = batches[1 - at];
      if (!batch) batch.emplace(data(optimiser.steps));
      const int following = optimiser.steps + 1;
      const StepReport report = step(*batch, [&]() noexcept -> std::span<const Example> {
        if (following >= steps || uses_threads(data)) return {};
        try {
          return next.emplace(data(following));
        } catch (...) {
          error = std::current_exception();
          return {};
        }
      });
      batch.reset();
      if (!(goes_on(after, report) && ...)) return optimiser.steps == steps;
    }
    return true;
  }

  /// The gradient of the last step, before clipping.
  const Model& gradient() const { return lanes_.front()->gradient; }

  /// How often lanes asked the system for memory so far: constant once warmed up, or after reserve().
  long allocations() const {
    long sum = 0;
    for (const auto& lane : lanes_) sum += lane->memory.allocations();
    return sum;
  }
  /// What it gave them: the traces of all lanes, and what lies between.
  std::size_t bytes() const {
    std::size_t sum = 0;
    for (const auto& lane : lanes_) sum += lane->memory.bytes();
    return sum;
  }

 private:
  struct Lane {
    explicit Lane(const Model& model) : gradient(zeros_like(model)), workspace(typename Backend::Device{&memory}) {}
    typename Backend::Memory memory;
    Model gradient;
    typename Objective::Workspace workspace;
    Losses losses;
  };

  static constexpr bool stages = requires { typename Objective::Staged; };

  /// What a lane is dealt of a slice.
  struct Share {
    std::vector<const Example*> examples;
    typename detail::StagedOf<Objective>::type staged;
  };
  struct Dealt {
    std::vector<Share> shares;  // [slices, lanes]
    double total = 0;           // the size of all its examples
    bool staged = false;
  };

  struct Forgetting {
    Trainer* trainer;
    ~Forgetting() { trainer->forget_next(); }
  };

  static bool goes_on(auto&& after, const StepReport& report) {
    if constexpr (std::same_as<decltype(after(report)), bool>) {
      return after(report);
    } else {
      after(report);
      return true;
    }
  }

  static bool uses_threads(const auto& data) {
    if constexpr (requires { data.uses_threads(); })
      return data.uses_threads();
    else
      return false;
  }

  /// Forward and backward of every lane's examples, from a gradient of zero.
  void run_lanes(auto&& meanwhile) {
    const Key dropout = Key(seed_).fold(static_cast<std::uint64_t>(optimiser.steps)).fold(0x64726f70);
    const int count = static_cast<int>(lanes_.size());
    threads_->run(count + 1, [&](int i) {
      if (i == count) return meanwhile();
      Lane& lane = *lanes_[static_cast<std::size_t>(i)];
      clear(lane.gradient);
      lane.losses = {};
      for (auto s = static_cast<std::size_t>(i); s < now_.shares.size(); s += lanes_.size()) {
        Share& share = now_.shares[s];
        if (share.examples.empty()) continue;
        if (!now_.staged) stage(share);
        const auto run = [&](const auto& what) { return (*objective_)(*model_, what, now_.total, dropout.fold(s), lane.workspace, lane.gradient); };
        if constexpr (stages)
          lane.losses += run(share.staged);
        else
          lane.losses += run(share.examples);
      }
    });
  }

  /// The next batch dealt and staged. An error there is left to the step that needs it, and meets it again.
  std::span<const Example> made_ready(std::span<const Example> examples) noexcept {
    try {
      deal(examples, next_);
      for (Share& share : next_.shares) stage(share);
      next_.staged = true;
      return examples;
    } catch (...) {
      return {};
    }
  }

  void stage(Share& share) const {
    if constexpr (stages) objective_->stage(share.examples, share.staged);
  }

  std::pair<double, double> size_and_cost(const Example& e) const {
    if constexpr (requires { objective_->size_and_cost(e); })
      return objective_->size_and_cost(e);
    else
      return {objective_->size(e), objective_->cost(e)};
  }

  void deal(std::span<const Example> examples, Dealt& to) {
    to.total = 0;
    to.staged = false;
    const auto slices = static_cast<std::size_t>(slices_), size = (examples.size() + slices - 1) / slices;
    for (std::size_t s = 0; s < slices; ++s) {
      const std::size_t first = std::min(s * size, examples.size());
      deal(examples.subspan(first, std::min(size, examples.size() - first)), to.total, std::span(to.shares).subspan(s * lanes_.size(), lanes_.size()));
    }
  }
  /// The costliest example first, each to the lane with the least so far. Adds their sizes to `total`.
  void deal(std::span<const Example> examples, double& total, std::span<Share> lanes) {
    by_cost_.clear();
    for (const Example& e : examples) {
      const auto [own, cost] = size_and_cost(e);
      total += own;
      by_cost_.emplace_back(cost, &e);
    }
    std::sort(by_cost_.begin(), by_cost_.end(), [](const auto& a, const auto& b) {  // examples of one cost: as they came
      return a.first != b.first ? a.first > b.first : a.second < b.second;
    });
    load_.assign(lanes.size(), 0);
    for (Share& lane : lanes) lane.examples.clear();
    for (const auto& [cost, example] : by_cost_) {
      const auto least = std::min_element(load_.begin(), load_.end()) - load_.begin();
      load_[static_cast<std::size_t>(least)] += cost;
      lanes[static_cast<std::size_t>(least)].examples.push_back(example);
    }
  }

  Model* model_;
  const Objective* objective_;
  LinearSchedule schedule_;
  Seed seed_;
  Threads* threads_;
  int slices_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  ParameterList<typename Backend::Tensor, typename Backend::Tensor> gradients_;  // of two lanes
  Dealt now_, next_;                      // the batch at hand, and the next
  std::span<const Example> announced_;    // what next_ is, if anything
  std::vector<std::pair<double, const Example*>> by_cost_;  // of the slice at hand, kept for its memory
  std::vector<double> load_;
};

}  // namespace relay
