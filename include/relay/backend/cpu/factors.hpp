// What products multiply: float or double as they are, or pairs of bf16, neighbours along k, whose two products are added to
// a float at once: the instruction vdpbf16ps, of AVX512_BF16, or those of AMX, which take 16 pairs at a time (tile_product.hpp). Where both
// are missing, bf16 is float. AMX multiplies floats, too, as digits (digits.hpp), which for many rows is more than twice as fast as vectors of floats are.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

#ifdef RELAY_CPU_BF16
inline constexpr bool multiplies_bf16 = true;
#else
inline constexpr bool multiplies_bf16 = false;
#endif

/// Rows of A, B and C are `stride` elements apart.
template <class S>
struct ConstMatrix {
  const S* data;
  int stride;
  const S* row(int r) const { return data + static_cast<long>(r) * stride; }
};
template <class S>
struct Matrix {
  S* data;
  int stride;
  S* row(int r) const { return data + static_cast<long>(r) * stride; }
};

template <>
struct VectorOf<Pair> : VectorOf<std::int32_t> {};

/// A line of digits of floats (digits.hpp), for 64 steps of k.
struct alignas(64) Digits {
  std::int8_t digit[64];
};
template <>
inline constexpr int lanes<Digits> = lanes<float>;

/// What a backend named by S multiplies.
template <class S>
struct FactorsOf {
  using type = S;
};
template <>
struct FactorsOf<bf16> {
  using type = std::conditional_t<multiplies_bf16, Pair, float>;
};
#ifdef RELAY_CPU_AMX
template <>
struct FactorsOf<float> {
  using type = Digits;
};
#endif
template <class S>
using Factors = typename FactorsOf<S>::type;

/// Whether F is digits of floats.
template <class F>
inline constexpr bool is_digits = std::is_same_v<F, Digits>;

/// Whether F holds two steps of k.
template <class F>
inline constexpr bool is_pair = std::is_same_v<F, Pair>;

/// What C consists of, where products of F are summed up, and what F is made from.
template <class F>
using SumOf = std::conditional_t<is_pair<F> || is_digits<F>, float, F>;

/// What attention multiplies: floats as they are, since its operands are made anew for few products each.
template <class P>
using AttentionFactors = std::conditional_t<is_digits<Factors<P>>, float, Factors<P>>;

/// Whether factors are less exact than what they are made from.
template <class F>
inline constexpr bool rounds_factors = std::is_same_v<F, Pair>;

/// Whether products of F go through the matrix unit.
#ifdef RELAY_CPU_AMX
template <class F>
inline constexpr bool uses_tiles = is_pair<F> || is_digits<F>;
#else
template <class F>
inline constexpr bool uses_tiles = false;
#endif

/// Steps of k in one F.
template <class F>
inline constexpr int steps = is_pair<F> ? 2 : 1;

/// That hold k steps.
template <class F>
constexpr int least_factors(int k) {
  return (k + steps<F> - 1) / steps<F>;
}

/// The same as operands have them: padded with zeros to what products take at once.
template <class F>
constexpr int factors(int k) {
  constexpr int at_once = uses_tiles<F> ? 16 : 1;
  return (least_factors<F>(k) + at_once - 1) / at_once * at_once;
}

/// The same in whole vectors.
template <class F>
constexpr int padded_factors(int k) {
  return round_up<F>(factors<F>(k));
}

/// sum += row * factor, of every lane
template <class F>
[[gnu::always_inline]] inline void add_product(Vector<SumOf<F>>& sum, const Vector<F>& row, F factor) {
#ifdef RELAY_CPU_BF16
  if constexpr (std::is_same_v<F, Pair>) {
    const auto pair = _mm512_set1_epi32(static_cast<int>(factor));
    sum = __builtin_bit_cast(
        Vector<float>, _mm512_dpbf16_ps(__builtin_bit_cast(__m512, sum), __builtin_bit_cast(__m512bh, row), __builtin_bit_cast(__m512bh, pair)));
    return;
  }
#endif
  if constexpr (!std::is_same_v<F, Pair>) sum += row * factor;
}

/// Neighbours along k that lie in one row: elements 2i and 2i+1 of low and high put together.
template <class F>
[[gnu::always_inline]] inline Vector<F> pair_up([[maybe_unused]] const Vector<float>& low, [[maybe_unused]] const Vector<float>& high) {
#ifdef RELAY_CPU_BF16
  return __builtin_bit_cast(Vector<Pair>, _mm512_cvtne2ps_pbh(__builtin_bit_cast(__m512, high), __builtin_bit_cast(__m512, low)));
#else
  return Vector<F>{};
#endif
}

/// The other way: rounded as they were then.
[[gnu::always_inline]] inline void apart([[maybe_unused]] const Vector<Pair>& pairs, [[maybe_unused]] Vector<float> (&v)[2]) {
#ifdef RELAY_CPU_BF16
  const auto both = __builtin_bit_cast(__m512i, pairs);
  const __m256i halves[] = {_mm512_castsi512_si256(both), _mm512_maskz_extracti64x4_epi64(0xff, both, 1)};  // (masked: see sqrt in simd.hpp)
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    v[i] = __builtin_bit_cast(Vector<float>, _mm512_maskz_slli_epi32(0xffff, _mm512_maskz_cvtepu16_epi32(0xffff, halves[i]), 16));
#endif
}

/// Neighbours along k that lie in two rows: element i of `first` and of `second`.
template <class F>
[[gnu::always_inline]] inline Vector<F> interleave([[maybe_unused]] const Vector<float>& first, [[maybe_unused]] const Vector<float>& second) {
#ifdef RELAY_CPU_BF16
  alignas(64) static constexpr std::int16_t order[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                         8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const auto both = __builtin_bit_cast(__m512i, _mm512_cvtne2ps_pbh(__builtin_bit_cast(__m512, second), __builtin_bit_cast(__m512, first)));
  return __builtin_bit_cast(Vector<Pair>, _mm512_permutexvar_epi16(_mm512_load_si512(order), both));
#else
  return Vector<F>{};
#endif
}

/// Vectors of a row, side by side, as factors: neighbours along the row.
template <class F, class S = SumOf<F>>
[[gnu::always_inline]] inline Vector<F> along_row(const Vector<S> (&v)[steps<F>]) {
  if constexpr (steps<F> == 1)
    return v[0];
  else
    return pair_up<F>(v[0], v[1]);
}

/// Vectors of rows, one below the other, as factors: neighbours along the column.
template <class F, class S = SumOf<F>>
[[gnu::always_inline]] inline Vector<F> along_column(const Vector<S> (&v)[steps<F>]) {
  if constexpr (steps<F> == 1)
    return v[0];
  else
    return interleave<F>(v[0], v[1]);
}

/// The factors of the first `count` elements of a row, zeros behind them.
template <class F, class S = SumOf<F>>
[[gnu::always_inline]] inline Vector<F> load_factors(const S* from, int count) {
  if constexpr (steps<F> == 1) {
    return count >= lanes<S> ? load(from) : load_first(from, count);
  } else {
    if (count >= 2 * lanes<S>) return pair_up<F>(load(from), load(from + lanes<S>));
    if (count <= lanes<S>) return pair_up<F>(load_first(from, count), Vector<S>{});
    return pair_up<F>(load(from), load_first(from + lanes<S>, count - lanes<S>));
  }
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
