// Vectors of the target's width without intrinsics: GCC and Clang vector extensions, so the same text is AVX, SSE and NEON.
//
// exp and erf are vectorised for float (a few ulp); for double they call the standard library lane by lane, since double
// exists to check gradients with.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace relay::cpu {

#ifdef __AVX__
inline constexpr int vector_bytes = 32;
#else
inline constexpr int vector_bytes = 16;
#endif

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
  Vector<S> v{};
  std::memcpy(&v, from, static_cast<std::size_t>(count) * sizeof(S));
  return v;
}

template <class S>
[[gnu::always_inline]] inline void store_first(S* to, const Vector<S>& v, int count) {
  std::memcpy(to, &v, static_cast<std::size_t>(count) * sizeof(S));
}

template <class S>
[[gnu::always_inline]] inline S sum(const Vector<S>& v) {
  S total = v[0];
  for (int i = 1; i < lanes<S>; ++i) total += v[i];
  return total;
}

template <class S>
[[gnu::always_inline]] inline S largest(const Vector<S>& v) {
  S most = v[0];
  for (int i = 1; i < lanes<S>; ++i) most = v[i] > most ? v[i] : most;
  return most;
}

template <class V>
[[gnu::always_inline]] inline V clamp(const V& v, const V& low, const V& high) {
  const V raised = v < low ? low : v;
  return raised > high ? high : raised;
}

/// e^x, x clamped to [-87.3, 88]. Cody-Waite reduction, then the degree-5 polynomial of Cephes' expf.
[[gnu::always_inline]] inline Vector<float> exp(const Vector<float>& x0) {
  using V = Vector<float>;
  using I = Vector<std::int32_t>;
  const V x = clamp(x0, broadcast(-87.3f), broadcast(88.0f));
  const V t = x * 1.44269504088896341f;
  const I n = __builtin_convertvector(t + (t < 0.0f ? broadcast(-0.5f) : broadcast(0.5f)), I);
  const V k = __builtin_convertvector(n, V);
  const V r = (x - k * 0.693359375f) + k * 2.12194440e-4f;
  V p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const I power = (n + 127) << 23;
  V scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

/// erf(x): the rational minimax approximation that XLA and Eigen use for float, x clamped to [-4, 4].
[[gnu::always_inline]] inline Vector<float> erf(const Vector<float>& x0) {
  using V = Vector<float>;
  const V x = clamp(x0, broadcast(-4.0f), broadcast(4.0f));
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

[[gnu::always_inline]] inline Vector<double> exp(const Vector<double>& x) {
  Vector<double> y;
  for (int i = 0; i < lanes<double>; ++i) y[i] = std::exp(x[i]);
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

}  // namespace relay::cpu
