// The demo's and the paper's models, and the counters that benchmarks print; on the CPU and on a GPU.
#pragma once

#include <benchmark/benchmark.h>

#include <relay/relay.hpp>

namespace bench {

inline relay::TransformerConfig demo() {
  return {.width = 64, .layers = 3, .heads = 4, .rotary_base = 100, .directional_heads = 2, .positions = 512};
}
inline relay::TransformerConfig paper() { return {.width = 256, .layers = 3, .heads = 4, .positions = 2048}; }

inline void rate(benchmark::State& state, const char* name, double per_iteration) {
  state.counters[name] = benchmark::Counter(per_iteration, benchmark::Counter::kIsIterationInvariantRate);
}

}  // namespace bench
