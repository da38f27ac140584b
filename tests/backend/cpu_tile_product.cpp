// backend/cpu/tile_product.hpp: products of bf16 by whatever is fastest at a level, for every number of rows, and the matrix unit's state.
#ifndef RELAY_CPU_LEVEL

#include <fstream>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include "level.hpp"

TEST_CASE("the matrix unit is used only where there is one") {
  MESSAGE("this machine's level: ", name_of(relay::cpu::machine_level()));
  std::ifstream file("/proc/cpuinfo");
  const std::string about((std::istreambuf_iterator<char>(file)), {});
  if (relay::cpu::machine_level() == relay::cpu::Level::amx_bf16) CHECK(about.find("amx_bf16") != std::string::npos);
}

#define RELAY_EACH_LEVEL "backend/cpu_tile_product.cpp"
#include <relay/backend/cpu/each_level.hpp>

#else

namespace relay::cpu::RELAY_CPU_LEVEL {

constexpr at_level here(Level::RELAY_CPU_LEVEL);

#ifndef RELAY_CPU_BF16

TEST_CASE("no matrix unit is made ready where none is used" * here) {
  const MatrixUnit<Factors<bf16>> unit(3);
  CHECK_FALSE(uses_tiles<Factors<bf16>>);
}

#else

namespace {

/// Small integers, which bf16 and sums of them hold exactly, as operands: A [m, k], B [k, n], rows further apart than they are long.
struct Operands {
  int m, n, k, lda, ldb, ldc;
  std::vector<int> a, b;
  std::vector<Pair> a_factors, b_factors;
  std::vector<float> start, before;

  Operands(int rows, int columns, int depth, Random& random)
      : m(rows), n(columns), k(depth), lda(factors<Pair>(k) + 3), ldb(n + lanes<float>), ldc(n + 5) {
    const auto draw = [&](int count) {
      std::vector<int> v(static_cast<std::size_t>(count));
      for (int& x : v) x = static_cast<int>(random.below(17)) - 8;
      return v;
    };
    a = draw(m * k), b = draw(k * n);
    const auto bits = [](int value) { return std::uint32_t{bf16(static_cast<float>(value)).bits}; };
    const auto pair = [&](int first, int second) { return static_cast<Pair>(bits(first) | bits(second) << 16); };
    const Pair not_numbers = static_cast<Pair>(0x7fc07fc0);  // where nothing may be read
    a_factors.assign(static_cast<std::size_t>(m * lda), not_numbers);
    b_factors.assign(static_cast<std::size_t>(factors<Pair>(k) * ldb), not_numbers);
    const auto a_at = [&](int i, int l) { return l < k ? a[static_cast<std::size_t>(i * k + l)] : 0; };
    const auto b_at = [&](int l, int j) { return l < k ? b[static_cast<std::size_t>(l * n + j)] : 0; };
    for (int l = 0; l < factors<Pair>(k); ++l) {
      for (int i = 0; i < m; ++i) a_factors[static_cast<std::size_t>(i * lda + l)] = pair(a_at(i, 2 * l), a_at(i, 2 * l + 1));
      for (int j = 0; j < n; ++j) b_factors[static_cast<std::size_t>(l * ldb + j)] = pair(b_at(2 * l, j), b_at(2 * l + 1, j));
    }
    for (const int x : draw(n)) start.push_back(static_cast<float>(x));
    for (const int x : draw(m * ldc)) before.push_back(static_cast<float>(x));
  }

  std::vector<float> expected(Store how, bool started) const {
    auto c = before;
    for (int i = 0; i < m; ++i)
      for (int j = 0; j < n; ++j) {
        float& to = c[static_cast<std::size_t>(i * ldc + j)];
        if (how == Store::assign) to = 0;
        if (started) to += start[static_cast<std::size_t>(j)];
        for (int l = 0; l < k; ++l) to += static_cast<float>(a[static_cast<std::size_t>(i * k + l)] * b[static_cast<std::size_t>(l * n + j)]);
      }
    return c;
  }

  std::vector<float> computed(Store how, bool started, int unit_rows) const {
    const MatrixUnit<Pair> unit(unit_rows);
    auto c = before;
    block_product<Pair>(m, n, factors<Pair>(k), a_factors.data(), lda, b_factors.data(), ldb, c.data(), ldc, how, started ? start.data() : nullptr);
    return c;
  }
};

}  // namespace

TEST_CASE("every number of rows, tiles of columns and steps; nothing beside them is read or written" * here) {
  Random random(Key(3));
  for (int m = 1; m <= 67; ++m)
    for (const int vectors : {1, 2, 3, 4, 5, 7})
      for (const int k : {1, 2, 31, 32, 33, 100}) {
        CAPTURE(m);
        CAPTURE(vectors);
        CAPTURE(k);
        const Operands x(m, vectors * lanes<float>, k, random);
        for (const Store how : {Store::assign, Store::add})
          for (const bool started : {false, true}) {
            const auto expected = x.expected(how, started);
            CHECK(x.computed(how, started, 16) == expected);
            if (m < 16) CHECK(x.computed(how, started, m) == expected);  // made ready for these rows alone
          }
      }
}

TEST_CASE("a row's bits depend neither on other rows nor on what the unit was made ready for; adding goes on where it was" * here) {
  Random random(Key(4));
  const int m = 37, n = 5 * lanes<float>, k = 96;
  std::vector<Pair> a(static_cast<std::size_t>(m * k / 2)), b(static_cast<std::size_t>(k / 2 * n));
  const auto bits = [&] { return std::uint32_t{bf16(static_cast<float>(random.normal())).bits}; };
  for (auto* v : {&a, &b})
    for (Pair& p : *v) p = static_cast<Pair>(bits() | bits() << 16);
  std::vector<float> all(static_cast<std::size_t>(m * n)), one(static_cast<std::size_t>(n)), cut = all;
  {
    const MatrixUnit<Pair> unit;
    block_product<Pair>(m, n, k / 2, a.data(), k / 2, b.data(), n, all.data(), n, Store::assign);
  }
  for (int i = 0; i < m; ++i)
    for (const int rows : {1, 16}) {
      const MatrixUnit<Pair> own(rows);
      block_product<Pair>(1, n, k / 2, a.data() + i * k / 2, k / 2, b.data(), n, one.data(), n, Store::assign);
      CHECK(std::equal(one.begin(), one.end(), all.begin() + i * n));
    }
  if constexpr (uses_tiles<Pair>) {
    const MatrixUnit<Pair> unit;
    block_product<Pair>(m, n, 16, a.data(), k / 2, b.data(), n, cut.data(), n, Store::assign);
    block_product<Pair>(m, n, 32, a.data() + 16, k / 2, b.data() + 16 * n, n, cut.data(), n, Store::add);
    CHECK(cut == all);
  }
}

TEST_CASE("each thread has its own unit" * here) {
  Random random(Key(5));
  const Operands x(40, 64, 70, random), few(3, 64, 70, random);
  std::vector<float> there;
  {
    const MatrixUnit<Pair> unit;
    std::thread([&] { there = few.computed(Store::assign, false, 3); }).join();
    CHECK(there == few.expected(Store::assign, false));
    auto c = x.before;
    block_product<Pair>(x.m, x.n, factors<Pair>(x.k), x.a_factors.data(), x.lda, x.b_factors.data(), x.ldb, c.data(), x.ldc, Store::assign);
    CHECK(c == x.expected(Store::assign, false));
  }
}

#endif

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
