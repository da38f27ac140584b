// Composed operations: a default body in terms of a backend's plain functions, which a backend may replace by a fused one.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include <relay/core/random.hpp>

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

  /// y = x + dropout(branch)
  static void residual(const auto& x, const auto& branch, double rate, const std::optional<Key>& key, auto& y) {
    if (key && rate > 0)
      Backend::dropout(branch, rate, *key, y);
    else
      Backend::copy(branch, y);
    Backend::add(x, y);
  }

  static int sequences_at_once(long /*elements*/, const auto& /*device*/) { return 64; }

  /// The list and the elements where there are `indices` and `values` already, whose memory can be kept.
  static void indices_to(std::span<const std::int32_t> list, const auto& device, auto& indices) {
    indices = Backend::indices(list, device);
  }
  static void download_to(const auto& x, auto& values) { values = Backend::download(x); }
};

}  // namespace relay
