// The rows of hidden states that a head is asked about, with their targets and weights: gathered, read by the head once, and
// the gradient put back. All iterations of a loop are gathered into one product.
#pragma once

#include <functional>
#include <vector>

#include <relay/layer/linear.hpp>

namespace relay {

template <class B>
class AskedRows {
 public:
  using Tensor = typename B::Tensor;
  using Index = std::int32_t;

  /// `iterations`: how many states will be gathered from (a causal model: 1).
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
  /// All has been asked: numbers the rows, iteration after iteration.
  void finish(const typename B::Device& device, int width) {
    targets_.clear();
    weights_.clear();
    for (std::size_t i = 0; i < iterations_; ++i) {
      Asked& asked = asked_[i];
      asked.first = static_cast<int>(targets_.size());
      targets_.insert(targets_.end(), asked.targets.begin(), asked.targets.end());
      weights_.insert(weights_.end(), asked.weights.begin(), asked.weights.end());
      B::indices_to(asked.rows, device, asked.on_device);
    }
    B::indices_to(targets_, device, targets_on_device_);
    gathered_.resize(static_cast<int>(targets_.size()), width, device);
  }

  void gather(int t, const Tensor& state) {
    const Asked& asked = asked_[static_cast<std::size_t>(t - 1)];
    if (!asked.rows.empty()) B::gather_rows(state, asked.on_device, asked.first, gathered_);
  }

  /// Cross-entropy of the head's logits; adds the head's gradient to `grad`.
  void learn(const Linear<B>& head, Linear<B>& grad) {
    if (targets_.empty()) return;
    B::logits(gathered_, head.weight, head.bias, logits_);
    B::softmax_cross_entropy(logits_, targets_on_device_, weights_, losses_);
    reading_.begin(losses_);
    B::logits_backward(gathered_, head.weight, logits_, dgathered_, grad.weight, grad.bias);
  }
  /// Calls see(target, weight, loss, right) for every row that was learned, in order. The host waits for the losses, and not for what the
  /// device was asked for after learn(): best when everything else has been.
  void read(auto&& see) {
    if (targets_.empty()) return;
    const auto read = reading_.values();
    for (std::size_t i = 0; i < targets_.size(); ++i)
      see(targets_[i], weights_[i], static_cast<double>(read[2 * i]), read[2 * i + 1] != 0);
  }

  /// Adds the gradient of iteration t's rows to its state's.
  void scatter(int t, Tensor& dstate) const {
    const Asked& asked = asked_[static_cast<std::size_t>(t - 1)];
    if (!asked.rows.empty()) B::scatter_rows(dgathered_, asked.first, asked.on_device, dstate);
  }

 private:
  struct Asked {  // of one iteration
    std::vector<Index> rows, targets;
    std::vector<double> weights;
    typename B::Indices on_device;  // rows
    int first = 0;                  // its place among all
  };
  std::vector<Asked> asked_;
  std::size_t iterations_ = 0;    // of asked_ that are in use
  std::vector<Index> targets_;    // of all iterations, one after another
  std::vector<double> weights_;
  typename B::Indices targets_on_device_;
  typename B::template Reading<Tensor, typename B::Scalar> reading_;  // losses_, on the host
  Tensor gathered_, logits_, losses_, dgathered_;
};

}  // namespace relay
