// CausalTransformer: the auto-regressive model. tokens -> embedding -> causal transformer blocks -> norm -> head.
//
// The blocks are those of the looped model with another mask. The head is applied only to the rows that are asked for.
#pragma once

#include <relay/backend/backend.hpp>
#include <relay/layer/embedding.hpp>
#include <relay/layer/layer_norm.hpp>
#include <relay/layer/transformer_block.hpp>

namespace relay {

template <class B>
struct CausalTransformer {
  static_assert(ComputeBackend<B>, "relay: a Backend lacks a type or function that backend/backend.hpp lists");
  using Backend = B;
  using Tensor = typename B::Tensor;
  using Body = Stack<TransformerBlock<B>>;
  struct Trace {
    typename Embedding<B>::Trace embedding;
    Tensor table;  // of the embedding, where the first block looks up what it makes of its rows
    typename Body::Trace body;
    typename LayerNorm<B>::Trace norm;
  };

  Embedding<B> embedding;
  Body body;
  LayerNorm<B> norm;
  Linear<B> head;

  CausalTransformer(const TransformerConfig& config, int vocabulary, Seed seed, typename B::Device device = {})
      : embedding(vocabulary, config.width, Key(seed).fold(0), device),
        body(transformer_stack<B>(config, Mask::causal, Key(seed).fold(1), device)),
        norm(config.width, device),
        head(config.width, vocabulary, Key(seed).fold(2), device) {}

  static void each(auto&& visit, auto&... model) {
    visit("embedding", model.embedding...);
    visit("body", model.body...);
    visit("norm", model.norm...);
    visit("head", model.head...);
  }

  /// The longest sequence, prompt and what is written after it together.
  int positions() const { return body.layers.front().attention.positions(); }

  /// Whether what the first block does with each row before its attention is done once for each token of the vocabulary, and looked up: where
  /// these are fewer.
  bool looks_up(const Rows<B>& rows) const { return embedding.weight.rows() < rows.count(); }

  /// The normalised state of every row, or of those that are needed, [rows, width], which the head reads.
  const Tensor& forward(const typename B::Indices& tokens, const Rows<B>& rows, Trace& trace) const {
    const Tensor& x = embedding.forward(tokens, rows, trace.embedding);
    const Lookup<B> of{&trace.table, &tokens};
    if (looks_up(rows)) embedding.copy_table(rows.batch().device(), trace.table);
    body.forward(x, rows, trace.body, {&norm, &trace.norm}, looks_up(rows) ? &of : nullptr);
    return trace.norm.y;
  }

  /// `dstate`: the gradient of what forward returned.
  void backward(const typename B::Indices& tokens, const Rows<B>& rows, const Trace& trace, const Tensor& dstate,
                CausalTransformer& grad) const {
    Tensor d = norm.backward_first(Body::output(trace.body), trace.norm, dstate, Tensor(), grad.norm, body.dropping(rows));
    if (looks_up(rows))
      d = body.backward(Lookup<B>{&trace.table, &tokens}, rows, trace.body, d, grad.body, grad.embedding.weight);
    else
      d = body.backward(trace.embedding.y, rows, trace.body, d, grad.body);
    embedding.backward(tokens, rows, trace.embedding, d, grad.embedding);
  }
};

}  // namespace relay
