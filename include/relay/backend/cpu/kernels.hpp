// The kernels of one level, and by what names `run` (levels.hpp) offers them. Included once a level, by each_level.hpp.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/levels.hpp>
#else

#include <relay/backend/cpu/simd.hpp>

#include <relay/backend/cpu/factors.hpp>

#include <relay/backend/cpu/small_product.hpp>

#include <relay/backend/cpu/tile_product.hpp>

#include <relay/backend/cpu/digits.hpp>

#include <relay/backend/cpu/packing.hpp>

#include <relay/backend/cpu/digit_product.hpp>

#include <relay/backend/cpu/digit_row.hpp>

#include <relay/backend/cpu/tile_row.hpp>

#include <relay/backend/cpu/product.hpp>

#include <relay/backend/cpu/rotary.hpp>

#include <relay/backend/cpu/attention_head.hpp>

#include <relay/backend/cpu/attention.hpp>

#include <relay/backend/cpu/cached_attention.hpp>

#include <relay/backend/cpu/elements.hpp>

#include <relay/backend/cpu/gelu.hpp>

#include <relay/backend/cpu/hidden_layout.hpp>

#include <relay/backend/cpu/digit_feed_forward.hpp>

#include <relay/backend/cpu/digit_feed_forward_backward.hpp>

#include <relay/backend/cpu/feed_forward.hpp>

#ifndef RELAY_CPU_BF16
#include <relay/backend/cpu/row_ops.hpp>
#endif

namespace relay::cpu {

namespace RELAY_CPU_LEVEL {

#ifdef RELAY_CPU_BF16
struct Kernels : avx512::Kernels {  // all but what has products of bf16 is the same
#else
struct Kernels {
  static void add(auto&&... a) { RELAY_CPU_LEVEL::add(a...); }
  static void add_column_sums(auto&&... a) { RELAY_CPU_LEVEL::add_column_sums(a...); }
  static double sum_of_squares(auto&&... a) { return RELAY_CPU_LEVEL::sum_of_squares(a...); }
  static void layer_norm(auto&&... a) { RELAY_CPU_LEVEL::layer_norm(a...); }
  static void residual_norm(auto&&... a) { RELAY_CPU_LEVEL::residual_norm(a...); }
  static void layer_norm_backward(auto&&... a) { RELAY_CPU_LEVEL::layer_norm_backward(a...); }
  static void rotate(auto&&... a) { RELAY_CPU_LEVEL::rotate(a...); }
  static void dropout(auto&&... a) { RELAY_CPU_LEVEL::dropout(a...); }
  static void residual(auto&&... a) { RELAY_CPU_LEVEL::residual(a...); }
  static void softmax_cross_entropy(auto&&... a) { RELAY_CPU_LEVEL::softmax_cross_entropy(a...); }
  static void argmax(auto&&... a) { RELAY_CPU_LEVEL::argmax(a...); }
  static void softmax(auto&&... a) { RELAY_CPU_LEVEL::softmax(a...); }
  static void softmax_backward(auto&&... a) { RELAY_CPU_LEVEL::softmax_backward(a...); }
  static void adamw(auto&&... a) { RELAY_CPU_LEVEL::adamw(a...); }
#endif
  template <class P>
  static void lay_out(auto&&... a) {
    RELAY_CPU_LEVEL::lay_out<P>(a...);
  }
  template <Operand A, Operand B, class P>
  static void product(auto&&... a) {
    RELAY_CPU_LEVEL::product<A, B, P>(a...);
  }
  template <class P>
  static void gelu(auto&&... a) {
    RELAY_CPU_LEVEL::gelu<P>(a...);
  }
  template <class P>
  static void gelu_backward(auto&&... a) {
    RELAY_CPU_LEVEL::gelu_backward<P>(a...);
  }
  template <class P>
  static bool has_feed_forward(auto&&... a) {
    return RELAY_CPU_LEVEL::has_feed_forward<P>(a...);
  }
  template <class P>
  static bool has_feed_forward_backward(auto&&... a) {
    return RELAY_CPU_LEVEL::has_feed_forward_backward<P>(a...);
  }
  template <class P>
  static void round_hidden(auto&&... a) {
    RELAY_CPU_LEVEL::round_hidden<P>(a...);
  }
  template <class P>
  static bool hidden_rows(auto&&... a) {
    return RELAY_CPU_LEVEL::hidden_rows<P>(a...);
  }
  template <class P>
  static void feed_forward(auto&&... a) {
    RELAY_CPU_LEVEL::feed_forward<P>(a...);
  }
  template <class P>
  static void feed_forward_backward(auto&&... a) {
    RELAY_CPU_LEVEL::feed_forward_backward<P>(a...);
  }
  template <class P>
  static void rotary_attention(auto&&... a) {
    RELAY_CPU_LEVEL::rotary_attention<P>(a...);
  }
  template <class P>
  static void rotary_attention_backward(auto&&... a) {
    RELAY_CPU_LEVEL::rotary_attention_backward<P>(a...);
  }
  template <class P>
  static void attention(auto&&... a) {
    RELAY_CPU_LEVEL::attention<P>(a...);
  }
  template <class P>
  static void attention_backward(auto&&... a) {
    RELAY_CPU_LEVEL::attention_backward<P>(a...);
  }
  template <class P>
  static void make_cache(auto&&... a) {
    RELAY_CPU_LEVEL::make_cache<P>(a...);
  }
  template <class P>
  static void attention_cached(auto&&... a) {
    RELAY_CPU_LEVEL::attention_cached<P>(a...);
  }
};

}  // namespace RELAY_CPU_LEVEL

template <>
struct KernelsAt<Level::RELAY_CPU_LEVEL> {
  using type = RELAY_CPU_LEVEL::Kernels;
};

}  // namespace relay::cpu

#endif
