// Multi-head attention (Vaswani et al. 2017) inside each sequence of a ragged batch, bidirectional or causal.
//
//   [q k v] = x Wqkv^T + b, q and k rotated     o = softmax(q k^T / sqrt(size)) v, per head     y = o Wo^T + b
//
// The trace keeps the rotated q k v, o, and the log-sum-exp of each row and head; backward makes the probabilities again.
#pragma once

#include <utility>

#include <relay/backend/ops.hpp>
#include <relay/layer/linear.hpp>
#include <relay/layer/rotary.hpp>

namespace relay {

struct AttentionConfig {
  int width = 64;
  int heads = 4;
  Mask mask = Mask::none;
  double rotary_base = 10000;
  int heads_without_rotary = 0;  // the last so many heads see no positions
  double query_key_bias = 0;     // > 0: q and k biases normal with this deviation, a random pattern over distances
  int positions = 1024;          // the longest sequence
};

template <class B>
class Attention {
 public:
  using Backend = B;
  using Tensor = typename B::Tensor;
  using Input = Tensor;
  using Output = Tensor;
  struct Trace {
    typename Linear<B>::Trace qkv;  // [rows, 3 width], rotated
    Tensor mixed;                   // [rows, width]: o of all heads side by side
    Tensor lse;                     // [rows, heads]
    typename Linear<B>::Trace out;  // [rows, width]
  };
  /// Keys and values of earlier positions, for generation.
  struct Cache {
    Tensor keys;    // [slots * width, capacity]
    Tensor values;  // [slots * capacity, width]
  };

  Linear<B> qkv, out;

  Attention(const AttentionConfig& config, Key key, typename B::Device device = {})
      : qkv(config.width, 3 * config.width, key.fold(0), device),
        out(config.width, config.width, key.fold(1), device),
        heads_(config.heads),
        rotated_(config.heads - config.heads_without_rotary),
        mask_(config.mask),
        rotary_(head_size(config), config.positions, config.rotary_base, device) {
    if (config.query_key_bias > 0) {
      auto bias = B::download(qkv.bias);
      Random random(key.fold(2));
      for (int i = 0; i < 2 * config.width; ++i)
        bias[static_cast<std::size_t>(i)] = static_cast<typename B::Scalar>(config.query_key_bias * random.normal());
      B::upload(bias, qkv.bias);
    }
  }

  static const Tensor& output(const Trace& trace) { return Linear<B>::output(trace.out); }
  static void each(auto&& visit, auto&... layer) {
    visit("qkv", layer.qkv...);
    visit("out", layer.out...);
  }

  const Tensor& forward(const Tensor& x, const Rows<B>& rows, Trace& trace) const {
    check(rows.longest());
    qkv.forward(x, rows, trace.qkv);
    B::rotate(trace.qkv.y, rows, heads_, rotated_, rotary_.table(), +1);
    B::attention(trace.qkv.y, rows, heads_, mask_, trace.mixed, trace.lse);
    return out.forward(trace.mixed, rows, trace.out);
  }

  Tensor backward(const Tensor& x, const Rows<B>& rows, const Trace& trace, const Tensor& dy, Attention& grad) const {
    const Tensor dmixed = out.backward(trace.mixed, rows, trace.out, dy, grad.out);
    Tensor dqkv;
    B::attention_backward(trace.qkv.y, trace.lse, dmixed, rows, heads_, mask_, dqkv);
    B::rotate(dqkv, rows, heads_, rotated_, rotary_.table(), -1);
    return qkv.backward(x, rows, trace.qkv, dqkv, grad.qkv);
  }

  /// Causal attention of new rows that continue cached sequences: sequence s goes on in slot slots[s] at position starts[s].
  const Tensor& extend(const Tensor& x, const Rows<B>& rows, const typename B::Indices& slots,
                       const typename B::Indices& starts, Cache& cache, Trace& trace) const {
    qkv.forward(x, rows, trace.qkv);
    B::rotate(trace.qkv.y, rows, heads_, rotated_, rotary_.table(), +1, starts);
    B::attention_cached(trace.qkv.y, rows, slots, starts, heads_, cache.keys, cache.values, trace.mixed);
    return out.forward(trace.mixed, rows, trace.out);
  }

  /// The longest sequence.
  int positions() const { return rotary_.positions(); }

  /// An empty cache for `slots` sequences of up to `positions` tokens.
  Cache cache(int slots, int positions, typename B::Device device = {}) const {
    check(positions);
    const int width = out.inputs(), capacity = B::cache_capacity(positions);
    return {Tensor(slots * width, capacity, device), Tensor(slots * capacity, width, device)};
  }

 private:
  static int head_size(const AttentionConfig& config) {
    require(config.heads > 0 && config.width > 0 && config.width % config.heads == 0, "attention of width ", config.width,
            " cannot be cut into ", config.heads, " heads: choose a width that is a multiple of the heads");
    require(config.heads_without_rotary >= 0 && config.heads_without_rotary <= config.heads, config.heads_without_rotary,
            " of ", config.heads, " heads cannot be without rotary positions");
    return config.width / config.heads;
  }
  void check(int positions) const {
    require(positions <= rotary_.positions(), "a sequence of ", positions, " tokens is beyond the model's limit of ",
            rotary_.positions(), ": build the model with more positions");
  }

  int heads_, rotated_;
  Mask mask_;
  Rotary<B> rotary_;
};

}  // namespace relay
