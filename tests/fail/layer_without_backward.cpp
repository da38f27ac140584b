// The gradient checker takes a Layer, and says what is missing to one.
// expect: Layer
// expect: layer.backward(x, rows, trace, dy, grad)
#include <relay/backend/cpu.hpp>
#include <relay/testing/gradcheck.hpp>

using B = relay::Cpu<double>;

struct Forgetful {
  using Backend = B;
  using Input = B::Tensor;
  using Output = B::Tensor;
  struct Trace {
    Output y;
  };
  static void each(auto&&, auto&...) {}
  static const Output& output(const Trace& trace) { return trace.y; }
  const Output& forward(const Input& x, const relay::Rows<B>&, Trace& trace) const { return trace.y = x; }
};

int main() {
  Forgetful layer;
  B::Tensor x(3, 4);
  const std::vector<int> lengths{3};
  const relay::Ragged<B> batch(lengths);
  relay::check_layer(layer, x, relay::Rows<B>(batch));
}
