// FeedForward: y = GELU(x Wu^T + bu) Wd^T + bd.
//
// The trace keeps the values after GELU, which the gradient of Wd needs, and in the place of those before it what the backend wants
// for its gradient.
#pragma once

#include <relay/layer/linear.hpp>

namespace relay {

template <class B>
struct FeedForward {
  using Backend = B;
  using Tensor = typename B::Tensor;
  using Input = Tensor;
  using Output = Tensor;
  struct Trace {
    typename Linear<B>::Trace up;    // [rows, hidden]: what gelu made of it
    Tensor activated;                // [rows, hidden]
    typename Linear<B>::Trace down;  // [rows, width]
  };

  Linear<B> up, down;

  FeedForward(int width, int hidden, Key key, typename B::Device device = {})
      : up(width, hidden, key.fold(0), device), down(hidden, width, key.fold(1), device) {}

  static const Tensor& output(const Trace& trace) { return Linear<B>::output(trace.down); }
  static void each(auto&& visit, auto&... layer) {
    visit("up", layer.up...);
    visit("down", layer.down...);
  }

  const Tensor& forward(const Tensor& x, const Rows<B>& rows, Trace& trace) const {
    return down.forward(activate(x, rows, trace), rows, trace.down);
  }
  /// All of forward but its last product: backward needs nothing of the trace that is behind it.
  const Tensor& activate(const Tensor& x, const Rows<B>& rows, Trace& trace) const {
    up.forward(x, rows, trace.up);
    if (rows.is_forward_only()) {
      B::gelu(trace.up.y, trace.up.y);
      return trace.up.y;
    }
    B::gelu_kept(trace.up.y, trace.activated);
    return trace.activated;
  }

  Tensor backward(const Tensor& x, const Rows<B>& rows, const Trace& trace, const Tensor& dy, FeedForward& grad) const {
    Tensor d = down.backward(trace.activated, rows, trace.down, dy, grad.down);
    B::gelu_backward(trace.up.y, d, d);
    return up.backward(x, rows, trace.up, d, grad.up);
  }
};

}  // namespace relay
