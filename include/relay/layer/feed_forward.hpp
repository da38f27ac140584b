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
    typename Linear<B>::Trace up;    // [rows, hidden]; after GELU, where the pass is forward only
    Tensor activated;                // [rows, hidden], where the backend keeps it
    typename Linear<B>::Trace down;  // [rows, width]
    bool forward_only = false;
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
    Tensor room;
    return down.forward(activate(x, rows, trace, room), rows, trace.down);
  }
  /// All of forward but its last product, whose input lies in the trace or in `room`: backward needs nothing of the trace behind it.
  const Tensor& activate(const Tensor& x, const Rows<B>& rows, Trace& trace, Tensor& room) const {
    trace.forward_only = rows.is_forward_only();
    if (B::keeps_activated && !trace.forward_only) B::place_input(down.weight, trace.activated);
    Tensor& activated = trace.forward_only ? trace.up.y : B::keeps_activated ? trace.activated : room;
    B::linear_gelu(x, up.weight, up.bias, trace.up.y, activated);
    return activated;
  }

  Tensor backward(const Tensor& x, const Rows<B>& rows, const Trace& trace, const Tensor& dy, FeedForward& grad) const {
    require(!trace.forward_only, "this trace is of a pass that was forward only: run forward again, with rows that are not");
    Tensor d;
    B::place_gradient(up.weight, d);
    B::gelu_linear_backward(trace.up.y, trace.activated, down.weight, dy, d, grad.down.weight, grad.down.bias);
    return up.backward(x, rows, trace.up, d, grad.up);
  }
};

}  // namespace relay
