// GELU(x) = x Phi(x), Phi the normal distribution function (Hendrycks & Gimpel 2016; exact, not the tanh approximation), and its
// slope, Phi(x) + x phi(x), phi the normal density: of a vector.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

/// Phi(x)
template <class S>
[[gnu::always_inline]] inline Vector<S> normal_distribution(const Vector<S>& x) {
  return erf(x * S(std::numbers::sqrt2 / 2)) * S(0.5) + S(0.5);
}

template <class S>
[[gnu::always_inline]] inline Vector<S> gelu_of(const Vector<S>& x) {
  return x * normal_distribution<S>(x);
}

template <class S>
struct GeluAndSlope {
  Vector<S> value, slope;
};

template <class S>
[[gnu::always_inline]] inline GeluAndSlope<S> gelu_and_slope(const Vector<S>& x) {
  constexpr S half_log_two_pi = S(0.91893853320467274);
  const Vector<S> distribution = normal_distribution<S>(x);
  return {x * distribution, distribution + x * exp(x * x * S(-0.5) - half_log_two_pi)};
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
