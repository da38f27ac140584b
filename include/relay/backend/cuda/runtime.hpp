// What the CUDA backend asks of the CUDA toolkit, and how it asks: errors as exceptions, one stream, one way to launch a kernel.
//
// Kernels are templates in headers, so whoever includes this compiles with nvcc. Tests without a GPU name another runtime in
// RELAY_CUDA_RUNTIME (tests/backend/cuda_on_host.hpp): the same names, kernels run on the host, a thread of a block after the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <unordered_map>

#include <relay/core/require.hpp>

#if defined(RELAY_CUDA_RUNTIME)
#include RELAY_CUDA_RUNTIME
#elif defined(__CUDACC__)
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#else
#error "relay/backend/cuda.hpp is CUDA C++: compile what includes it with nvcc (CMake: relay_cuda_sources(file.cpp), and link relay::cuda)"
#endif

/// Whether kernels are launched before the one before them has ended (after_earlier_kernels()), on GPUs that can, Hopper and later. 0: never.
#if !defined(RELAY_CUDA_DEPENDENT_LAUNCH)
#define RELAY_CUDA_DEPENDENT_LAUNCH 1
#endif

namespace relay::cuda {

/// An error of the runtime as an exception: what was done, and what the runtime says.
inline void check(cudaError_t status, const char* what) {
  require(status == cudaSuccess, "CUDA cannot ", what, ": ", cudaGetErrorString(status));
}
inline void check(cublasStatus_t status, const char* what) {
  require(status == CUBLAS_STATUS_SUCCESS, "cuBLAS cannot ", what, ": ", cublasLtGetStatusString(status));
}

/// The devices that can be used: 0 where there is no GPU or no driver.
inline int devices() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

/// How many the device has.
inline int multiprocessors() {
  static const int count = [] {
    int found = 0;
    check(cudaDeviceGetAttribute(&found, cudaDevAttrMultiProcessorCount, 0), "ask how many multiprocessors the GPU has");
    return found;
  }();
  return count;
}

/// Why there is no device, in words for a person; empty where there is one.
inline std::string no_device() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return {};
  return message("no GPU can be used here (", status == cudaSuccess ? "CUDA finds none" : cudaGetErrorString(status),
                 "): run this where nvidia-smi shows one, or take the CPU backend");
}

/// The driver's memory of the device that is taken in the order of a stream.
inline cudaMemPool_t memory_pool() {
  cudaMemPool_t pool = nullptr;
  check(cudaDeviceGetDefaultMemPool(&pool, 0), "find the GPU's memory");
  return pool;
}

/// The stream that this thread records instead of computing; null: it computes.
inline thread_local cudaStream_t recording_stream = nullptr;

/// Everything is done in order on this stream, by whatever thread: what is launched twice gives the same bits.
inline cudaStream_t stream() {
  if (recording_stream != nullptr) return recording_stream;
  static const cudaStream_t one = [] {
    require(devices() > 0, no_device());
    std::uint64_t keep = std::numeric_limits<std::uint64_t>::max();  // what is given back, not to the system whenever the host waits
    check(cudaMemPoolSetAttribute(memory_pool(), cudaMemPoolAttrReleaseThreshold, &keep), "keep memory");
    cudaStream_t made = nullptr;
    check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "create a stream");
    return made;
  }();
  return one;
}

/// While it lives, what this thread launches goes to a stream of its own, to be recorded.
class RecordingStream {
 public:
  RecordingStream() {
    static thread_local const cudaStream_t own = [] {
      cudaStream_t made = nullptr;
      check(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "create a stream");
      return made;
    }();
    recording_stream = own;
  }
  RecordingStream(const RecordingStream&) = delete;
  RecordingStream& operator=(const RecordingStream&) = delete;
  ~RecordingStream() { recording_stream = nullptr; }
};

inline void synchronise(const char* what) { check(cudaStreamSynchronize(stream()), what); }

/// Before a loop in a kernel. AS_A_LOOP: it is not unrolled, for code that is run once is read from memory, as slowly as data. UNROLLED: all of
/// it is, so that arrays that it goes through stay in registers.
#if defined(__CUDACC__)
#define RELAY_AS_A_LOOP _Pragma("unroll 1")
#define RELAY_UNROLLED _Pragma("unroll")
#else
#define RELAY_AS_A_LOOP
#define RELAY_UNROLLED
#endif

inline constexpr int warp = 32;
inline constexpr unsigned whole_warp = 0xffffffffu;

#if !defined(RELAY_CUDA_RUNTIME)
/// Every kernel begins with this, before it reads or writes anything. For a kernel is launched while the one before it still ends, so that
/// its blocks are there when that has ended: here they wait until all that was asked of the device before is done and can be read. One that
/// did not wait would not only read what is not there yet: the kernels behind it would take it for done what nobody waited for.
__device__ inline void after_earlier_kernels() {
#if RELAY_CUDA_DEPENDENT_LAUNCH && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;\n" ::: "memory");
#endif
}

/// What is known of a kernel.
struct KernelState {
  bool waits = false;      // whether the code that this device runs has that wait: not what was compiled for older ones, even where it is translated
  int threads = 0;         // that a block of it may have
  std::size_t shared = std::size_t{48} << 10;  // memory that it may have
};

/// The kernel, made ready for so much shared memory.
inline const KernelState& ready(const void* kernel, std::size_t shared) {
  static thread_local std::unordered_map<const void*, KernelState> known;
  KernelState& state = known[kernel];
  if (state.threads == 0) {
    cudaFuncAttributes code;
    check(cudaFuncGetAttributes(&code, kernel), "find a kernel");
    state.waits = code.ptxVersion >= 90;
    state.threads = code.maxThreadsPerBlock;
  }
  if (shared > state.shared) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)), "give a kernel so much shared memory");
    state.shared = shared;
  }
  return state;
}
#endif

/// Runs kernel(arguments...) on blocks of `threads` threads (a multiple of a warp), each block with `shared` bytes of shared memory.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 blocks, int threads, std::size_t shared, Arguments... arguments) {
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) return;
#if defined(RELAY_CUDA_RUNTIME)
  run_on_host(kernel, blocks, threads, shared, static_cast<Parameters>(arguments)...);
#else
  const KernelState& state = ready(reinterpret_cast<const void*>(kernel), shared);
#if RELAY_CUDA_DEPENDENT_LAUNCH
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t how{};
  how.gridDim = blocks;
  how.blockDim = dim3(static_cast<unsigned>(threads));
  how.dynamicSmemBytes = shared;
  how.stream = stream();
  how.attrs = &early;
  how.numAttrs = state.waits ? 1 : 0;
  check(cudaLaunchKernelEx(&how, kernel, static_cast<Parameters>(arguments)...), "launch a kernel");
#else
  (void)state;
  kernel<<<blocks, static_cast<unsigned>(threads), shared, stream()>>>(static_cast<Parameters>(arguments)...);
  check(cudaGetLastError(), "launch a kernel");
#endif
#endif
}

#if !defined(RELAY_CUDA_RUNTIME)
/// The block's shared memory, aligned for 16 bytes.
template <class T>
__device__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char relay_shared_bytes[];
  return reinterpret_cast<T*>(relay_shared_bytes);
}

/// 2^x, off by 2^-22 of it (PTX ex2.approx); zero where it is below all normal numbers.
__device__ inline float quick_power_of_two(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

/// Two numbers as bf16, rounded to nearest, in one register, the first in the lower half.
__device__ inline std::uint32_t two_bf16(float first, float second) {
  std::uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(both) : "f"(second), "f"(first));
  return both;
}

/// d += a b: a tile of 16 x 16 times one of 16 x 8, of bf16, in a warp's registers, summed in float32 (PTX mma.m16n8k16, whose layout of
/// fragments this is).
__device__ inline void multiply_tiles(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// Four 8 x 8 matrices of bf16 from shared memory into fragments (PTX ldmatrix): lane l names row l % 8 of matrix l / 8, 16 bytes. Of
/// matrix i, register i of lane 4 group + member gets row `group`, columns 2 member + {0, 1}; transposed: column `group`, those rows.
__device__ inline void load_tiles(std::uint32_t (&to)[4], const __nv_bfloat16* row) {
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(at)
               : "memory");
}
__device__ inline void load_tiles_transposed(std::uint32_t (&to)[4], const __nv_bfloat16* row) {
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(at)
               : "memory");
}

/// 16 bytes from global to shared memory, or zeros unless they are `there`, while the thread goes on (PTX cp.async). end_copies() ends a
/// group of them; wait_for_copies<n>() waits for all groups of this thread but the last n. Other threads see them after a barrier.
__device__ inline void copy_behind(void* to, const void* from, bool there) {
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(at), "l"(from), "r"(there ? 16 : 0) : "memory");
}
/// The same of what is not read again soon: of all that is in the L2 cache it is the first to leave it.
__device__ inline void copy_behind_once(void* to, const void* from, bool there) {
  const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
  std::uint64_t leaves_first;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;\n" : "=l"(leaves_first));
  asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;\n" ::"r"(at), "l"(from), "r"(there ? 16 : 0), "l"(leaves_first)
               : "memory");
}
__device__ inline void end_copies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int later = 0>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(later) : "memory");
}
#endif

}  // namespace relay::cuda
