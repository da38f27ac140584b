// LayerNorm (Ba, Kiros & Hinton 2016): y = scale * (x - mean) / sqrt(variance + 1e-5) + shift, per row.
//
// With n = (x - mean) rstd and g = dy scale:  dx = rstd (g - mean(g) - n mean(g n)),  dscale += sum dy n,  dshift += sum dy.
// The trace keeps mean and rstd of each row; n is made again from x. Saved under PyTorch's names, weight and bias.
#pragma once

#include <optional>

#include <relay/backend/ops.hpp>
#include <relay/core/concepts.hpp>
#include <relay/layer/initialise.hpp>

namespace relay {

template <class B>
struct LayerNorm {
  using Backend = B;
  using Tensor = typename B::Tensor;
  using Input = Tensor;
  using Output = Tensor;
  struct Trace {
    Tensor y;           // [rows, width]
    Tensor statistics;  // [rows, 2]: mean, rstd
  };
  static constexpr double epsilon = 1e-5;

  Tensor weight, bias;  // [1, width]

  explicit LayerNorm(int width, typename B::Device device = {}) : weight(1, width, device), bias(1, width, device) {
    B::fill(weight, 1);
    B::fill(bias, 0);
  }

  static const Tensor& output(const Trace& trace) { return trace.y; }
  static void each(auto&& visit, auto&... layer) {
    visit("weight", layer.weight...);
    visit("bias", layer.bias...);
  }

  const Tensor& forward(const Tensor& x, const Rows<B>&, Trace& trace) const {
    B::layer_norm(x, weight, bias, epsilon, trace.y, trace.statistics);
    return trace.y;
  }

  Tensor backward(const Tensor& x, const Rows<B>&, const Trace& trace, const Tensor& dy, LayerNorm& grad) const {
    Tensor dx;
    B::layer_norm_backward(x, trace.statistics, weight, dy, dx, grad.weight, grad.bias);
    return dx;
  }

  // With a residual before it and around it, in one pass each.
  /// Of r = x + dropout(branch), which is written, too.
  const Tensor& forward(const Tensor& x, const Tensor& branch, double rate, const std::optional<Key>& key, Tensor& r, Trace& trace) const {
    B::residual_norm(x, branch, rate, key, weight, bias, epsilon, r, trace.y, trace.statistics);
    return trace.y;
  }
  /// Of r = x + dropout(branch(in)), a linear layer; `room`: for what this gives.
  const Tensor& forward(const auto& branch, const Tensor& in, const Tensor& x, double rate, const std::optional<Key>& key, Tensor& room, Tensor& r,
                        Trace& trace) const {
    B::linear_residual_norm(in, branch.weight, branch.bias, x, rate, key, weight, bias, epsilon, room, r, trace.y, trace.statistics);
    return trace.y;
  }
  /// With the gradient `skip` that goes around it, and the dropout that comes next, if it is known.
  Tensor backward(const Tensor& x, const Trace& trace, const Tensor& dy, const Tensor& skip, LayerNorm& grad,
                  const std::optional<Dropping>& next = {}) const {
    Tensor dx;
    B::layer_norm_backward_add(x, trace.statistics, weight, dy, skip, dx, grad.weight, grad.bias, next);
    return dx;
  }
  /// The same with a skip of the first rows only.
  Tensor backward_first(const Tensor& x, const Trace& trace, const Tensor& dy, const Tensor& skip, LayerNorm& grad,
                        const std::optional<Dropping>& next = {}) const {
    Tensor dx;
    B::layer_norm_backward_add_first(x, trace.statistics, weight, dy, skip, dx, grad.weight, grad.bias, next);
    return dx;
  }
};

/// The norm that reads what a block gives, if it is known, and its trace: a block that ends with a residual writes both in one pass.
template <class B>
struct NextNorm {
  const LayerNorm<B>* norm = nullptr;
  typename LayerNorm<B>::Trace* trace = nullptr;
};

}  // namespace relay
