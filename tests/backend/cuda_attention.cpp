// The CUDA backend's attention, its kernels run on the host (cuda_on_host.hpp): every path against reference.hpp, in both orders of
// threads, with the same bits.
#include <relay/backend/cuda/cached_attention.hpp>
#include <relay/backend/cuda/packed_attention.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "reference.hpp"

using namespace relay;
using cuda::bf16;
using cuda_on_host::Order;
using reference::Matrix;

namespace {

constexpr Mask masks[] = {Mask::none, Mask::causal, Mask::anticausal};

/// Both orders of a block's threads; afterwards the first again.
template <class F>
void in_both_orders(F&& f) {
  for (const Order order : {Order::forwards, Order::backwards}) {
    cuda_on_host::thread_order = order;
    f();
  }
  cuda_on_host::thread_order = Order::forwards;
}

template <class T>
T from_double(double x) {
  return cuda::element<T>(static_cast<float>(x));
}
template <>
std::int32_t from_double(double x) {
  return static_cast<std::int32_t>(x);
}
double to_double(float x) { return static_cast<double>(x); }
double to_double(bf16 x) { return static_cast<double>(cuda::number(x)); }

/// Elements on the device: exactly so many, so that the sanitizer sees what is read beside them. Fresh ones are NaNs.
template <class T>
class OnDevice {
 public:
  explicit OnDevice(std::size_t size) : size_(size) {
    void* memory = nullptr;
    cuda::check(cudaMalloc(&memory, std::max<std::size_t>(1, size * sizeof(T))), "allocate");
    data_ = static_cast<T*>(memory);
  }
  template <class Values>
  explicit OnDevice(const Values& values) : OnDevice(values.size()) {
    for (std::size_t i = 0; i < size_; ++i) data_[i] = from_double<T>(static_cast<double>(values[i]));
  }
  OnDevice(const OnDevice&) = delete;
  ~OnDevice() { cudaFree(data_); }

  T* data() const { return data_; }
  std::size_t size() const { return size_; }
  Matrix matrix(int rows, int cols) const {
    Matrix m(rows, cols);
    for (std::size_t i = 0; i < m.values.size(); ++i) m.values[i] = to_double(data_[i]);
    return m;
  }
  bool same_bits(const OnDevice& other) const { return std::memcmp(data_, other.data_, size_ * sizeof(T)) == 0; }

 private:
  T* data_ = nullptr;
  std::size_t size_;
};

/// Normal values that T has.
template <class T>
Matrix random(int rows, int cols, Random& random, double deviation = 1) {
  Matrix m(rows, cols);
  for (double& v : m.values) v = to_double(from_double<T>(deviation * random.normal()));
  return m;
}

/// The largest error, relative to the largest element (or 1).
double error(const Matrix& actual, const Matrix& expected) {
  double scale = 1, worst = 0;
  for (std::size_t i = 0; i < expected.values.size(); ++i) {
    scale = std::max(scale, std::abs(expected.values[i]));
    const double e = std::abs(actual.values[i] - expected.values[i]);
    worst = std::isnan(e) ? 1e30 : std::max(worst, e);
  }
  return worst / scale;
}

/// float: sums of float32. bf16, whose inputs are rounded before: P and dS are rounded to 8 bits, and so is the result.
template <class T>
constexpr double tolerance = std::is_same_v<T, float> ? 4e-6 : 8e-3;

struct Shape {
  Heads heads;
  int size;
  std::vector<int> lengths;
  int sequences = 0;  // of a prefix; 0: all
  int longest = 0;    // said to be; 0: as it is
  double deviation = 1;
  double loose = 1;
  int rotated = 0;  // heads, by the kernels themselves; of longer sequences, only their gradients back
};

template <class T>
void check(const Shape& shape) {
  std::vector<int> offsets{0};
  for (const int n : shape.lengths) offsets.push_back(offsets.back() + n);
  const int sequences = shape.sequences > 0 ? shape.sequences : static_cast<int>(shape.lengths.size());
  const int longest = shape.longest > 0 ? shape.longest : *std::max_element(shape.lengths.begin(), shape.lengths.end());
  const int count = shape.heads.count, width = count * shape.size, rows = offsets[static_cast<std::size_t>(sequences)];
  CAPTURE(count);
  CAPTURE(shape.size);
  CAPTURE(longest);
  CAPTURE(sequences);
  CAPTURE(static_cast<int>(shape.heads.mask));
  CAPTURE(shape.heads.directional);
  Random own(Key(7).fold(static_cast<std::uint64_t>(shape.size)).fold(static_cast<std::uint64_t>(rows)));
  Matrix qkv = random<T>(rows, 3 * width, own, shape.deviation);
  const Matrix dout = random<T>(rows, width, own);
  constexpr double base = 100;
  const reference::Offsets own_offsets(offsets.begin(), offsets.begin() + sequences + 1);
  const bool inside = cuda::turns_inside<T>(shape.size, longest);
  auto expected = reference::attention(inside ? reference::rotate(qkv, own_offsets, count, shape.rotated, base, +1, {}) : qkv, own_offsets, shape.heads, dout);
  expected.dqkv = reference::rotate(expected.dqkv, own_offsets, count, shape.rotated, base, -1, {});
  REQUIRE((shape.rotated == 0 || inside || cuda::turns_back(shape.size, longest)));
  std::vector<double> angles;  // of exactly as many positions as there are, cosines and sines
  for (int i = 0; i < *std::max_element(shape.lengths.begin(), shape.lengths.end()) * shape.size; ++i) {
    const double angle = i / shape.size * std::pow(base, -2.0 * (i % shape.size % (shape.size / 2)) / shape.size);
    angles.push_back(i % shape.size < shape.size / 2 ? std::cos(angle) : std::sin(angle));
  }
  const OnDevice<float> table(angles);
  const cuda::Rotation rotation{shape.rotated, table.data()};
  const auto all = static_cast<std::size_t>(rows);
  const auto elements = all * static_cast<std::size_t>(width);
  const OnDevice<T> x(qkv.values), d(dout.values);
  const OnDevice<std::int32_t> at(offsets);
  std::vector<OnDevice<T>*> outs, gradients;
  in_both_orders([&] {
    auto* const out = outs.emplace_back(new OnDevice<T>(elements));
    auto* const dqkv = gradients.emplace_back(new OnDevice<T>(3 * elements));
    const OnDevice<float> lse(all * static_cast<std::size_t>(count));
    const OnDevice<float> scratch(static_cast<std::size_t>(cuda::attention_backward_scratch(rows, sequences, count)));
    const OnDevice<std::int32_t> order(static_cast<std::size_t>(cuda::attention_scratch(rows, sequences, longest)));
    cuda::attention(x.data(), at.data(), sequences, rows, longest, width, shape.heads, order.data(), out->data(), lse.data(),
                    inside ? rotation : cuda::Rotation());
    CHECK(error(out->matrix(rows, width), expected.out) < shape.loose * tolerance<T>);
    CHECK(error(lse.matrix(rows, count), expected.lse) < shape.loose * (shape.rotated == 0 ? 4e-6 : tolerance<T>));
    cuda::attention_backward(x.data(), out->data(), lse.data(), d.data(), at.data(), sequences, rows, longest, width, shape.heads, scratch.data(),
                             dqkv->data(), rotation);
    CHECK(error(dqkv->matrix(rows, 3 * width), expected.dqkv) < shape.loose * tolerance<T>);
  });
  std::vector<OnDevice<T>*> packed_outs, packed_gradients;
  if constexpr (std::is_same_v<T, bf16>) {
    cuda::Packing packing;
    packing.assign(offsets, {});
    in_both_orders([&] {
      const auto& out = *packed_outs.emplace_back(new OnDevice<T>(elements));
      const auto& dqkv = *packed_gradients.emplace_back(new OnDevice<T>(3 * elements));
      const OnDevice<float> lse(all * static_cast<std::size_t>(count));
      const bool done = cuda::packed_attention(x.data(), packing, sequences, rows, width, shape.heads, out.data(), lse.data(), rotation);
      CHECK(done == cuda::packed_attention_backward(x.data(), out.data(), lse.data(), d.data(), packing, sequences, rows, width, shape.heads,
                                                    dqkv.data(), rotation));
      CHECK(done == (packing.warps() > 0 && shape.size % 16 == 0 && shape.size <= 64));
      if (!done) return;
      CHECK(error(out.matrix(rows, width), expected.out) < shape.loose * tolerance<T>);
      CHECK(error(lse.matrix(rows, count), expected.lse) < shape.loose * (shape.rotated == 0 ? 4e-6 : tolerance<T>));
      CHECK(error(dqkv.matrix(rows, 3 * width), expected.dqkv) < shape.loose * tolerance<T>);
    });
    CHECK(packed_outs[0]->same_bits(*packed_outs[1]));
    CHECK(packed_gradients[0]->same_bits(*packed_gradients[1]));
  }
  CHECK(outs[0]->same_bits(*outs[1]));
  CHECK(gradients[0]->same_bits(*gradients[1]));
  for (const auto& list : {outs, gradients, packed_outs, packed_gradients})
    for (auto* l : list) delete l;
}

}  // namespace

TEST_CASE_TEMPLATE("short and odd heads, every mask, a prefix of the batch", T, float, bf16) {
  for (const auto& [count, size] : {std::pair{1, 2}, {3, 6}, {2, 16}, {1, 9}, {1, 24}})
    for (const Mask mask : masks) check<T>({.heads = {count, mask}, .size = size, .lengths = {17, 1, 40, 3, 16}});
  for (const int directional : {1, 3}) {
    check<T>({.heads = {3, Mask::none, directional}, .size = 16, .lengths = {33, 1, 20}});
    check<T>({.heads = {3, Mask::none, directional}, .size = 6, .lengths = {33, 1, 70, 3}, .sequences = 2});
  }
}

TEST_CASE_TEMPLATE("lengths about those of tiles", T, float, bf16) {
  for (const int size : {16, 12})
    for (const Mask mask : masks) {
      check<T>({.heads = {1, mask}, .size = size, .lengths = {64, 31, 48}});
      check<T>({.heads = {1, mask}, .size = size, .lengths = {65, 1, 96}});
      check<T>({.heads = {1, mask}, .size = size, .lengths = {127, 16, 64}});
      check<T>({.heads = {1, mask}, .size = size, .lengths = {200, 17, 130, 1, 64}});
    }
}

TEST_CASE_TEMPLATE("the sizes of heads that models have", T, float, bf16) {
  for (const int size : {32, 64}) {
    for (const Mask mask : masks) check<T>({.heads = {1, mask}, .size = size, .lengths = {33, 50}});
    check<T>({.heads = {2, Mask::none, 2}, .size = size, .lengths = {70}});
    check<T>({.heads = {2, Mask::none, 2}, .size = size, .lengths = {70, 3}, .longest = 300});
    check<T>({.heads = {1, Mask::causal}, .size = size, .lengths = {100}});
    check<T>({.heads = {1, Mask::causal}, .size = size, .lengths = {150}});
  }
}

// Turned queries and keys are rounded once more than the reference's.
TEST_CASE("queries and keys that the kernels turn") {
  using T = bf16;
  const double loose = 2;
  for (const int size : {16, 32, 64})
    for (const auto& lengths : {std::vector<int>{33, 1, 50}, {70, 3}, {100}, {128, 31}}) {
      check<T>({.heads = {2, Mask::none, 1}, .size = size, .lengths = lengths, .loose = loose, .rotated = 1});
      check<T>({.heads = {1, Mask::causal}, .size = size, .lengths = lengths, .loose = loose, .rotated = 1});
    }
  check<T>({.heads = {3, Mask::none}, .size = 16, .lengths = {40, 65}, .sequences = 1, .longest = 65, .loose = loose, .rotated = 2});
}

TEST_CASE("sequences of all lengths beside one another") {
  const std::vector<int> all{1, 15, 16, 17, 32, 33, 64, 65, 96, 97, 128, 31, 47, 48, 49, 2, 80, 81, 112, 113};
  const std::vector<int> shorter{64, 1, 63, 49, 48, 33, 32, 31, 17, 16, 15, 2};
  for (const Mask mask : masks) check<bf16>({.heads = {1, mask}, .size = 16, .lengths = all, .loose = 2, .rotated = 1});
  check<bf16>({.heads = {3, Mask::none, 2}, .size = 32, .lengths = all, .sequences = 12, .loose = 2, .rotated = 2});
  check<bf16>({.heads = {2, Mask::none, 1}, .size = 64, .lengths = all, .sequences = 9, .loose = 2, .rotated = 2});
  for (const int sequences : {1, 5, 12}) {
    check<bf16>({.heads = {2, Mask::none}, .size = 64, .lengths = shorter, .sequences = sequences, .loose = 2, .rotated = 2});
    check<bf16>({.heads = {2, Mask::none, 2}, .size = 48, .lengths = shorter, .sequences = sequences});
  }
}

TEST_CASE("where sequences lie in blocks") {
  cuda::Packing packing;
  const auto pack = [&](const std::vector<int>& lengths) {
    std::vector<int> offsets{0};
    for (const int n : lengths) offsets.push_back(offsets.back() + n);
    packing.assign(offsets, {});
  };
  const auto part = [&](int i) {
    const cuda::Part p(packing.parts()[i]);
    return std::vector<int>{p.first, p.before, p.rows};
  };
  pack({});
  CHECK((packing.warps() == 0 && packing.blocks(0) == 0));
  pack({1, 1});
  CHECK(packing.warps() == 0);
  pack({2, 129});
  CHECK(packing.warps() == 0);
  pack({33, 20, 64, 3, 1});
  CHECK(packing.warps() == 4);
  CHECK((packing.blocks(0) == 0 && packing.blocks(1) == 1 && packing.blocks(2) == 2 && packing.blocks(3) == 3 && packing.blocks(5) == 3));
  CHECK((part(0) == std::vector{0, 0, 33} && part(2) == std::vector{32, 32, 33} && part(3) == std::vector{117, 0, 3}));
  CHECK((part(4) == std::vector{33, 0, 20} && part(5) == std::vector{49, 16, 20} && part(6) == std::vector{120, 0, 1}));
  CHECK((part(7)[2] == 0 && part(8) == std::vector{53, 0, 64} && part(11) == std::vector{101, 48, 64}));
  pack({65, 128});
  CHECK((packing.warps() == 8 && packing.blocks(2) == 2));
}

// Alone, and beside others in blocks of another size.
TEST_CASE("what stands beside a sequence changes none of its bits, forward and backward") {
  using T = bf16;
  const int width = 32, rows = 40;
  Random own(Key(17));
  const Matrix qkv = random<T>(17 + rows + 100, 3 * width, own), dout = random<T>(17 + rows + 100, width, own);
  const OnDevice<float> table(std::vector<double>(100 * 16, 0.6));
  const auto run = [&](int before, std::span<const int> offsets) {
    cuda::Packing packing;
    packing.assign(offsets, {});
    const int sequences = static_cast<int>(offsets.size()) - 1, all = offsets.back();
    const auto from = static_cast<std::size_t>(17 - before);
    const auto rows_of = [&](const auto& values, std::size_t cols) {
      const auto begin = values.begin() + static_cast<long>(from * cols);
      return std::vector<double>(begin, begin + static_cast<long>(static_cast<std::size_t>(all) * cols));
    };
    const OnDevice<T> q(rows_of(qkv.values, 3 * static_cast<std::size_t>(width)));
    const OnDevice<T> g(rows_of(dout.values, static_cast<std::size_t>(width)));
    const OnDevice<T> out(g.size()), dqkv(q.size());
    const OnDevice<float> lse(static_cast<std::size_t>(2 * all));
    const cuda::Rotation rotation{2, table.data()};
    REQUIRE(cuda::packed_attention(q.data(), packing, sequences, all, width, {2, Mask::none}, out.data(), lse.data(), rotation));
    REQUIRE(cuda::packed_attention_backward(q.data(), out.data(), lse.data(), g.data(), packing, sequences, all, width, {2, Mask::none},
                                            dqkv.data(), rotation));
    std::vector<double> values = out.matrix(all, width).values, gradients = dqkv.matrix(all, 3 * width).values;
    std::vector<double> both(values.begin() + before * width, values.begin() + (before + rows) * width);
    both.insert(both.end(), gradients.begin() + before * 3 * width, gradients.begin() + (before + rows) * 3 * width);
    return both;
  };
  CHECK(run(0, std::vector<int>{0, rows}) == run(17, std::vector<int>{0, 17, 17 + rows, 17 + rows + 100}));
}

TEST_CASE_TEMPLATE("longer sequences, and others beside them", T, float, bf16) {
  for (const Mask mask : masks) {
    check<T>({.heads = {1, mask}, .size = 16, .lengths = {129, 128, 127, 1, 256, 257, 255, 33, 64}});
    check<T>({.heads = {1, mask}, .size = 64, .lengths = {161, 20, 192}});
    check<T>({.heads = {1, mask}, .size = 32, .lengths = {5, 320, 31}});
    check<T>({.heads = {1, mask}, .size = 128, .lengths = {130, 66}});
    check<T>({.heads = {1, mask}, .size = 48, .lengths = {140}});
  }
  check<T>({.heads = {1, Mask::causal}, .size = 16, .lengths = {20, 700, 300, 129, 1, 450}});
  check<T>({.heads = {3, Mask::none, 2}, .size = 16, .lengths = {150, 290, 40}, .sequences = 2});
  check<T>({.heads = {2, Mask::causal}, .size = 16, .lengths = {30, 40, 3}, .longest = 900});
}

TEST_CASE_TEMPLATE("gradients of longer sequences, turned back", T, float, bf16) {
  for (const int size : {16, 32, 64, 128, 256}) check<T>({.heads = {2, Mask::causal}, .size = size, .lengths = {131, 2}, .rotated = 1});
}

// Heads of 64 columns have kernels of their own where tensor cores multiply for a warpgroup.
TEST_CASE("longer sequences with heads of 64 columns, with products of warpgroups and without") {
  for (const bool there : {true, false}) {
    CAPTURE(there);
    cuda_on_host::has_warpgroups = there;
    for (const Mask mask : masks) check<bf16>({.heads = {1, mask}, .size = 64, .lengths = {65, 1, 193, 128}});
    check<bf16>({.heads = {3, Mask::none, 2}, .size = 64, .lengths = {150, 70, 40}, .sequences = 2});
    check<bf16>({.heads = {2, Mask::causal}, .size = 64, .lengths = {131, 2, 260}, .rotated = 1});
    check<bf16>({.heads = {1, Mask::causal}, .size = 64, .lengths = {20, 140}, .deviation = 6, .loose = 10});
  }
  cuda_on_host::has_warpgroups = true;
}

TEST_CASE("more sequences than a block that orders them has threads") {
  std::vector<int> lengths(1100, 1);
  for (std::size_t i = 0; i < lengths.size(); i += 7) lengths[i] = static_cast<int>(i % 5) + 1;
  lengths[3] = lengths[900] = 130;
  lengths[1099] = 260;
  check<bf16>({.heads = {1, Mask::causal}, .size = 16, .lengths = lengths});
}

// Of every sequence, each part once, the longest sequences first.
TEST_CASE("the order of blocks") {
  Random own(Key(5));
  for (const int sequences : {1, 40, 513, 1500}) {
    const int part = 32;
    std::vector<int> offsets{0};
    int longest = 1;
    for (int s = 0; s < sequences; ++s) {
      const int n = 1 + static_cast<int>(own.uniform() * own.uniform() * 300);
      longest = std::max(longest, n);
      offsets.push_back(offsets.back() + n);
    }
    const OnDevice<std::int32_t> at(offsets);
    std::vector<std::vector<std::int32_t>> orders;
    in_both_orders([&] {
      const OnDevice<std::int32_t> order(static_cast<std::size_t>(cuda::detail::order_size(offsets.back(), sequences)));
      auto* const units_of = reinterpret_cast<cuda::detail::Unit*>(order.data());
      const int units = cuda::detail::make_order(at.data(), sequences, offsets.back(), longest, part, units_of);
      REQUIRE(4 * units <= static_cast<int>(order.size()));
      orders.emplace_back(order.data(), order.data() + 4 * units);
      std::vector<int> next(static_cast<std::size_t>(sequences), -1);
      int most = longest;
      bool ended = false;
      for (int i = 0; i < units; ++i) {
        const auto [s, own_part, begin, length] = units_of[i];
        ended = ended || s < 0;
        CHECK((s < 0) == ended);
        if (s < 0) continue;
        CHECK((begin == offsets[static_cast<std::size_t>(s)] && begin + length == offsets[static_cast<std::size_t>(s) + 1]));
        const int parts = (length + part - 1) / part;
        CHECK(parts <= most);
        most = parts;
        int& expected = next[static_cast<std::size_t>(s)];
        if (expected < 0) expected = parts - 1;
        CHECK(own_part == expected);
        --expected;
        if (expected < 0) expected = -2;
      }
      CHECK(std::all_of(next.begin(), next.end(), [](int n) { return n == -2; }));
    });
    for (std::size_t i = 0; i < orders[0].size(); ++i)
      if (orders[0][i & ~std::size_t{3}] >= 0) CHECK(orders[0][i] == orders[1][i]);
  }
}

// What stands beside a sequence changes none of its bits: whichever kernel has it in forward, and whatever longer ones there are in backward. But
// warpgroups' kernels, for heads of 64 columns, have other bits than those for shorter sequences.
void check_beside(int width, int heads, bool same_as_alone) {
  using T = bf16;
  const int rows = 100;
  for (const Mask mask : masks) {
    Random own(Key(17));
    const Matrix qkv = random<T>(rows + 450, 3 * width, own), dout = random<T>(rows + 450, width, own);
    const OnDevice<T> x(qkv.values), d(dout.values);
    const auto run = [&](int sequences, int longest, const OnDevice<T>& out, const OnDevice<float>& lse, const OnDevice<T>& dqkv) {
      const OnDevice<std::int32_t> offsets(std::vector<int>{0, rows, rows + 150, rows + 450});
      const int all = sequences == 1 ? rows : rows + 450;
      const OnDevice<std::int32_t> order(static_cast<std::size_t>(cuda::attention_scratch(all, sequences, longest)));
      const OnDevice<float> scratch(static_cast<std::size_t>(cuda::attention_backward_scratch(all, sequences, heads)));
      cuda::attention(x.data(), offsets.data(), sequences, all, longest, width, {heads, mask}, order.data(), out.data(), lse.data());
      cuda::attention_backward(x.data(), out.data(), lse.data(), d.data(), offsets.data(), sequences, all, longest, width, {heads, mask}, scratch.data(),
                               dqkv.data());
    };
    const auto outs = static_cast<std::size_t>((rows + 450) * width), sums = static_cast<std::size_t>((rows + 450) * heads);
    const OnDevice<T> alone(outs), beside(outs), said_longer(outs), d_alone(3 * outs), d_beside(3 * outs), d_said_longer(3 * outs);
    const OnDevice<float> lse_alone(sums), lse_beside(sums), lse_said_longer(sums);
    run(1, rows, alone, lse_alone, d_alone);
    run(3, 300, beside, lse_beside, d_beside);
    run(1, 300, said_longer, lse_said_longer, d_said_longer);
    CHECK(std::memcmp(said_longer.data(), beside.data(), static_cast<std::size_t>(rows * width) * sizeof(T)) == 0);
    if (same_as_alone) {
      CHECK(std::memcmp(alone.data(), beside.data(), static_cast<std::size_t>(rows * width) * sizeof(T)) == 0);
      CHECK(std::memcmp(lse_alone.data(), lse_beside.data(), static_cast<std::size_t>(rows * heads) * sizeof(float)) == 0);
    }
    CHECK(std::memcmp(d_said_longer.data(), d_beside.data(), static_cast<std::size_t>(3 * rows * width) * sizeof(T)) == 0);
  }
}
TEST_CASE("the same sequence beside longer ones") {
  check_beside(64, 2, true);
  check_beside(128, 2, false);
  cuda_on_host::has_warpgroups = false;
  check_beside(128, 2, true);
  cuda_on_host::has_warpgroups = true;
}

TEST_CASE_TEMPLATE("other sizes of heads", T, float, bf16) {
  for (const int size : {48, 80, 128, 130, 256}) {
    check<T>({.heads = {1, Mask::causal}, .size = size, .lengths = {20, 3}});
    check<T>({.heads = {1, Mask::anticausal}, .size = size, .lengths = {35}, .longest = 129});
  }
  check<T>({.heads = {1, Mask::none}, .size = 128, .lengths = {90}});
}

TEST_CASE_TEMPLATE("scores of several hundreds", T, float, bf16) {
  // The softmax is nearly one-hot: a score of hundreds is rounded by 1e-5, which is then of all that is left of a probability.
  const double loose = std::is_same_v<T, float> ? 10000 : 60;
  for (const int size : {6, 16})
    for (const Mask mask : masks) {
      check<T>({.heads = {1, mask}, .size = size, .lengths = {19, 2}, .deviation = 20, .loose = loose});
      check<T>({.heads = {1, mask}, .size = size, .lengths = {19, 140}, .deviation = 20, .loose = loose});
    }
}

TEST_CASE("heads of more columns than there are kernels for") {
  const OnDevice<float> x(std::size_t{3 * 257});
  const OnDevice<std::int32_t> offsets(std::vector<int>{0, 1});
  CHECK_THROWS(cuda::attention(x.data(), offsets.data(), 1, 1, 1, 257, Heads{1}, nullptr, x.data(), x.data()));
}

TEST_CASE_TEMPLATE("elements that do not lie as 16 bytes want it", T, float, bf16) {
  Random own(Key(3));
  const int rows = 21, width = 32;
  const Matrix qkv = random<T>(rows, 3 * width, own), dout = random<T>(rows, width, own);
  const auto expected = reference::attention(qkv, {0, rows}, {2, Mask::causal}, dout);
  std::vector<double> shifted(1);
  shifted.insert(shifted.end(), qkv.values.begin(), qkv.values.end());
  const OnDevice<T> x(shifted), d(dout.values), out(dout.values.size()), dqkv(qkv.values.size());
  const OnDevice<float> lse(std::size_t{2 * rows}), scratch(static_cast<std::size_t>(cuda::attention_backward_scratch(rows, 1, 2)));
  const OnDevice<std::int32_t> order(static_cast<std::size_t>(cuda::attention_scratch(rows, 1, 129)));
  const OnDevice<std::int32_t> offsets(std::vector<int>{0, rows});
  for (const int longest : {rows, 129}) {
    cuda::attention(x.data() + 1, offsets.data(), 1, rows, longest, width, {2, Mask::causal}, order.data(), out.data(), lse.data());
    CHECK(error(out.matrix(rows, width), expected.out) < tolerance<T>);
    cuda::attention_backward(x.data() + 1, out.data(), lse.data(), d.data(), offsets.data(), 1, rows, longest, width, {2, Mask::causal}, scratch.data(),
                             dqkv.data());
    CHECK(error(dqkv.matrix(rows, 3 * width), expected.dqkv) < tolerance<T>);
  }
}

// Two sequences in slots 2 and 0, continued in pieces, one row or more: as if each had been run at once. The cache was full of NaNs.
TEST_CASE_TEMPLATE("attention to a cache", T, float, bf16) {
  for (const auto& [heads, size] : {std::pair{1, 2}, {3, 6}, {2, 16}, {1, 32}, {1, 64}, {1, 128}, {1, 200}}) {
    CAPTURE(size);
    const int width = heads * size, slots = 3, positions = 150;
    std::vector<std::pair<int, int>> pieces{{33, 1}, {1, 1}, {1, 40}, {5, 0}, {1, 1}};
    if (size == 6) pieces = {{5, 3}, {1, 1}, {1, 5}, {40, 0}, {1, 0}, {2, 66}, {70, 1}, {1, 0}, {1, 1}};
    int all_n = 0, all_m = 0;
    for (const auto& [n, m] : pieces) all_n += n, all_m += m;
    Random own(Key(11).fold(static_cast<std::uint64_t>(size)));
    const Matrix a = random<T>(all_n, 3 * width, own), b = random<T>(all_m, 3 * width, own);
    const Matrix all_a = reference::attention(a, {0, all_n}, {heads, Mask::causal}, Matrix(all_n, width)).out;
    const Matrix all_b = reference::attention(b, {0, all_m}, {heads, Mask::causal}, Matrix(all_m, width)).out;
    in_both_orders([&] {
      const auto cells = static_cast<std::size_t>(slots * positions * width);
      const OnDevice<T> keys(cells), values(cells);
      int done_a = 0, done_b = 0;
      for (const auto& [n, m] : pieces) {
        const int rows = n + m;
        Matrix qkv(rows, 3 * width), expected(rows, width);
        for (int r = 0; r < rows; ++r) {
          for (int c = 0; c < 3 * width; ++c) qkv(r, c) = r < n ? a(done_a + r, c) : b(done_b + r - n, c);
          for (int c = 0; c < width; ++c) expected(r, c) = r < n ? all_a(done_a + r, c) : all_b(done_b + r - n, c);
        }
        const OnDevice<T> x(qkv.values), out(expected.values.size());
        const OnDevice<std::int32_t> offsets(std::vector<int>{0, n, n + m}), slot(std::vector<int>{2, 0}),
            start(std::vector<int>{done_a, done_b});
        cuda::attention_cached(x.data(), offsets.data(), m > 0 ? 2 : 1, std::max(n, m), slot.data(), start.data(), width, heads,
                               keys.data(), values.data(), positions, out.data());
        CHECK(error(out.matrix(rows, width), expected) < tolerance<T>);
        done_a += n;
        done_b += m;
      }
    });
  }
}

// A new row after so many positions as make a stage of copies, or all that are under way at once, or one more or less; turned inside.
TEST_CASE_TEMPLATE("a step of decoding after few positions and many", T, float, bf16) {
  constexpr double base = 100;
  constexpr int positions = 150;
  for (const auto& [heads, size] : {std::pair{1, 16}, {1, 48}, {2, 64}, {1, 80}, {1, 128}, {1, 240}}) {
    CAPTURE(size);
    const int width = heads * size, rotated = 1;
    std::vector<double> angles;
    for (int i = 0; i < positions * size; ++i) {
      const double angle = i / size * std::pow(base, -2.0 * (i % size % (size / 2)) / size);
      angles.push_back(i % size < size / 2 ? std::cos(angle) : std::sin(angle));
    }
    const OnDevice<float> table(angles);
    Random own(Key(17).fold(static_cast<std::uint64_t>(size)));
    const Matrix qkv = random<T>(positions, 3 * width, own);
    const Matrix turned = reference::rotate(qkv, {0, positions}, heads, rotated, base, +1, {});
    const Matrix expected = reference::attention(turned, {0, positions}, {heads, Mask::causal}, Matrix(positions, width)).out;
    for (const int start : {0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 95, 96, 97, 127, 128, 149}) {
      CAPTURE(start);
      std::vector<OnDevice<T>*> outs;
      in_both_orders([&] {
        const auto cells = static_cast<std::size_t>(2 * positions * width);
        const OnDevice<T> keys(cells), values(cells);
        for (int head = 0; head < heads; ++head)
          for (int p = 0; p < start; ++p)
            for (int c = 0; c < size; ++c) {
              const auto cell = static_cast<std::size_t>(((heads + head) * positions + p) * size + c);
              keys.data()[cell] = from_double<T>(turned(p, width + head * size + c));
              values.data()[cell] = from_double<T>(qkv(p, 2 * width + head * size + c));
            }
        Matrix row(1, 3 * width), last(1, width);
        for (int c = 0; c < 3 * width; ++c) row(0, c) = qkv(start, c);
        for (int c = 0; c < width; ++c) last(0, c) = expected(start, c);
        const OnDevice<T> x(row.values);
        const OnDevice<std::int32_t> offsets(std::vector<int>{0, 1}), slot(std::vector<int>{1}), at(std::vector<int>{start});
        auto* const out = outs.emplace_back(new OnDevice<T>(static_cast<std::size_t>(width)));
        cuda::attention_cached(x.data(), offsets.data(), 1, 1, slot.data(), at.data(), width, heads, keys.data(), values.data(), positions,
                               out->data(), {rotated, table.data()});
        CHECK(error(out->matrix(1, width), last) < 2 * tolerance<T>);
        CHECK(cuda_on_host::last_threads == 128);
        const auto cell = static_cast<std::size_t>((heads * positions + start) * size);
        if (size == 64 && (start == 33 || start == 149)) {  // so many such sequences that there are more blocks than a GPU has at once: smaller ones
          const int copies = static_cast<int>(cuda::decode_blocks_at_once) * cuda::multiprocessors() / heads + 1;
          std::vector<double> all_rows;
          std::vector<int> each(1, 0);
          for (int i = 0; i < copies; ++i) {
            all_rows.insert(all_rows.end(), row.values.begin(), row.values.end());
            each.push_back(i + 1);
          }
          const OnDevice<T> all(all_rows), all_out(static_cast<std::size_t>(copies * width));
          const auto list = static_cast<std::size_t>(copies);
          const OnDevice<std::int32_t> all_offsets(each), same_slot(std::vector<int>(list, 1)), same_start(std::vector<int>(list, start));
          cuda::attention_cached(all.data(), all_offsets.data(), copies, 1, same_slot.data(), same_start.data(), width, heads, keys.data(),
                                 values.data(), positions, all_out.data(), {rotated, table.data()});
          const Matrix found = all_out.matrix(copies, width);
          for (int i = 0; i < copies; ++i)
            for (int c = 0; c < width; ++c) {
              CHECK(found(i, c) == found(0, c));
              CHECK(std::abs(found(i, c) - last(0, c)) < 4 * tolerance<T>);
            }
          CHECK(cuda_on_host::last_threads == 64);
        }
        for (int c = 0; c < size; ++c) {  // and it is kept
          CHECK(to_double(keys.data()[cell + static_cast<std::size_t>(c)]) == doctest::Approx(turned(start, width + c)).epsilon(tolerance<T>));
          CHECK(to_double(values.data()[cell + static_cast<std::size_t>(c)]) == qkv(start, 2 * width + c));
        }
      });
      CHECK(outs[0]->same_bits(*outs[1]));
      for (auto* o : outs) delete o;
    }
  }
}

// What stands beside a sequence changes none of its bits, unless there are so many that blocks are smaller.
TEST_CASE_TEMPLATE("a step of decoding beside a prompt and alone", T, float, bf16) {
  const int width = 32, positions = 40;
  Random own(Key(13));
  const Matrix past = random<T>(20, 3 * width, own), both = random<T>(1 + 9, 3 * width, own);
  const auto run = [&](int sequences, OnDevice<T>& out) {
    const std::size_t cells = 2 * positions * width;
    const OnDevice<T> keys(cells), values(cells), p(past.values), x(both.values), ignored(std::size_t{20 * width});
    const OnDevice<std::int32_t> before(std::vector<int>{0, 20}), offsets(std::vector<int>{0, 1, 10}), slots(std::vector<int>{1, 0}),
        zero(std::vector<int>{0}), starts(std::vector<int>{20, 0});
    cuda::attention_cached(p.data(), before.data(), 1, 20, slots.data(), zero.data(), width, 2, keys.data(), values.data(), positions,
                           ignored.data());
    cuda::attention_cached(x.data(), offsets.data(), sequences, sequences == 1 ? 1 : 9, slots.data(), starts.data(), width, 2,
                           keys.data(), values.data(), positions, out.data());
  };
  OnDevice<T> alone(static_cast<std::size_t>(10 * width)), beside(static_cast<std::size_t>(10 * width));
  run(1, alone);
  run(2, beside);
  CHECK(std::memcmp(alone.data(), beside.data(), width * sizeof(T)) == 0);
}
