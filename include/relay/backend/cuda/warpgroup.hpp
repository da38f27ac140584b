// Products by a warpgroup, four neighbouring warps, on Hopper's tensor cores (PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate
// Instructions", wgmma): both factors lie in shared memory, the sums in registers, and the warps need not wait for them at once.
//
// Only code for sm_90a has these instructions. A kernel that uses them is compiled empty for everything else, and with_warpgroups() says
// whether the code of a kernel that this device runs has them.
#pragma once

#include <relay/backend/cuda/numbers.hpp>

#if defined(RELAY_CUDA_RUNTIME) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define RELAY_CUDA_WARPGROUPS 1
#else
#define RELAY_CUDA_WARPGROUPS 0
#endif

namespace relay::cuda {

inline constexpr int warpgroup = 4 * warp;

/// What such a kernel is compiled for: of so many threads, or, where it is empty, of a warp, by which the host knows it.
constexpr int threads_with_warpgroups(int threads) { return RELAY_CUDA_WARPGROUPS ? threads : warp; }

/// Whether this device runs the kernel's code with warpgroups, which has more threads than a warp.
inline bool with_warpgroups(const void* kernel) {
#if defined(RELAY_CUDA_RUNTIME)
  (void)kernel;
  return cuda_on_host::has_warpgroups;
#else
  return ready(kernel, 0).threads > warp;
#endif
}

// --- A matrix of bf16 in shared memory as these products read it: in panels of 64 columns, one after another. A row of a panel has 128 bytes;
// its eight sixteens change places by the row's number, so that neither rows nor columns are all in the same banks ("128-byte swizzling").
// Where the matrix begins is a multiple of panel_alignment. ---

inline constexpr int panel_columns = 64;
inline constexpr std::size_t panel_alignment = 1024;

/// Where an element of such a matrix lies.
__device__ inline int place_in_panels(int rows, int row, int column) {
  const auto r = static_cast<unsigned>(row), c = static_cast<unsigned>(column);
  return static_cast<int>((c / panel_columns * static_cast<unsigned>(rows) + r) * panel_columns + ((c / 8 ^ r) % 8) * 8 + c % 8);
}

/// The first multiple of panel_alignment in shared memory from there on.
template <class T>
__device__ T* panel_aligned(T* from) {
#if defined(RELAY_CUDA_RUNTIME)
  const auto at = reinterpret_cast<std::uintptr_t>(from);
#else
  const std::size_t at = __cvta_generic_to_shared(from);
#endif
  return from + (panel_alignment - at % panel_alignment) % panel_alignment / sizeof(T);
}

#if !defined(RELAY_CUDA_RUNTIME)
#if RELAY_CUDA_WARPGROUPS
/// How the tensor cores find such a matrix (PTX ISA, "Matrix-descriptor"): where it begins, how far its panels are apart, of which only
/// products along a panel's columns take two at once, and groups of eight rows.
class MatrixAt {
 public:
  __device__ MatrixAt(const bf16* from, int panels_apart) {
    const auto at = static_cast<std::uint32_t>(__cvta_generic_to_shared(from));
    lower_ = static_cast<std::uint32_t>(panels_apart * static_cast<int>(sizeof(bf16)) / 16) << 16 | (at & 0x3ffff) / 16;
  }
  /// The same so many elements further on, a multiple of eight.
  __device__ MatrixAt operator+(int elements) const {
    MatrixAt other = *this;
    other.lower_ += static_cast<std::uint32_t>(elements * static_cast<int>(sizeof(bf16)) / 16);
    return other;
  }
  /// The same, of which the compiler knows that it is one for the whole warp, and nothing else: what is worked out of it is not kept in registers.
  __device__ MatrixAt of_warp() const {
    MatrixAt other = *this;
    other.lower_ = __shfl_sync(whole_warp, lower_, 0);
    asm volatile("" : "+r"(other.lower_));
    return other;
  }
  __device__ std::uint64_t bits() const {
    constexpr std::uint32_t swizzled = 1u << 30, eight_rows = 8 * 128 / 16;
    return static_cast<std::uint64_t>(swizzled | eight_rows) << 32 | lower_;
  }

 private:
  std::uint32_t lower_;
};

/// d += a b, or, unless it `adds`, d = a b: of the warpgroup, a [64, 16], where a panel has its rows, and b [16, 128]: `across`, two panels
/// have its 16 rows; else one panel has its 128 columns as rows. d, of a thread: with row = 16 warp + lane / 4 and column = 2 (lane % 4), of
/// each eight columns e the elements (row, 8 e + column + {0, 1}) and (row + 8, the same).
///
/// It is only begun: begin_products() comes before the first of some, end_products() behind the last, and wait_for_products() before d is read
/// or what was multiplied is written again.
template <bool across>
__device__ inline void multiply_panels(float (&d)[64], MatrixAt a, MatrixAt b, bool adds) {
  asm volatile("{\n"
               ".reg .pred adds;\n"
               "setp.ne.b32 adds, %66, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
               "{%0, %1, %2, %3, %4, %5, %6, %7, "
               "%8, %9, %10, %11, %12, %13, %14, %15, "
               "%16, %17, %18, %19, %20, %21, %22, %23, "
               "%24, %25, %26, %27, %28, %29, %30, %31, "
               "%32, %33, %34, %35, %36, %37, %38, %39, "
               "%40, %41, %42, %43, %44, %45, %46, %47, "
               "%48, %49, %50, %51, %52, %53, %54, %55, "
               "%56, %57, %58, %59, %60, %61, %62, %63}, "
               "%64, %65, adds, 1, 1, 0, %67;\n"
               "}\n"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                 "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                 "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                 "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
                 "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
                 "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
                 "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
                 "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
               : "l"(a.bits()), "l"(b.bits()), "r"(static_cast<int>(adds)), "n"(across ? 1 : 0));
}
/// d += a b, or, unless it `adds`, d = a b, of 64 columns: d[e] is eight of them, a warp's fragments as attention_tiles.hpp has them. a [64, 16]
/// in a panel, or in registers, two numbers each: of this thread's rows (row, row + 8), columns 2 (lane % 4) + {0, 1}, and again 8 columns on.
/// b [16, 64] is one panel: `across`, it has its rows; else its columns as rows.
template <bool across>
__device__ inline void multiply_panel(float (&d)[8][4], MatrixAt a, MatrixAt b, bool adds) {
  asm volatile("{\n"
               ".reg .pred adds;\n"
               "setp.ne.b32 adds, %34, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
               "{%0, %1, %2, %3, %4, %5, %6, %7, "
               "%8, %9, %10, %11, %12, %13, %14, %15, "
               "%16, %17, %18, %19, %20, %21, %22, %23, "
               "%24, %25, %26, %27, %28, %29, %30, %31}, "
               "%32, %33, adds, 1, 1, 0, %35;\n"
               "}\n"
               : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]),
                 "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]),
                 "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
                 "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
               : "l"(a.bits()), "l"(b.bits()), "r"(static_cast<int>(adds)), "n"(across ? 1 : 0));
}
template <bool across>
__device__ inline void multiply_panel(float (&d)[8][4], const std::uint32_t (&a)[4], MatrixAt b, bool adds) {
  asm volatile("{\n"
               ".reg .pred adds;\n"
               "setp.ne.b32 adds, %37, 0;\n"
               "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
               "{%0, %1, %2, %3, %4, %5, %6, %7, "
               "%8, %9, %10, %11, %12, %13, %14, %15, "
               "%16, %17, %18, %19, %20, %21, %22, %23, "
               "%24, %25, %26, %27, %28, %29, %30, %31}, "
               "{%32, %33, %34, %35}, %36, adds, 1, 1, %38;\n"
               "}\n"
               : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]), "+f"(d[1][2]), "+f"(d[1][3]),
                 "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]), "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]),
                 "+f"(d[4][0]), "+f"(d[4][1]), "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
                 "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]), "+f"(d[7][2]), "+f"(d[7][3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.bits()), "r"(static_cast<int>(adds)), "n"(across ? 1 : 0));
}
__device__ inline void begin_products() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ inline void end_products() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
__device__ inline void wait_for_products(float (&d)[64]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;\n" ::: "memory");
  for (float& sum : d) asm volatile("" : "+f"(sum)::"memory");  // they are not read before
}
__device__ inline void wait_for_products(float (&d)[8][4]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;\n" ::: "memory");
  for (auto& eight : d)
    for (float& sum : eight) asm volatile("" : "+f"(sum)::"memory");
}
#endif

/// Waits for the other threads of this one's group: so many neighbours, half a block.
template <int count>
__device__ inline void wait_for_neighbours() {
  asm volatile("bar.sync %0, %1;\n" ::"r"(1 + static_cast<int>(threadIdx.x) / count), "n"(count) : "memory");
}

/// Of two groups of so many threads, one after the other: waits until the other group has given this one its turn.
template <int count>
__device__ inline void wait_for_turn() {
  asm volatile("bar.sync %0, %1;\n" ::"r"(3 + static_cast<int>(threadIdx.x) / count), "n"(2 * count) : "memory");
}
template <int count>
__device__ inline void give_turn() {
  asm volatile("bar.arrive %0, %1;\n" ::"r"(4 - static_cast<int>(threadIdx.x) / count), "n"(2 * count) : "memory");
}

/// What this thread has written to shared memory can be read by tensor cores, behind the next barrier.
__device__ inline void written_for_products() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");
#endif
}
#endif

}  // namespace relay::cuda
