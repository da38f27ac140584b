// The levels of the instruction set that the kernels are compiled for, and the choice between them when the program runs.
//
// The width of a vector decides the speed, and a program is rarely compiled for the machine that it runs on. So the kernels are
// compiled once for each level, in a namespace of its own (each_level.hpp), and every operation of Cpu goes through `run`, which
// takes the highest level that the machine has. Flags such as -march=x86-64-v4 leave the levels below them out. (Highway's technique,
// github.com/google/highway.)
#pragma once

// All that kernels need, since they may not include it themselves.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numbers>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <relay/backend/cpu/digit_layout.hpp>
#include <relay/backend/cpu/level.hpp>
#include <relay/backend/cpu/tensor.hpp>
#include <relay/backend/ops.hpp>
#include <relay/core/bf16.hpp>
#include <relay/core/ragged.hpp>
#include <relay/core/random.hpp>
#include <relay/core/require.hpp>

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace relay::cpu {

/// The kernels of a level as a type; none where this compilation leaves it out.
template <Level>
struct KernelsAt {};

template <Level level>
inline constexpr bool compiled = requires { typename KernelsAt<level>::type; };

// What the kernels of all levels share.
enum class Operand { plain, transposed };
enum class Store { assign, add };
/// Two bf16: the first in the lower half.
enum class Pair : std::int32_t {};

}  // namespace relay::cpu

#define RELAY_EACH_LEVEL <relay/backend/cpu/kernels.hpp>
#include <relay/backend/cpu/each_level.hpp>

namespace relay::cpu {

/// The level of the compiler's flags.
inline constexpr Level lowest = compiled<Level::base> ? Level::base : compiled<Level::avx2> ? Level::avx2 : Level::avx512;

/// Whether a level has kernels of its own for products of P: double exists to check gradients with, and has the lowest level alone.
template <class P>
constexpr bool has_own(Level level) {
  return level <= lowest || std::is_same_v<P, bf16> || (std::is_same_v<P, float> && level != Level::avx512_bf16);
}

/// f(kernels) with those of the highest level that the machine has, up to `at_most`, for products of P.
template <class P, Level at_most = highest>
decltype(auto) run(auto&& f) {
  if constexpr (at_most <= lowest) {
    return f(typename KernelsAt<lowest>::type{});
  } else {
    if constexpr (compiled<at_most> && has_own<P>(at_most))
      if (at_most <= (at_most == Level::amx_bf16 ? machine_level() : vector_level())) return f(typename KernelsAt<at_most>::type{});
    return run<P, static_cast<Level>(static_cast<int>(at_most) - 1)>(f);
  }
}

}  // namespace relay::cpu
