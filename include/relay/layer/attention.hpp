// Multi-head attention (Vaswani et al. 2017) inside each sequence of a ragged batch, bidirectional or causal.
//
//   [q k v] = x Wqkv^T + b, q and k rotated     o = softmax(q k^T / sqrt(size)) v, per head     y = o Wo^T + b
//
// The trace keeps q k v (rotated, unless the backend does that inside), o, and the log-sum-exp of each row and head; backward makes the
// probabilities again.
#pragma once

#include <cmath>
#include <numbers>
#include <utility>
#include <vector>

#include <relay/backend/ops.hpp>
#include <relay/layer/needed_rows.hpp>
#include <relay/layer/linear.hpp>
#include <relay/layer/rotary.hpp>

namespace relay {

struct AttentionConfig {
  int width = 64;
  int heads = 4;
  Mask mask = Mask::none;
  double rotary_base = 10000;
  int heads_without_rotary = 0;  // so many of the heads see no positions
  int directional_heads = 0;     // so many, the last, see no positions but a side: one itself and what is before it, the next
                                 // itself and what is after it, in turn. Without a mask only: a causal head has its side.
  double query_key_bias = 0;     // > 0: q and k biases normal with this deviation, a random pattern over distances
  double distance_bias = 0;      // > 0: q and k biases start such that rotary heads look at one distance each:
  std::vector<int> distances{};  // this one (-1: the token before), with a score of `distance_bias`; fewer than heads: again
  int positions = 1024;          // the longest sequence

  /// The first heads, whose queries and keys are rotated.
  int rotary_heads() const { return heads - heads_without_rotary - (mask == Mask::none ? directional_heads : 0); }
};

template <class B>
class Attention {
 public:
  using Backend = B;
  using Tensor = typename B::Tensor;
  using Input = Tensor;
  using Output = Tensor;
  struct Trace {
    typename Linear<B>::Trace qkv;  // [rows, 3 width]
    Tensor mixed;                   // [rows, width]: o of all heads side by side
    Tensor lse;                     // [rows, heads]
    typename Linear<B>::Trace out;  // [rows, width]
  };
  /// Keys and values of earlier positions, for generation.
  struct Cache {
    Tensor keys, values;  // laid out as the backend likes
  };

  Linear<B> qkv, out;

  Attention(const AttentionConfig& config, Key key, typename B::Device device = {})
      : qkv(config.width, 3 * config.width, key.fold(0), device),
        out(config.width, config.width, key.fold(1), device),
        heads_{config.heads, config.mask, config.directional_heads},
        rotated_(config.rotary_heads()),
        rotary_(head_size(config), config.positions, config.rotary_base, device) {
    if constexpr (!requires { typename B::NoElements; })  // backend/shapes.hpp
      if (config.query_key_bias > 0 || config.distance_bias > 0) start_biases(config, key.fold(2));
  }

  static const Tensor& output(const Trace& trace) { return Linear<B>::output(trace.out); }
  static void each(auto&& visit, auto&... layer) {
    visit("qkv", layer.qkv...);
    visit("out", layer.out...);
  }

  static constexpr bool gives_needed_rows = true;

  const Tensor& forward(const Tensor& x, const Rows<B>& rows, Trace& trace) const {
    Tensor room;
    return out.forward(needed_rows(mix(x, rows, trace), rows, room), rows, trace.out);
  }
  /// o of all rows, all of forward but its last product: backward needs nothing of the trace that is behind it.
  const Tensor& mix(const Tensor& x, const Rows<B>& rows, Trace& trace) const {
    qkv.forward(x, rows, trace.qkv);
    return mix(rows, trace);
  }
  /// Of queries, keys and values that are in trace.qkv.y already.
  const Tensor& mix(const Rows<B>& rows, Trace& trace) const {
    check(rows.longest());
    B::place_input(out.weight, trace.mixed);
    B::rotary_attention(trace.qkv.y, rows, heads_, rotated_, rotary_.table(), trace.mixed, trace.lse);
    return trace.mixed;
  }

  Tensor backward(const Tensor& x, const Rows<B>& rows, const Trace& trace, const Tensor& dy, Attention& grad) const {
    return qkv.backward(x, rows, trace.qkv, backward_to_qkv(rows, trace, dy, grad), grad.qkv);
  }
  /// As far as to the gradient of queries, keys and values.
  Tensor backward_to_qkv(const Rows<B>& rows, const Trace& trace, const Tensor& dy, Attention& grad) const {
    Tensor dmixed;
    {
      Tensor room;  // what is needed of mixed is not kept a second time
      dmixed = out.backward(needed_rows(trace.mixed, rows, room), rows, trace.out, dy, grad.out);
    }
    dmixed = of_all_rows(std::move(dmixed), rows);
    Tensor dqkv;
    B::place_gradient(qkv.weight, dqkv);
    B::rotary_attention_backward(trace.qkv.y, trace.mixed, trace.lse, dmixed, rows, heads_, rotated_, rotary_.table(), dqkv);
    return dqkv;
  }

  /// The same of new rows that continue cached sequences, causally: sequence s goes on in slot slots[s] at position starts[s].
  const Tensor& mix(const Tensor& x, const Rows<B>& rows, const typename B::Indices& slots,
                    const typename B::Indices& starts, Cache& cache, Trace& trace) const {
    qkv.forward(x, rows, trace.qkv);
    return mix(rows, slots, starts, cache, trace);
  }
  const Tensor& mix(const Rows<B>& rows, const typename B::Indices& slots, const typename B::Indices& starts, Cache& cache, Trace& trace) const {
    B::place_input(out.weight, trace.mixed);
    B::rotary_attention_cached(trace.qkv.y, rows, slots, starts, heads_.count, rotated_, rotary_.table(), cache.keys, cache.values, trace.mixed);
    return trace.mixed;
  }

  /// The longest sequence.
  int positions() const { return rotary_.positions(); }

  /// An empty cache for `slots` sequences of up to `positions` tokens.
  Cache cache(int slots, int positions, typename B::Device device = {}) const {
    check(positions);
    Cache cache;
    B::make_cache(slots, positions, out.inputs(), heads_.count, device, cache.keys, cache.values);
    return cache;
  }

 private:
  /// The scores of the biases alone depend on distance only: under rotation, a query pair at angle a and a key pair at angle
  /// b meet with cos(a - b - distance * frequency), which is largest at one distance for all pairs if b is chosen so.
  void start_biases(const AttentionConfig& config, Key key) {
    auto bias = B::download(qkv.bias);
    const auto at = [&](int part, int element) -> typename B::Scalar& {
      return bias[static_cast<std::size_t>(part * config.width + element)];
    };
    Random random(key);
    const int size = config.width / config.heads, half = size / 2;
    if (config.query_key_bias > 0)
      for (int i = 0; i < 2 * config.width; ++i) at(0, i) = static_cast<typename B::Scalar>(config.query_key_bias * random.normal());
    const double length = std::sqrt(config.distance_bias * std::sqrt(static_cast<double>(size)) / half);
    for (int head = 0; config.distance_bias > 0 && head < rotated_; ++head) {
      require(!config.distances.empty(), "a distance bias needs the distances: set AttentionConfig::distances");
      const int distance = config.distances[static_cast<std::size_t>(head) % config.distances.size()];
      for (int i = 0; i < half; ++i) {
        const double angle = 2 * std::numbers::pi * random.uniform();
        const double turned = angle - distance * std::pow(config.rotary_base, -2.0 * i / size);
        at(0, head * size + i) = static_cast<typename B::Scalar>(length * std::cos(angle));
        at(0, head * size + half + i) = static_cast<typename B::Scalar>(length * std::sin(angle));
        at(1, head * size + i) = static_cast<typename B::Scalar>(length * std::cos(turned));
        at(1, head * size + half + i) = static_cast<typename B::Scalar>(length * std::sin(turned));
      }
    }
    B::upload(bias, qkv.bias);
  }

  static int head_size(const AttentionConfig& config) {
    require(config.heads > 0 && config.width > 0 && config.width % config.heads == 0, "attention of width ", config.width,
            " cannot be cut into ", config.heads, " heads: choose a width that is a multiple of the heads");
    require(config.heads_without_rotary >= 0 && config.directional_heads >= 0 &&
                config.heads_without_rotary + config.directional_heads <= config.heads,
            config.heads_without_rotary, " heads without rotary positions and ", config.directional_heads,
            " directional ones are not among ", config.heads, " heads");
    return config.width / config.heads;
  }
  void check(int positions) const {
    require(positions <= rotary_.positions(), "a sequence of ", positions, " tokens is beyond the model's limit of ",
            rotary_.positions(), ": build the model with more positions");
  }

  Heads heads_;
  int rotated_;
  Rotary<B> rotary_;
};

}  // namespace relay
