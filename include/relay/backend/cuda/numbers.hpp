// Numbers in kernels: bf16 as elements of tensors, float to compute with, sums over a warp and over a block.
#pragma once

#include <relay/backend/cuda/runtime.hpp>

namespace relay::cuda {

using bf16 = __nv_bfloat16;

__device__ inline float number(float x) { return x; }
__device__ inline float number(bf16 x) { return __bfloat162float(x); }

/// An element from a number, rounded to nearest.
template <class T>
__device__ T element(float x);
template <>
__device__ inline float element<float>(float x) {
  return x;
}
template <>
__device__ inline bf16 element<bf16>(float x) {
  return __float2bfloat16(x);
}

/// As exact as bf16 is, and one instruction of the GPU (PTX tanh.approx, off by 2^-11).
__device__ inline float tanh_approximately(float x) {
#if defined(__CUDA_ARCH__)
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return tanhf(x);
#endif
}

/// So many neighbours as one load or store of the memory.
template <class T, int count>
struct alignas(count * sizeof(T)) Neighbours {
  T element[count];
};

/// Two neighbours in one register, the first in the lower half, as tensor cores take them.
__device__ inline std::uint32_t pair(float first, float second) { return two_bf16(first, second); }
__device__ inline std::uint32_t pair(bf16 first, bf16 second) {
  return static_cast<std::uint32_t>(__bfloat16_as_ushort(first)) | static_cast<std::uint32_t>(__bfloat16_as_ushort(second)) << 16;
}

/// The two numbers of such a register.
__device__ inline float lower_number(std::uint32_t word) { return __int_as_float(static_cast<int>(word << 16)); }
__device__ inline float upper_number(std::uint32_t word) { return __int_as_float(static_cast<int>(word & 0xffff0000u)); }

/// The pair (first, second) turned by an angle. Written so that no compiler can round it otherwise anywhere.
__device__ inline void turn(float& first, float& second, float cosine, float sine) {
  const float x = first, y = second;
  first = fmaf(-y, sine, x * cosine);
  second = fmaf(x, sine, y * cosine);
}

/// The sum over `lanes` neighbouring lanes of a warp (a power of two), in each of them; always added in the same order.
template <int lanes = warp>
__device__ inline float sum_lanes(float x) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(whole_warp, x, distance);
  return x;
}
template <int lanes = warp>
__device__ inline float largest_lane(float x) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(whole_warp, x, distance));
  return x;
}

/// The sum over a block, in each of its threads. `shared`: a number for each warp.
__device__ inline float sum_block(float x, float* shared) {
  x = sum_lanes(x);
  const int lane = static_cast<int>(threadIdx.x) % warp, own = static_cast<int>(threadIdx.x) / warp, warps = static_cast<int>(blockDim.x) / warp;
  __syncthreads();  // whoever read `shared` before has done so
  if (lane == 0) shared[own] = x;
  __syncthreads();
  float total = 0;
  for (int i = 0; i < warps; ++i) total += shared[i];
  return total;
}

}  // namespace relay::cuda
