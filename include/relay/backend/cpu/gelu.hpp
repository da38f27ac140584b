// GELU(x) = x Phi(x), Phi the normal distribution function (Hendrycks & Gimpel 2016; exact, not the tanh approximation), and its
// slope, Phi(x) + x phi(x), phi the normal density.
//
// Where products round what they multiply to bf16, polynomials do, whose errors are a tenth or less of what rounding takes from 1.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

namespace detail {

/// Phi(x)
template <class S>
[[gnu::always_inline]] inline Vector<S> normal_distribution(const Vector<S>& x) {
  return erf(x * S(std::numbers::sqrt2 / 2)) * S(0.5) + S(0.5);
}

/// 1/2 + x (c0 + c1 x^2 + c2 x^4 + ..), which is 0 and 1 at the ends of [-4.2, 4.2] and stays so beyond. The coefficients below minimise the
/// largest error in between, under that condition (a linear program).
template <int N>
[[gnu::always_inline]] inline Vector<float> odd_step(const Vector<float>& x0, const float (&coefficients)[N]) {
  const Vector<float> x = smaller(broadcast(4.2f), larger(broadcast(-4.2f), x0)), square = x * x;
  Vector<float> sum = broadcast(coefficients[N - 1]);
#pragma GCC unroll 8
  for (int i = N - 2; i >= 0; --i) sum = sum * square + coefficients[i];
  return sum * x + 0.5f;
}

/// Phi(x) so that x Phi(x) is off by 1e-4 at most.
[[gnu::always_inline]] inline Vector<float> rough_normal_distribution(const Vector<float>& x) {
  static constexpr float coefficients[] = {3.984656040e-01f, -6.552826544e-02f, 9.298251849e-03f, -9.506607465e-04f,
                                           6.689089065e-05f, -3.037933554e-06f, 7.941315023e-08f, -9.017462073e-10f};
  return odd_step(x, coefficients);
}

/// Phi(x) + x phi(x), off by 3e-4 at most.
[[gnu::always_inline]] inline Vector<float> rough_slope(const Vector<float>& x) {
  static constexpr float coefficients[] = {7.968788740e-01f,  -2.628754755e-01f, 5.690624348e-02f,  -8.129922414e-03f, 7.864876478e-04f,
                                           -5.071147992e-05f, 2.071110696e-06f,  -4.813167121e-08f, 4.821448466e-10f};
  return odd_step(x, coefficients);
}

}  // namespace detail

/// GELU(x) for products of F.
template <class F, class S = SumOf<F>>
[[gnu::always_inline]] inline Vector<S> gelu_of(const Vector<S>& x) {
  if constexpr (rounds_factors<F>)
    return x * detail::rough_normal_distribution(x);
  else
    return x * detail::normal_distribution<S>(x);
}

template <class S>
struct GeluAndSlope {
  Vector<S> value, slope;
};

template <class F, class S = SumOf<F>>
[[gnu::always_inline]] inline GeluAndSlope<S> gelu_and_slope(const Vector<S>& x) {
  if constexpr (rounds_factors<F>) {
    return {gelu_of<F>(x), detail::rough_slope(x)};
  } else {
    constexpr S half_log_two_pi = S(0.91893853320467274);
    const Vector<S> distribution = detail::normal_distribution<S>(x);
    return {x * distribution, distribution + x * exp(x * x * S(-0.5) - half_log_two_pi)};
  }
}

/// y = GELU(x); y may be x.
template <class P, class S>
void gelu(const Tensor<S>& x, Tensor<S>& y) {
  y.resize_like(x, x.rows(), x.cols());
  S* const to = y.data();
  over_elements(x, [&](long i, auto n) { store_first(to + i, gelu_of<Factors<P>>(load_first(x.data() + i, n)), n); });
}

/// dx = dy GELU'(x), and y = GELU(x) once more; dx may be dy.
template <class P, class S>
void gelu_backward(const Tensor<S>& x, const Tensor<S>& dy, Tensor<S>& dx, Tensor<S>& y) {
  dx.resize_like(x, x.rows(), x.cols());
  y.resize_like(x, x.rows(), x.cols());
  S *const to = dx.data(), *const again = y.data();
  by_vector<S>(x.size(), [&](long i, auto n) {
    const auto [value, slope] = gelu_and_slope<Factors<P>>(load_first(x.data() + i, n));
    store_first(to + i, load_first(dy.data() + i, n) * slope, n);
    store_first(again + i, value, n);
  });
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
