#include <relay/layer/linear.hpp>

#include "check.hpp"

using namespace relay;
using check::B;

TEST_CASE("linear keeps a layer's promises") {
  check::promises(Linear<B>(5, 7, Key(1)), 5);
  check::promises(Linear<B>(1, 1, Key(2)), 1);
  check::promises(Linear<B>(9, 2, Key(3)), 9);
}

TEST_CASE("linear: x W^T + b, the weight as [outputs, inputs]") {
  Linear<B> layer(2, 3, Key(1));
  CHECK(layer.inputs() == 2);
  CHECK(layer.outputs() == 3);
  B::upload(std::vector<double>{1, 2, 3, 4, 5, 6}, layer.weight);
  B::upload(std::vector<double>{10, 20, 30}, layer.bias);
  B::Tensor x(1, 2);
  B::upload(std::vector<double>{1, -1}, x);
  const std::vector<int> one{1};
  const Ragged<B> batch(one);
  Linear<B>::Trace trace;
  CHECK(B::download(layer.forward(x, batch, trace)) == std::vector<double>{9, 19, 29});
}

TEST_CASE("linear starts uniform within 1 / sqrt(inputs), another draw for another key") {
  const Linear<B> a(16, 64, Key(1)), same(16, 64, Key(1)), other(16, 64, Key(2));
  CHECK(check::parameter_difference(a, same) == 0);
  CHECK(check::difference(a.weight, other.weight) > 0);
  double largest = 0, squares = 0;
  for (const double w : B::download(a.weight)) largest = std::max(largest, std::abs(w)), squares += w * w;
  CHECK(largest <= 0.25);
  CHECK(largest > 0.24);
  CHECK(squares / 1024 == doctest::Approx(0.0625 / 3).epsilon(0.1));  // the variance of a uniform number
}
