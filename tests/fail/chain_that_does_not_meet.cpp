// Indices come out of the first layer, rows go into the second.
// expect: relay: in a Chain, each layer's Output must be the next layer's Input
#include <relay/backend/cpu.hpp>
#include <relay/layer/chain.hpp>
#include <relay/layer/linear.hpp>

using B = relay::Cpu<float>;

struct Largest {
  using Backend = B;
  using Input = B::Tensor;
  using Output = B::Indices;
  struct Trace {
    Output y;
  };
  static void each(auto&&, auto&...) {}
  static const Output& output(const Trace& trace) { return trace.y; }
  const Output& forward(const Input&, const relay::Rows<B>&, Trace& trace) const { return trace.y; }
  Input backward(const Input& x, const relay::Rows<B>&, const Trace&, const Output&, Largest&) const { return x; }
};

int main() { relay::chain(Largest(), relay::Linear<B>(4, 4, relay::Key(1))); }
