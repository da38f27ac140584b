// Linear: y = x W^T + b.    dx = dy W    dW += dy^T x    db += sum over rows of dy
//
// weight [outputs, inputs], bias [1, outputs], as in PyTorch, and initialised as there: uniform within 1 / sqrt(inputs).
// Backward needs only x, which the caller has; the trace is the output.
#pragma once

#include <cmath>

#include <relay/core/concepts.hpp>
#include <relay/layer/initialise.hpp>

namespace relay {

template <class B>
struct Linear {
  using Backend = B;
  using Tensor = typename B::Tensor;
  using Input = Tensor;
  using Output = Tensor;
  struct Trace {
    Tensor y;  // [rows, outputs]
  };

  Tensor weight, bias;

  Linear(int inputs, int outputs, Key key, typename B::Device device = {})
      : weight(outputs, inputs, device), bias(1, outputs, device) {
    const double bound = 1 / std::sqrt(static_cast<double>(inputs));
    initialise_uniform<B>(weight, bound, key.fold(0));
    initialise_uniform<B>(bias, bound, key.fold(1));
  }

  static const Tensor& output(const Trace& trace) { return trace.y; }
  static void each(auto&& visit, auto&... layer) {
    visit("weight", layer.weight...);
    visit("bias", layer.bias...);
  }

  int inputs() const { return weight.cols(); }
  int outputs() const { return weight.rows(); }

  const Tensor& forward(const Tensor& x, const Rows<B>&, Trace& trace) const {
    B::linear(x, weight, bias, trace.y);
    return trace.y;
  }

  Tensor backward(const Tensor& x, const Rows<B>&, const Trace&, const Tensor& dy, Linear& grad) const {
    Tensor dx;
    B::linear_backward(x, weight, dy, dx, grad.weight, grad.bias);
    return dx;
  }
};

}  // namespace relay
