// Stack<Layer>: layers of one type one after another, as many as are wanted at run time.
//
// In a pass that is forward only two traces take turns: what they hold stays in the processor's cache.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include <relay/core/concepts.hpp>
#include <relay/layer/layer_norm.hpp>
#include <relay/layer/lookup.hpp>

namespace relay {

template <class L>
struct Stack {
  static_assert(Block<L>, "relay: only a Block can be stacked: a Layer whose Output is the same type as its Input");
  using Backend = typename L::Backend;
  using Tensor = typename Backend::Tensor;
  using Input = typename L::Input;
  using Output = Input;
  struct Trace {
    std::vector<typename L::Trace> layers;  // two in turn, in a pass that is forward only
    std::size_t last = 0;                   // the one with the output
  };

  std::vector<L> layers;

  /// At least one layer.
  explicit Stack(std::vector<L> given) : layers(std::move(given)) {
    require(!layers.empty(), "a stack needs at least one layer");
  }

  static constexpr bool gives_needed_rows = GivesNeededRows<L>;
  static const Output& output(const Trace& trace) { return L::output(trace.layers[trace.last]); }
  static void each(auto&& visit, auto&... stack) { visit("layers", stack.layers...); }

  const Output& forward(const Input& x, const Rows<Backend>& rows, Trace& trace) const { return apply(x, rows, trace); }
  /// With the norm that reads what it gives, and, if its rows are looked up, where x comes from.
  const Output& forward(const Input& x, const Rows<Backend>& rows, Trace& trace, NextNorm<Backend> next, const Lookup<Backend>* of = nullptr) const
    requires requires(const L& layer, typename L::Trace& own) { layer.place_first_norm(own); }
  {
    return apply(x, rows, trace, next, of);
  }

  /// `next`: what the gradient of x meets next, if it is known (dropping() of the block before).
  Input backward(const Input& x, const Rows<Backend>& rows, const Trace& trace, const Output& dy, Stack& grad,
                 const std::optional<Dropping>& next = {}) const {
    return back_to_first(rows, trace, dy, grad, [&](const Output& given) -> Input {
      if constexpr (requires { layers[0].dropping(rows); })
        return layers[0].backward(x, rows_of(0, rows), trace.layers[0], given, grad.layers[0], next);
      else
        return layers[0].backward(x, rows_of(0, rows), trace.layers[0], given, grad.layers[0]);
    });
  }
  /// Of x whose rows were looked up: a part of its gradient, and, added to dtable, the rest.
  Input backward(const Lookup<Backend>& of, const Rows<Backend>& rows, const Trace& trace, const Output& dy, Stack& grad, typename Backend::Tensor& dtable) const
    requires requires(const L& layer, typename L::Trace& own) { layer.place_first_norm(own); }
  {
    return back_to_first(rows, trace, dy, grad,
                         [&](const Output& given) { return layers[0].backward(of, rows_of(0, rows), trace.layers[0], given, grad.layers[0], dtable); });
  }
  /// What its backward pass does first with the gradient of its output.
  Dropping dropping(const Rows<Backend>& rows) const
    requires requires(const L& layer) { layer.dropping(rows); }
  {
    return layers.back().dropping(rows.fold(layers.size() - 1));
  }

 private:
  /// Its own stream of random numbers; and all rows, but of the last layer, whatever is needed of the output.
  Rows<Backend> rows_of(std::size_t layer, const Rows<Backend>& rows) const {
    return layer + 1 == layers.size() ? rows.fold(layer) : rows.fold(layer).needing_all();
  }
  const Output& apply(const Input& x, const Rows<Backend>& rows, Trace& trace, NextNorm<Backend> next = {}, const Lookup<Backend>* of = nullptr) const {
    const std::size_t kept = rows.is_forward_only() ? std::min<std::size_t>(layers.size(), 2) : layers.size();  // so many take turns
    if (trace.layers.size() < kept) trace.layers.resize(kept);
    const Input* h = &x;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      trace.last = i % kept;
      typename L::Trace& own = trace.layers[trace.last];
      if constexpr (requires { layers[i].place_first_norm(own); }) {
        const auto then = i + 1 < layers.size() ? layers[i + 1].place_first_norm(trace.layers[(i + 1) % kept]) : next;
        h = i == 0 && of != nullptr ? &layers[i].forward(*h, *of, rows_of(i, rows), own, then) : &layers[i].forward(*h, rows_of(i, rows), own, then, i > 0);
      } else {
        h = &layers[i].forward(*h, rows_of(i, rows), own);
      }
    }
    return *h;
  }
  /// Backward through all layers but the first, which first(the gradient of its output) does.
  Input back_to_first(const Rows<Backend>& rows, const Trace& trace, const Output& dy, Stack& grad, auto&& first) const {
    require(trace.last + 1 == layers.size(), "this trace is of a pass that was forward only: run forward again, with rows that are not");
    Input d;
    for (std::size_t i = layers.size(); --i > 0;) {
      const Input& from = L::output(trace.layers[i - 1]);
      const Output& given = i + 1 == layers.size() ? dy : d;
      if constexpr (requires { layers[i].dropping(rows); })
        d = layers[i].backward(from, rows_of(i, rows), trace.layers[i], given, grad.layers[i], std::optional(layers[i - 1].dropping(rows_of(i - 1, rows))));
      else
        d = layers[i].backward(from, rows_of(i, rows), trace.layers[i], given, grad.layers[i]);
    }
    return first(layers.size() == 1 ? dy : d);
  }
};

}  // namespace relay
