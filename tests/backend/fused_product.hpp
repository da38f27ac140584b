// Products of warpgroups with GELU or its slope behind them (backend/cuda/fused_product.hpp) against the plain sums: on a GPU, or on the host's
// stand-in for one.
#pragma once

#include <relay/backend/cuda/fused_product.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "reference.hpp"

namespace fused_product {

namespace cuda = relay::cuda;
using cuda::bf16;

/// Elements on the device, exactly so many.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(long size) : size_(static_cast<std::size_t>(size)) {
    void* memory = nullptr;
    cuda::check(cudaMalloc(&memory, size_ * sizeof(T)), "allocate");
    data_ = static_cast<T*>(memory);
  }
  explicit OnDevice(const std::vector<T>& values) : OnDevice(static_cast<long>(values.size())) {
    cuda::Staging::copy(values.data(), data_, size_ * sizeof(T));
  }
  OnDevice(const OnDevice&) = delete;
  ~OnDevice() { (void)cudaFree(data_); }
  T* data() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> all(size_);
    cuda::copy_to_host(data_, all.data(), size_ * sizeof(T));
    return all;
  }

 private:
  std::size_t size_;
  T* data_ = nullptr;
};

inline double number(float x) { return static_cast<double>(x); }
inline double number(bf16 x) { return static_cast<double>(__bfloat162float(x)); }
inline void write(double x, float& to) { to = static_cast<float>(x); }
inline void write(double x, bf16& to) { to = __float2bfloat16(static_cast<float>(x)); }

template <class T>
std::vector<T> random(long size, relay::Random& random, double deviation = 1) {
  std::vector<T> values(static_cast<std::size_t>(size));
  for (T& v : values) write(deviation * random.normal(), v);
  return values;
}
template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}

struct Size {
  int rows, depth, columns;
};

/// Some elements of a result, for all of them would take long: those of the first and the last row, and others here and there.
void some_elements(const Size& s, relay::Random& random, auto&& f) {
  for (int c = 0; c < s.columns; ++c) f(0, c), f(s.rows - 1, c);
  const auto below = [&](int n) { return static_cast<int>(random.below(static_cast<std::uint32_t>(n))); };
  for (int i = 0; i < 2000; ++i) {
    const int row = below(s.rows);
    f(row, below(s.columns));
  }
}

/// GELU here is the approximation with tanh, off by 5e-4 at most, and so is its slope, by 1e-3; both are rounded to bf16.
inline double rounding(double x) { return 0.005 * std::abs(x) + 0.005; }

/// Each is computed by again(f) once more: f() to the same bits.
inline void check_gelu(const Size& s, auto&& again) {
  relay::Random own(relay::Key(1));
  const long size = static_cast<long>(s.rows) * s.columns;
  const auto x = random<bf16>(static_cast<long>(s.rows) * s.depth, own), weight = random<bf16>(static_cast<long>(s.columns) * s.depth, own, 0.2);
  const auto bias = random<float>(s.columns, own);
  const OnDevice<bf16> x_there(x), weight_there(weight), hidden(size), y(size), only(size), hidden_again(size), y_again(size);
  const OnDevice<float> bias_there(bias);
  const cuda::FusedProduct<cuda::WithGelu> fused(s.rows, s.depth, s.columns);
  REQUIRE(fused);
  fused(x_there.data(), weight_there.data(), {bias_there.data(), hidden.data(), y.data()});
  fused(x_there.data(), weight_there.data(), {bias_there.data(), nullptr, only.data()});
  again([&] { fused(x_there.data(), weight_there.data(), {bias_there.data(), hidden_again.data(), y_again.data()}); });
  const auto h = hidden.values(), activated = y.values();
  some_elements(s, own, [&](int r, int c) {
    double wanted = number(bias[static_cast<std::size_t>(c)]);
    for (int k = 0; k < s.depth; ++k)
      wanted += number(x[static_cast<std::size_t>(r) * static_cast<std::size_t>(s.depth) + static_cast<std::size_t>(k)]) *
                number(weight[static_cast<std::size_t>(c) * static_cast<std::size_t>(s.depth) + static_cast<std::size_t>(k)]);
    const auto at = static_cast<std::size_t>(r) * static_cast<std::size_t>(s.columns) + static_cast<std::size_t>(c);
    REQUIRE(std::abs(number(h[at]) - wanted) <= rounding(wanted));
    REQUIRE(std::abs(number(activated[at]) - reference::gelu(wanted)) <= rounding(wanted));
  });
  CHECK(same_bits(only.values(), activated));
  CHECK(same_bits(y_again.values(), activated));
  CHECK(same_bits(hidden_again.values(), h));
}

inline void check_slope(const Size& s, auto&& again) {
  relay::Random own(relay::Key(2));
  const long size = static_cast<long>(s.rows) * s.columns;
  const auto dy = random<bf16>(static_cast<long>(s.rows) * s.depth, own), weight = random<bf16>(static_cast<long>(s.columns) * s.depth, own, 0.2);
  const auto hidden = random<bf16>(size, own);
  const cuda::FusedProduct<cuda::WithGeluSlope> fused(s.rows, s.depth, s.columns);
  REQUIRE(fused);
  const long parts = static_cast<long>(fused.blocks()) * s.columns;
  const OnDevice<bf16> dy_there(dy), weight_there(weight), hidden_there(hidden), dh(size), dh_again(size);
  const OnDevice<float> partial(parts), partial_again(parts);
  fused(dy_there.data(), weight_there.data(), {hidden_there.data(), dh.data(), partial.data(), false});
  again([&] { fused(dy_there.data(), weight_there.data(), {hidden_there.data(), dh_again.data(), partial_again.data(), false}); });
  const auto d = dh.values();
  const auto sums = partial.values();
  some_elements(s, own, [&](int r, int c) {
    double wanted = 0;
    for (int k = 0; k < s.depth; ++k)
      wanted += number(dy[static_cast<std::size_t>(r) * static_cast<std::size_t>(s.depth) + static_cast<std::size_t>(k)]) *
                number(weight[static_cast<std::size_t>(k) * static_cast<std::size_t>(s.columns) + static_cast<std::size_t>(c)]);
    const auto at = static_cast<std::size_t>(r) * static_cast<std::size_t>(s.columns) + static_cast<std::size_t>(c);
    REQUIRE(std::abs(number(d[at]) - wanted * reference::gelu_slope(number(hidden[at]))) <= rounding(wanted) + 0.003 * std::abs(wanted));
  });
  for (int c = 0; c < s.columns; ++c) {
    double sum = 0, wanted = 0, squares = 0, largest = 0;
    for (std::size_t b = static_cast<std::size_t>(c); b < sums.size(); b += static_cast<std::size_t>(s.columns)) sum += number(sums[b]);
    for (std::size_t at = static_cast<std::size_t>(c); at < d.size(); at += static_cast<std::size_t>(s.columns)) {
      const double x = number(d[at]);  // rounded, which what is added up is not
      wanted += x, squares += x * x, largest = std::max(largest, std::abs(x));
    }
    REQUIRE(std::abs(sum - wanted) <= 0.01 * std::sqrt(squares) + 0.004 * largest + 1e-5);
  }
  CHECK(same_bits(dh_again.values(), d));
  CHECK(same_bits(partial_again.values(), sums));
  fused(dy_there.data(), weight_there.data(), {hidden_there.data(), dh_again.data(), partial_again.data(), true});
  const auto twice = partial_again.values();
  for (std::size_t i = 0; i < sums.size(); ++i) REQUIRE(std::abs(number(twice[i]) - 2 * number(sums[i])) <= 1e-5 * (10 + std::abs(number(sums[i]))));
}

inline void check_residual_norm(int rows, int depth, auto&& again) {
  constexpr int width = cuda::fused::columns;
  relay::Random own(relay::Key(3));
  const relay::Key key(4);
  const long size = static_cast<long>(rows) * width;
  const auto x = random<bf16>(static_cast<long>(rows) * depth, own), weight = random<bf16>(static_cast<long>(width) * depth, own, 0.2);
  const auto bias = random<float>(width, own), base = random<float>(size, own, 3), scale = random<float>(width, own), shift = random<float>(width, own);
  const OnDevice<bf16> x_there(x), weight_there(weight), normal(size), normal_again(size);
  const OnDevice<float> bias_there(bias), base_there(base), scale_there(scale), shift_there(shift), sum(size), sum_again(size), statistics(2L * rows),
      statistics_again(2L * rows);
  const cuda::FusedProduct<cuda::WithResidualNorm> fused(rows, depth, width);
  REQUIRE(fused);
  for (const double rate : {0.0, 0.4}) {
    CAPTURE(rate);
    const cuda::Drop drop(rate, key);
    const auto compute = [&](const OnDevice<float>& to, const OnDevice<bf16>& n, const OnDevice<float>& kept) {
      fused(x_there.data(), weight_there.data(),
            {bias_there.data(), base_there.data(), scale_there.data(), shift_there.data(), 1e-5f, drop, to.data(), n.data(), kept.data()});
    };
    compute(sum, normal, statistics);
    again([&] { compute(sum_again, normal_again, statistics_again); });
    const auto y = sum.values(), s = statistics.values();
    const auto n = normal.values();
    for (int i = 0; i < 60; ++i) {
      const int r = i == 0 ? 0 : i == 1 ? rows - 1 : static_cast<int>(own.below(static_cast<std::uint32_t>(rows)));
      reference::Matrix wanted(1, width);
      for (int c = 0; c < width; ++c) {
        double product = number(bias[static_cast<std::size_t>(c)]);
        for (int k = 0; k < depth; ++k)
          product += number(x[static_cast<std::size_t>(r) * static_cast<std::size_t>(depth) + static_cast<std::size_t>(k)]) *
                     number(weight[static_cast<std::size_t>(c) * static_cast<std::size_t>(depth) + static_cast<std::size_t>(k)]);
        const long at = static_cast<long>(r) * width + c;
        if (rate > 0) product = reference::dropped(at, rate, key) ? 0 : product / (1 - rate);
        wanted(0, c) = number(base[static_cast<std::size_t>(at)]) + product;
        REQUIRE(std::abs(number(y[static_cast<std::size_t>(at)]) - wanted(0, c)) <= 1e-4);
      }
      reference::Matrix factor(1, width), term(1, width);
      for (int c = 0; c < width; ++c) factor(0, c) = number(scale[static_cast<std::size_t>(c)]), term(0, c) = number(shift[static_cast<std::size_t>(c)]);
      const auto expected = reference::layer_norm(wanted, factor, term, 1e-5);
      for (int c = 0; c < width; ++c) {
        const double value = number(n[static_cast<std::size_t>(r) * width + static_cast<std::size_t>(c)]);
        REQUIRE(std::abs(value - expected.y(0, c)) <= 0.004 * std::abs(expected.y(0, c)) + 1e-4);
      }
      for (int which = 0; which < 2; ++which)
        REQUIRE(std::abs(number(s[2 * static_cast<std::size_t>(r) + static_cast<std::size_t>(which)]) - expected.statistics(0, which)) <= 1e-4);
    }
    CHECK(same_bits(sum_again.values(), y));
    CHECK(same_bits(normal_again.values(), n));
    CHECK(same_bits(statistics_again.values(), s));
  }
}

}  // namespace fused_product
