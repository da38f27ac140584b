#include <relay/core/random.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <set>
#include <vector>

#include <doctest/doctest.h>

using namespace relay;

TEST_CASE("Philox4x32-10: the known answers of the Random123 distribution") {
  using Block = std::array<std::uint32_t, 4>;
  CHECK(philox({0, 0, 0, 0}, 0) == Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox({~0u, ~0u, ~0u, ~0u}, ~std::uint64_t{0}) == Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822) ==
        Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("a stream is a pure function of its key") {
  Random a{Key(Seed{7})}, b{Key(Seed{7})}, c{Key(Seed{8})};
  int same = 0;
  for (int i = 0; i < 1000; ++i) {
    const std::uint32_t x = a.bits();
    CHECK(x == b.bits());
    same += x == c.bits();
  }
  CHECK(same < 3);
  std::set<std::uint64_t> keys;
  for (std::uint64_t i = 0; i < 100; ++i)
    for (std::uint64_t j = 0; j < 100; ++j) keys.insert(Key(1).fold(i).fold(j).value);
  CHECK(keys.size() == 10000);
  CHECK(Key(1).fold(2).fold(3) != Key(1).fold(3).fold(2));
}

TEST_CASE("below: every value, equally often") {
  Random random{Key(11)};
  for (const int n : {1, 2, 3, 7, 11, 64, 100, 997}) {
    std::vector<int> counts(static_cast<std::size_t>(n));
    const int draws = 200 * n + 20000;
    for (int i = 0; i < draws; ++i) {
      const int v = random.below(n);
      REQUIRE(v >= 0);
      REQUIRE(v < n);
      ++counts[static_cast<std::size_t>(v)];
    }
    const double expected = static_cast<double>(draws) / n;
    double chi_square = 0;
    for (const int count : counts) chi_square += (count - expected) * (count - expected) / expected;
    CHECK(chi_square < (n - 1) + 5 * std::sqrt(2.0 * n));  // five standard deviations
  }
}

TEST_CASE("below: without bias where the remainder of a division would show it") {
  Random random{Key(12)};
  const int n = 3 << 29;  // 2^32 is 2.67 times this: a plain remainder would give its lower two thirds 3 chances to 2
  int low = 0;
  const int draws = 100000;
  for (int i = 0; i < draws; ++i) low += random.below(n) < n / 3;
  CHECK(std::abs(low - draws / 3.0) < 5 * std::sqrt(draws * 2.0 / 9));
}

TEST_CASE("uniform lies in [0, 1) with the right moments") {
  Random random{Key(13)};
  const int n = 200000;
  double sum = 0, squares = 0;
  for (int i = 0; i < n; ++i) {
    const double u = random.uniform();
    REQUIRE(u >= 0);
    REQUIRE(u < 1);
    sum += u, squares += u * u;
  }
  CHECK(std::abs(sum / n - 0.5) < 5 * std::sqrt(1.0 / 12 / n));
  CHECK(std::abs(squares / n - 1.0 / 3) < 5 * std::sqrt(4.0 / 45 / n));
}

TEST_CASE("normal: mean 0, variance 1, no skew, kurtosis 3") {
  Random random{Key(14)};
  const int n = 200000;
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0;
  for (int i = 0; i < n; ++i) {
    const double x = random.normal();
    m1 += x, m2 += x * x, m3 += x * x * x, m4 += x * x * x * x;
  }
  CHECK(std::abs(m1 / n) < 5 * std::sqrt(1.0 / n));
  CHECK(std::abs(m2 / n - 1) < 5 * std::sqrt(2.0 / n));
  CHECK(std::abs(m3 / n) < 5 * std::sqrt(15.0 / n));
  CHECK(std::abs(m4 / n - 3) < 5 * std::sqrt(96.0 / n));
}
