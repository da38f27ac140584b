// The levels of the instruction set that there are kernels for, and which this machine has.
#pragma once

#ifdef __x86_64__
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace relay::cpu {

/// Each has what those before it have. base: any machine; avx2: with FMA and BMI2; avx512: F, BW, CD, DQ and VL; avx512_bf16:
/// products of bf16 besides; amx_bf16: these by a matrix unit, and those of floats as digits, which take AMX for int8 and VNNI as well.
enum class Level { base, avx2, avx512, avx512_bf16, amx_bf16 };
inline constexpr Level highest = Level::amx_bf16;

namespace detail {

/// Whether the CPU has AMX for bf16 and int8, with VNNI for vectors, and the operating system lets this process use it, for which Linux wants
/// to be asked. (It refuses where a thread has a stack for signals too small for the unit's 8 KB, and afterwards refuses such stacks: so it is
/// asked only when an operation of Cpu<float> or Cpu<bf16> first runs, and by a plan of memory.)
inline bool may_use_amx() {
#if defined(__x86_64__) && defined(__linux__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned bf16_tiles_int8 = 1u << 22 | 1u << 24 | 1u << 25, vnni = 1u << 11;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & bf16_tiles_int8) != bf16_tiles_int8 || (c & vnni) == 0) return false;
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

}  // namespace relay::cpu
