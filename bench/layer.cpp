// Layers and the loop on one thread: forward, and forward with backward, of a lane's rows.
#include "measure.hpp"

using namespace relay;
using namespace bench;

namespace {

enum class Pass { forward, both };

template <Layer L>
void run(benchmark::State& state, const L& layer, int sequences, int tokens, double macs, Pass pass) {
  Backend::Memory memory;
  const Backend::Device device{&memory};
  const std::vector<int> lengths(static_cast<std::size_t>(sequences), tokens);
  const Ragged<Backend> batch(lengths, device);
  const Rows<Backend> rows(batch);
  const Tensor x = random(rows.count(), demo().width, device), dy = x;
  typename L::Trace trace;
  L grad = zeros_like(layer);
  for (auto _ : state) {
    layer.forward(x, rows, trace);
    if (pass == Pass::both) benchmark::DoNotOptimize(layer.backward(x, rows, trace, dy, grad));
  }
  rate(state, "flops", (pass == Pass::both ? 6.0 : 2.0) * macs * rows.count());
}

void BM_Block(benchmark::State& state) {
  TransformerBlock<Backend> block(demo(), Mask::none, Key(1));
  prepare(block);  // as in training
  run(state, block, 8, 20, macs_per_token(demo()) / demo().layers, static_cast<Pass>(state.range(0)));
}
BENCHMARK(BM_Block)->Arg(0)->Arg(1)->ArgName("backward");

void BM_Loop6(benchmark::State& state) {
  Looped<Stack<TransformerBlock<Backend>>, 6> loop(transformer_stack<Backend>(demo(), Mask::none, Key(1)), demo().width, {.normalise = true});
  prepare(loop);
  run(state, loop, 8, 20, 6 * macs_per_token(demo()), static_cast<Pass>(state.range(0)));
}
BENCHMARK(BM_Loop6)->Arg(0)->Arg(1)->ArgName("backward");

}  // namespace
