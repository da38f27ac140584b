// The nouns of the library, on one page: Layer and Block. What a Backend is: backend/backend.hpp; a Task:
// task/example.hpp; Supervision: train/supervision.hpp.
//
// A layer is its parameters. What one application must remember for its backward pass is a value of its own, the layer's
// `Trace`. `forward` is const, so the same layer can be applied many times: that is all a loop needs.
#pragma once

#include <concepts>

#include <relay/core/ragged.hpp>

namespace relay {

/// A differentiable map from Input to Output with parameters. Promises:
///  1. `forward(x, rows, trace)` depends only on the layer, x and rows (their random key included); it overwrites `trace`
///     completely and returns its output, which lives in the trace: `Layer::output(trace)` finds it there.
///  2. Applications with distinct traces never interfere; the same arguments give the same bits.
///  3. `backward(x, rows, trace, dy, grad)` adds to `grad`, never assigns, and returns dx. x, rows and trace are those of forward.
///  4. `grad` is another value of the layer's own type; `Layer::each` names its parameters (core/parameters.hpp).
///  5. Where `rows.is_forward_only()`, the output has the same bits, and the trace need not hold anything else: who composes layers
///     may read no more of their traces then, and no backward pass follows.
/// Not promised: that forward of one thread may share a trace with another.
template <class L>
concept Layer = requires {
  typename L::Backend;
  typename L::Input;
  typename L::Output;
  typename L::Trace;
} && requires(const L& layer, const typename L::Input& x, const Rows<typename L::Backend>& rows, typename L::Trace& trace,
              const typename L::Output& dy, L& grad) {
  { layer.forward(x, rows, trace) } -> std::same_as<const typename L::Output&>;
  { L::output(trace) } -> std::same_as<const typename L::Output&>;
  { layer.backward(x, rows, trace, dy, grad) } -> std::same_as<typename L::Input>;
};

/// A layer that, where rows say which of them are needed, gives those alone: its output and dy then have rows.outputs() rows, and its dx
/// all of them. It says so by `static constexpr bool gives_needed_rows = true`. To others such rows are not given, but for its parts that work row
/// by row, whose x has the rows that are needed alone.
template <class L>
concept GivesNeededRows = requires { requires L::gives_needed_rows; };

/// A layer whose output is again a possible input, row for row: what may be looped.
template <class L>
concept Block = Layer<L> && std::same_as<typename L::Input, typename L::Output>;

}  // namespace relay
