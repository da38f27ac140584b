// TransformerBlock, pre-norm (Xiong et al. 2020):
//
//   r = x + dropout(attention(norm1(x)))      y = r + dropout(feed_forward(norm2(r)))
//
// The trace keeps r and the parts' traces. Composed of the parts by hand, so that residual and dropout are one pass.
#pragma once

#include <relay/layer/attention.hpp>
#include <relay/layer/feed_forward.hpp>
#include <relay/layer/layer_norm.hpp>
#include <relay/layer/lookup.hpp>
#include <relay/layer/stack.hpp>

namespace relay {

/// Sizes of a transformer, looped or causal.
struct TransformerConfig {
  int width = 64;
  int layers = 3;
  int heads = 4;
  int hidden = 0;                // of the feed-forward layers; 0: four times the width
  double dropout = 0;
  double rotary_base = 10000;
  int heads_without_rotary = 0;
  int directional_heads = 0;     // of a bidirectional model: heads that see one side only, without rotary positions
  double query_key_bias = 0;
  double distance_bias = 0;      // heads start by looking at -1, +1, -2, +2, ... (causal: -1, -2, ...), each at its own
  int positions = 1024;          // the longest sequence
};

template <class B>
class TransformerBlock {
 public:
  using Backend = B;
  using Tensor = typename B::Tensor;
  using Input = Tensor;
  using Output = Tensor;
  struct Trace {
    typename LayerNorm<B>::Trace norm1;
    typename Linear<B>::Trace looked_up;  // queries, keys and values of each row of a table, where x is looked up
    typename Attention<B>::Trace attention;
    Tensor middle;  // r [rows, width]
    typename LayerNorm<B>::Trace norm2;
    typename FeedForward<B>::Trace feed_forward;
    Tensor y;       // [rows, width]
  };
  using Cache = typename Attention<B>::Cache;

  LayerNorm<B> norm1;
  Attention<B> attention;
  LayerNorm<B> norm2;
  FeedForward<B> feed_forward;

  /// `layer`: its place in a stack, which decides the distances its heads start with.
  TransformerBlock(const TransformerConfig& c, Mask mask, Key key, typename B::Device device = {}, int layer = 0)
      : norm1(c.width, device),
        attention(attention_config(c, mask, layer), key.fold(0), device),
        norm2(c.width, device),
        feed_forward(c.width, c.hidden > 0 ? c.hidden : 4 * c.width, key.fold(1), device),
        dropout_(c.dropout) {
    require(c.dropout >= 0 && c.dropout < 1, "a dropout rate must be in [0, 1), not ", c.dropout);
  }

  /// What comes after attention is of the rows that are needed alone.
  static constexpr bool gives_needed_rows = true;
  static const Tensor& output(const Trace& trace) { return trace.y; }
  static void each(auto&& visit, auto&... layer) {
    visit("norm1", layer.norm1...);
    visit("attention", layer.attention...);
    visit("norm2", layer.norm2...);
    visit("feed_forward", layer.feed_forward...);
  }

  /// `next`: the norm that reads y, to be applied here. `begun`: somebody has done so with what this block's place_first_norm() gave.
  const Tensor& forward(const Tensor& x, const Rows<B>& rows, Trace& trace, NextNorm<B> next = {}, bool begun = false) const {
    if (!begun) norm_first(x, rows, trace);
    return apply(x, attention.mix(trace.norm1.y, rows, trace.attention), rows, trace, next);
  }
  /// Of x whose rows are looked up: what comes before attention is done with the table's.
  const Tensor& forward(const Tensor& x, const Lookup<B>& of, const Rows<B>& rows, Trace& trace, NextNorm<B> next = {}) const {
    of.find(before_attention(*of.table, rows, trace.norm1, trace.looked_up), rows.count(), trace.attention.qkv.y);
    return apply(x, attention.mix(rows, trace.attention), rows, trace, next);
  }
  /// Queries, keys and values of rows of a table.
  const Tensor& before_attention(const Tensor& table, const Rows<B>& rows, typename LayerNorm<B>::Trace& normal, typename Linear<B>::Trace& qkv) const {
    return attention.qkv.forward(norm1.forward(table, rows, normal), rows, qkv);
  }
  /// The norm that reads x, whose result is to be written where the products behind it want it.
  NextNorm<B> place_first_norm(Trace& trace) const {
    B::place_input(attention.qkv.weight, trace.norm1.y);
    return {&norm1, &trace.norm1};
  }

  /// `next`: what the gradient of x meets next, if it is known (dropping() of the block before).
  Tensor backward(const Tensor& x, const Rows<B>& rows, const Trace& trace, const Tensor& dy, TransformerBlock& grad,
                  const std::optional<Dropping>& next = {}) const {
    Tensor dropped;
    Tensor dr = backward_to_middle(rows, trace, dy, grad);
    const Tensor d = attention.backward(trace.norm1.y, rows, trace.attention, drop(dr, rows.fold(0), dropped), grad.attention);
    return norm1.backward(x, trace.norm1, d, of_all_rows(std::move(dr), rows), grad.norm1, next);
  }
  /// Of x whose rows were looked up: its gradient around attention, and, added to dtable, that through it.
  Tensor backward(const Lookup<B>& of, const Rows<B>& rows, const Trace& trace, const Tensor& dy, TransformerBlock& grad, Tensor& dtable) const {
    Tensor dropped;
    Tensor dr = backward_to_middle(rows, trace, dy, grad);
    const Tensor dqkv = of.sum(attention.backward_to_qkv(rows, trace.attention, drop(dr, rows.fold(0), dropped), grad.attention));
    const Tensor d = attention.qkv.backward(trace.norm1.y, rows, trace.looked_up, dqkv, grad.attention.qkv);
    B::add(norm1.backward(*of.table, rows, trace.norm1, d, grad.norm1), dtable);
    return of_all_rows(std::move(dr), rows);
  }
  /// What its backward pass does first with the gradient of its output.
  Dropping dropping(const Rows<B>& rows) const { return {dropout_, rows.fold(1).dropout(), &feed_forward.down.weight}; }

  /// As forward, for new rows that continue cached sequences (Attention::mix).
  const Tensor& extend(const Tensor& x, const Rows<B>& rows, const typename B::Indices& slots,
                       const typename B::Indices& starts, Cache& cache, Trace& trace, NextNorm<B> next = {}, bool begun = false) const {
    if (!begun) norm_first(x, rows, trace);
    return apply(x, attention.mix(trace.norm1.y, rows, slots, starts, cache, trace.attention), rows, trace, next);
  }
  /// The same where queries, keys and values are looked up in what before_attention() gave: `of.table`.
  const Tensor& extend(const Tensor& x, const Lookup<B>& of, const Rows<B>& rows, const typename B::Indices& slots,
                       const typename B::Indices& starts, Cache& cache, Trace& trace, NextNorm<B> next = {}) const {
    of.find(*of.table, rows.count(), trace.attention.qkv.y);
    return apply(x, attention.mix(rows, slots, starts, cache, trace.attention), rows, trace, next);
  }

 private:
  /// The distances are one for each rotary head, going on from layer to layer.
  static AttentionConfig attention_config(const TransformerConfig& c, Mask mask, int layer) {
    AttentionConfig config{.width = c.width,
                           .heads = c.heads,
                           .mask = mask,
                           .rotary_base = c.rotary_base,
                           .heads_without_rotary = c.heads_without_rotary,
                           .directional_heads = c.directional_heads,
                           .query_key_bias = c.query_key_bias,
                           .distance_bias = c.distance_bias,
                           .positions = c.positions};
    const int heads = config.rotary_heads();
    for (int i = layer * heads; i < (layer + 1) * heads; ++i)
      config.distances.push_back(mask == Mask::causal ? -1 - i : i % 2 == 0 ? -1 - i / 2 : 1 + i / 2);
    return config;
  }

  void norm_first(const Tensor& x, const Rows<B>& rows, Trace& trace) const {
    place_first_norm(trace);
    norm1.forward(x, rows, trace.norm1);
  }
  /// What comes after attention's mixing. What attention and feed-forward give is added at once, and not kept: it would be a tenth of the trace.
  const Tensor& apply(const Tensor& x, const Tensor& all_mixed, const Rows<B>& rows, Trace& trace, NextNorm<B> next) const {
    Tensor branch, needed_mixed, needed_x;
    const Linear<B>& out = attention.out;
    const Tensor& mixed = needed_rows(all_mixed, rows, needed_mixed);
    B::place_input(feed_forward.up.weight, trace.norm2.y);
    const Tensor& normal =
        norm2.forward(out, mixed, needed_rows(x, rows, needed_x), dropout_, rows.fold(0).dropout(), branch, trace.middle, trace.norm2);
    feed_forward.apply(normal, rows, trace.feed_forward, branch);
    if (next.norm != nullptr)
      next.norm->forward(trace.middle, branch, dropout_, rows.fold(1).dropout(), trace.y, *next.trace);
    else
      B::residual(trace.middle, branch, dropout_, rows.fold(1).dropout(), trace.y);
    return trace.y;
  }

  /// The gradient of r.
  Tensor backward_to_middle(const Rows<B>& rows, const Trace& trace, const Tensor& dy, TransformerBlock& grad) const {
    Tensor dropped;
    const Tensor d = feed_forward.backward(trace.norm2.y, rows, trace.feed_forward, drop(dy, rows.fold(1), dropped), grad.feed_forward);
    return norm2.backward(trace.middle, trace.norm2, d, dy, grad.norm2, Dropping{dropout_, rows.fold(0).dropout(), &attention.out.weight});
  }

  /// d with what was dropped in forward dropped: d itself where nothing was.
  const Tensor& drop(const Tensor& d, const Rows<B>& rows, Tensor& dropped) const {
    if (dropout_ == 0 || !rows.dropout()) return d;
    B::dropout(d, dropout_, *rows.dropout(), dropped);
    return dropped;
  }

  double dropout_;
};

/// `config.layers` transformer blocks: the paper's block f, and the body of a causal transformer.
template <class B>
Stack<TransformerBlock<B>> transformer_stack(const TransformerConfig& config, Mask mask, Key key,
                                             typename B::Device device = {}) {
  require(config.layers > 0, "a transformer needs at least one layer, not ", config.layers);
  std::vector<TransformerBlock<B>> layers;
  for (int i = 0; i < config.layers; ++i) layers.emplace_back(config, mask, key.fold(static_cast<std::uint64_t>(i)), device, i);
  return Stack<TransformerBlock<B>>(std::move(layers));
}

}  // namespace relay
