// Chain<First, Rest...>: layers of different types one after another, y = rest(first(x)).
//
// A nested pair, not a tuple: it compiles several times faster. `chain(a, b, c)` builds one. For many layers of one type,
// whose number is known only at run time, see Stack.
#pragma once

#include <utility>

#include <relay/core/concepts.hpp>

namespace relay {

template <Layer First, Layer... Rest>
struct Chain;

template <Layer Last>
struct Chain<Last> {
  using Backend = typename Last::Backend;
  using Input = typename Last::Input;
  using Output = typename Last::Output;
  using Trace = typename Last::Trace;

  Last last;

  explicit Chain(Last layer) : last(std::move(layer)) {}
  static const Output& output(const Trace& trace) { return Last::output(trace); }
  static void each(auto&& visit, auto&... chain) { visit("last", chain.last...); }

  const Output& forward(const Input& x, const Rows<Backend>& rows, Trace& trace) const { return last.forward(x, rows, trace); }
  Input backward(const Input& x, const Rows<Backend>& rows, const Trace& trace, const Output& dy, Chain& grad) const {
    return last.backward(x, rows, trace, dy, grad.last);
  }
};

template <Layer First, Layer Second, Layer... Rest>
struct Chain<First, Second, Rest...> {
  static_assert(std::same_as<typename First::Output, typename Second::Input>,
                "relay: in a Chain, each layer's Output must be the next layer's Input");
  using Tail = Chain<Second, Rest...>;
  using Backend = typename First::Backend;
  using Input = typename First::Input;
  using Output = typename Tail::Output;
  struct Trace {
    typename First::Trace first;
    typename Tail::Trace rest;
  };

  First first;
  Tail rest;

  Chain(First head, Second second, Rest... tail) : first(std::move(head)), rest(std::move(second), std::move(tail)...) {}

  static const Output& output(const Trace& trace) { return Tail::output(trace.rest); }
  static void each(auto&& visit, auto&... chain) {
    visit("first", chain.first...);
    visit("rest", chain.rest...);
  }

  const Output& forward(const Input& x, const Rows<Backend>& rows, Trace& trace) const {
    return rest.forward(first.forward(x, rows.fold(0), trace.first), rows.fold(1), trace.rest);
  }

  Input backward(const Input& x, const Rows<Backend>& rows, const Trace& trace, const Output& dy, Chain& grad) const {
    const auto d = rest.backward(First::output(trace.first), rows.fold(1), trace.rest, dy, grad.rest);
    return first.backward(x, rows.fold(0), trace.first, d, grad.first);
  }
};

template <Layer... Layers>
Chain<Layers...> chain(Layers... layers) {
  return Chain<Layers...>(std::move(layers)...);
}

}  // namespace relay
