// backend/cpu/product.hpp: every form of the product, at sizes around the borders of tiles, vectors and panels.
#ifndef RELAY_CPU_LEVEL

#include <cstring>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "level.hpp"
#include "reference.hpp"

#define RELAY_EACH_LEVEL "backend/cpu_product.cpp"
#include <relay/backend/cpu/each_level.hpp>

#else

namespace relay::cpu::RELAY_CPU_LEVEL {

constexpr at_level here(Level::RELAY_CPU_LEVEL);

namespace {

/// Normal values that the factors of P hold exactly, and the same as S.
template <class P, class S = SumOf<Factors<P>>>
struct Drawn {
  reference::Matrix exact;
  std::vector<S> values;

  Drawn(int rows, int cols, Random& random) : exact(rows, cols) {
    for (double& v : exact.values) {
      values.push_back(static_cast<S>(static_cast<P>(static_cast<S>(random.normal()))));
      v = static_cast<double>(values.back());
    }
  }
};

/// The worst error of C (+)= op(A) op(B) + bias, C's rows lying three elements further apart than they are long. With B packed
/// beforehand it must be the same to the bit.
template <class P, Operand A, Operand B>
double worst(int m, int n, int k, bool with_bias, Store how, Random& random) {
  using F = Factors<P>;
  using S = SumOf<F>;
  const auto shape = [&](Operand o, int rows, int cols) {
    return o == Operand::plain ? Drawn<P>(rows, cols, random) : Drawn<P>(cols, rows, random);
  };
  const Drawn<P> a = shape(A, m, k), b = shape(B, k, n), bias(1, n, random), before(m, n + 3, random);
  auto c = before.values, c_packed = c;
  Memory memory;
  const ConstMatrix<S> b_matrix{b.values.data(), b.exact.cols};
  std::vector<F> packed(static_cast<std::size_t>(packed_size<F>(n, k)) + 1);
  F behind;
  std::memset(&behind, 0xa5, sizeof behind);
  packed.back() = behind;
  pack<B, F>(n, k, b_matrix, packed.data());
  if (std::memcmp(&packed.back(), &behind, sizeof behind) != 0) return 1e9;
  const auto compute = [&](const F* ready, std::vector<S>& to) {
    product<A, B, F>(m, n, k, {a.values.data(), a.exact.cols}, b_matrix, ready, with_bias ? bias.values.data() : nullptr,
                     {to.data(), n + 3}, how, Device{&memory});
  };
  compute(nullptr, c);
  compute(packed.data(), c_packed);
  if (c != c_packed) return 1e9;
  const auto plain = [](Operand o, const reference::Matrix& x) { return o == Operand::plain ? x : transposed(x); };
  const reference::Matrix expected = reference::product(plain(A, a.exact), plain(B, b.exact));
  double error = 0;
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n + 3; ++j) {
      const bool outside = j >= n;  // never touched
      double value = outside || how == Store::add ? before.exact(i, j) : 0;
      if (!outside) value += expected(i, j) + (with_bias ? bias.exact(0, j) : 0);
      const double actual = static_cast<double>(c[static_cast<std::size_t>(i * (n + 3) + j)]);
      error = std::max(error, outside && actual != value ? 1e9 : std::abs(actual - value));
    }
  return error;
}

template <class P>
double worst_of_all(int m, int n, int k, Random& random) {
  double error = 0;
  for (const Store how : {Store::assign, Store::add})
    for (const bool bias : {false, true}) {
      error = std::max(error, worst<P, Operand::plain, Operand::transposed>(m, n, k, bias, how, random));
      error = std::max(error, worst<P, Operand::plain, Operand::plain>(m, n, k, bias, how, random));
      error = std::max(error, worst<P, Operand::transposed, Operand::plain>(m, n, k, bias, how, random));
      error = std::max(error, worst<P, Operand::transposed, Operand::transposed>(m, n, k, bias, how, random));
    }
  return error;
}

}  // namespace

TEST_CASE_TEMPLATE("C (+)= op(A) op(B) + bias" * here, P, float, bf16, double) {
  using F = Factors<P>;
  using S = SumOf<F>;
  Random random(Key(5));
  const double unit = std::is_same_v<S, float> ? 1e-6 : 1e-15;
  const int columns = detail::panel_columns<F>, depth = detail::panel_depth<F> * steps<F>;
  for (const int m : {1, 5, 6, 7, 13, 70})
    for (const int n : {1, lanes<S> - 1, lanes<S>, columns - 1, columns, columns + 1, 2 * columns + lanes<S> + 3})
      for (const int k : {0, 1, lanes<S>, lanes<S> + 5, depth - 1, depth, 2 * depth + 1}) {
        CAPTURE(m);
        CAPTURE(n);
        CAPTURE(k);
        CHECK(worst_of_all<P>(m, n, k, random) < 4 * unit * (k + 4));
      }
}

TEST_CASE_TEMPLATE("a row's bits do not depend on how many rows are computed with it, nor on whether B is laid out" * here, P, float, bf16) {
  using F = Factors<P>;
  Random random(Key(6));
  const int m = 8, columns = detail::panel_columns<F>, depth = detail::panel_depth<F> * steps<F>;
  for (const int n : {1, lanes<float> + 1, columns, 2 * columns + 2 * lanes<float> + 3})
    for (const int k : {1, depth, 2 * depth + 5}) {
      CAPTURE(n);
      CAPTURE(k);
      const Drawn<P> a(m, k, random), b(n, k, random), bias(1, n, random);
      std::vector<F> packed(static_cast<std::size_t>(packed_size<F>(n, k)));
      pack<Operand::transposed>(n, k, {b.values.data(), k}, packed.data());
      const auto rows = [&](int first, int count, bool laid_out, bool biased) {
        std::vector<float> c(static_cast<std::size_t>(count * n));
        product<Operand::plain, Operand::transposed, F>(count, n, k, {a.values.data() + first * k, k}, {b.values.data(), k},
                                                        laid_out ? packed.data() : nullptr, biased ? bias.values.data() : nullptr,
                                                        {c.data(), n}, Store::assign, Device{});
        return c;
      };
      for (const bool biased : {false, true}) {
        const auto all = rows(0, m, false, biased);
        CHECK(rows(0, m, true, biased) == all);
        for (int i = 0; i < m; ++i) {
          const std::vector<float> own(all.begin() + i * n, all.begin() + (i + 1) * n);
          CHECK(rows(i, 1, false, biased) == own);
          CHECK(rows(i, 1, true, biased) == own);
        }
      }
    }
}

TEST_CASE_TEMPLATE("nor on threads, where a part of B stays in the cache that all of it would leave" * here, P, float, bf16) {
  using F = Factors<P>;
  Random random(Key(7));
  Memory memory;
  const std::pair<int, int> sizes[] = {{130, 340}, {259, 320}, {512, 320}, {66, 1030}};
  for (const auto& [n, k] : sizes)
    for (const int m : {1, 33}) {
      CAPTURE(n);
      CAPTURE(k);
      CAPTURE(m);
      const Drawn<P> a(m, k, random), b(n, k, random), bias(1, n, random);
      std::vector<F> packed(static_cast<std::size_t>(packed_size<F>(n, k)));
      pack<Operand::transposed>(n, k, {b.values.data(), k}, packed.data());
      const auto computed = [&](const F* ready, Threads* threads) {
        std::vector<float> c(static_cast<std::size_t>(m * n));
        product<Operand::plain, Operand::transposed, F>(m, n, k, {a.values.data(), k}, {b.values.data(), k}, ready, bias.values.data(), {c.data(), n},
                                                        Store::assign, Device{&memory, threads});
        return c;
      };
      const auto expected = computed(nullptr, nullptr);
      CHECK(computed(packed.data(), nullptr) == expected);
      for (const int count : {2, 3}) {
        Threads threads(count);
        CHECK(computed(packed.data(), &threads) == expected);
        CHECK(computed(nullptr, &threads) == expected);
      }
    }
}

TEST_CASE("bf16 factors are rounded to nearest" * here) {
  Random random(Key(7));
  const int m = 3, n = 5, k = 9;
  std::vector<float> a(m * k), b(n * k), c(m * n);
  for (float& v : a) v = static_cast<float>(random.normal());
  for (float& v : b) v = static_cast<float>(random.normal());
  product<Operand::plain, Operand::transposed, Factors<bf16>>(m, n, k, {a.data(), k}, {b.data(), k}, nullptr, nullptr, {c.data(), n},
                                                              Store::assign, Device{});
  const auto rounded = [](float v) { return static_cast<double>(multiplies_bf16 ? static_cast<float>(bf16(v)) : v); };
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double expected = 0;
      for (int l = 0; l < k; ++l)
        expected += rounded(a[static_cast<std::size_t>(i * k + l)]) * rounded(b[static_cast<std::size_t>(j * k + l)]);
      CHECK(static_cast<double>(c[static_cast<std::size_t>(i * n + j)]) == doctest::Approx(expected).epsilon(1e-5));
    }
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
