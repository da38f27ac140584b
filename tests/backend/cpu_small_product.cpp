// backend/cpu/small_product.hpp: every shape of a tile, plain and transposed, assigned and added.
#ifndef RELAY_CPU_LEVEL

#include <vector>

#include <doctest/doctest.h>

#include "level.hpp"

#define RELAY_EACH_LEVEL "backend/cpu_small_product.cpp"
#include <relay/backend/cpu/each_level.hpp>

#else

namespace relay::cpu::RELAY_CPU_LEVEL {

constexpr at_level here(Level::RELAY_CPU_LEVEL);

TEST_CASE_TEMPLATE("C (+)= op(A) B" * here, S, float, double) {
  Random random(Key(3));
  const auto draw = [&](int count) {
    std::vector<S> v(static_cast<std::size_t>(count));
    for (S& x : v) x = static_cast<S>(random.normal());
    return v;
  };
  const double tolerance = std::is_same_v<S, float> ? 2e-5 : 1e-13;
  for (int m = 1; m <= 2 * tile_rows + 1; ++m)
    for (const int vectors : {1, 2, 3, 4, 5, 2 * tile_vectors})
      for (const int k : {0, 1, 2, 6, 33}) {
        const int n = vectors * lanes<S>, lda = std::max(m, k) + 2, ldb = n + lanes<S>,
                  ldc = n + 3;  // rows further apart than they are long
        const auto a = draw(lda * std::max(m, k)), b = draw(ldb * std::max(k, 1)), before = draw(ldc * m);
        for (const Store how : {Store::assign, Store::add})
          for (const Operand operand : {Operand::plain, Operand::transposed}) {
            auto c = before;
            if (operand == Operand::plain)
              small_product<Operand::plain>(m, n, k, a.data(), lda, b.data(), ldb, c.data(), ldc, how);
            else
              small_product<Operand::transposed>(m, n, k, a.data(), lda, b.data(), ldb, c.data(), ldc, how);
            double worst = 0;
            for (int i = 0; i < m; ++i)
              for (int j = 0; j < ldc; ++j) {
                const auto at = static_cast<std::size_t>(i * ldc + j);
                double expected = j >= n || how == Store::add ? static_cast<double>(before[at]) : 0;
                for (int l = 0; j < n && l < k; ++l)
                  expected += static_cast<double>(
                                  a[static_cast<std::size_t>(operand == Operand::plain ? i * lda + l : l * lda + i)]) *
                              static_cast<double>(b[static_cast<std::size_t>(l * ldb + j)]);
                worst = std::max(worst, std::abs(static_cast<double>(c[at]) - expected));
              }
            CHECK(worst < tolerance);
          }
      }
}

TEST_CASE("a row's result does not depend on how many rows are computed with it" * here) {
  Random random(Key(4));
  const int n = 3 * lanes<float>, k = 19;
  std::vector<float> a(11 * 19), b(static_cast<std::size_t>(k * n)), all(static_cast<std::size_t>(11 * n)),
      one(static_cast<std::size_t>(n));
  for (float& x : a) x = static_cast<float>(random.normal());
  for (float& x : b) x = static_cast<float>(random.normal());
  small_product<Operand::plain>(11, n, k, a.data(), k, b.data(), n, all.data(), n, Store::assign);
  for (int i = 0; i < 11; ++i) {
    small_product<Operand::plain>(1, n, k, a.data() + i * k, k, b.data(), n, one.data(), n, Store::assign);
    for (int j = 0; j < n; ++j) CHECK(one[static_cast<std::size_t>(j)] == all[static_cast<std::size_t>(i * n + j)]);
  }
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
