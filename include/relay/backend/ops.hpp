// Composed operations: a default body in terms of a backend's plain functions, which a backend may replace by a fused one.
#pragma once

#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include <relay/core/random.hpp>
#include <relay/core/threads.hpp>

namespace relay {

/// Which positions of its own sequence a position sees in attention: all, itself and those before, itself and those after.
enum class Mask { none, causal, anticausal };

/// The heads of an attention, and what each of them sees.
struct Heads {
  int count = 1;
  Mask mask = Mask::none;
  int directional = 0;  // without a mask: the last head is causal, the one before it anticausal, and so on in turn

  Mask operator()(int head) const {
    const int from_last = count - 1 - head;
    if (mask != Mask::none || from_last >= directional) return mask;
    return from_last % 2 == 0 ? Mask::causal : Mask::anticausal;
  }
};

/// Dropout to come: what is kept follows from the key; without one, everything is.
struct Dropping {
  double rate = 0;
  std::optional<Key> key;
  const void* weight = nullptr;  // of the linear layer whose gradient comes next

  bool drops() const { return key && rate > 0; }
  bool operator==(const Dropping& other) const { return rate == other.rate && key == other.key; }
};

/// One step of AdamW on one tensor (train/adamw.hpp); `gradient_scale` is the clipping factor.
struct AdamWStep {
  double rate, beta1, beta2, epsilon, decay;
  double correction1, correction2;  // 1 - beta^step
  double gradient_scale;
};

template <class Backend>
struct ComposedOps {
  /// y = x weight^T + bias
  static void linear(const auto& x, const auto& weight, const auto& bias, auto& y) {
    Backend::product(x, weight, y);
    Backend::add_row(bias, y);
  }

  /// dx = dy weight; adds dy^T x to dweight and the column sums of dy to dbias.
  static void linear_backward(const auto& x, const auto& weight, const auto& dy, auto& dx, auto& dweight, auto& dbias) {
    Backend::product_backward(dy, weight, dx);
    Backend::add_outer_product(dy, x, dweight);
    Backend::add_column_sums(dy, dbias);
  }

  /// The same for a head, whose y a softmax reads: small, and worth the backend's best precision.
  static void logits(const auto& x, const auto& weight, const auto& bias, auto& y) { Backend::linear(x, weight, bias, y); }
  static void logits_backward(const auto& x, const auto& weight, const auto& dy, auto& dx, auto& dweight, auto& dbias) {
    Backend::linear_backward(x, weight, dy, dx, dweight, dbias);
  }

  /// up = x weight^T + bias and y = GELU(up); y may be up.
  static void linear_gelu(const auto& x, const auto& weight, const auto& bias, auto& up, auto& y) {
    Backend::linear(x, weight, bias, up);
    Backend::gelu(up, y);
  }
  /// Whether the next wants GELU(x) as it was in forward, and not to make it again.
  static constexpr bool keeps_activated = false;
  /// Of y = GELU(x) weight^T + bias: dx = (dy weight) GELU'(x); adds dy^T GELU(x) to dweight and the column sums of dy to dbias.
  /// `activated`: GELU(x), where the backend wants that kept.
  template <class Tensor>
  static void gelu_linear_backward(const Tensor& x, const Tensor& /*activated*/, const Tensor& weight, const Tensor& dy, Tensor& dx, Tensor& dweight,
                                   Tensor& dbias) {
    Tensor again;
    Backend::product_backward(dy, weight, dx);
    Backend::gelu_backward(x, dx, dx, again);
    Backend::add_outer_product(dy, again, dweight);
    Backend::add_column_sums(dy, dbias);
  }

  /// A feed-forward layer: y = GELU(h) Wd^T + bd, h = x Wu^T + bu, of the linear layers `up` and `down` (by their `weight` and `bias`). `hidden`, and
  /// `activated`, where the backend keeps that, are what backward needs, in a form of the backend's own; where the pass is forward only, they are
  /// room for whatever.
  template <class Tensor>
  static void feed_forward(const Tensor& x, const auto& up, const auto& down, bool forward_only, Tensor& hidden, Tensor& activated, Tensor& y) {
    if (Backend::keeps_activated && !forward_only) Backend::place_input(down.weight, activated);
    Tensor room;
    Tensor& between = forward_only ? hidden : Backend::keeps_activated ? activated : room;
    Backend::linear_gelu(x, up.weight, up.bias, hidden, between);
    Backend::linear(between, down.weight, down.bias, y);
  }
  /// dx = dh Wu, dh = (dy Wd) GELU'(h); adds dh^T x and the column sums of dh to the gradients of `up`, dy^T GELU(h) and the column sums of dy to
  /// those of `down`. x, `hidden` and `activated` are as they were in forward.
  template <class Tensor>
  static void feed_forward_backward(const Tensor& x, const Tensor& hidden, const Tensor& activated, const auto& up, const auto& down, const Tensor& dy,
                                    Tensor& dx, auto& dup, auto& ddown) {
    Tensor d;
    Backend::place_gradient(up.weight, d);
    Backend::gelu_linear_backward(hidden, activated, down.weight, dy, d, ddown.weight, ddown.bias);
    Backend::linear_backward(x, up.weight, d, dx, dup.weight, dup.bias);
  }

  /// Attention with queries and keys turned by their positions (Backend::rotate), for which qkv may be written: the rest of a trace is as
  /// these leave it.
  static void rotary_attention(auto& qkv, const auto& rows, const Heads& heads, int rotated, const auto& table, auto& out, auto& lse) {
    Backend::rotate(qkv, rows, heads.count, rotated, table, +1);
    Backend::attention(qkv, rows, heads, out, lse);
  }
  static void rotary_attention_backward(const auto& qkv, const auto& out, const auto& lse, const auto& dout, const auto& rows, const Heads& heads,
                                        int rotated, const auto& table, auto& dqkv) {
    Backend::attention_backward(qkv, out, lse, dout, rows, heads, dqkv);
    Backend::rotate(dqkv, rows, heads.count, rotated, table, -1);
  }
  static void rotary_attention_cached(auto& qkv, const auto& rows, const auto& slots, const auto& starts, int heads, int rotated, const auto& table,
                                      auto& keys, auto& values, auto& out) {
    Backend::rotate(qkv, rows, heads, rotated, table, +1, starts);
    Backend::attention_cached(qkv, rows, slots, starts, heads, keys, values, out);
  }

  /// Layers that a loop applies again and again: `Applications` is one pass, begun with the rows of all applications together; while `Applied`
  /// lives, layers are applied to some of them. A backend may then leave weights' gradients for the end, add_gradients(), if it finds what it
  /// needs in places that place_input(), before a layer's input is written, and place_gradient(), before the gradient of its output is, give
  /// (x, or dy, of the linear layer with this weight). A layer that is applied more than once in one `Applied` has them once; gradients of an
  /// application that has not both, of all of its rows, are added at once. Without such a loop, and by default, they do nothing.
  struct Applications {};
  struct Applied {
    Applied(Applications*, int /*first*/, int /*rows*/) {}
    ~Applied() {}
  };
  /// Whether a loop's last layer leaves out rows that nobody needs (train/needed_rows.hpp). A backend that leaves weights' gradients for the end
  /// wants all rows of an application. With dropout the two are not the same training: other elements of the rows that are needed are dropped.
  static constexpr bool loops_give_needed_rows = true;
  static void begin_applications(Applications&, int /*rows*/, const auto& /*device*/) {}
  static void begin_gradients(Applications&) {}
  static void add_gradients(Applications&) {}
  static void place_input(const auto& /*weight*/, auto& /*x*/) {}
  static void place_gradient(const auto& /*weight*/, auto& /*dy*/) {}

  /// y = the first rows of x, for as long as x stays as it is: a backend need not copy them.
  static void view_first(const auto& x, int count, auto& y) { Backend::copy_first(x, count, y); }

  /// Tensors that become zeros, at end() at the latest.
  struct Clearing {
    void add(auto& x) { Backend::fill(x, 0); }
    void end() {}
  };
  /// Room for so many rows of x: y [rows, x's columns], of what x is made of, so that rows of x are the same there.
  static void make_room(const auto& x, int rows, auto& y) { y.resize_like(x, rows, x.cols()); }
  /// y [rows, x's columns]: row indices[i] is x's row first + i, all others are zeros.
  static void spread_rows(const auto& x, int first, const auto& indices, int rows, auto& y) {
    y.resize_like(x, rows, x.cols());
    Backend::fill(y, 0);
    Backend::scatter_rows(x, first, indices, y);
  }

  /// y = x + dropout(branch)
  static void residual(const auto& x, const auto& branch, double rate, const std::optional<Key>& key, auto& y) {
    if (key && rate > 0)
      Backend::dropout(branch, rate, *key, y);
    else
      Backend::copy(branch, y);
    Backend::add(x, y);
  }

  /// y = x + dropout(branch), and its layer norm.
  static void residual_norm(const auto& x, const auto& branch, double rate, const std::optional<Key>& key, const auto& scale, const auto& shift, double eps,
                            auto& y, auto& normal, auto& statistics) {
    Backend::residual(x, branch, rate, key, y);
    Backend::layer_norm(y, scale, shift, eps, normal, statistics);
  }
  /// The same of a linear layer: y = base + dropout(x weight^T + bias), and its layer norm. `branch`: room, for what is lost.
  template <class Tensor>  // nvcc stops at so many parameters of their own types
  static void linear_residual_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& base, double rate, const std::optional<Key>& key,
                                   const Tensor& scale, const Tensor& shift, double eps, Tensor& branch, Tensor& y, Tensor& normal, Tensor& statistics) {
    Backend::linear(x, weight, bias, branch);
    Backend::residual_norm(base, branch, rate, key, scale, shift, eps, y, normal, statistics);
  }
  /// The gradient of a layer norm and of what goes around it: dx = layer_norm_backward(..) + skip. `next`: the dropout that a linear layer's
  /// gradient begins with, if dx is for one: a backend may do that along with this.
  static void layer_norm_backward_add(const auto& x, const auto& statistics, const auto& scale, const auto& dy, const auto& skip, auto& dx, auto& dscale,
                                      auto& dshift, const std::optional<Dropping>& /*next*/ = {}) {
    Backend::layer_norm_backward(x, statistics, scale, dy, dx, dscale, dshift);
    Backend::add(skip, dx);
  }
  /// The same with a skip of the first rows only.
  static void layer_norm_backward_add_first(const auto& x, const auto& statistics, const auto& scale, const auto& dy, const auto& skip, auto& dx,
                                            auto& dscale, auto& dshift, const std::optional<Dropping>& /*next*/ = {}) {
    Backend::layer_norm_backward(x, statistics, scale, dy, dx, dscale, dshift);
    Backend::add(skip, dx);
  }

  /// sums[i] = the sum of squares of the i-th gradient. `parameters`: a ParameterList of weight, gradient, first and second moment.
  static void sums_of_squares(const auto& parameters, Threads* threads, std::vector<double>& sums) {
    parameters.visit(threads, [&](std::size_t i, auto&, const auto& g, auto&, auto&) { sums[i] = Backend::sum_of_squares(g); });
  }
  /// A step on all of them, of which those decay that decays(weight) says, and the weights of products laid out again while they are
  /// at hand.
  static void adamw_all(const auto& parameters, Threads* threads, const AdamWStep& step, auto&& decays) {
    parameters.visit(threads, [&](std::size_t, auto& weight, const auto& g, auto& m, auto& v) {
      AdamWStep own = step;
      if (!decays(weight)) own.decay = 0;
      Backend::adamw(weight, g, m, v, own);
      Backend::prepare(weight);
    });
  }
  /// Both: a step with the gradient of all of them clipped to the norm `clip` (0: not at all), whose norm before it returns. Where that is not
  /// finite, everything stays as it is. `kept`: what the backend keeps for the next step on the same parameters.
  struct Updating {
    std::vector<double> squares;  // of each parameter's gradient
  };
  static double clipped_adamw_all(Updating& kept, const auto& parameters, Threads* threads, AdamWStep step, double clip, auto&& decays) {
    kept.squares.resize(parameters.size());
    Backend::sums_of_squares(parameters, threads, kept.squares);
    const double norm = std::sqrt(std::accumulate(kept.squares.begin(), kept.squares.end(), 0.0));
    if (!std::isfinite(norm)) return norm;
    step.gradient_scale = clip > 0 && norm > clip ? clip / norm : 1;
    Backend::adamw_all(parameters, threads, step, decays);
    return norm;
  }

  /// Whether the device does one thing after another, whatever thread asks for it: then one thread of the host is all it needs.
  static constexpr bool in_order = false;

  /// f(), which asks the device for the same, from and to the same tensors, whenever it is called with this size and so many times: a backend may record that
  /// and do without f later (`repeats`), if the device has memory of its own that serves nothing else. `Repeated` is what it keeps for that;
  /// repeated_size(n): which size, n or larger, to take for n. Such a backend also has choose(), and Answers that do something (cuda.hpp): so
  /// the device goes from step to step by itself, and what it found comes to the host meanwhile.
  static constexpr bool repeats = false;
  struct Repeated {};
  struct Answers {};
  static void repeat(Repeated&, int /*size*/, int /*times*/, const auto& /*device*/, auto&& f) { f(); }
  static int repeated_size(int size) { return size; }

  // A guess, for devices with many cores: nothing has been measured on one.
  static int rows_at_once(int /*width*/, const auto& /*device*/) { return 1 << 14; }
  static int sequences_at_once(long /*elements*/, const auto& /*device*/) { return 64; }

  /// The list and the elements where there are `indices` and `values` already, whose memory can be kept.
  static void indices_to(std::span<const std::int32_t> list, const auto& device, auto& indices) {
    indices = Backend::indices(list, device);
  }
  static void download_to(const auto& x, auto& values) { values = Backend::download(x); }

  /// Several lists, which come to the device together.
  template <class Indices>
  class IndexLists {
   public:
    /// List i is elements firsts[i] .. firsts[i + 1] - 1 of `all`.
    void assign(std::span<const std::int32_t> all, std::span<const int> firsts, const auto& device) {
      const std::size_t count = firsts.size() - 1;
      if (lists_.size() < count) lists_.resize(count);  // never fewer: they keep their memory
      for (std::size_t i = 0; i < count; ++i)
        Backend::indices_to(all.subspan(static_cast<std::size_t>(firsts[i]), static_cast<std::size_t>(firsts[i + 1] - firsts[i])), device, lists_[i]);
    }
    const Indices& operator[](std::size_t i) const { return lists_[i]; }

   private:
    std::vector<Indices> lists_;
  };

  /// What a tensor holds now, to be read later: a device that is asked for more meanwhile need not be waited for until all of that is done.
  template <class Tensor, class S>
  class Reading {
   public:
    void begin(const Tensor& x) { Backend::download_to(x, values_); }
    std::span<const S> values() { return values_; }

   private:
    std::vector<S> values_;
  };
};

}  // namespace relay
