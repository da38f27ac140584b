// backend/cpu/gelu.hpp: GELU and its slope of every kind of factor, against the standard library.
#ifndef RELAY_CPU_LEVEL

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include <doctest/doctest.h>

#include "level.hpp"
#include "reference.hpp"

#define RELAY_EACH_LEVEL "backend/cpu_gelu.cpp"
#include <relay/backend/cpu/each_level.hpp>

#else

namespace relay::cpu::RELAY_CPU_LEVEL {

constexpr at_level here(Level::RELAY_CPU_LEVEL);

TEST_CASE_TEMPLATE("GELU and its slope" * here, P, float, double, bf16) {
  using F = Factors<P>;
  using S = SumOf<F>;
  const bool rough = steps<F> == 2;
  const double value_error = rough ? 1e-4 : std::is_same_v<S, float> ? 1e-6 : 1e-14, slope_error = rough ? 3e-4 : value_error;
  double worst_value = 0, worst_slope = 0;
  for (double x = -12; x <= 12; x += 1.0 / 1024) {
    const Vector<S> v = broadcast(static_cast<S>(x));
    const auto [value, slope] = gelu_and_slope<F>(v);
    worst_value = std::max(worst_value, std::abs(static_cast<double>(value[0]) - reference::gelu(x)));
    worst_slope = std::max(worst_slope, std::abs(static_cast<double>(slope[0]) - reference::gelu_slope(x)));
    CHECK(value[0] == gelu_of<F>(v)[0]);
  }
  CHECK(worst_value < value_error);
  CHECK(worst_slope < slope_error);
  // Far out it is x and 0.
  for (const double x : {20.0, 1e3, 1e6}) {
    CHECK(std::abs(gelu_of<F>(broadcast(static_cast<S>(x)))[0] - x) <= 1e-6 * x);
    CHECK(std::abs(gelu_of<F>(broadcast(static_cast<S>(-x)))[0]) <= 1e-6 * x);
    CHECK(std::abs(gelu_and_slope<F>(broadcast(static_cast<S>(x))).slope[0] - 1) <= slope_error);
    CHECK(std::abs(gelu_and_slope<F>(broadcast(static_cast<S>(-x))).slope[0]) <= slope_error);
  }
  CHECK(gelu_of<F>(broadcast(S(0)))[0] == 0);
  CHECK(std::isnan(gelu_of<F>(broadcast(std::numeric_limits<S>::quiet_NaN()))[0]));
  CHECK(std::isnan(gelu_and_slope<F>(broadcast(std::numeric_limits<S>::quiet_NaN())).slope[0]));
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
