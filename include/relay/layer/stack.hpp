// Stack<Layer>: layers of one type one after another, as many as are wanted at run time.
#pragma once

#include <utility>
#include <vector>

#include <relay/core/concepts.hpp>

namespace relay {

template <class L>
struct Stack {
  static_assert(Block<L>, "relay: only a Block can be stacked: a Layer whose Output is the same type as its Input");
  using Backend = typename L::Backend;
  using Tensor = typename Backend::Tensor;
  using Input = typename L::Input;
  using Output = Input;
  struct Trace {
    std::vector<typename L::Trace> layers;
  };

  std::vector<L> layers;

  /// At least one layer.
  explicit Stack(std::vector<L> given) : layers(std::move(given)) {
    require(!layers.empty(), "a stack needs at least one layer");
  }

  static const Output& output(const Trace& trace) { return L::output(trace.layers.back()); }
  static void each(auto&& visit, auto&... stack) { visit("layers", stack.layers...); }

  const Output& forward(const Input& x, const Rows<Backend>& rows, Trace& trace) const {
    trace.layers.resize(layers.size());
    const Input* h = &x;
    for (std::size_t i = 0; i < layers.size(); ++i) h = &layers[i].forward(*h, rows.fold(i), trace.layers[i]);
    return *h;
  }

  Input backward(const Input& x, const Rows<Backend>& rows, const Trace& trace, const Output& dy, Stack& grad) const {
    Input d;
    for (std::size_t i = layers.size(); i-- > 0;)
      d = layers[i].backward(i == 0 ? x : L::output(trace.layers[i - 1]), rows.fold(i), trace.layers[i],
                             i + 1 == layers.size() ? dy : d, grad.layers[i]);
    return d;
  }
};

}  // namespace relay
