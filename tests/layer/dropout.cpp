#include <relay/layer/dropout.hpp>

#include "check.hpp"

using namespace relay;
using check::B;

TEST_CASE("dropout keeps a layer's promises") {
  check::promises(Dropout<B>(0.3), 7);
  check::promises(Dropout<B>(0), 3);
}

namespace {

std::vector<double> dropped_ones(double rate, std::optional<Key> key, int rows = 400, int width = 25) {
  const Dropout<B> layer(rate);
  const std::vector<int> lengths{rows};
  const Ragged<B> batch(lengths);
  check::Tensor x(rows, width);
  B::fill(x, 1);
  Dropout<B>::Trace trace;
  return B::download(layer.forward(x, Rows<B>(batch, key), trace));
}

}  // namespace

TEST_CASE("as many are dropped as the rate says, the others grow so that the mean stays") {
  for (const double rate : {0.1, 0.5, 0.8}) {
    int zeros = 0;
    double sum = 0;
    const auto y = dropped_ones(rate, Key(1));
    for (const double v : y) {
      CHECK((v == 0 || v == doctest::Approx(1 / (1 - rate)).epsilon(1e-12)));
      zeros += v == 0;
      sum += v;
    }
    const double n = static_cast<double>(y.size()), deviation = std::sqrt(rate * (1 - rate) / n);
    CHECK(std::abs(zeros / n - rate) < 5 * deviation);
    CHECK(std::abs(sum / n - 1) < 5 * deviation / (1 - rate));
  }
}

TEST_CASE("the same key, the same mask; another key, another one; no key, none") {
  CHECK(dropped_ones(0.5, Key(1)) == dropped_ones(0.5, Key(1)));
  CHECK(dropped_ones(0.5, Key(1)) != dropped_ones(0.5, Key(2)));
  CHECK(dropped_ones(0.5, {}) == std::vector<double>(10000, 1.0));
  CHECK(dropped_ones(0, Key(1)) == std::vector<double>(10000, 1.0));
  // A neighbour's fate says nothing of one's own.
  const auto y = dropped_ones(0.5, Key(3));
  int same = 0;
  for (std::size_t i = 1; i < y.size(); ++i) same += (y[i] == 0) == (y[i - 1] == 0);
  CHECK(std::abs(same - 5000) < 250);
}

TEST_CASE("float and double drop the same elements") {
  Cpu<float>::Tensor x(7, 9), y;
  Cpu<float>::fill(x, 1);
  Cpu<float>::dropout(x, 0.4, Key(8), y);
  const auto wide = dropped_ones(0.4, Key(8), 7, 9);
  for (std::size_t i = 0; i < wide.size(); ++i) CHECK((y.data()[i] == 0) == (wide[i] == 0));
}

TEST_CASE("a rate outside [0, 1) is refused") {
  CHECK_THROWS_WITH_AS(Dropout<B>(1), "a dropout rate must be in [0, 1), not 1", Error);
  CHECK_THROWS_AS(Dropout<B>(-0.1), Error);
}
