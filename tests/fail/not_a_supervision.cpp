// A policy answers with an Asked, not with a number.
// expect: relay: a supervision is called with (iteration, iterations) and returns an Asked
#include <relay/backend/cpu.hpp>
#include <relay/train/unroll.hpp>

int main() {
  using Model = relay::LoopedTransformer<relay::Cpu<float>>;
  const Model model({}, {}, 10, relay::Seed{1});
  relay::loop_objective(model, [](int t, int) { return t; });
}
