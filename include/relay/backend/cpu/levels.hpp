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

#include <relay/backend/cpu/tensor.hpp>
#include <relay/backend/ops.hpp>
#include <relay/core/bf16.hpp>
#include <relay/core/ragged.hpp>
#include <relay/core/random.hpp>
#include <relay/core/require.hpp>

#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace relay::cpu {

/// Each has what those before it have. base: any machine; avx2: with FMA and BMI2; avx512: F, BW, CD, DQ and VL; avx512_bf16:
/// products of bf16 besides; amx_bf16: by a matrix unit.
enum class Level { base, avx2, avx512, avx512_bf16, amx_bf16 };
inline constexpr Level highest = Level::amx_bf16;

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

namespace detail {

/// Whether the CPU has AMX for bf16 and the operating system lets this process use it, for which Linux wants to be asked. (It refuses where a thread
/// has a stack for signals too small for the unit's 8 KB, and afterwards refuses such stacks: so only those are asked for that multiply bf16.)
inline bool may_use_amx() {
#if defined(__x86_64__) && defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned bf16_and_tiles = 1u << 22 | 1u << 24;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & bf16_and_tiles) != bf16_and_tiles) return false;
  constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA: Linux 5.16
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

}  // namespace detail

/// The highest level below AMX that this machine and its operating system have.
inline Level vector_level() {
  static const Level level = [] {
#ifdef __x86_64__
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi") ||
        !__builtin_cpu_supports("bmi2"))
      return Level::base;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512cd") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
      return Level::avx2;
    return __builtin_cpu_supports("avx512bf16") ? Level::avx512_bf16 : Level::avx512;
#else
    return Level::base;
#endif
  }();
  return level;
}

/// The highest of all; asks for AMX.
inline Level machine_level() {
  static const Level level = vector_level() == Level::avx512_bf16 && detail::may_use_amx() ? Level::amx_bf16 : vector_level();
  return level;
}

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
