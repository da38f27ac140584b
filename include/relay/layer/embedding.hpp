// Embedding: row i of y is row token[i] of the table.    dtable[token[i]] += dy[i]
//
// weight [vocabulary, width], normal with deviation 0.5. Tokens have no gradient, so backward returns nothing, and nothing
// but the tokens, which the caller has, must be remembered.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>

#include <relay/core/concepts.hpp>
#include <relay/core/require.hpp>
#include <relay/layer/initialise.hpp>

namespace relay {

template <class B>
struct Embedding {
  using Backend = B;
  using Tensor = typename B::Tensor;
  using Input = typename B::Indices;
  using Output = Tensor;
  struct Trace {
    Tensor y;  // [rows, width]
  };

  Tensor weight;

  Embedding(int vocabulary, int width, Key key, typename B::Device device = {}) : weight(vocabulary, width, device) {
    initialise_normal<B>(weight, 0.5, key);
  }

  static const Tensor& output(const Trace& trace) { return trace.y; }
  static void each(auto&& visit, auto&... layer) { visit("weight", layer.weight...); }

  /// Throws, unless the table has a row for each of these. `where`: what the message begins with.
  void require_known(std::span<const std::int32_t> tokens, const auto&... where) const {
    for (std::size_t i = 0; i < tokens.size(); ++i)
      require(tokens[i] >= 0 && tokens[i] < weight.rows(), where..., "token ", tokens[i], " at place ", i, " is not one of the ", weight.rows(),
              " (from 0) that this model was built for: build it with as many as the task has");
  }

  /// (Tokens on a device are for whoever put them there to check.)
  const Tensor& forward(const Input& tokens, const Rows<B>& rows, Trace& trace) const {
    if constexpr (std::convertible_to<const Input&, std::span<const std::int32_t>>) require_known(tokens);
    trace.y.resize(rows.count(), weight.cols(), rows.batch().device());
    B::gather_rows(weight, tokens, 0, trace.y);
    return trace.y;
  }

  /// The table in a batch's own memory, where what is made of it is then, too.
  void copy_table(typename B::Device device, Tensor& table) const {
    table.resize(weight.rows(), weight.cols(), device);
    B::fill(table, 0);
    B::add(weight, table);
  }

  void backward(const Input& tokens, const Rows<B>&, const Trace&, const Tensor& dy, Embedding& grad) const {
    B::scatter_rows(dy, 0, tokens, grad.weight);
  }
};

}  // namespace relay
