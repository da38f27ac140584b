// C (+)= A B by the matrix unit of Intel's AMX: eight registers, tiles, of 16 rows of 64 bytes, and an instruction that multiplies a tile of pairs
// of bf16 by another and adds to one of floats, 16 times the work of a vector instruction.
//
// A's tile is 16 rows of 16 factors (32 steps of k) and B's 16 factors of 16 columns: what small_product reads, if k is padded with zeros
// (`factors`). Within 32 steps the unit adds up even and
// odd ones apart, always in the same order, and numbers below 2^-126 are zeros to it. Every number of rows goes through it, so that a row has the same
// bits whatever other rows there are.
//
// Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volumes 1 (chapter 18) and 2 (TDPBF16PS). Assembly, since compilers'
// own functions do not say that they read memory.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

/// Work for vectors, in `total` pieces, that is done while the matrix unit multiplies, in so many of its turns, as evenly as may be. What is left,
/// finish() does. A piece should be some hundred instructions: the processor looks 512 ahead, and has to find there what the unit multiplies next.
template <class F>
class Pieces {
 public:
  Pieces(int total, int turns, F piece) : total_(total), turns_(std::max(1, turns)), piece_(piece) {}
  void step() {
    for (due_ += total_; due_ >= turns_ && done_ < total_; due_ -= turns_) piece_(done_++);
  }
  void finish() {
    while (done_ < total_) piece_(done_++);
  }

 private:
  int total_, turns_, done_ = 0;
  long due_ = 0;
  F piece_;
};

/// Works, of each of which a turn is due in each turn.
template <class First, class Second>
class Together {
 public:
  Together(First& first, Second& second) : first_(first), second_(second) {}
  void step() { first_.step(), second_.step(); }
  void finish() { first_.finish(), second_.finish(); }

 private:
  First& first_;
  Second& second_;
};

/// What a product by the matrix unit calls in each turn. (A pointer, so that products are not compiled again for every work.)
class Meanwhile {
 public:
  Meanwhile() = default;  // nothing
  template <class Work>
  explicit Meanwhile(Work& work) : step_(&step<Work>), work_(&work) {}
  void operator()() const {
    if (step_) step_(work_);
  }

 private:
  template <class Work>
  static void step(void* work) {
    static_cast<Work*>(work)->step();
  }

  void (*step_)(void*) = nullptr;
  void* work_ = nullptr;
};

/// Turns of the matrix unit in a product of so many rows, columns and factors: in each, it multiplies two tiles by two.
template <class F>
constexpr int unit_turns(int rows, int columns, int factors) {
  return ((rows + 31) / 32) * ((columns + 31) / 32) * (factors / 16);
}

#ifdef RELAY_CPU_AMX

namespace detail {

inline constexpr int tile_side = 16;

/// Rows that this thread's tiles of A and of sums have (MatrixUnit).
inline thread_local int unit_rows = 0;

template <int Tile>
[[gnu::always_inline]] inline void load_tile(const void* from, std::int64_t stride_bytes) {
  asm volatile("{tileloadd\t(%0,%1,1), %%tmm%c2|tileloadd\ttmm%c2, [%0+%1*1]}" ::"r"(from), "r"(stride_bytes), "i"(Tile) : "memory");
}
template <int Tile>
[[gnu::always_inline]] inline void store_tile(void* to, std::int64_t stride_bytes) {
  asm volatile("{tilestored\t%%tmm%c2, (%0,%1,1)|tilestored\t[%0+%1*1], tmm%c2}" ::"r"(to), "r"(stride_bytes), "i"(Tile) : "memory");
}
template <int Tile>
[[gnu::always_inline]] inline void clear_tile() {
  asm volatile("{tilezero\t%%tmm%c0|tilezero\ttmm%c0}" ::"i"(Tile));
}
/// sum += a b
template <int Sum, int A, int B>
[[gnu::always_inline]] inline void multiply_tiles() {
  asm volatile("{tdpbf16ps\t%%tmm%c2, %%tmm%c1, %%tmm%c0|tdpbf16ps\ttmm%c0, tmm%c1, tmm%c2}" ::"i"(Sum), "i"(A), "i"(B));
}

/// f(0), f(1), .. with constants.
template <int... I>
[[gnu::always_inline]] inline void each_constant(std::integer_sequence<int, I...>, auto&& f) {
  (f(std::integral_constant<int, I>()), ...);
}
template <int N>
[[gnu::always_inline]] inline void times(auto&& f) {
  each_constant(std::make_integer_sequence<int, N>(), f);
}

/// The tile of B's columns j of C's R rows of tiles.
constexpr int factor_tile(int r, int j) { return r == 1 ? 5 + j % 3 : 6 + j; }

/// Asks for a line that will be written, into the L1 cache. (All processors with a matrix unit can; compilers are not told so, and would make an instruction
/// of __builtin_prefetch that asks to read, into the L2 cache.)
[[gnu::always_inline]] inline void ask_to_write(const float& at) { asm volatile("prefetchw\t%0" ::"m"(at)); }

/// R by C tiles of a sum. a_tile(i, k) gives the place and the stride of A's tile of rows 16 i .. and factors k ... . `next` is the block of C
/// that comes next, and is asked for meanwhile: a tile waits for each of its lines, to add to it and to write it as well.
template <int R, int C, class F>
[[gnu::always_inline]] inline void tile_block(int k, auto&& a_tile, const F* b, long ldb, float* c, long ldc, const float* next, Store how,
                                              const float* start, const Meanwhile& meanwhile) {
  static_assert(R == 1 ? C <= 4 : R == 2 && C <= 2, "four tiles of sums, and four of factors");
  constexpr long element = sizeof(F), sum_element = sizeof(float);
  constexpr int rows_a_step = 4;
  times<R>([&](auto i) {
    times<C>([&](auto j) {
      constexpr int sum = i() * C + j();
      if (how == Store::add)
        load_tile<sum>(c + i() * tile_side * ldc + j() * tile_side, ldc * sum_element);
      else if (start)
        load_tile<sum>(start + j() * tile_side, 0);
      else
        clear_tile<sum>();
    });
  });
  const float* const last = next + R * tile_side * ldc;
  for (int f = 0; f < k; f += tile_side) {
    if constexpr (R == 1)  // for few rows all the time is reading B, which may lie in memory
      times<tile_side>([&](auto r) {
        times<C>([&](auto j) { __builtin_prefetch(b + (f + 2 * tile_side + r()) * ldb + j() * tile_side); });
      });
    times<R>([&](auto i) {
      const auto [from, stride] = a_tile(i(), f);
      load_tile<4 + i()>(from, stride * element);
    });
    times<C>([&](auto j) {
      load_tile<factor_tile(R, j())>(b + f * ldb + j() * tile_side, ldb * element);
      times<R>([&](auto i) { multiply_tiles<i() * C + j(), 4 + i(), factor_tile(R, j())>(); });
    });
    meanwhile();
    if (next < last)
      times<rows_a_step>([&](auto) {
        times<C>([&](auto j) { ask_to_write(next[j() * tile_side]); });
        next += ldc;
      });
  }
  times<R>([&](auto i) {
    times<C>([&](auto j) { store_tile<i() * C + j()>(c + i() * tile_side * ldc + j() * tile_side, ldc * sum_element); });
  });
}

/// All columns of R tiles of rows, up to `Most` tiles of columns at a time.
template <int R, int Most, class F>
inline void tile_columns(int n, int k, auto&& a_tile, const F* b, int ldb, float* c, int ldc, const float* next_rows, Store how, const float* start,
                         const Meanwhile& meanwhile) {
  constexpr int whole = Most * tile_side;
  for (; n >= whole; n -= whole, b += whole, c += whole, start = start ? start + whole : start)
    tile_block<R, Most>(k, a_tile, b, ldb, c, ldc, n > whole ? c + whole : next_rows, how, start, meanwhile);
  if constexpr (Most > 1)
    if (n > 0) tile_columns<R, Most / 2>(n, k, a_tile, b, ldb, c, ldc, next_rows, how, start, meanwhile);
}

/// Tiles of columns that one tile of rows is multiplied by at once.
inline constexpr int across = 4;

/// The last rows, fewer than a tile has, in copies: nothing is read or written beside them.
template <class F>
inline void last_tile_rows(int m, int n, int k, const F* a, int lda, const F* b, int ldb, float* c, int ldc, Store how, const float* start) {
  constexpr int columns = 4 * tile_side;
  alignas(64) F rows[2][tile_side * tile_side];  // of a tile, and of the one before, which need not be waited for; what is behind them, no row of C sees
  alignas(64) float sums[tile_side * columns];
  const auto a_tile = [&](int, int f) {
    F* const to = rows[f / tile_side % 2];
    for (int i = 0; i < m; ++i) store(to + i * tile_side, load(a + static_cast<long>(i) * lda + f));
    return std::pair<const F*, long>(to, tile_side);
  };
  for (int j = 0; j < n; j += columns) {
    const int now = std::min(columns, n - j);
    const auto over_rows_of_c = [&](auto&& f) {
      for (int i = 0; i < m; ++i)
        for (int x = 0; x < now; x += lanes<float>) f(c + static_cast<long>(i) * ldc + j + x, sums + i * columns + x);
    };
    if (how == Store::add) over_rows_of_c([](const float* from, float* to) { store(to, load(from)); });
    tile_columns<1, across>(now, k, a_tile, b + j, ldb, sums, columns, sums, how, start ? start + j : start, Meanwhile());
    over_rows_of_c([](float* to, const float* from) { store(to, load(from)); });
  }
}

}  // namespace detail

/// As small_product<Operand::plain>, k in factors, a multiple of 16. The matrix unit is ready (MatrixUnit).
template <class F>
inline void tile_product(int m, int n, int k, const F* a, int lda, const F* b, int ldb, float* c, int ldc, Store how, const float* start,
                         const Meanwhile& meanwhile) {
  using detail::tile_side;
  if (how == Store::add && start) {  // which no layer asks for
    for (int i = 0; i < m; ++i)
      for (int j = 0; j < n; j += lanes<float>) store(c + i * static_cast<long>(ldc) + j, load(c + i * static_cast<long>(ldc) + j) + load(start + j));
    start = nullptr;
  }
  if (m == detail::unit_rows && m < tile_side) {
    const auto a_tile = [&](int, int f) { return std::pair<const F*, long>(a + f, lda); };
    return detail::tile_columns<1, detail::across>(n, k, a_tile, b, ldb, c, ldc, c, how, start, meanwhile);
  }
  const auto rows = [&](auto count, auto most) {
    constexpr int whole = decltype(count)::value * tile_side;
    for (; m >= whole; m -= whole, a += static_cast<long>(whole) * lda, c += static_cast<long>(whole) * ldc) {
      const auto a_tile = [&](int i, int f) { return std::pair<const F*, long>(a + static_cast<long>(i) * tile_side * lda + f, lda); };
      const float* const next_rows = m > whole ? c + static_cast<long>(whole) * ldc : c;
      detail::tile_columns<decltype(count)::value, decltype(most)::value>(n, k, a_tile, b, ldb, c, ldc, next_rows, how, start, meanwhile);
    }
  };
  rows(std::integral_constant<int, 2>(), std::integral_constant<int, 2>());
  rows(std::integral_constant<int, 1>(), std::integral_constant<int, detail::across>());
  if (m > 0) detail::last_tile_rows(m, n, k, a, lda, b, ldb, c, ldc, how, start);
}

#endif

/// Makes the matrix unit, if products of F take it, ready for its thread, while it lives: for any number of rows, or for so many alone, if those
/// are fewer than a tile has. (A thread keeps it no longer than for an operation: it may be configured otherwise by others, and its 8 KB are to be
/// saved when threads change.) There is one at a time on a thread, and products by it have as many rows as it was made ready for, if that is fewer than
/// a tile's.
template <class F>
struct MatrixUnit {
#ifdef RELAY_CPU_AMX
  static constexpr bool used = uses_tiles<F>;
  explicit MatrixUnit(int rows = detail::tile_side) {
    if constexpr (used) {
      struct alignas(64) {
        std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
        std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
      } configuration;
      detail::unit_rows = std::clamp(rows, 1, detail::tile_side);
      constexpr int of_rows = is_digits<F> ? 7 : 5;  // as R = 1 has them
      if (detail::unit_rows < detail::tile_side) std::fill_n(configuration.rows, of_rows, static_cast<std::uint8_t>(detail::unit_rows));
      asm volatile("ldtilecfg\t%0" ::"m"(configuration));
    }
  }
  ~MatrixUnit() {
    if constexpr (used) asm volatile("tilerelease");
  }
#else
  explicit MatrixUnit(int = 0) {}
#endif
  MatrixUnit(const MatrixUnit&) = delete;
  MatrixUnit& operator=(const MatrixUnit&) = delete;
};

/// small_product of a plain A by whatever is fastest at this level. Vectors may do some of another work meanwhile (Meanwhile).
template <class F, class S = SumOf<F>>
[[gnu::always_inline]] inline void block_product(int m, int n, int k, const F* a, int lda, const F* b, int ldb, S* c, int ldc, Store how, const S* start,
                                                 [[maybe_unused]] const Meanwhile& meanwhile) {
#ifdef RELAY_CPU_AMX
  if constexpr (uses_tiles<F>) return tile_product(m, n, k, a, lda, b, ldb, c, ldc, how, start, meanwhile);
#endif
  if constexpr (!uses_tiles<F>) small_product<Operand::plain>(m, n, k, a, lda, b, ldb, c, ldc, how, start);
}
template <class F, class S = SumOf<F>>
[[gnu::always_inline]] inline void block_product(int m, int n, int k, const F* a, int lda, const F* b, int ldb, S* c, int ldc, Store how, const S* start = nullptr) {
  block_product(m, n, k, a, lda, b, ldb, c, ldc, how, start, Meanwhile());
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
