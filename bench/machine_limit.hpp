// The machine's limit: multiplications and additions of independent sums that never leave the registers (or a matrix unit's), compiled for every level of
// the instruction set as the library's kernels are (backend/cpu/each_level.hpp).
#ifndef RELAY_CPU_LEVEL

#include <benchmark/benchmark.h>

#include <relay/backend/cpu/levels.hpp>

namespace bench {

/// Computes for a while and returns the number of multiplications and additions; null where the machine has no such instruction.
template <relay::cpu::Level>
double (*const float32_products)() = nullptr;
template <relay::cpu::Level>
double (*const bf16_products)() = nullptr;
/// Reads so many floats, a multiple of 128.
template <relay::cpu::Level>
void (*const read_all)(const float*, long) = nullptr;

}  // namespace bench

#define RELAY_EACH_LEVEL "machine_limit.hpp"
#include <relay/backend/cpu/each_level.hpp>

#else

namespace bench {

namespace RELAY_CPU_LEVEL {

using namespace relay::cpu::RELAY_CPU_LEVEL;

constexpr int sums = vector_bytes == 64 ? 24 : 12;  // enough to hide the latency, and they fit beside two operands
constexpr int rounds = 2000000;

inline double float32() {
  using V = Vector<float>;
  V sum[sums], a = broadcast(0.999f), b = broadcast(0.001f);
  benchmark::DoNotOptimize(a);
  benchmark::DoNotOptimize(b);
  for (int i = 0; i < sums; ++i) sum[i] = broadcast(static_cast<float>(i));  // or a compiler sees that they are the same
  for (int n = 0; n < rounds; ++n)
#pragma GCC unroll 24
    for (int i = 0; i < sums; ++i) sum[i] = sum[i] * a + b;
  for (int i = 1; i < sums; ++i) sum[0] += sum[i];
  benchmark::DoNotOptimize(sum[0]);
  return 2.0 * lanes<float> * sums * rounds;
}

inline void read(const float* from, long count) {
  constexpr int vectors = 8, step = vectors * lanes<float>, ahead = 512;
  Vector<float> sum[vectors] = {};
  for (long i = 0; i + step <= count; i += step)
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) {
      __builtin_prefetch(from + i + v * lanes<float> + ahead);
      sum[v] += load(from + i + v * lanes<float>);
    }
  for (int v = 1; v < vectors; ++v) sum[0] += sum[v];
  benchmark::DoNotOptimize(sum[0]);
}

#ifdef RELAY_CPU_AMX
inline double bf16() {
  using namespace relay::cpu::RELAY_CPU_LEVEL::detail;
  const MatrixUnit<relay::cpu::Pair> unit;
  constexpr int tiles = 4;
  times<tiles>([](auto sum) { clear_tile<sum()>(); });
  for (int n = 0; n < rounds; ++n) times<tiles>([](auto sum) { multiply_tiles<sum(), 4 + sum() / 2, 6 + sum() % 2>(); });
  return 2.0 * tile_side * tile_side * 2 * tile_side * tiles * rounds;
}
#elif defined(RELAY_CPU_BF16)
inline double bf16() {
  Vector<relay::cpu::Pair> a = interleave<relay::cpu::Pair>(broadcast(1.0f), broadcast(1.0f));
  benchmark::DoNotOptimize(a);
  Vector<float> sum[sums];
  for (int i = 0; i < sums; ++i) sum[i] = broadcast(static_cast<float>(i));
  for (int n = 0; n < rounds; ++n)
#pragma GCC unroll 24
    for (int i = 0; i < sums; ++i) add_product(sum[i], a, relay::cpu::Pair{0x3f803f80});  // a pair of ones
  for (int i = 1; i < sums; ++i) sum[0] += sum[i];
  benchmark::DoNotOptimize(sum[0]);
  return 4.0 * 16 * sums * rounds;  // each of 16 sums takes two products
}
#endif

}  // namespace RELAY_CPU_LEVEL

#ifdef RELAY_CPU_BF16
template <>
inline double (*const bf16_products<relay::cpu::Level::RELAY_CPU_LEVEL>)() = RELAY_CPU_LEVEL::bf16;
#else
template <>
inline double (*const float32_products<relay::cpu::Level::RELAY_CPU_LEVEL>)() = RELAY_CPU_LEVEL::float32;
template <>
inline void (*const read_all<relay::cpu::Level::RELAY_CPU_LEVEL>)(const float*, long) = RELAY_CPU_LEVEL::read;
#endif

}  // namespace bench

#endif
