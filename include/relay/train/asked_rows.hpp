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
    rows_.assign(static_cast<std::size_t>(iterations), {});
    targets_.assign(rows_.size(), {});
    weights_.assign(rows_.size(), {});
  }
  /// Asks row `row` of iteration t for `target`.
  void ask(int t, int row, Index target, double weight) {
    const auto i = static_cast<std::size_t>(t - 1);
    rows_[i].push_back(row);
    targets_[i].push_back(target);
    weights_[i].push_back(weight);
  }
  /// All has been asked: numbers the rows, iteration after iteration.
  void finish(const typename B::Device& device, int width) {
    first_.clear();
    all_targets_.clear();
    all_weights_.clear();
    on_device_.clear();
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      first_.push_back(static_cast<int>(all_targets_.size()));
      all_targets_.insert(all_targets_.end(), targets_[i].begin(), targets_[i].end());
      all_weights_.insert(all_weights_.end(), weights_[i].begin(), weights_[i].end());
      on_device_.push_back(B::indices(rows_[i], device));
    }
    gathered_.resize(static_cast<int>(all_targets_.size()), width, device);
  }

  void gather(int t, const Tensor& state) {
    const auto i = static_cast<std::size_t>(t - 1);
    if (!rows_[i].empty()) B::gather_rows(state, on_device_[i], first_[i], gathered_);
  }

  /// Cross-entropy of the head's logits; adds the head's gradient to `grad` and calls see(target, weight, loss, right) for
  /// every row, in order.
  void learn(const Linear<B>& head, Linear<B>& grad, auto&& see) {
    if (all_targets_.empty()) return;
    B::linear(gathered_, head.weight, head.bias, logits_);
    B::softmax_cross_entropy(logits_, B::indices(all_targets_, gathered_.device()), all_weights_, losses_);
    B::linear_backward(gathered_, head.weight, logits_, dgathered_, grad.weight, grad.bias);
    const auto losses = B::download(losses_);
    for (std::size_t i = 0; i < all_targets_.size(); ++i)
      see(all_targets_[i], all_weights_[i], static_cast<double>(losses[2 * i]), losses[2 * i + 1] != 0);
  }

  /// Adds the gradient of iteration t's rows to its state's.
  void scatter(int t, Tensor& dstate) const {
    const auto i = static_cast<std::size_t>(t - 1);
    if (!rows_[i].empty()) B::scatter_rows(dgathered_, first_[i], on_device_[i], dstate);
  }

 private:
  std::vector<std::vector<Index>> rows_, targets_;
  std::vector<std::vector<double>> weights_;
  std::vector<int> first_;
  std::vector<Index> all_targets_;
  std::vector<double> all_weights_;
  std::vector<typename B::Indices> on_device_;
  Tensor gathered_, logits_, losses_, dgathered_;
};

}  // namespace relay
