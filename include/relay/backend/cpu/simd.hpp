// Vectors of the target's width: GCC and Clang vector extensions, so the same text is AVX-512, AVX, SSE and NEON. Only square
// roots, maxima and minima, rounding, scaling by powers of two, and loads and stores of parts of a vector use an instruction set's
// own functions, where it has them.
//
// exp, log and erf are vectorised for float (a few ulp); for double they call the standard library lane by lane, since double
// exists to check gradients with.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

inline constexpr int vector_bytes = RELAY_CPU_VECTOR_BYTES;

template <class S>
struct VectorOf;
template <>
struct VectorOf<float> {
  using type [[gnu::vector_size(vector_bytes)]] = float;
};
template <>
struct VectorOf<double> {
  using type [[gnu::vector_size(vector_bytes)]] = double;
};
template <>
struct VectorOf<std::int32_t> {
  using type [[gnu::vector_size(vector_bytes)]] = std::int32_t;
};
template <>
struct VectorOf<std::int64_t> {
  using type [[gnu::vector_size(vector_bytes)]] = std::int64_t;
};

template <class S>
using Vector = typename VectorOf<S>::type;

/// Elements in a vector.
template <class S>
inline constexpr int lanes = vector_bytes / static_cast<int>(sizeof(S));

template <class S>
constexpr int round_up(int n) {
  return (n + lanes<S> - 1) / lanes<S> * lanes<S>;
}

template <class S>
[[gnu::always_inline]] inline Vector<S> load(const S* from) {
  Vector<S> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class S>
[[gnu::always_inline]] inline void store(S* to, const Vector<S>& v) {
  std::memcpy(to, &v, sizeof v);
}

template <class S>
[[gnu::always_inline]] inline Vector<S> broadcast(S value) {
  return Vector<S>{} + value;
}

/// The first `count` elements, zeros behind them.
template <class S>
[[gnu::always_inline]] inline Vector<S> load_first(const S* from, int count) {
#if RELAY_CPU_VECTOR_BYTES == 64
  if constexpr (sizeof(S) == 4)
    return __builtin_bit_cast(Vector<S>, _mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << count) - 1), from));
#endif
  Vector<S> v{};
  std::memcpy(&v, from, static_cast<std::size_t>(count) * sizeof(S));
  return v;
}

template <class S>
[[gnu::always_inline]] inline void store_first(S* to, const Vector<S>& v, int count) {
#if RELAY_CPU_VECTOR_BYTES == 64
  if constexpr (sizeof(S) == 4)
    return _mm512_mask_storeu_epi32(to, static_cast<__mmask16>((1u << count) - 1), __builtin_bit_cast(__m512i, v));
#endif
  std::memcpy(to, &v, static_cast<std::size_t>(count) * sizeof(S));
}

/// Elements begin .. end-1 of v, `rest` in the place of the others; begin and end may lie outside of v.
template <class S>
[[gnu::always_inline]] inline Vector<S> keep_range(const Vector<S>& v, int begin, int end, S rest) {
  using Index = std::conditional_t<sizeof(S) == 4, std::int32_t, std::int64_t>;
  Vector<Index> number;
  for (int i = 0; i < lanes<S>; ++i) number[i] = i;
  const Vector<S> before_end = number < static_cast<Index>(end) ? v : broadcast(rest);
  return number < static_cast<Index>(begin) ? broadcast(rest) : before_end;
}

namespace detail {

/// Elements of a and b, counted through both. (nvcc cannot hand a pack of the builtin's on to the host's compiler.)
template <class S, int... From>
[[gnu::always_inline]] inline Vector<S> shuffled(const Vector<S>& a, const Vector<S>& b) {
#ifdef __CUDACC__
  constexpr int from[] = {From...};
  Vector<S> v{};
  for (int i = 0; i < lanes<S>; ++i) v[i] = from[i] < lanes<S> ? a[from[i]] : b[from[i] - lanes<S>];
  return v;
#else
  return __builtin_shufflevector(a, b, From...);
#endif
}

/// Element i becomes element i + distance, around the end.
template <class S, int Distance, int... I>
[[gnu::always_inline]] inline Vector<S> rotated(const Vector<S>& v, std::integer_sequence<int, I...>) {
  return shuffled<S, (I + Distance) % lanes<S>...>(v, v);
}

/// Every element combined with all others, in an order that depends on the number of lanes alone.
template <class S, int Distance = lanes<S> / 2>
[[gnu::always_inline]] inline Vector<S> fold(const Vector<S>& v, auto&& combine) {
  if constexpr (Distance == 0)
    return v;
  else
    return fold<S, Distance / 2>(combine(v, rotated<S, Distance>(v, std::make_integer_sequence<int, lanes<S>>{})), combine);
}

}  // namespace detail

template <class S>
[[gnu::always_inline]] inline S sum(const Vector<S>& v) {
  return detail::fold<S>(v, [](const auto& a, const auto& b) -> Vector<S> { return a + b; })[0];
}

template <class S>
[[gnu::always_inline]] inline S largest(const Vector<S>& v) {
  return detail::fold<S>(v, [](const auto& a, const auto& b) -> Vector<S> { return a > b ? a : b; })[0];
}

/// The two halves of a vector exchanged.
template <class S>
[[gnu::always_inline]] inline Vector<S> swapped_halves(const Vector<S>& v) {
  return detail::rotated<S, lanes<S> / 2>(v, std::make_integer_sequence<int, lanes<S>>{});
}

namespace detail {

template <class S, int First, int... I>
[[gnu::always_inline]] inline Vector<S> twice(const Vector<S>& v, std::integer_sequence<int, I...>) {
  return shuffled<S, (First + I % (lanes<S> / 2))...>(v, v);
}

}  // namespace detail

/// The first (0) or the second (1) half of a vector twice.
template <class S, int Half>
[[gnu::always_inline]] inline Vector<S> both_halves(const Vector<S>& v) {
  return detail::twice<S, Half * lanes<S> / 2>(v, std::make_integer_sequence<int, lanes<S>>{});
}

/// The first half of a vector with its sign changed.
template <class S>
[[gnu::always_inline]] inline Vector<S> negative_half(const Vector<S>& v) {
  Vector<S> sign = broadcast(S(1));
  for (int i = 0; i < lanes<S> / 2; ++i) sign[i] = S(-1);
  return v * sign;
}

/// As many vectors as a vector has elements.
template <class S>
struct Square {
  Vector<S> row[lanes<S>];
};

namespace detail {

/// Of the rows a and b, `Distance` apart: exchanges the right half of every block of a with the left half of b's.
template <class S, int Distance, int... I>
[[gnu::always_inline]] inline void exchange(Vector<S>& a, Vector<S>& b, std::integer_sequence<int, I...>) {
  const Vector<S> upper = shuffled<S, ((I & Distance) == 0 ? I : lanes<S> + I - Distance)...>(a, b);
  b = shuffled<S, ((I & Distance) == 0 ? I + Distance : lanes<S> + I)...>(a, b);
  a = upper;
}

template <class S, int Distance>
[[gnu::always_inline]] inline void transpose_blocks(Square<S>& square) {
#pragma GCC unroll 16
  for (int i = 0; i < lanes<S>; ++i)
    if ((i & Distance) == 0)
      exchange<S, Distance>(square.row[i], square.row[i + Distance], std::make_integer_sequence<int, lanes<S>>{});
  if constexpr (Distance > 1) transpose_blocks<S, Distance / 2>(square);
}

}  // namespace detail

/// In place, in log2(lanes) exchanges of ever smaller blocks.
template <class S>
[[gnu::always_inline]] inline void transpose(Square<S>& square) {
  detail::transpose_blocks<S, lanes<S> / 2>(square);
}

/// The larger and the smaller of two, element by element; b, where either is not a number.
template <class V>
[[gnu::always_inline]] inline V larger(const V& a, const V& b) {
#if RELAY_CPU_VECTOR_BYTES == 64  // the compiler would take a comparison and a blend; (masked: see sqrt)
  if constexpr (std::is_same_v<V, Vector<float>>) return _mm512_maskz_max_ps(0xffff, a, b);
#endif
  return a > b ? a : b;
}
template <class V>
[[gnu::always_inline]] inline V smaller(const V& a, const V& b) {
#if RELAY_CPU_VECTOR_BYTES == 64
  if constexpr (std::is_same_v<V, Vector<float>>) return _mm512_maskz_min_ps(0xffff, a, b);
#endif
  return a < b ? a : b;
}

/// The square root of every element. (The masked AVX-512 form: g++ 12 warns of what the plain one leaves undefined.)
[[gnu::always_inline]] inline Vector<float> sqrt(const Vector<float>& x) {
#if RELAY_CPU_VECTOR_BYTES == 64
  return _mm512_maskz_sqrt_ps(0xffff, x);
#elif RELAY_CPU_VECTOR_BYTES == 32
  return _mm256_sqrt_ps(x);
#else
  Vector<float> y;
  for (int i = 0; i < lanes<float>; ++i) y[i] = std::sqrt(x[i]);
  return y;
#endif
}

/// e^x, x clamped to [-87.3, 88]. Cody-Waite reduction, then the degree-5 polynomial of Cephes' expf.
[[gnu::always_inline]] inline Vector<float> exp(const Vector<float>& x0) {
  using V = Vector<float>;
  const V x = smaller(broadcast(88.0f), larger(broadcast(-87.3f), x0));
  const V t = x * 1.44269504088896341f;
#if RELAY_CPU_VECTOR_BYTES == 64
  const V k = _mm512_maskz_roundscale_ps(0xffff, t, 0);
#else
  using I = Vector<std::int32_t>;
  const V number = t == t ? t : V{};  // what is not a number cannot be converted; it comes back with x
  const I n = __builtin_convertvector(number + (t < 0.0f ? broadcast(-0.5f) : broadcast(0.5f)), I);
  const V k = __builtin_convertvector(n, V);
#endif
  const V r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
#if RELAY_CPU_VECTOR_BYTES == 64
  return _mm512_maskz_scalef_ps(0xffff, p, k);
#else
  const I power = (n + 127) << 23;
  V scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
#endif
}

/// log x of x > 0, not subnormal; not a number, where x is none or infinite. As fdlibm: x = 2^k m, m in [1/sqrt 2, sqrt 2), and log m by
/// a polynomial in (m - 1) / (m + 1).
[[gnu::always_inline]] inline Vector<float> log(const Vector<float>& x) {
  using V = Vector<float>;
  using I = Vector<std::int32_t>;
  I bits;
  std::memcpy(&bits, &x, sizeof bits);
  const I k = (bits - 0x3f3504f3) >> 23;  // above the bits of 1/sqrt 2
  bits -= k << 23;
  V m;
  std::memcpy(&m, &bits, sizeof m);
  const V f = m - 1.0f, s = f / (f + 2.0f), z = s * s, half = f * f * 0.5f, exponent = __builtin_convertvector(k, V);
  V p = z * 0.24279078841f + 0.28498786688f;
  p = p * z + 0.40000972152f;
  p = p * z + 0.66666662693f;
  return s * (half + p * z) + exponent * 9.0580006145e-06f - half + f + exponent * 6.9313812256e-01f + (x - x);
}

/// erf(x): the rational minimax approximation that XLA and Eigen use for float, x clamped to [-4, 4].
[[gnu::always_inline]] inline Vector<float> erf(const Vector<float>& x0) {
  using V = Vector<float>;
  const V x = smaller(broadcast(4.0f), larger(broadcast(-4.0f), x0));
  const V s = x * x;
  V p = s * -2.72614225801306e-10f + 2.77068142495902e-08f;
  p = p * s + -2.10102402082508e-06f;
  p = p * s + -5.69250639462346e-05f;
  p = p * s + -7.34990630326855e-04f;
  p = p * s + -2.95459980854025e-03f;
  p = p * s + -1.60960333262415e-02f;
  V q = s * -1.45660718464996e-05f + -2.13374055278905e-04f;
  q = q * s + -1.68282697438203e-03f;
  q = q * s + -7.37332916720468e-03f;
  q = q * s + -1.42647390514189e-02f;
  return x * p / q;
}

[[gnu::always_inline]] inline Vector<double> sqrt(const Vector<double>& x) {
  Vector<double> y;
  for (int i = 0; i < lanes<double>; ++i) y[i] = std::sqrt(x[i]);
  return y;
}

[[gnu::always_inline]] inline Vector<double> exp(const Vector<double>& x) {
  Vector<double> y;
  for (int i = 0; i < lanes<double>; ++i) y[i] = std::exp(x[i]);
  return y;
}

[[gnu::always_inline]] inline Vector<double> log(const Vector<double>& x) {
  Vector<double> y;
  for (int i = 0; i < lanes<double>; ++i) y[i] = std::log(x[i]);
  return y;
}

[[gnu::always_inline]] inline Vector<double> erf(const Vector<double>& x) {
  Vector<double> y;
  for (int i = 0; i < lanes<double>; ++i) y[i] = std::erf(x[i]);
  return y;
}

/// Calls f(i, n) for every group of up to `lanes` elements of 0 .. size-1; n is the constant `lanes` but for the last.
template <class S, class F>
[[gnu::always_inline]] inline void by_vector(long size, F&& f) {
  long i = 0;
  for (; i + lanes<S> <= size; i += lanes<S>) f(i, std::integral_constant<int, lanes<S>>{});
  if (i < size) f(i, static_cast<int>(size - i));
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
