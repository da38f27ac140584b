// One layer: its parameters, one application of it, its backward pass, and the proof that the backward pass is right.
//
// A layer is its parameters. What one application must remember lives in a Trace of its own, so forward is const.
#include <cstdio>

#include <relay/backend/cpu.hpp>
#include <relay/testing/gradcheck.hpp>
#include <relay/layer/linear.hpp>

using namespace relay;
using Backend = Cpu<double>;  // gradients are checked in double; training uses Cpu<float>
using Tensor = Backend::Tensor;

/// A linear layer whose author forgot the bias in the backward pass: the mistake that the checker is for.
struct Forgetful : Linear<Backend> {
  using Linear::Linear;
  Tensor backward(const Tensor& x, const Rows<Backend>&, const Trace&, const Tensor& dy, Forgetful& grad) const {
    Tensor dx, nowhere = zeros_like(*this).bias;
    Backend::linear_backward(x, weight, dy, dx, grad.weight, nowhere);
    return dx;
  }
};

int main() {
  // Two sequences of three and two tokens: five rows, one after another.
  const Ragged<Backend> batch(std::vector<int>{3, 2});
  const Rows<Backend> rows(batch);
  Tensor x(rows.count(), 4);  // [rows, inputs]
  initialise_normal<Backend>(x, 1, Key(1));

  Linear<Backend> layer(4, 6, Key(2));
  for_each_parameter([](std::string_view name, const Tensor& t) { std::printf("%-8s [%d, %d]\n", name.data(), t.rows(), t.cols()); },
                     layer);

  // Forward fills the trace; backward adds to a gradient, which is a value of the layer's own type, and returns dx.
  Linear<Backend>::Trace trace;
  const Tensor& y = layer.forward(x, rows, trace);
  Linear<Backend> gradient = zeros_like(layer);
  const Tensor dx = layer.backward(x, rows, trace, y, gradient);  // of the sum of squares / 2, whose gradient is y itself
  std::printf("y [%d, %d], dx [%d, %d], d weight[0, 0] = %.4f\n\n", y.rows(), y.cols(), dx.rows(), dx.cols(),
              gradient.weight.row(0)[0]);

  // The checker compares backward with finite differences, for the input and every parameter.
  Forgetful wrong(4, 6, Key(2));
  const GradientReport good = check_layer(layer, x, rows), bad = check_layer(wrong, x, rows);
  std::printf("Linear:    %s\nForgetful: %s\n", good.text().c_str(), bad.text().c_str());
  return good.within(1e-8) && !bad.within(1e-8) && bad.parameter == "bias" ? 0 : 1;
}
