// FeedForward: y = GELU(x Wu^T + bu) Wd^T + bd.
//
// The trace keeps the values before GELU. Those after it, which the gradient of Wd needs, backward makes again, beside the slope: to read
// them from memory would take as long, and they would be a quarter of a transformer's trace. (A backend may want it otherwise:
// keeps_activated.)
#pragma once

#include <relay/core/require.hpp>
#include <relay/layer/linear.hpp>

namespace relay {

template <class B>
struct FeedForward {
  using Backend = B;
  using Tensor = typename B::Tensor;
  using Input = Tensor;
  using Output = Tensor;
  struct Trace {
    Tensor hidden, activated;  // what the backend keeps of the hidden values (ComposedOps::feed_forward)
    Tensor y;                  // [rows, width]
    bool forward_only = false;
  };

  Linear<B> up, down;

  FeedForward(int width, int hidden, Key key, typename B::Device device = {})
      : up(width, hidden, key.fold(0), device), down(hidden, width, key.fold(1), device) {}

  static const Tensor& output(const Trace& trace) { return trace.y; }
  static void each(auto&& visit, auto&... layer) {
    visit("up", layer.up...);
    visit("down", layer.down...);
  }

  const Tensor& forward(const Tensor& x, const Rows<B>& rows, Trace& trace) const {
    apply(x, rows, trace, trace.y);
    return trace.y;
  }
  /// The same, with y where the caller wants it: backward does not need it.
  void apply(const Tensor& x, const Rows<B>& rows, Trace& trace, Tensor& y) const {
    trace.forward_only = rows.is_forward_only();
    B::feed_forward(x, up, down, trace.forward_only, trace.hidden, trace.activated, y);
  }

  Tensor backward(const Tensor& x, const Rows<B>&, const Trace& trace, const Tensor& dy, FeedForward& grad) const {
    require(!trace.forward_only, "this trace is of a pass that was forward only: run forward again, with rows that are not");
    Tensor dx;
    B::feed_forward_backward(x, trace.hidden, trace.activated, up, down, dy, dx, grad.up, grad.down);
    return dx;
  }
};

}  // namespace relay
