// How a feed-forward layer (feed_forward.hpp) keeps its hidden values from forward to backward.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL::detail {

/// Rows of a strip: whole tiles, and few enough for it to stay in the L1 cache.
template <class F>
inline constexpr int strip_rows = uses_tiles<F> ? 32 : 8 * tile_rows;

/// The most rows of a forward pass that threads share by hidden values: each of them has all of x, and all hidden values are there at once.
inline constexpr int shared_forward_rows = 256;

/// h as forward keeps it for backward: rows of floats, or, where the matrix unit does products, a row for each strip, in which the columns of a panel lie
/// together, so that backward finds what it takes at once in few pages; for products of bf16, as bf16.
template <class F, class S = SumOf<F>>
class HiddenLayout {
 public:
  static constexpr bool in_strips = uses_tiles<F>, of_factors = in_strips && rounds_factors<F>;
  using Element = std::conditional_t<of_factors, F, S>;  // a factor is as large as a float
  static constexpr int step = of_factors ? steps<F> : 1, strip = in_strips ? strip_rows<F> : 1;

  explicit HiddenLayout(int hidden) : hidden_(hidden) {}

  static int rows(int count) { return (count + strip - 1) / strip; }
  int columns() const { return hidden_ / step * strip; }
  /// The columns of a panel, from the j-th on, in row r.
  long at(int r, int j) const {
    const long before = static_cast<long>(r / strip) * strip * hidden_ + static_cast<long>(strip) * j;
    return (before + r % strip * panel_columns<F>) / step;
  }

 private:
  int hidden_;
};

}  // namespace relay::cpu::RELAY_CPU_LEVEL::detail

#endif
