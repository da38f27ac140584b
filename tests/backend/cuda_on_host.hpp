// A CUDA runtime for machines without a GPU: what relay/backend/cuda/ uses of the toolkit, under the same names, on the host.
//
// A block's threads are fibers that run one after another until they wait for each other (__syncthreads, a warp's shuffles). In what
// order they run is `thread_order`: a kernel that needs a barrier which is not there gives other results in another order, so
// tests run each kernel forwards and backwards, and fresh shared memory is full of NaNs. Reads and writes outside of what cudaMalloc
// gave are found with AddressSanitizer, since that is malloc here. Not shown are the memory model, speed, and limits of registers.
#pragma once

#include <ucontext.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__

// --- Grids and threads. ---
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};

namespace cuda_on_host {

enum class Order { forwards, backwards };
inline Order thread_order = Order::forwards;
inline long launches = 0;

/// The copies that a thread has begun. They are made when it waits for them, so that what reads without waiting finds NaNs.
struct Copies {
  struct Copy {
    void* to;
    const void* from;  // null: zeros
    long group;
  };
  std::vector<Copy> later;
  long groups = 0;

  void arrive(int but) {
    std::erase_if(later, [&](const Copy& c) {
      if (c.group >= groups - but) return false;
      if (c.from)
        std::memcpy(c.to, c.from, 16);
      else
        std::memset(c.to, 0, 16);
      return true;
    });
  }
};

/// A block: its threads, of which so many are fibers as wait at once.
class Block {
 public:
  static constexpr int warp = 32;

  Block(int threads, std::size_t shared) : threads_(threads), shared_(shared / 4 + 1), warps_(static_cast<std::size_t>((threads + warp - 1) / warp)), copies_(static_cast<std::size_t>(threads)) {
    if (threads % warp != 0) throw std::logic_error("a block of " + std::to_string(threads) + " threads is no whole number of warps");
  }

  void run(const std::function<void()>& body) {
    body_ = &body;
    started_ = finished_ = 0;
    at_barrier_ = 0;
    for (float& f : shared_) f = std::bit_cast<float>(0x7fc0dead);
    ready_.clear();
    Block* const before = std::exchange(current(), this);
    while (finished_ < threads_) {
      Fiber* next = nullptr;
      if (!ready_.empty()) {
        next = ready_.front();
        ready_.erase(ready_.begin());
      } else if (started_ < threads_) {
        next = fresh();
      } else {
        std::fprintf(stderr, "cuda_on_host: threads wait at a barrier that not all reach\n");
        std::abort();
      }
      running_ = next;
      swapcontext(&scheduler_, &next->context);
    }
    current() = before;
    for (Copies& c : copies_) {
      if (!c.later.empty()) throw std::logic_error("a thread ends before its copies have arrived");
      c.groups = 0;
    }
  }

  void* shared() { return shared_.data(); }
  unsigned thread() const { return static_cast<unsigned>(running_->thread); }
  unsigned threads() const { return static_cast<unsigned>(threads_); }
  Copies& copies() { return copies_[thread()]; }

  void barrier() {
    if (++at_barrier_ == threads_) {
      at_barrier_ = 0;
      std::vector<Fiber*> all = std::move(waiting_);
      waiting_.clear();
      for (Fiber* f : all) ready_.push_back(f);
      ready_.push_back(running_);
    } else {
      waiting_.push_back(running_);
    }
    yield();
  }

  /// Every lane of the calling thread's warp gives a word, or three, and sees those of all: [3][warp].
  const std::uint64_t* exchange(std::uint64_t word, std::uint64_t second = 0, std::uint64_t third = 0) {
    Fiber* const self = running_;
    Warp& own = warps_[static_cast<std::size_t>(self->thread / warp)];
    auto* slots = own.words[own.generation % 2];
    slots[self->thread % warp] = word;
    slots[warp + self->thread % warp] = second;
    slots[2 * warp + self->thread % warp] = third;
    if (++own.arrived == warp) {
      own.arrived = 0;
      ++own.generation;
      for (Fiber* f : own.waiting) ready_.push_back(f);
      own.waiting.clear();
    } else {
      own.waiting.push_back(self);
      yield();
    }
    return slots;
  }

  static Block*& current() {
    static Block* block = nullptr;
    return block;
  }

 private:
  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    int thread = 0;
  };
  struct Warp {
    std::uint64_t words[2][3 * warp];
    int arrived = 0;
    long generation = 0;
    std::vector<Fiber*> waiting;
  };
  static constexpr std::size_t stack_size = 256 * 1024;

  Fiber* fresh() {
    Fiber* volatile fiber = nullptr;
    if (!idle_.empty()) {
      fiber = idle_.back();
      idle_.pop_back();
    } else {
      fibers_.push_back(std::make_unique<Fiber>());
      fiber = fibers_.back().get();
      fiber->stack = std::make_unique<char[]>(stack_size);
    }
    getcontext(&fiber->context);
    fiber->context.uc_stack.ss_sp = fiber->stack.get();
    fiber->context.uc_stack.ss_size = stack_size;
    fiber->context.uc_link = nullptr;
    makecontext(&fiber->context, reinterpret_cast<void (*)()>(&Block::enter), 0);
    fiber->thread = next_thread();
    return fiber;
  }
  int next_thread() {
    const int i = started_++;
    return thread_order == Order::forwards ? i : threads_ - 1 - i;
  }
  static void enter() { current()->work(); }
  /// One thread after another, for as long as none waits.
  void work() {
    Fiber* const self = running_;
    for (;;) {
      (*body_)();
      ++finished_;
      if (!ready_.empty() || started_ == threads_) break;
      self->thread = next_thread();
    }
    idle_.push_back(self);
    swapcontext(&self->context, &scheduler_);
  }
  void yield() {
    Fiber* const self = running_;
    swapcontext(&self->context, &scheduler_);
  }

  int threads_;
  std::vector<float> shared_;
  std::vector<Warp> warps_;
  std::vector<Copies> copies_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_, ready_, waiting_;
  ucontext_t scheduler_;
  Fiber* running_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  int started_ = 0, finished_ = 0, at_barrier_ = 0;
};

inline uint3 block_index;
inline dim3 grid_size;

struct ThreadIndex {
  operator uint3() const { return {Block::current()->thread(), 0, 0}; }
};
inline uint3 thread_index() { return {Block::current()->thread(), 0, 0}; }
inline dim3 block_size() { return {Block::current()->threads()}; }

}  // namespace cuda_on_host

#define threadIdx (cuda_on_host::thread_index())
#define blockIdx (cuda_on_host::block_index)
#define blockDim (cuda_on_host::block_size())
#define gridDim (cuda_on_host::grid_size)

inline void __syncthreads() { cuda_on_host::Block::current()->barrier(); }
inline void __syncwarp(unsigned = 0xffffffffu) { cuda_on_host::Block::current()->exchange(0); }
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  std::uint64_t word = 0;
  std::memcpy(&word, &value, sizeof value);
  word = cuda_on_host::Block::current()->exchange(word)[lane & 31];
  std::memcpy(&value, &word, sizeof value);
  return value;
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance) {
  return __shfl_sync(mask, value, static_cast<int>(cuda_on_host::thread_index().x % 32) ^ distance);
}
template <class T>
T __ldg(const T* p) {
  return *p;
}
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }

// --- bf16. ---
struct __nv_bfloat16 {
  std::uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16(float x) {
  const auto whole = std::bit_cast<std::uint32_t>(x);
  if ((whole & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {static_cast<std::uint16_t>((whole + 0x7fffu + (whole >> 16 & 1u)) >> 16)};
}
inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short x) { return {x}; }

// --- Memory, streams, events, graphs: everything is done at once. ---
enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation = 2 };
using cudaStream_t = void*;
inline constexpr unsigned cudaStreamNonBlocking = 1;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
inline const char* cudaGetErrorString(cudaError_t) { return "an error of the stand-in for CUDA"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return *stream = nullptr, cudaSuccess; }
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaMalloc(void** to, std::size_t bytes) {
  *to = std::malloc(bytes);
  std::memset(*to, 0xff, bytes);  // NaNs
  return *to ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaFree(void* block) { return std::free(block), cudaSuccess; }
inline cudaError_t cudaMallocHost(void** to, std::size_t bytes) { return cudaMalloc(to, bytes); }
inline cudaError_t cudaFreeHost(void* block) { return cudaFree(block); }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  if (bytes > 0) std::memset(to, value, bytes);
  return cudaSuccess;
}

namespace relay::cuda {

template <class... Parameters>
void run_on_host(void (*kernel)(Parameters...), dim3 blocks, int threads, std::size_t shared, Parameters... arguments) {
  if (shared > 227 * 1024) throw std::logic_error("a kernel asks for " + std::to_string(shared) + " bytes of shared memory: no GPU has so many");
  if (threads > 1024 || blocks.y > 65535 || blocks.z > 65535) throw std::logic_error("a kernel is launched on a grid that no GPU has");
  ++cuda_on_host::launches;
  cuda_on_host::Block block(threads, shared);
  const std::function<void()> body = [&] { kernel(arguments...); };
  cuda_on_host::grid_size = blocks;
  const long count = static_cast<long>(blocks.x) * blocks.y * blocks.z;
  for (long i = 0; i < count; ++i) {
    const long at = cuda_on_host::thread_order == cuda_on_host::Order::forwards ? i : count - 1 - i;
    cuda_on_host::block_index = {static_cast<unsigned>(at % blocks.x), static_cast<unsigned>(at / blocks.x % blocks.y),
                                 static_cast<unsigned>(at / blocks.x / blocks.y)};
    block.run(body);
  }
}

template <class T>
T* shared_memory() {
  return static_cast<T*>(cuda_on_host::Block::current()->shared());
}

/// As the PTX manual lays the fragments out: lane = 4 group + member; a's registers hold rows group, group + 8, columns 2 member + {0, 1}
/// and those + 8; b's rows 2 member + {0, 1} and those + 8 of column group; d's rows group, group + 8, columns 2 member + {0, 1}.
inline void multiply_tiles(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  auto& block = *cuda_on_host::Block::current();
  const auto two = [](std::uint32_t first, std::uint32_t second) { return static_cast<std::uint64_t>(second) << 32 | first; };
  const std::uint64_t* words = block.exchange(two(a[0], a[1]), two(a[2], a[3]), two(b[0], b[1]));
  const auto half = [&](int word, int lane, int upper) {  // of the six words of a lane
    const auto bits = static_cast<std::uint32_t>(words[word / 2 * 32 + lane] >> 32 * (word % 2));
    return std::bit_cast<float>(upper ? bits & 0xffff0000u : bits << 16);
  };
  const int lane = static_cast<int>(block.thread()) % 32, group = lane / 4, member = lane % 4;
  for (int k = 0; k < 16; ++k) {
    const int from = k % 8 / 2;  // the member that holds row or column k
    for (int i = 0; i < 4; ++i)
      d[i] += half(i / 2 + 2 * (k / 8), 4 * group + from, k % 2) * half(4 + k / 8, 4 * (2 * member + i % 2) + from, k % 2);
  }
}

/// As the PTX manual has it: lanes 8 i .. 8 i + 7 name the rows of matrix i; register i of lane (group, member) holds of matrix i row
/// `group`, columns 2 member + {0, 1}, or, transposed, column `group`, rows 2 member + {0, 1}.
inline void load_tiles_as(bool transposed, std::uint32_t (&to)[4], const __nv_bfloat16* row) {
  if (reinterpret_cast<std::uintptr_t>(row) % 16 != 0) throw std::logic_error("a row of a tile is not aligned for 16 bytes");
  auto& block = *cuda_on_host::Block::current();
  const std::uint64_t* rows = block.exchange(reinterpret_cast<std::uintptr_t>(row));
  const int lane = static_cast<int>(block.thread()) % 32, group = lane / 4, member = lane % 4;
  for (int i = 0; i < 4; ++i) {
    const auto at = [&](int r, int c) { return static_cast<std::uint32_t>(reinterpret_cast<const __nv_bfloat16*>(rows[8 * i + r])[c].bits); };
    to[i] = transposed ? at(2 * member, group) | at(2 * member + 1, group) << 16 : at(group, 2 * member) | at(group, 2 * member + 1) << 16;
  }
  block.exchange(0);  // nobody writes there before all have read
}
inline void load_tiles(std::uint32_t (&to)[4], const __nv_bfloat16* row) { load_tiles_as(false, to, row); }
inline void load_tiles_transposed(std::uint32_t (&to)[4], const __nv_bfloat16* row) { load_tiles_as(true, to, row); }

inline void copy_behind(void* to, const void* from, bool there) {
  if ((reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from)) % 16 != 0) throw std::logic_error("a copy is not aligned for 16 bytes");
  cuda_on_host::Block::current()->copies().later.push_back({to, there ? from : nullptr, cuda_on_host::Block::current()->copies().groups});
}
inline void end_copies() { ++cuda_on_host::Block::current()->copies().groups; }
template <int later = 0>
void wait_for_copies() {
  cuda_on_host::Block::current()->copies().arrive(later);
}

}  // namespace relay::cuda

// --- cuBLASLt: column-major products c = alpha op(a) op(b) + beta c, with the epilogues that are used. ---
enum cublasStatus_t { CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_NOT_SUPPORTED = 15 };
inline const char* cublasLtGetStatusString(cublasStatus_t) { return "an error of the stand-in for cuBLAS"; }
