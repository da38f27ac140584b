// A CUDA runtime for machines without a GPU: what relay/backend/cuda/ uses of the toolkit, under the same names, on the host.
//
// A block's threads are fibers that run one after another until they wait for each other (__syncthreads, a warp's shuffles). In what
// order they run is `thread_order`: a kernel that needs a barrier which is not there gives other results in another order, so
// tests run each kernel forwards and backwards, and fresh shared memory is full of NaNs. Reads and writes outside of what cudaMalloc
// gave are found with AddressSanitizer, since that is malloc here. Not shown are the memory model, speed, and limits of registers.
#pragma once

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <initializer_list>
#include <map>
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
inline long launches = 0, products = 0, replays = 0, uploads = 0;  // so far
inline int last_threads = 0;  // of a block of the last launch

/// What a stream that is being captured was asked for, to be done at every launch of the graph.
struct Graph {
  std::vector<std::function<void()>> work;
  std::vector<std::unique_ptr<char[]>> memory;  // that was asked for meanwhile
};
inline Graph* captured = nullptr;  // the one that is being captured
inline bool refuses_graphs = false, refuses_uploads = false, has_warpgroups = true;  // set by a test

/// Does it, or, while a graph is captured, has it done later.
template <class F>
void now_or_later(F&& work) {
  if (captured)
    captured->work.emplace_back(std::forward<F>(work));
  else
    work();
}

/// A stack to run on, and where it stopped. swapcontext would do, but it asks the kernel twice for every switch.
class Context {
 public:
  Context() = default;
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;
  ~Context() {
    if (stack_) spare().push_back(std::move(stack_));
  }

  void start(void (*entry)()) {
    if (!stack_) stack_ = take();
#if defined(__x86_64__)
    auto top = reinterpret_cast<std::uintptr_t>(stack_.get() + size) & ~std::uintptr_t{15};
    void** at = reinterpret_cast<void**>(top);
    *--at = nullptr;  // where entry, which never does, would return to; so the stack is aligned as after a call
    *--at = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--at = nullptr;  // the registers that switch_to takes from there
    at_ = at;
#else
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack_.get();
    context_.uc_stack.ss_size = size;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
#endif
  }
  /// Stops here and goes on there.
  void switch_to(Context& other) {
#if defined(__x86_64__)
    exchange(&at_, other.at_);
#else
    swapcontext(&context_, &other.context_);
#endif
  }

 private:
  static constexpr std::size_t size = 64 * 1024;

  /// Stacks are kept for the next launch.
  static std::vector<std::unique_ptr<char[]>>& spare() {
    static std::vector<std::unique_ptr<char[]>> stacks;
    return stacks;
  }
  static std::unique_ptr<char[]> take() {
    if (spare().empty()) return std::make_unique_for_overwrite<char[]>(size);
    auto stack = std::move(spare().back());
    spare().pop_back();
    return stack;
  }

#if defined(__x86_64__)
  __attribute__((naked, noinline)) static void exchange(void**, void*) {
    asm("push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
        "mov %rsp, (%rdi)\n mov %rsi, %rsp\n"
        "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n ret");
  }
  void* at_ = nullptr;
#else
  ucontext_t context_;
#endif
  std::unique_ptr<char[]> stack_;
};

/// The copies that a thread has begun. They are made when it waits for them, so that what reads without waiting finds NaNs.
struct Copies {
  struct Copy {
    void* to;
    const void* from;  // null: zeros
    long group;
  };
  std::vector<Copy> later;
  long groups = 0;
  bool unseen = false;  // by tensor cores that read shared memory: some have arrived since written_for_products()

  void arrive(int but) {
    std::erase_if(later, [&](const Copy& c) {
      if (c.group >= groups - but) return false;
      unseen = true;
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

  Block(int threads, std::size_t shared)
      : threads_(threads),
        shared_(shared / 4 + 1),
        warps_(static_cast<std::size_t>((threads + warp - 1) / warp)),
        copies_(static_cast<std::size_t>(threads)),
        products_(static_cast<std::size_t>(threads), Products::none),
        later_(static_cast<std::size_t>(threads)) {
    if (threads % warp != 0) throw std::logic_error("a block of " + std::to_string(threads) + " threads is no whole number of warps");
  }

  void run(const std::function<void()>& body) {
    body_ = &body;
    started_ = finished_ = 0;
    at_barrier_ = after_earlier_ = 0;
    for (float& f : shared_) f = std::bit_cast<float>(0x7fc0dead);
    ready_.clear();
    Block* const before = std::exchange(current(), this);
    while (finished_ < threads_) {
      Fiber* next = nullptr;
      if (!ready_.empty()) {
        next = ready_.front();
        ready_.pop_front();
      } else if (started_ < threads_) {
        next = fresh();
      } else {
        std::fprintf(stderr, "cuda_on_host: threads wait at a barrier that not all reach\n");
        std::abort();
      }
      running_ = next;
      scheduler_.switch_to(next->context);
    }
    current() = before;
    for (const auto& [which, one] : numbered_)
      if (one.arrived != 0) throw std::logic_error("a barrier is left with threads that have arrived");
    for (const Products p : products_)
      if (p != Products::none) throw std::logic_error("a thread ends before its products are there");
    if (after_earlier_ != threads_) throw std::logic_error("a kernel does not begin with after_earlier_kernels()");
    for (Copies& c : copies_) {
      if (!c.later.empty()) throw std::logic_error("a thread ends before its copies have arrived");
      c.groups = 0;
      c.unseen = false;
    }
  }

  void* shared() { return shared_.data(); }
  unsigned thread() const { return static_cast<unsigned>(running_->thread); }
  unsigned threads() const { return static_cast<unsigned>(threads_); }
  void waits_for_earlier() { ++after_earlier_; }
  Copies& copies() { return copies_[thread()]; }

  /// What this thread has asked of tensor cores that it need not wait for, in some sums. They may do it at once or only when they are waited for:
  /// both must give the same, and until then the sums are anything.
  struct Later {
    float* to;
    std::vector<float> before, sums;
    std::vector<std::function<void(float*)>> each;  // adds its product
  };
  std::vector<Later>& later() { return later_[thread()]; }
  enum class Products { none, begun, ended };
  void products(std::initializer_list<Products> before, Products after, const char* what) {
    Products& own = products_[thread()];
    if (std::find(before.begin(), before.end(), own) == before.end()) throw std::logic_error(std::string(what) + " at the wrong place");
    own = after;
  }

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

  /// The same of a numbered barrier for so many threads, at which some only arrive.
  void barrier(int which, int count, bool waits) {
    Numbered& own = numbered_[which];
    if (++own.arrived == count) {
      own.arrived = 0;
      for (Fiber* f : std::exchange(own.waiting, {})) ready_.push_back(f);
      if (!waits) return;
      ready_.push_back(running_);
    } else {
      if (!waits) return;
      own.waiting.push_back(running_);
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
    Context context;
    int thread = 0;
  };
  struct Warp {
    std::uint64_t words[2][3 * warp];
    int arrived = 0;
    long generation = 0;
    std::vector<Fiber*> waiting;
  };
  struct Numbered {
    int arrived = 0;
    std::vector<Fiber*> waiting;
  };
  Fiber* fresh() {
    Fiber* fiber = nullptr;
    if (!idle_.empty()) {
      fiber = idle_.back();
      idle_.pop_back();
    } else {
      fibers_.push_back(std::make_unique<Fiber>());
      fiber = fibers_.back().get();
    }
    fiber->context.start(&Block::enter);
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
    self->context.switch_to(scheduler_);
  }
  void yield() {
    Fiber* const self = running_;
    self->context.switch_to(scheduler_);
  }

  int threads_;
  std::vector<float> shared_;
  std::vector<Warp> warps_;
  std::map<int, Numbered> numbered_;
  std::vector<Copies> copies_;
  std::vector<Products> products_;
  std::vector<std::vector<Later>> later_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Fiber*> idle_, waiting_;
  std::deque<Fiber*> ready_;
  Context scheduler_;
  Fiber* running_ = nullptr;
  const std::function<void()>* body_ = nullptr;
  int started_ = 0, finished_ = 0, at_barrier_ = 0, after_earlier_ = 0;
};

inline uint3 block_index;
inline dim3 grid_size;

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
inline unsigned __ballot_sync(unsigned, bool is) {
  const std::uint64_t* words = cuda_on_host::Block::current()->exchange(is ? 1 : 0);
  unsigned all = 0;
  for (unsigned i = 0; i < 32; ++i) all |= static_cast<unsigned>(words[i]) << i;
  return all;
}
inline int __popc(unsigned x) { return std::popcount(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
template <class T>
T min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
  return a < b ? b : a;
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
enum cudaError_t { cudaSuccess, cudaErrorMemoryAllocation = 2, cudaErrorStreamCaptureUnsupported = 900 };
using cudaStream_t = void*;
inline constexpr unsigned cudaStreamNonBlocking = 1;
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
inline const char* cudaGetErrorString(cudaError_t) { return "an error of the stand-in for CUDA"; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
struct cudaDeviceProp {
  char name[256] = "the host";
};
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp*, int) { return cudaSuccess; }
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };
inline cudaError_t cudaDeviceGetAttribute(int* to, cudaDeviceAttr, int) { return *to = 4, cudaSuccess; }  // few: blocks have many tiles each
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  static char streams[64];
  static int next = 0;
  return *stream = &streams[next++ % 64], cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cuda_on_host::captured ? cudaErrorStreamCaptureUnsupported : cudaSuccess; }
inline cudaError_t cudaMalloc(void** to, std::size_t bytes) {
  *to = std::malloc(bytes);
  std::memset(*to, 0xff, bytes);  // NaNs
  return *to ? cudaSuccess : cudaErrorMemoryAllocation;
}
using cudaMemPool_t = void*;
enum cudaMemPoolAttr { cudaMemPoolAttrReleaseThreshold };
inline cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t* pool, int) { return *pool = nullptr, cudaSuccess; }
inline cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t, cudaMemPoolAttr, void*) { return cudaSuccess; }
inline cudaError_t cudaMemPoolTrimTo(cudaMemPool_t, std::size_t) { return cudaSuccess; }
inline cudaError_t cudaMallocAsync(void** to, std::size_t bytes, cudaStream_t) {
  if (!cuda_on_host::captured) return cudaMalloc(to, bytes);
  cuda_on_host::captured->memory.push_back(std::make_unique<char[]>(bytes));
  return *to = cuda_on_host::captured->memory.back().get(), cudaSuccess;
}
inline cudaError_t cudaFreeAsync(void* block, cudaStream_t) {
  if (!cuda_on_host::captured) std::free(block);
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* block) { return std::free(block), cudaSuccess; }
inline cudaError_t cudaMallocHost(void** to, std::size_t bytes) { return cudaMalloc(to, bytes); }
inline cudaError_t cudaFreeHost(void* block) { return cudaFree(block); }
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  if (kind == cudaMemcpyHostToDevice && cuda_on_host::refuses_uploads) return cudaErrorMemoryAllocation;
  cuda_on_host::uploads += kind == cudaMemcpyHostToDevice;
  cuda_on_host::now_or_later([=] {
    if (bytes > 0) std::memcpy(to, from, bytes);
  });
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_apart, const void* from, std::size_t from_apart, std::size_t width, std::size_t rows,
                                     cudaMemcpyKind, cudaStream_t) {
  cuda_on_host::now_or_later([=] {
    for (std::size_t r = 0; r < rows; ++r) std::memcpy(static_cast<char*>(to) + r * to_apart, static_cast<const char*>(from) + r * from_apart, width);
  });
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  cuda_on_host::now_or_later([=] {
    if (bytes > 0) std::memset(to, value, bytes);
  });
  return cudaSuccess;
}

using cudaEvent_t = int*;
inline constexpr unsigned cudaEventDisableTiming = 2;
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return *event = new int(0), cudaSuccess; }
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete event, cudaSuccess; }

using cudaGraph_t = cuda_on_host::Graph*;
using cudaGraphExec_t = cuda_on_host::Graph*;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal };
inline cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  if (cuda_on_host::refuses_graphs) return cudaErrorStreamCaptureUnsupported;
  return cuda_on_host::captured = new cuda_on_host::Graph, cudaSuccess;
}
inline cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  return *graph = std::exchange(cuda_on_host::captured, nullptr), cudaSuccess;
}
inline cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* to, cudaGraph_t graph, unsigned long long) {
  *to = new cuda_on_host::Graph{graph->work, std::move(graph->memory)};
  return cudaSuccess;
}
inline cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t) {
  ++cuda_on_host::replays;
  for (const auto& work : graph->work) work();
  return cudaSuccess;
}
inline cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
inline cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) { return delete graph, cudaSuccess; }

namespace relay::cuda {

template <class... Parameters>
void run_on_host(void (*kernel)(Parameters...), dim3 blocks, int threads, std::size_t shared, Parameters... arguments) {
  if (cuda_on_host::captured) {
    cuda_on_host::captured->work.emplace_back([=] { run_on_host<Parameters...>(kernel, blocks, threads, shared, arguments...); });
    return;
  }
  if (shared > 227 * 1024) throw std::logic_error("a kernel asks for " + std::to_string(shared) + " bytes of shared memory: no GPU has so many");
  if (threads > 1024 || blocks.y > 65535 || blocks.z > 65535) throw std::logic_error("a kernel is launched on a grid that no GPU has");
  ++cuda_on_host::launches;
  cuda_on_host::last_threads = threads;
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

inline void after_earlier_kernels() { cuda_on_host::Block::current()->waits_for_earlier(); }

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

inline float quick_power_of_two(float x) { return x < -126 ? 0.0f : std::exp2(x); }
inline std::uint32_t two_bf16(float first, float second) {
  return __float2bfloat16(first).bits | static_cast<std::uint32_t>(__float2bfloat16(second).bits) << 16;
}

inline void copy_behind(void* to, const void* from, bool there) {
  if ((reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from)) % 16 != 0) throw std::logic_error("a copy is not aligned for 16 bytes");
  cuda_on_host::Block::current()->copies().later.push_back({to, there ? from : nullptr, cuda_on_host::Block::current()->copies().groups});
}
inline void copy_behind_once(void* to, const void* from, bool there) { copy_behind(to, from, there); }
inline void end_copies() { ++cuda_on_host::Block::current()->copies().groups; }
template <int later = 0>
void wait_for_copies() {
  cuda_on_host::Block::current()->copies().arrive(later);
}

/// As the PTX manual has wgmma find its factors: 128 bytes of eight rows lie together, 16 bytes of them exchanged as bits 7 to 9 of the address
/// say; b across: its rows are of k, and of the next 64 columns a panel further on. It is done at once and once more when it is waited for.
struct MatrixAt {
  const __nv_bfloat16* from;
  int panels_apart;
  MatrixAt(const __nv_bfloat16* begin, int apart) : from(begin), panels_apart(apart) {}
  MatrixAt operator+(int elements) const { return {from + elements, panels_apart}; }
  MatrixAt of_warp() const { return *this; }
};
inline float element_of_panel(const __nv_bfloat16* from, std::size_t bytes) {
  const std::uintptr_t place = reinterpret_cast<std::uintptr_t>(from) + bytes;
  return __bfloat162float(*reinterpret_cast<const __nv_bfloat16*>(place ^ (place >> 7 & 7) << 4));
}
/// a(half, k): of this thread's row, or the one eight below.
template <bool across, int count>
void multiply_later(float* d, auto&& a, MatrixAt b, bool adds) {
  using Products = cuda_on_host::Block::Products;
  auto& block = *cuda_on_host::Block::current();
  block.products({Products::begun}, Products::begun, "a product");
  if (block.copies().unseen) throw std::logic_error("tensor cores are not told of what copies have written");
  const std::size_t thread = block.thread() % 128;
  const auto product = [=](float* sums) {
    for (std::size_t i = 0; i < count; ++i) {
      const std::size_t n = i / 4 * 8 + thread % 4 * 2 + i % 2;
      float sum = adds ? sums[i] : 0.0f;
      for (std::size_t k = 0; k < 16; ++k)
        sum += a(i / 2 % 2, k) *
               element_of_panel(b.from, across ? n / 64 * 2 * static_cast<std::size_t>(b.panels_apart) + k * 128 + n % 64 * 2 : n * 128 + 2 * k);
      sums[i] = sum;
    }
  };
  auto& all = block.later();
  auto own = std::find_if(all.begin(), all.end(), [&](const auto& later) { return later.to == d; });
  if (own == all.end()) {
    const std::vector<float> before(d, d + count);
    if (adds && std::any_of(before.begin(), before.end(), [](float x) { return std::isnan(x); }))
      throw std::logic_error("the first of some products adds to sums that are anything");
    own = all.insert(all.end(), {d, before, before, {}});
  }
  product(own->sums.data());
  own->each.emplace_back(product);
  for (int i = 0; i < count; ++i) d[i] = std::bit_cast<float>(0x7fc0dead);
}
inline auto rows_of_panel(MatrixAt a) {
  const std::size_t thread = cuda_on_host::Block::current()->thread() % 128, row = thread / 32 * 16 + thread % 32 / 4;
  return [=](std::size_t half, std::size_t k) { return element_of_panel(a.from, (row + 8 * half) * 128 + 2 * k); };
}
template <bool across>
void multiply_panels(float (&d)[64], MatrixAt a, MatrixAt b, bool adds) {
  multiply_later<across, 64>(d, rows_of_panel(a), b, adds);
}
template <bool across>
void multiply_panel(float (&d)[8][4], MatrixAt a, MatrixAt b, bool adds) {
  multiply_later<across, 32>(d[0], rows_of_panel(a), b, adds);
}
/// a in registers, as a warp's tile (multiply_tiles).
template <bool across>
void multiply_panel(float (&d)[8][4], const std::uint32_t (&a)[4], MatrixAt b, bool adds) {
  auto& block = *cuda_on_host::Block::current();
  const auto two = [](std::uint32_t first, std::uint32_t second) { return static_cast<std::uint64_t>(second) << 32 | first; };
  const std::uint64_t* words = block.exchange(two(a[0], a[1]), two(a[2], a[3]));
  std::array<float, 32> rows;
  const std::size_t group = block.thread() % 32 / 4;
  for (std::size_t half = 0; half < 2; ++half)
    for (std::size_t k = 0; k < 16; ++k) {
      const auto word = static_cast<std::uint32_t>(words[k / 8 * 32 + 4 * group + k % 8 / 2] >> 32 * half);
      rows[16 * half + k] = std::bit_cast<float>(k % 2 == 1 ? word & 0xffff0000u : word << 16);
    }
  multiply_later<across, 32>(d[0], [rows](std::size_t half, std::size_t k) { return rows[16 * half + k]; }, b, adds);
}
inline void begin_products() {
  using Products = cuda_on_host::Block::Products;
  cuda_on_host::Block::current()->products({Products::none}, Products::begun, "begin_products()");
}
inline void end_products() {
  using Products = cuda_on_host::Block::Products;
  cuda_on_host::Block::current()->products({Products::begun}, Products::ended, "end_products()");
}
/// For all of them; then these sums may be read.
inline void wait_for_sums(float* d) {
  using Products = cuda_on_host::Block::Products;
  auto& block = *cuda_on_host::Block::current();
  auto& all = block.later();
  const auto own = std::find_if(all.begin(), all.end(), [&](const auto& later) { return later.to == d; });
  if (own == all.end()) throw std::logic_error("products of other sums are waited for");
  block.products({Products::ended}, all.size() == 1 ? Products::none : Products::ended, "wait_for_products()");
  std::copy(own->before.begin(), own->before.end(), d);
  for (const auto& product : own->each) product(d);
  if (std::memcmp(d, own->sums.data(), own->sums.size() * sizeof(float)) != 0)
    throw std::logic_error("what tensor cores multiply was written before they were waited for");
  all.erase(own);
}
inline void wait_for_products(float (&d)[64]) { wait_for_sums(d); }
inline void wait_for_products(float (&d)[8][4]) { wait_for_sums(d[0]); }
inline void written_for_products() { cuda_on_host::Block::current()->copies().unseen = false; }
template <int count>
void wait_for_neighbours() {
  auto& block = *cuda_on_host::Block::current();
  block.barrier(1 + static_cast<int>(block.thread()) / count, count, true);
}
template <int count>
void wait_for_turn() {
  auto& block = *cuda_on_host::Block::current();
  block.barrier(3 + static_cast<int>(block.thread()) / count, 2 * count, true);
}
template <int count>
void give_turn() {
  auto& block = *cuda_on_host::Block::current();
  block.barrier(4 - static_cast<int>(block.thread()) / count, 2 * count, false);
}

}  // namespace relay::cuda

// --- cuBLASLt: products by columns, c = alpha op(a) op(b) + beta c + bias. ---
enum cublasStatus_t { CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_INVALID_VALUE = 7, CUBLAS_STATUS_NOT_SUPPORTED = 15 };
inline constexpr int CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE = 2;
enum cudaDataType_t { CUDA_R_32F, CUDA_R_16BF };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F };
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cublasLtEpilogue_t {
  CUBLASLT_EPILOGUE_DEFAULT = 1,
  CUBLASLT_EPILOGUE_BIAS = 4,
  CUBLASLT_EPILOGUE_GELU_BIAS = 36,
  CUBLASLT_EPILOGUE_GELU_AUX_BIAS = 164,
  CUBLASLT_EPILOGUE_DGELU = 192,
  CUBLASLT_EPILOGUE_BGRADB = 512
};
enum cublasLtMatmulDescAttributes_t {
  CUBLASLT_MATMUL_DESC_TRANSA,
  CUBLASLT_MATMUL_DESC_TRANSB,
  CUBLASLT_MATMUL_DESC_EPILOGUE,
  CUBLASLT_MATMUL_DESC_BIAS_POINTER,
  CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE,
  CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER,
  CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD
};
enum cublasLtMatmulPreferenceAttributes_t { CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK };

namespace cuda_on_host {
/// Set by a test: what cuBLASLt says it cannot do, and what it finds that it cannot when it is to do it.
enum class Refuses { nothing, gelu, any_epilogue, everything };
inline Refuses refuses = Refuses::nothing, fails = Refuses::nothing;

struct Description {
  cublasOperation_t a = CUBLAS_OP_N, b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void* bias = nullptr;
  cudaDataType_t bias_type = CUDA_R_32F;
  const void* aux = nullptr;
  std::int64_t aux_stride = 0;

  bool has_bias() const { return epilogue == CUBLASLT_EPILOGUE_BIAS || epilogue == CUBLASLT_EPILOGUE_GELU_BIAS || epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS; }
  bool has_gelu() const {
    return epilogue == CUBLASLT_EPILOGUE_GELU_BIAS || epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS || epilogue == CUBLASLT_EPILOGUE_DGELU;
  }
  bool has_aux() const { return epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS || epilogue == CUBLASLT_EPILOGUE_DGELU; }
};
struct Layout {
  cudaDataType_t type;
  long rows, cols, stride;
};
inline bool is_refused(Refuses what, const Description& d, cudaDataType_t result) {
  if (d.has_aux() && d.aux_stride % 8 != 0) return true;
  if (d.has_bias() && d.bias_type != result) return true;
  return what == Refuses::everything || (d.epilogue != CUBLASLT_EPILOGUE_DEFAULT && what == Refuses::any_epilogue) ||
         (d.has_gelu() && what == Refuses::gelu);
}
/// By the approximation with tanh, as the manual says.
inline double gelu(double x) { return x / 2 * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x))); }
inline double gelu_slope(double x) { return (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5; }
inline void write(void* to, cudaDataType_t type, long i, float value) {
  if (type == CUDA_R_32F)
    static_cast<float*>(to)[i] = value;
  else
    static_cast<__nv_bfloat16*>(to)[i] = __float2bfloat16(value);
}
inline double read(const void* from, cudaDataType_t type, long i) {
  return type == CUDA_R_32F ? static_cast<double>(static_cast<const float*>(from)[i])
                            : static_cast<double>(__bfloat162float(static_cast<const __nv_bfloat16*>(from)[i]));
}
}  // namespace cuda_on_host

using cublasLtHandle_t = void*;
using cublasLtMatmulDesc_t = cuda_on_host::Description*;
using cublasLtMatrixLayout_t = cuda_on_host::Layout*;
using cublasLtMatmulPreference_t = void*;
struct cublasLtMatmulAlgo_t {};
struct cublasLtMatmulHeuristicResult_t {
  cublasLtMatmulAlgo_t algo;
};
inline const char* cublasLtGetStatusString(cublasStatus_t) { return "an error of the stand-in for cuBLAS"; }
inline cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) { return *handle = nullptr, CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* to, cublasComputeType_t, cudaDataType_t) {
  return *to = new cuda_on_host::Description, CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t d, cublasLtMatmulDescAttributes_t which, const void* value,
                                                     std::size_t bytes) {
  void* const to[] = {&d->a, &d->b, &d->epilogue, &d->bias, &d->bias_type, &d->aux, &d->aux_stride};
  const std::size_t sizes[] = {sizeof d->a, sizeof d->b, sizeof d->epilogue, sizeof d->bias, sizeof d->bias_type, sizeof d->aux, sizeof d->aux_stride};
  if (bytes != sizes[which]) throw std::logic_error("an attribute of another size");
  std::memcpy(to[which], value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* to, cudaDataType_t type, std::uint64_t rows, std::uint64_t cols, long stride) {
  return *to = new cuda_on_host::Layout{type, static_cast<long>(rows), static_cast<long>(cols), stride}, CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t d) {
  delete d;
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete layout;
  return CUBLAS_STATUS_SUCCESS;
}
enum cublasLtMatrixLayoutAttribute_t { CUBLASLT_MATRIX_LAYOUT_COLS };
inline cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t, const void* value, std::size_t bytes) {
  std::uint64_t cols = 0;
  if (bytes != sizeof cols) throw std::logic_error("an attribute of another size");
  std::memcpy(&cols, value, bytes);
  layout->cols = static_cast<long>(cols);
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* to) { return *to = nullptr, CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t) { return CUBLAS_STATUS_SUCCESS; }
inline cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t, const void*, std::size_t) {
  return CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t d, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                                     cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t, cublasLtMatmulPreference_t, int,
                                                     cublasLtMatmulHeuristicResult_t*, int* found) {
  const bool refused = cuda_on_host::is_refused(cuda_on_host::refuses, *d, c->type);
  *found = refused ? 0 : 1;
  return refused ? CUBLAS_STATUS_NOT_SUPPORTED : CUBLAS_STATUS_SUCCESS;
}
inline cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t d, const void* alpha, const void* a, cublasLtMatrixLayout_t at,
                                     const void* b, cublasLtMatrixLayout_t bt, const void* beta, const void* c, cublasLtMatrixLayout_t ct, void* to,
                                     cublasLtMatrixLayout_t, const cublasLtMatmulAlgo_t*, void*, std::size_t, cudaStream_t) {
  using cuda_on_host::read;
  if (cuda_on_host::is_refused(cuda_on_host::fails, *d, ct->type)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (cuda_on_host::captured) {  // with what is described now: descriptions change
    cuda_on_host::captured->work.emplace_back([=, own = *d, la = *at, lb = *bt, lc = *ct, x = *static_cast<const float*>(alpha),
                                               y = *static_cast<const float*>(beta)]() mutable {
      (void)cublasLtMatmul(nullptr, &own, &x, a, &la, b, &lb, &y, c, &lc, to, &lc, nullptr, nullptr, 0, nullptr);
    });
    return CUBLAS_STATUS_SUCCESS;
  }
  ++cuda_on_host::products;
  const long inner = d->a == CUBLAS_OP_N ? at->cols : at->rows;
  if (inner != (d->b == CUBLAS_OP_N ? bt->rows : bt->cols) || ct->rows != (d->a == CUBLAS_OP_N ? at->rows : at->cols) ||
      ct->cols != (d->b == CUBLAS_OP_N ? bt->cols : bt->rows))
    throw std::logic_error("shapes of a product do not meet");
  for (long j = 0; j < ct->cols; ++j)
    for (long i = 0; i < ct->rows; ++i) {
      double sum = 0;
      for (long k = 0; k < inner; ++k)
        sum += read(a, at->type, d->a == CUBLAS_OP_N ? i + k * at->stride : k + i * at->stride) *
               read(b, bt->type, d->b == CUBLAS_OP_N ? k + j * bt->stride : j + k * bt->stride);
      const long e = i + j * ct->stride;
      float value = *static_cast<const float*>(alpha) * static_cast<float>(sum);
      if (const float factor = *static_cast<const float*>(beta); factor != 0) value += factor * static_cast<float>(read(c, ct->type, e));
      if (d->has_bias()) value += static_cast<float>(read(d->bias, d->bias_type, i));
      void* const aux = const_cast<void*>(d->aux);
      if (d->epilogue == CUBLASLT_EPILOGUE_GELU_AUX_BIAS) cuda_on_host::write(aux, ct->type, i + j * d->aux_stride, value);
      if (d->epilogue == CUBLASLT_EPILOGUE_DGELU)
        value *= static_cast<float>(cuda_on_host::gelu_slope(read(aux, ct->type, i + j * d->aux_stride)));
      else if (d->has_gelu())
        value = static_cast<float>(cuda_on_host::gelu(static_cast<double>(value)));
      cuda_on_host::write(to, ct->type, e, value);
    }
  if (d->epilogue == CUBLASLT_EPILOGUE_BGRADB)
    for (long j = 0; j < ct->cols; ++j) {
      double sum = 0;
      for (long k = 0; k < inner; ++k) sum += read(b, bt->type, d->b == CUBLAS_OP_N ? k + j * bt->stride : j + k * bt->stride);
      cuda_on_host::write(const_cast<void*>(d->bias), d->bias_type, j, static_cast<float>(sum));
    }
  return CUBLAS_STATUS_SUCCESS;
}
