// backend/cpu/feed_forward.hpp: the same bits as product, GELU and product one after the other, at sizes around the borders of
// panels and blocks; where h is kept as bf16, as those with h rounded.
#ifndef RELAY_CPU_LEVEL

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include <relay/backend/cpu.hpp>
#include <relay/layer/linear.hpp>

#include <doctest/doctest.h>

#include "level.hpp"

#define RELAY_EACH_LEVEL "backend/cpu_feed_forward.cpp"
#include <relay/backend/cpu/each_level.hpp>

#else

namespace relay::cpu::RELAY_CPU_LEVEL {

#if defined(RELAY_CPU_BF16) && !defined(RELAY_CPU_AMX)
#define RELAY_TESTED bf16  // float has the level below
#else
#define RELAY_TESTED float, bf16
#endif

constexpr at_level here(Level::RELAY_CPU_LEVEL);

namespace {

template <class B>
Tensor<float> drawn(int rows, int cols, std::uint64_t key, Device device = {}) {
  Tensor<float> x(rows, cols, device);
  initialise_normal<B>(x, 1, Key(key));
  return x;
}

bool same_bits(const Tensor<float>& a, const Tensor<float>& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() && std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(float)) == 0;
}

/// h as it is kept for a fused backward, from row to row.
template <class F>
Tensor<float> kept_rows(const Tensor<float>& kept, int rows, int hidden) {
  if (kept.cols() == hidden) return kept;  // of small weights, whose products the matrix unit does not do
  const detail::HiddenLayout<F> layout(hidden);
  Tensor<float> h(rows, hidden);
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < hidden; ++j) {
      const int column = j % detail::panel_columns<F>, step = detail::HiddenLayout<F>::step;
      const float* const at = kept.data() + layout.at(r, j - column) + column / step;
      std::uint32_t bits = 0;
      std::memcpy(&bits, at, sizeof bits);
      if (step == 2) bits = column % 2 == 0 ? bits << 16 : bits & 0xffff0000u;
      std::memcpy(h.row(r) + j, &bits, sizeof bits);
    }
  return h;
}

template <class F>
Tensor<float> as_kept(Tensor<float> h) {
  for (long i = 0; detail::HiddenLayout<F>::step == 2 && i < h.size(); ++i) h.data()[i] = static_cast<float>(bf16(h.data()[i]));
  return h;
}

}  // namespace

TEST_CASE_TEMPLATE("feed-forward" * here, P, RELAY_TESTED) {
  using B = Cpu<P, Level::RELAY_CPU_LEVEL>;
  using OneByOne = ComposedOps<B>;
  constexpr int panel = detail::panel_columns<Factors<P>>, block = detail::block_rows<Factors<P>>;
  using F = Factors<P>;
  struct Size {
    int rows, inputs, hidden, outputs;
  };
  std::vector<Size> sizes{{49, 2 * block + 5, 2 * block + panel, 2 * block + 3}};  // products of several blocks of k
  sizes.push_back({70, 100, 192, 97});
  sizes.push_back({130, 100, 320, 100});
  if (!std::is_same_v<F, float>)  // what the matrix unit takes in blocks of more rows, once and in several threads
    for (const auto& [rows, hidden] : {std::pair(385, 256), {384 + 33, 192}, {801, 192}, {289, 128}, {300, 448}}) sizes.push_back({rows, 133, hidden, 131});
  for (const int rows : {8, 47, 49, block, block + 1, 2 * block + 33})
    for (const int inputs : {1, panel, panel + 5, 2 * panel, 2 * panel + 5})
      for (const int outputs : {2, 2 * panel, 2 * panel + 3}) sizes.push_back({rows, inputs, 3 * panel, outputs});
  Memory memory;
  for (int size = 1 << 10; size <= 1 << 22; size *= 2)  // what is read must have been written
    std::fill_n(Tensor<float>(1, size, {&memory}).data(), size, std::numeric_limits<float>::quiet_NaN());
  for (const Size& now : sizes) {
    const int rows = now.rows, inputs = now.inputs, hidden = now.hidden, outputs = now.outputs;
    CAPTURE(rows);
    CAPTURE(inputs);
    CAPTURE(hidden);
    CAPTURE(outputs);
    Linear<B> up(inputs, hidden, Key(1)), down(hidden, outputs, Key(2));
    B::prepare(up.weight);
    B::prepare(down.weight);
    const auto x = drawn<B>(rows, inputs, 3, {&memory}), dy = drawn<B>(rows, outputs, 4, {&memory});
    const bool alike = takes_digits<P>(hidden, inputs) == takes_digits<P>(outputs, hidden);
    REQUIRE(has_feed_forward<P>(x, up.weight, down.weight, false) == alike);
    if (!alike) continue;

    Tensor<float> h, activated, y, h1, activated1, y1, room;
    B::feed_forward(x, up, down, false, h, activated, y);
    OneByOne::feed_forward(x, up, down, false, h1, activated1, y1);
    CHECK(same_bits(kept_rows<F>(h, rows, hidden), as_kept<F>(h1)));
    CHECK(same_bits(y, y1));
    const auto kept = h;
    B::feed_forward(x, up, down, true, room, activated, y);
    CHECK(same_bits(y, y1));
    for (const int count : {2, 3, 5, 7}) {
      Threads threads(count);
      const auto shared = drawn<B>(rows, inputs, 3, {&memory, &threads});
      CHECK(has_feed_forward<P>(shared, up.weight, down.weight, true) == (rows >= 8 * count));
      B::feed_forward(shared, up, down, false, h, activated, y);
      CHECK(same_bits(kept_rows<F>(h, rows, hidden), as_kept<F>(h1)));
      CHECK(same_bits(y, y1));
      B::feed_forward(shared, up, down, true, room, activated, y);
      CHECK(same_bits(y, y1));
    }

    struct Gradients {
      Linear<B> up, down;
      Tensor<float> dx;
      bool operator==(const Gradients& o) const {
        return same_bits(dx, o.dx) && same_bits(up.weight, o.up.weight) && same_bits(up.bias, o.up.bias) && same_bits(down.weight, o.down.weight) &&
               same_bits(down.bias, o.down.bias);
      }
    };
    const auto gradients = [&](auto&& backward) {
      Gradients g{{inputs, hidden, Key(5)}, {hidden, outputs, Key(6)}, {}};
      backward(g);
      return g;
    };
    const Gradients expected =
        gradients([&](Gradients& g) { OneByOne::feed_forward_backward(x, as_kept<F>(h1), activated1, up, down, dy, g.dx, g.up, g.down); });
    const auto computed = [&](const Tensor<float>& from, const Tensor<float>& hidden_values) {
      return gradients([&](Gradients& g) { B::feed_forward_backward(x, hidden_values, activated, up, down, from, g.dx, g.up, g.down); });
    };
    REQUIRE(has_feed_forward_backward<P>(dy, kept, up.weight, down.weight));
    CHECK(computed(dy, kept) == expected);
    Threads threads(2);
    const auto shared_dy = drawn<B>(rows, outputs, 4, {&memory, &threads});
    CHECK_FALSE(has_feed_forward_backward<P>(shared_dy, kept, up.weight, down.weight));
    CHECK(computed(shared_dy, kept) == expected);
    (void)up.weight.data();  // asked for to be written: it is not laid out any more
    CHECK_FALSE(has_feed_forward_backward<P>(dy, kept, up.weight, down.weight));
    CHECK(computed(dy, kept) == expected);
    B::feed_forward(x, up, down, false, h, activated, y);  // and so one operation after the other
    CHECK(same_bits(h, as_kept<F>(h1)));
    CHECK(computed(dy, h) == expected);
  }
}

TEST_CASE_TEMPLATE("feed-forward takes its operations one by one where rows are few, panels are not full or weights are not laid out" * here, P, RELAY_TESTED) {
  constexpr int panel = detail::panel_columns<Factors<P>>;
  using B = Cpu<P, Level::RELAY_CPU_LEVEL>;
  Threads threads(2);
  Tensor<float> up(2 * panel, 5), down(5, 2 * panel), up_odd(panel + 1, 5), down_odd(5, panel + 1);
  CHECK_FALSE(has_feed_forward<P>(Tensor<float>(40, 5), up, down, true));
  for (auto* weight : {&up, &down, &up_odd, &down_odd}) {
    B::fill(*weight, 1);
    B::prepare(*weight);
  }
  CHECK(has_feed_forward<P>(Tensor<float>(8, 5), up, down, true));
  CHECK_FALSE(has_feed_forward<P>(Tensor<float>(7, 5), up, down, true));
  CHECK(has_feed_forward<P>(Tensor<float>(16, 5, {nullptr, &threads}), up, down, true));
  CHECK_FALSE(has_feed_forward<P>(Tensor<float>(15, 5, {nullptr, &threads}), up, down, true));
  CHECK(has_feed_forward<P>(Tensor<float>(15, 5, {nullptr, &threads}), up, down, false));  // what is kept does not depend on threads
  CHECK_FALSE(has_feed_forward<P>(Tensor<float>(40, 5), up_odd, down_odd, true));
}

#undef RELAY_TESTED

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
