// Includes RELAY_EACH_LEVEL, a file, once for every level of the instruction set (levels.hpp) that this compilation is for: the one
// of the compiler's flags and those above it. For the file RELAY_CPU_LEVEL is the level's name, which names its namespace too, and
// RELAY_CPU_VECTOR_BYTES the size of its vectors; RELAY_CPU_BF16 is defined where there are products of bf16, RELAY_CPU_AMX where a matrix unit does them.
//
// The file may include nothing but files that are themselves for each level: an inline function that is defined here, the standard library's for one, would be
// compiled for a machine that is not there, and the linker may keep it for the whole program. It asks these macros and not
// __AVX512F__, which Clang does not define here. The instructions are listed, not a -march: g++ inlines a function that is
// compiled for less, such as all of the program's, but not one for another `arch`. nvcc knows none of these pragmas: it compiles for
// the level of its flags alone.
#ifdef RELAY_EACH_LEVEL

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512CD__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define RELAY_CPU_LEVEL avx512
#define RELAY_CPU_VECTOR_BYTES 64
#elif defined(__AVX2__) && defined(__FMA__) && defined(__BMI2__)
#define RELAY_CPU_LEVEL avx2
#define RELAY_CPU_VECTOR_BYTES 32
#ifndef __CUDACC__
#define RELAY_CPU_AVX512_ABOVE
#endif
#else
#define RELAY_CPU_LEVEL base
#define RELAY_CPU_VECTOR_BYTES 16
#if defined(__x86_64__) && !defined(__CUDACC__)
#define RELAY_CPU_AVX2_ABOVE
#define RELAY_CPU_AVX512_ABOVE
#endif
#endif
#include RELAY_EACH_LEVEL
#undef RELAY_CPU_LEVEL
#undef RELAY_CPU_VECTOR_BYTES

#ifdef RELAY_CPU_AVX2_ABOVE
#define RELAY_CPU_LEVEL avx2
#define RELAY_CPU_VECTOR_BYTES 32
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2")
#endif
#include RELAY_EACH_LEVEL
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef RELAY_CPU_LEVEL
#undef RELAY_CPU_VECTOR_BYTES
#endif

#ifdef RELAY_CPU_AVX512_ABOVE
#define RELAY_CPU_LEVEL avx512
#define RELAY_CPU_VECTOR_BYTES 64
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")
#endif
#include RELAY_EACH_LEVEL
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef RELAY_CPU_LEVEL
#undef RELAY_CPU_VECTOR_BYTES
#endif

#if defined(__x86_64__) && !defined(__CUDACC__)
#define RELAY_CPU_LEVEL avx512_bf16
#define RELAY_CPU_VECTOR_BYTES 64
#define RELAY_CPU_BF16
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,bmi,bmi2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,bmi,bmi2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")
#endif
#include RELAY_EACH_LEVEL
#undef RELAY_CPU_LEVEL
#define RELAY_CPU_LEVEL amx_bf16  // assembly: compilers need not know these instructions
#define RELAY_CPU_AMX
#include RELAY_EACH_LEVEL
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef RELAY_CPU_LEVEL
#undef RELAY_CPU_VECTOR_BYTES
#undef RELAY_CPU_BF16
#undef RELAY_CPU_AMX
#endif

#undef RELAY_CPU_AVX2_ABOVE
#undef RELAY_CPU_AVX512_ABOVE
#undef RELAY_EACH_LEVEL
#endif
