// Against the formulas; tests/train/golden.cpp holds ten steps of it against PyTorch.
#include <relay/train/adamw.hpp>

#include <relay/backend/cpu.hpp>
#include <relay/layer/linear.hpp>

#include <doctest/doctest.h>

using namespace relay;
using B = Cpu<double>;

TEST_CASE("three steps of a matrix and a bias, by hand: only the matrix decays") {
  const AdamWConfig config{.rate = 0.1, .beta1 = 0.9, .beta2 = 0.98, .epsilon = 1e-8, .decay = 0.2, .clip = 0};
  Linear<B> layer(2, 2, Key(1)), gradient = zeros_like(layer);
  AdamW optimiser(layer, config);
  double w = layer.weight.data()[3], b = layer.bias.data()[1], mw = 0, vw = 0, mb = 0, vb = 0;
  for (int n = 1; n <= 3; ++n) {
    const double gw = 0.5 * n, gb = -0.25 * n, rate = 0.1 * 0.5;
    gradient.weight.data()[3] = gw;
    gradient.bias.data()[1] = gb;
    CHECK(optimiser.step(layer, gradient, 0.5) == doctest::Approx(std::hypot(gw, gb)).epsilon(1e-12));
    const auto update = [&](double& x, double& m, double& v, double g, double decay) {
      m = 0.9 * m + 0.1 * g;
      v = 0.98 * v + 0.02 * g * g;
      x = x * (1 - rate * decay) -
          rate * (m / (1 - std::pow(0.9, n))) / (std::sqrt(v / (1 - std::pow(0.98, n))) + 1e-8);
    };
    update(w, mw, vw, gw, 0.2);
    update(b, mb, vb, gb, 0);
    CHECK(layer.weight.data()[3] == doctest::Approx(w).epsilon(1e-12));
    CHECK(layer.bias.data()[1] == doctest::Approx(b).epsilon(1e-12));
    CHECK(optimiser.first.weight.data()[3] == doctest::Approx(mw).epsilon(1e-12));
    CHECK(optimiser.second.bias.data()[1] == doctest::Approx(vb).epsilon(1e-12));
    CHECK(optimiser.steps == n);
  }
}

TEST_CASE("without a gradient, matrices decay and single rows stay") {
  Linear<B> layer(3, 4, Key(1));
  const Linear<B> before = layer, none = zeros_like(layer);
  AdamW optimiser(layer, {.rate = 0.5, .decay = 0.1});
  optimiser.step(layer, none, 1);
  for (long i = 0; i < layer.weight.size(); ++i)
    CHECK(layer.weight.data()[i] == doctest::Approx(0.95 * before.weight.data()[i]).epsilon(1e-12));
  CHECK(B::download(layer.bias) == B::download(before.bias));
}

TEST_CASE("clipping: a gradient of norm 10 clipped to 2 is the gradient of norm 2; a smaller one is left alone") {
  const auto after = [](double size, double clip) {
    Linear<B> layer(2, 2, Key(1)), gradient = zeros_like(layer);
    gradient.weight.data()[0] = 0.6 * size;
    gradient.bias.data()[0] = 0.8 * size;
    AdamW optimiser(layer, {.clip = clip});
    CHECK(optimiser.step(layer, gradient, 1) == doctest::Approx(size));
    return optimiser.first.bias.data()[0];
  };
  CHECK(after(10, 2) == doctest::Approx(0.1 * 1.6));
  CHECK(after(1, 2) == doctest::Approx(0.1 * 0.8));
  CHECK(after(10, 0) == doctest::Approx(0.1 * 8));
}

TEST_CASE("threads that share the parameters change no bit; weights are laid out again") {
  using F = Cpu<float>;
  Linear<F> layer(70, 50, Key(1)), shared = layer, gradient(70, 50, Key(2));
  initialise_normal<F>(gradient.bias, 1, Key(3));
  AdamW alone(layer, {}), together(shared, {});
  Threads threads(3);
  for (int n = 0; n < 3; ++n) CHECK(alone.step(layer, gradient, 1) == together.step(shared, gradient, 1, &threads));
  CHECK(F::download(layer.weight) == F::download(shared.weight));
  CHECK(F::download(layer.bias) == F::download(shared.bias));
  Linear<F>::Trace trace;
  cpu::Tensor<float> x(3, 70), again;
  initialise_normal<F>(x, 1, Key(4));
  const std::vector<int> lengths{3};
  const Ragged<F> batch(lengths);
  const auto prepared = F::download(shared.forward(x, Rows<F>(batch), trace));
  const cpu::Tensor<float> bare = shared.weight;  // a copy has no layouts
  F::linear(x, bare, shared.bias, again);
  CHECK(prepared == F::download(again));
}

TEST_CASE("a gradient that is not finite stops the training, and nothing has changed") {
  for (const double bad : {NAN, INFINITY}) {
    Linear<B> layer(2, 2, Key(1)), gradient = zeros_like(layer);
    const Linear<B> before = layer;
    AdamW optimiser(layer, {});
    gradient.weight.data()[1] = bad;
    CHECK_THROWS_WITH_AS(
        optimiser.step(layer, gradient, 1),
        "the gradient is not finite at step 1: lower the learning rate, or look for bad values in the data", Error);
    CHECK(B::download(layer.weight) == B::download(before.weight));
    CHECK(optimiser.steps == 0);
  }
}

TEST_CASE("the schedule: up over the warm-up, down to its end") {
  const LinearSchedule schedule{.steps = 100, .warm_up = 0.1, .final = 0};
  CHECK(schedule(1) == doctest::Approx(0.1 * 0.99));
  CHECK(schedule(10) == doctest::Approx(0.9));
  CHECK(schedule(55) == doctest::Approx(0.45));
  CHECK(schedule(100) == 0);
  for (int n = 2; n <= 10; ++n) CHECK(schedule(n) > schedule(n - 1));
  for (int n = 11; n <= 100; ++n) CHECK(schedule(n) < schedule(n - 1));
  const LinearSchedule kept{.steps = 100, .warm_up = 0, .final = 0.25};
  CHECK(kept(1) == doctest::Approx(0.99));
  CHECK(kept(100) == 0.25);
  CHECK(LinearSchedule{.steps = 1, .final = 0.5}(1) == 0.5);
}
