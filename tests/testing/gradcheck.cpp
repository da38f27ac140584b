// The checker itself: layers that are wrong on purpose are caught, and by their names.
#include <relay/testing/gradcheck.hpp>

#include <relay/backend/cpu.hpp>
#include <relay/layer/linear.hpp>

#include <doctest/doctest.h>

using namespace relay;
using B = Cpu<double>;

namespace {

enum class Mistake { none, weight_twice, one_bias, assigns, input, nan };

/// A linear layer whose backward makes a mistake.
struct Wrong {
  using Backend = B;
  using Tensor = B::Tensor;
  using Input = Tensor;
  using Output = Tensor;
  using Trace = Linear<B>::Trace;

  Linear<B> linear;
  Mistake mistake;

  static const Tensor& output(const Trace& trace) { return Linear<B>::output(trace); }
  static void each(auto&& visit, auto&... layer) { visit("linear", layer.linear...); }
  const Tensor& forward(const Tensor& x, const Rows<B>& rows, Trace& trace) const {
    return linear.forward(x, rows, trace);
  }
  Tensor backward(const Tensor& x, const Rows<B>& rows, const Trace& trace, const Tensor& dy, Wrong& grad) const {
    if (mistake == Mistake::assigns) B::fill(grad.linear.bias, 0);
    Tensor dx = linear.backward(x, rows, trace, dy, grad.linear);
    if (mistake == Mistake::weight_twice) B::add_outer_product(dy, x, grad.linear.weight);
    if (mistake == Mistake::one_bias) grad.linear.bias.data()[1] += 1;
    if (mistake == Mistake::input) dx.data()[4] *= 1.01;
    if (mistake == Mistake::nan) grad.linear.weight.data()[2] = NAN;
    return dx;
  }
};

GradientReport check(Mistake mistake) {
  Wrong layer{Linear<B>(2, 3, Key(1)), mistake};
  const std::vector<int> lengths{4};
  const Ragged<B> batch(lengths);
  B::Tensor x(4, 2);
  initialise_normal<B>(x, 1, Key(2));
  return check_layer(layer, x, Rows<B>(batch));
}

}  // namespace

TEST_CASE("a right backward passes, and every derivative was tried") {
  const auto report = check(Mistake::none);
  CHECK_MESSAGE(report.within(1e-6), report.text());
  CHECK(report.checked == 6 + 3 + 8);
}

TEST_CASE("a wrong one is caught: the parameter, the index, both numbers") {
  const auto bias = check(Mistake::one_bias);
  CHECK_FALSE(bias.within(1e-6));
  CHECK(bias.parameter == "linear.bias");
  CHECK(bias.index == 1);
  CHECK(bias.analytic == doctest::Approx(bias.numeric + 1));
  CHECK(bias.text().find("linear.bias[1], backward says ") != std::string::npos);
  CHECK(bias.text().find(message("backward says ", bias.analytic, ", differences say ", bias.numeric)) !=
        std::string::npos);

  const auto weight = check(Mistake::weight_twice);
  CHECK(weight.parameter == "linear.weight");
  CHECK(weight.analytic == doctest::Approx(2 * weight.numeric));
  CHECK(weight.error == doctest::Approx(0.5));

  const auto input = check(Mistake::input);
  CHECK(input.parameter == "input");
  CHECK(input.index == 4);
  CHECK(input.error == doctest::Approx(0.01 / 1.01));
}

TEST_CASE("a backward that assigns instead of adding is caught") {
  const auto report = check(Mistake::assigns);
  CHECK_FALSE(report.within(1e-6));
  CHECK(report.parameter == "linear.bias");
  CHECK(report.analytic == doctest::Approx(report.numeric - 0.5));  // what the gradient was filled with is gone
}

TEST_CASE("a gradient that is no number is caught") {
  const auto report = check(Mistake::nan);
  CHECK_FALSE(report.within(1e6));
  CHECK(report.parameter == "linear.weight");
  CHECK(report.index == 2);
}

TEST_CASE("a checker that checked nothing approves of nothing") { CHECK_FALSE(GradientReport{}.within(1)); }

TEST_CASE("a whole model: the layer and its input are as they were afterwards") {
  Linear<B> layer(2, 3, Key(1));
  const Linear<B> before = layer;
  Linear<B> gradient = zeros_like(layer);
  for (long i = 0; i < 6; ++i) gradient.weight.data()[i] = 2 * layer.weight.data()[i];
  B::fill(gradient.bias, 3);
  const auto loss = [&] {
    return B::sum_of_squares(layer.weight) + 3 * (layer.bias.data()[0] + layer.bias.data()[1] + layer.bias.data()[2]);
  };
  const auto report = check_gradient<B>(layer, gradient, loss);
  CHECK_MESSAGE(report.within(1e-6), report.text());
  CHECK(B::download(layer.weight) == B::download(before.weight));
  CHECK(B::download(layer.bias) == B::download(before.bias));
  B::fill(gradient.bias, 4);
  CHECK(check_gradient<B>(layer, gradient, loss).parameter == "bias");
}
