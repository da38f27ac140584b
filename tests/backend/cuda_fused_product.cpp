// Products of warpgroups with GELU or its slope behind them, run on the host (cuda_on_host.hpp), against the plain sums.
#include <relay/backend/cuda/fused_product.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <vector>

#include "reference.hpp"

using namespace relay;
using cuda::bf16;
using cuda_on_host::Order;

namespace {

/// Elements on the device, exactly so many; fresh ones are NaNs.
template <class T>
struct OnDevice {
  T* data = nullptr;
  long size;

  explicit OnDevice(long count) : size(count) {
    void* memory = nullptr;
    cuda::check(cudaMalloc(&memory, static_cast<std::size_t>(count) * sizeof(T)), "allocate");
    data = static_cast<T*>(memory);
  }
  OnDevice(long count, Random& random) : OnDevice(count) {
    for (long i = 0; i < count; ++i) data[i] = cuda::element<T>(static_cast<float>(random.normal()));
  }
  OnDevice(const OnDevice&) = delete;
  ~OnDevice() { cudaFree(data); }
  double operator[](long i) const { return static_cast<double>(cuda::number(data[i])); }
};

struct Size {
  int rows, depth, columns;
};
/// Of the tiles of 64 rows, none is whole, one is, some blocks have one more, a group of warpgroups has three; of small and of large blocks.
constexpr Size sizes[] = {{1, 64, 256}, {64, 64, 512}, {130, 128, 256}, {200, 256, 1024}, {64 * 34 + 7, 64, 256 * 12}, {4300, 64, 1024}};

template <class Follow>
void run(const Size& s, const bf16* x, const bf16* weight, const Follow& follow) {
  const cuda::FusedProduct<Follow> fused(s.depth, s.columns);
  REQUIRE(fused);
  fused(cuda::WideProduct{x, weight, s.rows, s.columns}, follow);
}

/// Some elements of a result, for all of them would take long: those of the first and the last row, and others here and there.
void some_elements(const Size& s, Random& random, auto&& f) {
  for (int c = 0; c < s.columns; c += s.columns > 2000 ? 61 : 1) f(0, c), f(s.rows - 1, c);
  for (int i = 0; i < 2000; ++i)
    f(static_cast<int>(random.below(static_cast<std::uint32_t>(s.rows))), static_cast<int>(random.below(static_cast<std::uint32_t>(s.columns))));
}

double rounding(double x) { return 0.005 * std::abs(x) + 0.005; }

}  // namespace

TEST_CASE("An up projection with GELU") {
  for (const Size& s : sizes) {
    CAPTURE(s.rows);
    CAPTURE(s.columns);
    Random random(Key(1));
    const long size = static_cast<long>(s.rows) * s.columns;
    const OnDevice<bf16> x(static_cast<long>(s.rows) * s.depth, random), weight(static_cast<long>(s.columns) * s.depth, random);
    const OnDevice<float> bias(s.columns, random);
    const OnDevice<bf16> hidden(size), y(size), only(size), hidden_again(size), again(size);
    run(s, x.data, weight.data, cuda::WithGelu{bias.data, hidden.data, y.data});
    some_elements(s, random, [&](int r, int c) {
      double h = bias[c];
      for (int k = 0; k < s.depth; ++k) h += x[static_cast<long>(r) * s.depth + k] * weight[static_cast<long>(c) * s.depth + k];
      const long at = static_cast<long>(r) * s.columns + c;
      REQUIRE(std::abs(hidden[at] - h) <= rounding(h));
      REQUIRE(std::abs(y[at] - reference::gelu(h)) <= rounding(h));
    });
    run(s, x.data, weight.data, cuda::WithGelu{bias.data, nullptr, only.data});
    cuda_on_host::thread_order = Order::backwards;
    run(s, x.data, weight.data, cuda::WithGelu{bias.data, hidden_again.data, again.data});
    cuda_on_host::thread_order = Order::forwards;
    const auto bytes = static_cast<std::size_t>(size) * sizeof(bf16);
    CHECK(std::memcmp(y.data, only.data, bytes) == 0);
    CHECK(std::memcmp(y.data, again.data, bytes) == 0);
    CHECK(std::memcmp(hidden.data, hidden_again.data, bytes) == 0);
  }
}

TEST_CASE("The way back through a down projection with GELU's slope, and its sums") {
  for (const Size& s : sizes) {
    CAPTURE(s.rows);
    CAPTURE(s.columns);
    Random random(Key(2));
    const long size = static_cast<long>(s.rows) * s.columns;
    const int blocks = cuda::FusedProduct<cuda::WithGeluSlope>(s.depth, s.columns).blocks(s.rows);
    const OnDevice<bf16> dy(static_cast<long>(s.rows) * s.depth, random), weight(static_cast<long>(s.columns) * s.depth, random), hidden(size, random);
    const OnDevice<bf16> dh(size), again(size);
    const OnDevice<float> partial(static_cast<long>(blocks) * s.columns), partial_again(static_cast<long>(blocks) * s.columns);
    run(s, dy.data, weight.data, cuda::WithGeluSlope{hidden.data, dh.data, partial.data, false});
    some_elements(s, random, [&](int r, int c) {
      double d = 0;
      for (int k = 0; k < s.depth; ++k) d += dy[static_cast<long>(r) * s.depth + k] * weight[static_cast<long>(k) * s.columns + c];
      const long at = static_cast<long>(r) * s.columns + c;
      REQUIRE(std::abs(dh[at] - d * reference::gelu_slope(hidden[at])) <= rounding(d) + 0.003 * std::abs(d));
    });
    for (int c = 0; c < s.columns; c += 7) {
      double sum = 0, wanted = 0, size_of = 0;
      for (int b = 0; b < blocks; ++b) sum += partial[static_cast<long>(b) * s.columns + c];
      for (int r = 0; r < s.rows; ++r) {
        const double d = dh[static_cast<long>(r) * s.columns + c];
        wanted += d, size_of += std::abs(d);
      }
      REQUIRE(std::abs(sum - wanted) <= 0.004 * size_of + 1e-5);
    }
    cuda_on_host::thread_order = Order::backwards;
    run(s, dy.data, weight.data, cuda::WithGeluSlope{hidden.data, again.data, partial_again.data, false});
    cuda_on_host::thread_order = Order::forwards;
    CHECK(std::memcmp(dh.data, again.data, static_cast<std::size_t>(size) * sizeof(bf16)) == 0);
    CHECK(std::memcmp(partial.data, partial_again.data, static_cast<std::size_t>(partial.size) * sizeof(float)) == 0);
    run(s, dy.data, weight.data, cuda::WithGeluSlope{hidden.data, again.data, partial_again.data, true});
    for (long i = 0; i < partial.size; ++i) REQUIRE(std::abs(partial_again[i] - 2 * partial[i]) <= 1e-4 * (1 + std::abs(partial[i])));
  }
}

TEST_CASE("Other shapes have no such product") {
  CHECK_FALSE(cuda::FusedProduct<cuda::WithGelu>(96, 256));
  CHECK_FALSE(cuda::FusedProduct<cuda::WithGelu>(64, 128));
  CHECK_FALSE(cuda::FusedProduct<cuda::WithGelu>(64, 0));
}
