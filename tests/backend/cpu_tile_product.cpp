// backend/cpu/tile_product.hpp, tile_row.hpp, digits.hpp and digit_row.hpp: products by whatever is fastest at a level, for every number of rows,
// of bf16 and of floats as digits, and the matrix unit's state.
#ifndef RELAY_CPU_LEVEL

#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

#include <relay/backend/cpu.hpp>

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

#ifdef RELAY_CPU_AMX

namespace {

std::vector<float> drawn(int count, Random& random) {
  std::vector<float> v(static_cast<std::size_t>(count));
  for (float& x : v) x = static_cast<float>(random.normal() * std::exp(2 * random.normal()));
  return v;
}

/// C [m, n] = A [m, k] B [n, k]^T, the products of F.
template <class F>
std::vector<float> product_of(int m, int n, int k, const std::vector<float>& a, const std::vector<float>& b) {
  std::vector<float> c(static_cast<std::size_t>(m * n));
  product<Operand::plain, Operand::transposed, F>(m, n, k, {a.data(), k}, {b.data(), k}, nullptr, nullptr, {c.data(), n}, Store::assign, Device{});
  return c;
}

}  // namespace

TEST_CASE("a row of floats is digits and a scale" * here) {
  Random random(Key(6));
  for (const int count : {1, 17, 63, 64, 65, 200, 256})
    for (const float size : {1.0f, 0x1p-90f, 0x1p100f}) {
      CAPTURE(count);
      CAPTURE(size);
      auto row = drawn(count, random);
      for (float& x : row) x *= size;
      const int depth = digit_depth(count);
      std::vector<Digits> lines(static_cast<std::size_t>(digit_places * depth));
      const Vector<float> inverse = detail::inverse_of_row(row.data(), count);
      const double scale = static_cast<double>(detail::digit_scale(inverse)[0]) / 65536;
      for (int k = 0; k < count; k += digit_steps) detail::pack_digit_line(row.data() + k, count - k, inverse, &lines[static_cast<std::size_t>(digit_places * k / digit_steps)], 1);
      double largest = 0;
      for (const float x : row) largest = std::max(largest, std::abs(static_cast<double>(x)));
      double worst = 0;
      int first_digit = 0;
      for (int k = 0; k < depth * digit_steps; ++k) {
        const int in_line = k % digit_steps, byte = 4 * (in_line % 16) + in_line / 16;
        const auto digit = [&](int place) { return static_cast<int>(lines[static_cast<std::size_t>(k / digit_steps * digit_places + place)].digit[byte]); };
        const double whole = 65536.0 * digit(0) + 256.0 * digit(1) + digit(2);
        worst = std::max(worst, std::abs(whole * scale - (k < count ? static_cast<double>(row[static_cast<std::size_t>(k)]) : 0)) / largest);
        first_digit = std::max(first_digit, std::abs(digit(0)));
      }
      CHECK(worst < 3.1 * 0x1p-24);  // half of the last digit, and what the scale and its inverse are rounded by
      CHECK(first_digit == 127);
    }
  const std::vector<float> zeros(20);
  CHECK(product_of<Digits>(1, 1, 20, zeros, drawn(20, random))[0] == 0);
}

namespace {

struct Errors {
  double of_digits = 0, of_floats = 0;  // root mean squares, of what absolute values would add up to
  double worst = 0;                     // of digits, of k times the product of the largest numbers of a row and a column
};

Errors errors_of(int m, int n, int k, const std::vector<float>& a, const std::vector<float>& b) {
  const auto digits = product_of<Digits>(m, n, k, a, b), floats = product_of<float>(m, n, k, a, b);
  Errors e;
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; ++j) {
      double exact = 0, size = 0, largest_a = 0, largest_b = 0;
      for (int l = 0; l < k; ++l) {
        const double x = static_cast<double>(a[static_cast<std::size_t>(i * k + l)]), y = static_cast<double>(b[static_cast<std::size_t>(j * k + l)]);
        exact += x * y, size += std::abs(x * y);
        largest_a = std::max(largest_a, std::abs(x)), largest_b = std::max(largest_b, std::abs(y));
      }
      const auto at = static_cast<std::size_t>(i * n + j);
      const auto square = [&](float value) { return std::pow((static_cast<double>(value) - exact) / size, 2) / (m * n); };
      e.of_digits += square(digits[at]), e.of_floats += square(floats[at]);
      e.worst = std::max(e.worst, std::abs(static_cast<double>(digits[at]) - exact) / (k * largest_a * largest_b));
    }
  e.of_digits = std::sqrt(e.of_digits), e.of_floats = std::sqrt(e.of_floats);
  return e;
}

}  // namespace

TEST_CASE("products of digits are about as exact as those of floats, where the numbers of a row are of similar size" * here) {
  Random random(Key(7));
  const int m = 40, n = 70;
  for (const int k : {32, 256, 1000}) {
    CAPTURE(k);
    std::vector<float> a(static_cast<std::size_t>(m * k)), b(static_cast<std::size_t>(n * k));
    for (auto* v : {&a, &b})
      for (float& x : *v) x = static_cast<float>(random.normal());
    for (int i = 0; i < m; ++i)  // whatever the size of the row is
      for (int l = 0; l < k; ++l) a[static_cast<std::size_t>(i * k + l)] *= std::exp2(static_cast<float>(i - 20));
    const Errors e = errors_of(m, n, k, a, b);
    MESSAGE("errors of ", e.of_digits, " and ", e.of_floats);
    CHECK(e.of_digits < (k < 256 ? 2.5 : 1.7) * e.of_floats);
    CHECK(e.of_digits < 1e-7);
  }
}

TEST_CASE("and always to so many bits of its largest numbers" * here) {
  Random random(Key(9));
  for (const int k : {1, 3, 64, 300, 1000}) {
    CAPTURE(k);
    const Errors e = errors_of(33, 40, k, drawn(33 * k, random), drawn(40 * k, random));
    MESSAGE("worst error of ", e.worst * 0x1p24, " 2^-24");
    CHECK(e.worst < (8 + 4.0 / k) * 0x1p-24);  // and what is rounded at the end
  }
}

TEST_CASE("digits are the same whatever the size of a row" * here) {
  Random random(Key(11));
  const int m = 35, n = 20, k = 300;
  const auto a = drawn(m * k, random), b = drawn(n * k, random);
  auto expected = product_of<Digits>(m, n, k, a, b);
  for (float& x : expected) x *= 32;
  const auto scaled = [](std::vector<float> v, float by) {
    for (float& x : v) x *= by;
    return v;
  };
  CHECK(product_of<Digits>(m, n, k, scaled(a, 0x1p95f), scaled(b, 0x1p-90f)) == expected);
  CHECK(product_of<Digits>(m, n, k, scaled(a, 0x1p-90f), scaled(b, 0x1p95f)) == expected);
}

TEST_CASE("what is not a number, or infinite, spoils its own rows and columns alone" * here) {
  Random random(Key(8));
  const int m = 5, n = 20, k = 40;
  const auto a = drawn(m * k, random), b = drawn(n * k, random);
  const auto before = product_of<Digits>(m, n, k, a, b);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::max()}) {
    auto bad_a = a, bad_b = b;
    bad_a[2 * k + 7] = bad_b[3 * k + 9] = bad;
    const auto row = product_of<Digits>(m, n, k, bad_a, b), column = product_of<Digits>(m, n, k, a, bad_b);
    const bool finite = std::isfinite(bad);
    std::vector<Digits> packed(static_cast<std::size_t>(packed_size<Digits>(n, k)));
    pack<Operand::transposed, Digits>(n, k, {bad_b.data(), k}, packed.data());
    for (int i = 0; i < m; ++i) {  // a single row goes another way
      std::vector<float> alone(static_cast<std::size_t>(n));
      product<Operand::plain, Operand::transposed, Digits>(1, n, k, {bad_a.data() + i * k, k}, {bad_b.data(), k}, packed.data(), nullptr, {alone.data(), n},
                                                           Store::assign, Device{});
      for (int j = 0; j < n; ++j) {
        const float x = alone[static_cast<std::size_t>(j)], expected = before[static_cast<std::size_t>(i * n + j)];
        if (i != 2 && j != 3)
          CHECK(x == expected);
        else if (!finite)
          CHECK(std::isnan(x));
      }
    }
    for (int i = 0; i < m * n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      CHECK((i / n == 2 ? finite != std::isnan(row[at]) : row[at] == before[at]));
      CHECK((i % n == 3 ? finite != std::isnan(column[at]) : column[at] == before[at]));
    }
  }
}

TEST_CASE("a single row of bf16 has the unit's bits where numbers are subnormal, too, and leaves the processor as it was" * here) {
  Random random(Key(10));
  const int m = 3, n = 70, k = 100;
  auto a = drawn(m * k, random), b = drawn(n * k, random), bias = drawn(n, random);
  for (auto* v : {&a, &b})
    for (float& x : *v) x *= random.below(2) == 0 ? 0x1p-64f : 0x1p-66f;
  for (float& x : bias) x *= random.below(2) == 0 ? 0x1p-130f : 0x1p-125f;
  std::vector<Pair> packed(static_cast<std::size_t>(packed_size<Pair>(n, k)));
  pack<Operand::transposed, Pair>(n, k, {b.data(), k}, packed.data());
  std::vector<float> all(static_cast<std::size_t>(m * n)), one(static_cast<std::size_t>(n));
  const auto compute = [&](int first, int rows, std::vector<float>& c) {
    product<Operand::plain, Operand::transposed, Pair>(rows, n, k, {a.data() + first * k, k}, {b.data(), k}, packed.data(), bias.data(), {c.data(), n}, Store::assign,
                                                       Device{});
  };
  compute(0, m, all);
  const unsigned before = _mm_getcsr();
  int subnormal = 0;
  for (int i = 0; i < m; ++i) {
    compute(i, 1, one);
    CHECK(std::memcmp(one.data(), all.data() + i * n, one.size() * sizeof(float)) == 0);
  }
  for (const float x : all) subnormal += x == 0;
  CHECK(subnormal < m * n / 2);
  CHECK((_mm_getcsr() & ~0x3fu) == (before & ~0x3fu));  // but for what has happened
}

TEST_CASE("floats are multiplied as digits with weights that are not small, laid out or not, a single row or several" * here) {
  using B = Cpu<float, Level::RELAY_CPU_LEVEL>;
  using Below = Cpu<float, Level::avx512>;
  Random random(Key(9));
  for (const int inputs : {64, 95, 96, 130, 300})
    for (const int rows : {1, 3, 40}) {
      CAPTURE(inputs);
      CAPTURE(rows);
      const int outputs = 150;
      Tensor<float> x(rows, inputs), weight(outputs, inputs), bias(1, outputs), y, floats;
      for (auto* t : {&x, &weight, &bias})
        for (long i = 0; i < t->size(); ++i) t->data()[i] = static_cast<float>(random.normal());
      Below::linear(x, weight, bias, floats);
      B::linear(x, weight, bias, y);
      CHECK(std::equal(floats.data(), floats.data() + floats.size(), y.data()) == (inputs < 96));
      const Tensor<float> unprepared = y;
      B::prepare(weight);
      B::linear(x, weight, bias, y);
      CHECK(std::equal(y.data(), y.data() + y.size(), unprepared.data()));
    }
}

#endif

#endif

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
