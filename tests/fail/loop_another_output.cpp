// A layer whose output is of another type than its input cannot be looped.
// expect: relay: only a Block can be looped: a Layer whose Output is the same type as its Input
#include <relay/backend/cpu.hpp>
#include <relay/layer/looped.hpp>

using B = relay::Cpu<float>;

/// Rows in, their largest columns out.
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
static_assert(relay::Layer<Largest>);

int main() { relay::Looped loop(Largest(), 4); }
