// The rows of hidden states that a head is asked about, with their targets and weights: gathered, read by the head once, and
// the gradient put back. All iterations of a loop are gathered into one product. What is asked is the host's part, and made before.
#pragma once

#include <functional>
#include <utility>
#include <vector>

#include <relay/core/require.hpp>
#include <relay/layer/linear.hpp>

namespace relay {

/// What is asked: which rows of which iterations, for what, and how much each counts. Made by the host, before its turn comes.
class Questions {
 public:
  using Index = std::int32_t;

  /// `iterations`: how many states will be asked (a causal model: 1).
  void start(int iterations) {
    iterations_ = static_cast<std::size_t>(iterations);
    if (asked_.size() < iterations_) asked_.resize(iterations_);  // never fewer: their lists keep their memory
    for (std::size_t i = 0; i < iterations_; ++i) {
      asked_[i].rows.clear();
      asked_[i].targets.clear();
      asked_[i].weights.clear();
    }
  }
  /// Asks row `row` of iteration t for `target`.
  void ask(int t, int row, Index target, double weight) {
    Asked& asked = asked_[static_cast<std::size_t>(t - 1)];
    asked.rows.push_back(row);
    asked.targets.push_back(target);
    asked.weights.push_back(weight);
  }
  /// All has been asked: one iteration after another.
  void finish() {
    firsts_.assign(1, 0);
    rows_.clear();
    targets_.clear();
    weights_.clear();
    for (std::size_t i = 0; i < iterations_; ++i) {
      const Asked& asked = asked_[i];
      rows_.insert(rows_.end(), asked.rows.begin(), asked.rows.end());
      targets_.insert(targets_.end(), asked.targets.begin(), asked.targets.end());
      weights_.insert(weights_.end(), asked.weights.begin(), asked.weights.end());
      firsts_.push_back(static_cast<int>(rows_.size()));
    }
  }

  /// Of iteration t, before finish().
  std::vector<Index>& rows(int t) { return asked_[static_cast<std::size_t>(t - 1)].rows; }

  const std::vector<Index>& rows() const { return rows_; }
  const std::vector<Index>& targets() const { return targets_; }
  const std::vector<double>& weights() const { return weights_; }
  /// Of each iteration, which of all is its first; and how many there are.
  const std::vector<int>& firsts() const { return firsts_; }

 private:
  struct Asked {  // of one iteration
    std::vector<Index> rows, targets;
    std::vector<double> weights;
  };
  std::vector<Asked> asked_;
  std::size_t iterations_ = 0;  // of asked_ that are in use
  std::vector<Index> rows_, targets_;
  std::vector<double> weights_;
  std::vector<int> firsts_{0};
};

template <class B>
class AskedRows {
 public:
  using Tensor = typename B::Tensor;

  /// A row counts as its weight, over `total`. The questions stay as they are until read().
  void begin(const Questions& questions, double total, const typename B::Device& device) {
    questions_ = &questions;
    weights_.resize(questions.weights().size());
    for (std::size_t i = 0; i < weights_.size(); ++i) weights_[i] = questions.weights()[i] / total;
    on_device_.assign(questions.rows(), questions.firsts(), device);
    B::indices_to(questions.targets(), device, targets_on_device_);
    has_room_ = false;
  }

  void gather(int t, const Tensor& state) {
    if (!std::exchange(has_room_, true)) B::make_room(state, static_cast<int>(weights_.size()), gathered_);
    if (const auto [i, first, count] = part(t); count > 0) B::gather_rows(state, on_device_[i], first, gathered_);
  }

  /// Cross-entropy of the head's logits; adds the head's gradient to `grad`.
  void learn(const Linear<B>& head, Linear<B>& grad) {
    if (weights_.empty()) return B::make_room(gathered_, 0, dgathered_);
    for (const Questions::Index target : questions_->targets())
      require(target >= 0 && target < head.outputs(), "the model is to learn token ", target, ", and its head tells ", head.outputs(),
              " apart: build the model with as many tokens as the task has");
    B::logits(gathered_, head.weight, head.bias, logits_);
    B::softmax_cross_entropy(logits_, targets_on_device_, weights_, losses_);
    reading_.begin(losses_);
    B::logits_backward(gathered_, head.weight, logits_, dgathered_, grad.weight, grad.bias);
  }
  /// Calls see(target, weight, loss, right) for every row that was learned, in order. The host waits for the losses, and not for what the
  /// device was asked for after learn(): best when everything else has been.
  void read(auto&& see) {
    if (weights_.empty()) return;
    const auto read = reading_.values();
    for (std::size_t i = 0; i < weights_.size(); ++i)
      see(questions_->targets()[i], weights_[i], static_cast<double>(read[2 * i]), read[2 * i + 1] != 0);
  }

  /// Adds the gradient of iteration t's rows to its state's.
  void scatter(int t, Tensor& dstate) const {
    if (const auto [i, first, count] = part(t); count > 0) B::scatter_rows(dgathered_, first, on_device_[i], dstate);
  }

  /// The same where all the rest of it is zeros: dstate [rows, width] is written.
  void spread(int t, int rows, Tensor& dstate) const {
    const auto [i, first, count] = part(t);
    B::spread_rows(dgathered_, first, on_device_[i], rows, dstate);
  }

 private:
  /// An iteration's list, its place among all, and how many it has.
  struct Part {
    std::size_t list;
    int first, count;
  };
  Part part(int t) const {
    const auto i = static_cast<std::size_t>(t - 1);
    const std::vector<int>& firsts = questions_->firsts();
    return {i, firsts[i], firsts[i + 1] - firsts[i]};
  }

  const Questions* questions_ = nullptr;
  std::vector<double> weights_;  // over the total
  typename B::template IndexLists<typename B::Indices> on_device_;
  typename B::Indices targets_on_device_;
  typename B::template Reading<Tensor, typename B::Scalar> reading_;  // losses_, on the host
  Tensor gathered_, logits_, losses_, dgathered_;
  bool has_room_ = false;  // gathered_, for all of these
};

}  // namespace relay
