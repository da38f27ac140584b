#include <relay/layer/layer_norm.hpp>

#include "check.hpp"

using namespace relay;
using check::B;

TEST_CASE("layer norm keeps a layer's promises") {
  for (const int width : {2, 5, 8, 13}) check::promises(LayerNorm<B>(width), width);
}

TEST_CASE("a new layer norm gives rows of mean 0 and variance 1; shift and scale of its input do not matter") {
  const LayerNorm<B> norm(9);
  const std::vector<int> lengths{4};
  const Ragged<B> batch(lengths);
  check::Tensor x = check::random(4, 9, Key(1)), moved = x;
  for (long i = 0; i < x.size(); ++i) moved.data()[i] = 100 + 30 * x.data()[i];
  LayerNorm<B>::Trace trace, other;
  const auto& y = norm.forward(x, batch, trace);
  for (int r = 0; r < 4; ++r) {
    double sum = 0, squares = 0;
    for (int c = 0; c < 9; ++c) sum += y.row(r)[c], squares += y.row(r)[c] * y.row(r)[c];
    CHECK(std::abs(sum) < 1e-12);
    CHECK(squares / 9 == doctest::Approx(1).epsilon(1e-3));
  }
  CHECK(check::difference(y, norm.forward(moved, batch, other)) < 1e-3);  // not exactly: epsilon
}
