// backend/cpu/simd.hpp: parts of a vector, sums, transposition, square roots, exp, log and erf.
#ifndef RELAY_CPU_LEVEL

#include <algorithm>
#include <vector>

#include <doctest/doctest.h>

#include "level.hpp"

#define RELAY_EACH_LEVEL "backend/cpu_simd.cpp"
#include <relay/backend/cpu/each_level.hpp>

#else

namespace relay::cpu::RELAY_CPU_LEVEL {

constexpr at_level here(Level::RELAY_CPU_LEVEL);

TEST_CASE_TEMPLATE("partial loads fill with zeros, partial stores touch nothing behind" * here, S, float, double) {
  std::vector<S> from(static_cast<std::size_t>(lanes<S>));
  for (int i = 0; i < lanes<S>; ++i) from[static_cast<std::size_t>(i)] = static_cast<S>(i + 1);
  for (int n = 0; n <= lanes<S>; ++n) {
    const Vector<S> v = load_first(from.data(), n);
    std::vector<S> to(static_cast<std::size_t>(lanes<S>) + 1, S(-1));
    store_first(to.data(), broadcast(S(7)), n);
    for (int i = 0; i < lanes<S>; ++i) {
      CHECK(v[i] == (i < n ? static_cast<S>(i + 1) : S(0)));
      CHECK(to[static_cast<std::size_t>(i)] == (i < n ? S(7) : S(-1)));
    }
    CHECK(sum<S>(v) == static_cast<S>(n * (n + 1) / 2));
    CHECK(largest<S>(v) == static_cast<S>(n));
  }
}

TEST_CASE_TEMPLATE("keep_range replaces what is outside" * here, S, float, double) {
  Vector<S> v;
  for (int i = 0; i < lanes<S>; ++i) v[i] = static_cast<S>(i + 1);
  for (int begin = -1; begin <= lanes<S> + 1; ++begin)
    for (int end = -1; end <= lanes<S> + 1; ++end) {
      const Vector<S> kept = keep_range(v, begin, end, S(-9));
      for (int i = 0; i < lanes<S>; ++i) {
        const S element = kept[i];
        CHECK(element == (begin <= i && i < end ? static_cast<S>(i + 1) : S(-9)));
      }
    }
}

TEST_CASE_TEMPLATE("a square is transposed" * here, S, float, double) {
  Square<S> square;
  for (int r = 0; r < lanes<S>; ++r)
    for (int c = 0; c < lanes<S>; ++c) square.row[r][c] = static_cast<S>(100 * r + c);
  transpose<S>(square);
  for (int r = 0; r < lanes<S>; ++r)
    for (int c = 0; c < lanes<S>; ++c) {
      const S element = square.row[r][c];
      CHECK(element == static_cast<S>(100 * c + r));
    }
}

TEST_CASE_TEMPLATE("square roots are the standard library's" * here, S, float, double) {
  for (const S x : {S(0), S(1e-30), S(0.3), S(2), S(1e30)}) {
    const Vector<S> y = sqrt(broadcast(x));
    for (int i = 0; i < lanes<S>; ++i) CHECK(y[i] == std::sqrt(x));
  }
}

TEST_CASE("round_up and by_vector cover every element once" * here) {
  CHECK(round_up<float>(0) == 0);
  CHECK(round_up<float>(1) == lanes<float>);
  CHECK(round_up<float>(lanes<float>) == lanes<float>);
  for (int size = 0; size < 4 * lanes<float>; ++size) {
    std::vector<int> seen(static_cast<std::size_t>(size));
    by_vector<float>(size, [&](long i, auto n) {
      for (int j = 0; j < n; ++j) ++seen[static_cast<std::size_t>(i + j)];
    });
    CHECK(seen == std::vector<int>(seen.size(), 1));
  }
}

namespace {

/// The worst error of f over low .. high against `exact`, as `measure` counts it.
double worst(float low, float high, auto&& f, auto&& exact, auto&& measure) {
  double error = 0;
  const int steps = 200000;
  for (int i = 0; i <= steps; i += lanes<float>) {
    Vector<float> x{};
    for (int j = 0; j < lanes<float>; ++j)
      x[j] = std::min(high, low + (high - low) * static_cast<float>(i + j) / static_cast<float>(steps));
    const Vector<float> y = f(x);
    for (int j = 0; j < lanes<float>; ++j)
      if (const double own = measure(static_cast<double>(y[j]), exact(static_cast<double>(x[j]))); !(own <= error))
        error = std::isnan(own) ? INFINITY : own;
  }
  return error;
}

const auto relative = [](double y, double expected) { return std::abs(y - expected) / std::abs(expected); };
const auto absolute = [](double y, double expected) { return std::abs(y - expected); };

}  // namespace

TEST_CASE("exp of floats: two units in the last place from -87 to 88" * here) {
  const auto f = [](const auto& x) -> Vector<float> { return exp(x); };
  const auto exact = [](double x) { return std::exp(x); };
  CHECK(worst(-87.0f, 88.0f, f, exact, relative) < 2.4e-7);
  CHECK(worst(-1.0f, 1.0f, f, exact, relative) < 2.4e-7);
  // Beyond, it stays finite: next to nothing, or very large.
  const Vector<float> low = f(broadcast(-1e30f)), high = f(broadcast(1e30f)), zero = f(Vector<float>{});
  CHECK((low[0] >= 0 && low[0] < 2e-38f));
  CHECK((high[0] > 1e38f && std::isfinite(high[0])));
  CHECK(zero[0] == 1);
  CHECK(std::isfinite(f(broadcast(-INFINITY))[0]));
}

TEST_CASE("erf of floats: a few units in the last place of one" * here) {
  const auto f = [](const auto& x) -> Vector<float> { return erf(x); };
  const auto exact = [](double x) { return std::erf(x); };
  CHECK(worst(-6.0f, 6.0f, f, exact, absolute) < 5e-7);
  CHECK(worst(1e-6f, 0.5f, f, exact, relative) < 4e-7);
  CHECK(f(Vector<float>{})[0] == 0);
  CHECK(std::abs(f(broadcast(50.0f))[0]) <= 1.0000005f);
}

TEST_CASE("log of floats: two units in the last place, not a number of what is none" * here) {
  const auto f = [](const auto& x) -> Vector<float> { return log(x); };
  const auto exact = [](double x) { return std::log(x); };
  CHECK(worst(1.2e-38f, 0.9f, f, exact, relative) < 2.4e-7);
  CHECK(worst(0.9f, 1.1f, f, exact, absolute) < 2e-8);
  CHECK(worst(1.1f, 5000.0f, f, exact, relative) < 2.4e-7);
  CHECK(worst(2.0f, 1e38f, f, exact, relative) < 2.4e-7);
  CHECK(f(broadcast(1.0f))[0] == 0);
  CHECK(std::isnan(f(broadcast(NAN))[0]));
  CHECK(std::isnan(f(broadcast(INFINITY))[0]));
  CHECK(std::isnan(exp(broadcast(NAN))[0]));
  CHECK(std::isnan(erf(broadcast(NAN))[0]));
  for (const double x : {1e-300, 0.3, 1.0, 7.0}) CHECK(log(broadcast(x))[0] == std::log(x));
}

TEST_CASE_TEMPLATE("halves of a vector" * here, S, float, double) {
  Vector<S> v;
  for (int i = 0; i < lanes<S>; ++i) v[i] = static_cast<S>(i + 1);
  const int half = lanes<S> / 2;
  for (int i = 0; i < lanes<S>; ++i) {  // v[i] is i + 1
    CHECK(swapped_halves<S>(v)[i] == static_cast<S>((i + half) % lanes<S> + 1));
    CHECK(both_halves<S, 0>(v)[i] == static_cast<S>(i % half + 1));
    CHECK(both_halves<S, 1>(v)[i] == static_cast<S>(half + i % half + 1));
    CHECK(negative_half<S>(v)[i] == static_cast<S>(i < half ? -i - 1 : i + 1));
  }
}

TEST_CASE("exp and erf of doubles are the standard library's" * here) {
  for (const double x : {-700.0, -3.0, -0.1, 0.0, 1e-9, 0.7, 5.0, 700.0}) {
    CHECK(exp(broadcast(x))[0] == std::exp(x));
    CHECK(erf(broadcast(x))[lanes<double> - 1] == std::erf(x));
  }
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
