#include <relay/layer/attention.hpp>

#include "check.hpp"

using namespace relay;
using check::B;

TEST_CASE("attention keeps a layer's promises") {
  for (const Mask mask : {Mask::none, Mask::causal}) {
    check::promises(Attention<B>({.width = 2, .heads = 1, .mask = mask}, Key(1)), 2);
    check::promises(Attention<B>({.width = 12, .heads = 2, .mask = mask, .rotary_base = 20}, Key(2)), 12);
    check::promises(
        Attention<B>({.width = 8, .heads = 4, .mask = mask, .heads_without_rotary = 1, .query_key_bias = 1}, Key(3)),
        8);
  }
  check::promises(Attention<B>({.width = 8, .heads = 4, .heads_without_rotary = 1, .directional_heads = 2}, Key(4)), 8);
  check::promises(Attention<B>({.width = 6, .heads = 3, .directional_heads = 3}, Key(5)), 6);
}

TEST_CASE("attention over more rows than a block of queries, gradient") {
  for (const Mask mask : {Mask::none, Mask::causal}) {
    Attention<B> layer({.width = 4, .heads = 2, .mask = mask}, Key(1));
    const std::vector<int> lengths{3, 41};
    const Ragged<B> batch(lengths);
    check::Tensor x = check::random(44, 4, Key(2));
    const auto report = check_layer(layer, x, Rows<B>(batch), 12);
    CHECK_MESSAGE(report.within(1e-6), report.text());
  }
}

TEST_CASE("of two directional heads the last sees what is before, the other what is after; no position is known") {
  const int n = 37, changed = 20, size = 4;
  const std::vector<int> lengths{n};
  const Ragged<B> batch(lengths);
  const Attention<B> layer({.width = 2 * size, .heads = 2, .directional_heads = 2}, Key(3));
  const check::Tensor x = check::random(n, 2 * size, Key(1));
  check::Tensor other = x, swapped = x;
  for (int c = 0; c < 2 * size; ++c) {
    other.row(changed)[c] += 1;
    std::swap(swapped.row(3)[c], swapped.row(5)[c]);
  }
  Attention<B>::Trace a, b, c;
  layer.forward(x, batch, a);
  layer.forward(other, batch, b);
  layer.forward(swapped, batch, c);
  for (int i = 0; i < n; ++i)
    for (int head = 0; head < 2; ++head) {
      const auto moved = [&](const Attention<B>::Trace& trace) {
        double most = 0;
        for (int j = 0; j < size; ++j)
          most = std::max(most, std::abs(trace.mixed.row(i)[head * size + j] - a.mixed.row(i)[head * size + j]));
        return most;
      };
      const bool sees = head == 1 ? i >= changed : i <= changed;
      CAPTURE(i);
      CAPTURE(head);
      CHECK((moved(b) > 1e-9) == sees);
      if (head == 1 ? i > 5 : i < 3) CHECK(moved(c) < 1e-12);
    }
}

TEST_CASE("what is causal ignores later positions, forward and backward; what is not does not") {
  const int n = 37, changed = 34;
  const std::vector<int> lengths{n};
  const Ragged<B> batch(lengths);
  const check::Tensor x = check::random(n, 8, Key(1)), dy = check::random(n, 8, Key(2));
  check::Tensor other = x, early = dy;
  for (int c = 0; c < 8; ++c) other.row(changed)[c] += 1;
  B::clear_rows(early, changed, n);
  for (const Mask mask : {Mask::causal, Mask::none}) {
    const Attention<B> layer({.width = 8, .heads = 2, .mask = mask}, Key(3));
    Attention<B>::Trace a, b;
    const auto& y = layer.forward(x, batch, a);
    const auto& z = layer.forward(other, batch, b);
    const double before = check::difference(check::slice(y, 0, changed), check::slice(z, 0, changed));
    Attention<B> grad = zeros_like(layer);
    const check::Tensor dx = layer.backward(x, batch, a, early, grad);
    const auto late = check::slice(dx, changed, n);
    if (mask == Mask::causal) {
      CHECK(before == 0);
      CHECK(B::sum_of_squares(late) == 0);
    } else {
      CHECK(before > 1e-4);
      CHECK(B::sum_of_squares(late) > 1e-8);
    }
  }
}

TEST_CASE("only distances matter: all positions moved by 17, the scores stay") {
  const int n = 20;
  const std::vector<int> lengths{n};
  const Ragged<B> batch(lengths);
  const Rotary<B> rotary(6, 64, 100);
  const check::Tensor qkv = check::random(n, 36, Key(1));
  check::Tensor here = qkv, there = qkv, out_here, out_there, lse_here, lse_there;
  B::rotate(here, batch, 2, 2, rotary.table(), +1);
  B::rotate(there, batch, 2, 2, rotary.table(), +1, {17});
  CHECK(check::difference(here, there) > 0.1);
  B::attention(here, batch, Heads{2}, out_here, lse_here);
  B::attention(there, batch, Heads{2}, out_there, lse_there);
  CHECK(check::difference(lse_here, lse_there) < 1e-12);
  CHECK(check::difference(out_here, out_there) < 1e-12);
}

TEST_CASE("without rotary positions in any head, attention is blind to order") {
  const Attention<B> layer({.width = 4, .heads = 2, .heads_without_rotary = 2}, Key(1));
  const std::vector<int> lengths{5};
  const Ragged<B> batch(lengths);
  const check::Tensor x = check::random(5, 4, Key(2));
  check::Tensor reversed(5, 4);
  for (int r = 0; r < 5; ++r) std::copy_n(x.row(4 - r), 4, reversed.row(r));
  Attention<B>::Trace a, b;
  const auto& y = layer.forward(x, batch, a);
  const auto& z = layer.forward(reversed, batch, b);
  for (int r = 0; r < 5; ++r)
    for (int c = 0; c < 4; ++c) CHECK(y.row(r)[c] == doctest::Approx(z.row(4 - r)[c]).epsilon(1e-12));
}

TEST_CASE("extended piece by piece, causal attention gives what it gives at once") {
  const Attention<B> layer({.width = 12, .heads = 2, .mask = Mask::causal, .heads_without_rotary = 1}, Key(1));
  const std::vector<int> whole{40};
  const Ragged<B> batch(whole);
  const check::Tensor x = check::random(40, 12, Key(2));
  Attention<B>::Trace trace, own;
  const auto& y = layer.mix(x, batch, trace);
  auto cache = layer.cache(3, 40);
  int start = 0;
  for (const int n : {7, 1, 1, 30, 1}) {
    const std::vector<int> length{n};
    const Ragged<B> piece(length);
    const auto& z = layer.mix(check::slice(x, start, start + n), piece, {1}, {start}, cache, own);
    CHECK(check::difference(z, check::slice(y, start, start + n)) < 1e-12);
    start += n;
  }
}

TEST_CASE("query and key biases are drawn, value biases are not touched") {
  const Attention<B> plain({.width = 64, .heads = 2}, Key(1)),
      biased({.width = 64, .heads = 2, .query_key_bias = 3}, Key(1));
  double squares = 0;
  for (int i = 0; i < 128; ++i) squares += biased.qkv.bias.data()[i] * biased.qkv.bias.data()[i];
  CHECK(std::sqrt(squares / 128) == doctest::Approx(3).epsilon(0.25));
  for (int i = 128; i < 192; ++i) CHECK(biased.qkv.bias.data()[i] == plain.qkv.bias.data()[i]);
}

TEST_CASE("sizes that do not fit are refused in a sentence") {
  CHECK_THROWS_WITH_AS(
      Attention<B>({.width = 10, .heads = 4}, Key(1)),
      "attention of width 10 cannot be cut into 4 heads: choose a width that is a multiple of the heads", Error);
  CHECK_THROWS_WITH_AS(Attention<B>({.width = 8, .heads = 2, .heads_without_rotary = 3}, Key(1)),
                       "3 heads without rotary positions and 0 directional ones are not among 2 heads", Error);
  CHECK_THROWS_WITH_AS(Attention<B>({.width = 8, .heads = 2, .heads_without_rotary = 1, .directional_heads = 2}, Key(1)),
                       "1 heads without rotary positions and 2 directional ones are not among 2 heads", Error);
  const Attention<B> layer({.width = 4, .heads = 2, .positions = 5}, Key(1));
  const std::vector<int> lengths{6};
  const Ragged<B> batch(lengths);
  Attention<B>::Trace trace;
  CHECK_THROWS_WITH_AS(layer.forward(check::random(6, 4, Key(1)), batch, trace),
                       "a sequence of 6 tokens is beyond the model's limit of 5: build the model with more positions",
                       Error);
  CHECK_THROWS_AS(layer.cache(1, 6), Error);
}

TEST_CASE("a distance bias makes each rotary head look at its own distance first, with the score it says") {
  const int size = 16, heads = 3, n = 12;
  const std::vector<int> distances{-1, 3};
  const Attention<B> attention({.width = size * heads, .heads = heads, .rotary_base = 100, .heads_without_rotary = 1,
                                .distance_bias = 4, .distances = distances},
                               Key(3));
  const std::vector<int> lengths{n};
  const Ragged<B> batch(lengths);
  B::Tensor x(n, size * heads);
  B::fill(x, 0);  // what is left are the biases
  Attention<B>::Trace trace;
  attention.forward(x, Rows<B>(batch), trace);
  const auto qkv = B::download(trace.qkv.y);
  for (int head = 0; head < 2; ++head)
    for (int p = 0; p < n; ++p) {
      const int wanted = p + distances[static_cast<std::size_t>(head)];
      if (wanted < 0 || wanted >= n) continue;
      for (int r = 0; r < n; ++r) {
        double score = 0;
        for (int i = 0; i < size; ++i)
          score += qkv[static_cast<std::size_t>((p * 3 + 0) * size * heads + head * size + i)] *
                   qkv[static_cast<std::size_t>((r * 3 + 1) * size * heads + head * size + i)] / std::sqrt(double(size));
        if (r == wanted)
          CHECK(score == doctest::Approx(4));
        else
          CHECK(score < 3.99);
      }
    }
}
