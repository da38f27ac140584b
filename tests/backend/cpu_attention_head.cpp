// backend/cpu/attention_head.hpp: probabilities of every kind of factor, against the standard library.
#ifndef RELAY_CPU_LEVEL

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

#include "level.hpp"

#define RELAY_EACH_LEVEL "backend/cpu_attention_head.cpp"
#include <relay/backend/cpu/each_level.hpp>

#else

namespace relay::cpu::RELAY_CPU_LEVEL {

constexpr at_level here(Level::RELAY_CPU_LEVEL);

TEST_CASE_TEMPLATE("e^(scale score - shift)" * here, P, float, double, bf16) {
  using F = AttentionFactors<P>;
  using S = SumOf<F>;
  const double tolerance = steps<F> == 2 ? 1.1e-4 : std::is_same_v<S, float> ? 3e-7 : 1e-15;
  const S scale = S(0.25), shift = S(3);
  double worst = 0;  // relative, but for what rounding scale score - shift changes
  for (double score = 12; score >= -320; score -= 1.0 / 64) {
    const double exponent = 0.25 * score - 3, expected = std::exp(exponent);
    const double actual = static_cast<double>(detail::probability<F>(broadcast(static_cast<S>(score)), scale, shift)[0]);
    worst = std::max(worst, std::abs(actual - expected) / expected - std::abs(exponent) * 2 * static_cast<double>(std::numeric_limits<S>::epsilon()));
  }
  CHECK(worst < tolerance);
  const auto at = [&](S score) { return detail::probability<F>(broadcast(score), scale, shift)[0]; };
  CHECK(at(S(12)) == 1);  // of the largest score
  CHECK(at(S(-1e4)) < 1e-37);
  CHECK(at(S(-1e30)) < 1e-37);
  CHECK(at(-std::numeric_limits<S>::infinity()) < 1e-37);
  CHECK(std::isnan(at(std::numeric_limits<S>::quiet_NaN())));
}

TEST_CASE_TEMPLATE("exponentials of the keys a mask allows, in the place of the scores too" * here, P, float, double, bf16) {
  using F = AttentionFactors<P>;
  using S = SumOf<F>;
  for (const int padded : {1, 2, 3, 4, 5})
    for (const auto& [begin, end] : {std::pair{0, padded * lanes<S>}, {0, 1}, {1, padded * lanes<S> - 1}, {padded * lanes<S> - 1, padded * lanes<S>}}) {
      if (begin >= end) continue;  // of two lanes
      const int n = padded * lanes<S>;
      std::vector<S> scores(static_cast<std::size_t>(n + lanes<S>));  // a vector of factors may be longer than an odd number of scores
      for (int j = 0; j < n; ++j) scores[static_cast<std::size_t>(j)] = begin <= j && j < end ? static_cast<S>(j % 5) : std::numeric_limits<S>::infinity();
      std::vector<F> apart(static_cast<std::size_t>(padded_factors<F>(n)));
      const auto e = detail::exponentials<F>(scores.data(), {begin, end}, n, S(0.5), apart.data());
      double largest = -1, total = 0;
      for (int j = begin; j < end; ++j) largest = std::max(largest, 0.5 * (j % 5));
      for (int j = begin; j < end; ++j) total += std::exp(0.5 * (j % 5) - largest);
      CHECK(e.largest == doctest::Approx(largest));
      CHECK(e.sum == doctest::Approx(total).epsilon(2e-4));
      const auto in_place = detail::exponentials<F>(scores.data(), {begin, end}, n, S(0.5), reinterpret_cast<F*>(scores.data()));
      CHECK(in_place.sum == e.sum);
      CHECK(std::memcmp(scores.data(), apart.data(), static_cast<std::size_t>(factors<F>(n)) * sizeof(F)) == 0);
      for (int j = 0; j < n; j += steps<F>)
        if (j >= end || j + steps<F> <= begin) CHECK(apart[static_cast<std::size_t>(j / steps<F>)] == F{});
    }
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
