// Residual: y = x + f(x).    dx = dy + df(x)
#pragma once

#include <relay/core/concepts.hpp>

namespace relay {

template <class Inner>
struct Residual {
  static_assert(Block<Inner>, "relay: x + f(x) needs a Block: a Layer whose Output is the same type as its Input");
  using Backend = typename Inner::Backend;
  using Tensor = typename Backend::Tensor;
  using Input = Tensor;
  using Output = Tensor;
  struct Trace {
    typename Inner::Trace inner;
    Tensor y;
  };

  Inner inner;

  explicit Residual(Inner layer) : inner(std::move(layer)) {}

  static const Tensor& output(const Trace& trace) { return trace.y; }
  static void each(auto&& visit, auto&... layer) { visit("inner", layer.inner...); }

  const Tensor& forward(const Tensor& x, const Rows<Backend>& rows, Trace& trace) const {
    Backend::copy(inner.forward(x, rows, trace.inner), trace.y);
    Backend::add(x, trace.y);
    return trace.y;
  }

  Tensor backward(const Tensor& x, const Rows<Backend>& rows, const Trace& trace, const Tensor& dy, Residual& grad) const {
    Tensor dx = inner.backward(x, rows, trace.inner, dy, grad.inner);
    Backend::add(dy, dx);
    return dx;
  }
};

}  // namespace relay
