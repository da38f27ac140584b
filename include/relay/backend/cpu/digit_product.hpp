// C (+)= A B of floats as digits (digits.hpp), by the matrix unit: int8 by int8, summed up in int32, TDPBSSD, which multiplies twice as many numbers at once as
// that for bf16 does.
//
// Two tiles of C have three sums each, of products of digits that weigh the same: six registers, and one each for a tile of A and of B. Vectors put the sums
// of the tiles before together meanwhile. Sums of whole numbers are exact, so no bit depends on how rows and columns are shared out.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

#ifdef RELAY_CPU_AMX

namespace detail {

template <int Sum, int A, int B>
[[gnu::always_inline]] inline void multiply_digit_tiles() {
  asm volatile("{tdpbssd\t%%tmm%c2, %%tmm%c1, %%tmm%c0|tdpbssd\ttmm%c0, tmm%c1, tmm%c2}" ::"i"(Sum), "i"(A), "i"(B));
}

/// A product of tiles: a place of the operand of which there are two tiles, which of these, and a place of the other one.
struct DigitStep {
  int place, which, other;
};
/// In an order in which few tiles are loaded, and no sum is added to again before it is there; the largest sums are ready, and begun again, first.
inline constexpr DigitStep digit_steps_of_k[] = {{0, 0, 0}, {0, 1, 0}, {2, 1, 0}, {2, 0, 0}, {1, 0, 0}, {1, 1, 0},
                                                 {1, 1, 1}, {1, 0, 1}, {0, 0, 1}, {0, 1, 1}, {0, 1, 2}, {0, 0, 2}};
inline constexpr int digit_step_of_stores = 5;  // behind which the largest sums are stored

/// Turns of the unit in a product: three tiles by tiles.
constexpr int digit_turns(int rows, int n, int k) {
  const int tiles = digit_tiles(n);
  return digit_strips(rows) * (rows > 16 ? tiles : (tiles + 1) / 2) * digit_depth(k) * 4;
}

/// a b + c, rounded once, wherever it stands: a number has the same bits at the edge of a tile and within.
[[gnu::always_inline]] inline Vector<float> multiply_add(const Vector<float>& a, const Vector<float>& b, const Vector<float>& c) {
  return __builtin_bit_cast(Vector<float>, _mm512_fmadd_ps(__builtin_bit_cast(__m512, a), __builtin_bit_cast(__m512, b), __builtin_bit_cast(__m512, c)));
}
/// What sums of products of digits, of each place, largest first, are in numbers, but for the columns' scales.
[[gnu::always_inline]] inline Vector<float> number_of_sums(const Vector<std::int32_t> (&sums)[digit_places], float row_scale) {
  const auto of_place = [&](int p) { return __builtin_convertvector(sums[p], Vector<float>); };
  const Vector<float> next = broadcast(1.0f / 256);
  return multiply_add(multiply_add(of_place(2), next, of_place(1)), next, of_place(0)) * row_scale;
}

/// Products of strips, one after another. The matrix unit is ready (MatrixUnit).
class DigitProduct {
 public:
  /// C [rows, n] (+)= A B + bias of a strip of A and a panel of B, a block of k. `bias` may be null.
  void operator()(int rows, int n, const Digits* strip, DigitPanel b, Matrix<float> c, Store how, const float* bias, const Meanwhile& meanwhile) {
    const auto* const scales = reinterpret_cast<const float*>(strip);
    const Digits* const a = strip + 2;
    Sums sums;
    const auto begin_sums = [&](int column, int tiles_of_rows, int tile) {
      sums.from = sums_ + tile * digit_places * ints;
      sums.c = c.data + column;
      sums.row_scale = scales;
      sums.stride = c.stride;
      sums.rows = std::min(16 * tiles_of_rows, rows);
      sums.columns = std::min(16, n - column);
      sums.add = how == Store::add;
      sums.column_scales = load(b.scales + column);
      if (bias) sums.start = load_some(bias + column, sums.columns);
      if (sums.columns == 16 && !(sums.add && bias)) return;
      finish(sums);
      sums.rows = 0;
    };
    times<2 * digit_places>([](auto sum) { clear_tile<sum()>(); });
    for (int j = 0; j < n;) {
      const Digits* const tiles = b.tiles + static_cast<long>(j / 16) * b.depth * of_step;
      if (rows > 16) {
        multiply<2, 1>(a, tiles, b.depth, sums, c.data + j, meanwhile);
        begin_sums(j, 2, 0);
        j += 16;
      } else if (n - j > 16) {
        multiply<1, 2>(a, tiles, b.depth, sums, c.data + j, meanwhile);
        begin_sums(j, 1, 0);
        finish(sums);
        begin_sums(j + 16, 1, 1);
        j += 32;
      } else {
        multiply<1, 1>(a, tiles, b.depth, sums, c.data + j, meanwhile);
        begin_sums(j, 1, 0);
        j += 16;
      }
    }
    finish(sums);
  }

 private:
  static constexpr int of_step = digit_places * digit_lines, ints = 16 * 16;

  /// Rows of C in one column of tiles whose sums are there.
  struct Sums {
    const std::int32_t* from = nullptr;
    float* c = nullptr;
    const float* row_scale = nullptr;
    long stride = 0;
    int rows = 0, columns = 16;
    bool add = false;
    Vector<float> column_scales{}, start{};
  };
  [[gnu::always_inline]] static Vector<float> number(const std::int32_t* from, float row_scale) {
    const Vector<std::int32_t> sums[] = {load(from), load(from + ints), load(from + 2 * ints)};
    return number_of_sums(sums, row_scale);
  }
  /// From a row's sums to the next row's.
  [[gnu::always_inline]] static int next_row(int row) { return row % 16 == 15 ? 16 + (digit_places - 1) * ints : 16; }

  /// (Not inlined: what is in registers elsewhere, is not here.)
  [[gnu::noinline]] static void finish(const Sums& sums) {
    const std::int32_t* from = sums.from;
    for (int r = 0; r < sums.rows; from += next_row(r), ++r) {
      float* const c = sums.c + r * sums.stride;
      const Vector<float> start = sums.add ? load_first(c, sums.columns) + sums.start : sums.start;
      store_first(c, multiply_add(number(from, sums.row_scale[r]), sums.column_scales, start), sums.columns);
    }
  }

  /// R by C tiles; meanwhile the sums of those before go to C. The unit's sums are zeros before and afterwards.
  template <int R, int C>
  [[gnu::always_inline]] void multiply(const Digits* a, const Digits* b, int depth, const Sums& before_these, const float* next, const Meanwhile& meanwhile) {
    static_assert(R * C <= 2);
    constexpr int a_tile = 6, b_tile = 7, count = static_cast<int>(std::size(digit_steps_of_k));
    const auto store_sums = [&](auto place) __attribute__((always_inline)) {
      times<R * C>([&](auto which) __attribute__((always_inline)) {
        constexpr int sum = which() * digit_places + place();
        store_tile<sum>(sums_ + sum * ints, 64);
        clear_tile<sum>();
      });
    };
    // In variables of their own, so that they are in registers.
    const std::int32_t* from = before_these.from;
    float* to = before_these.c;
    const float* row_scale = before_these.row_scale;
    const long stride = before_these.stride;
    const int rows = before_these.rows;
    const bool add = before_these.add;
    const Vector<float> column_scales = before_these.column_scales, start = before_these.start;
    int row = 0;
    const auto add_to_c = [&](int rows_now) __attribute__((always_inline)) {
      for (; rows_now > 0 && row < rows; --rows_now) {
        store(to, multiply_add(number(from, *row_scale), column_scales, add ? load(to) : start));
        from += next_row(row);
        to += stride;
        ask_to_write(*next);
        next += stride;
        ++row_scale;
        ++row;
      }
    };
    // The sums that were stored last are not there at once, and those that are stored first must be out of the way.
    constexpr int delay = 4;
    const int each = digit_strip / std::max(1, count * (depth - 1) + digit_step_of_stores - delay) + 1;
    for (int s = 0; s < depth; ++s, a += 2 * of_step, b += of_step) {
      const Digits* const b_second = b + static_cast<long>(depth) * of_step;
      times<count>([&](auto i) __attribute__((always_inline)) {
        constexpr DigitStep step = digit_steps_of_k[i()], before = digit_steps_of_k[i() == 0 ? count - 1 : i() - 1];
        if constexpr (R * C == 2 || step.which == 0) {
          constexpr int a_place = C == 2 ? step.other : step.place, b_place = C == 2 ? step.place : step.other;
          // (With one tile, what was there in the step before may have been loaded in one that is left out.)
          constexpr bool same = i() > 0 && R * C == 2, same_place = same && step.place == before.place && step.which == before.which;
          constexpr bool same_other = same && step.other == before.other;
          if constexpr (!(C == 2 ? same_other : same_place)) load_tile<a_tile>(a + (2 * a_place + (R == 2 ? step.which : 0)) * digit_lines, 64);
          if constexpr (!(C == 2 ? same_place : same_other)) load_tile<b_tile>((C == 2 && step.which == 1 ? b_second : b) + b_place * digit_lines, 64);
          multiply_digit_tiles<step.which * digit_places + step.place + step.other, a_tile, b_tile>();
        }
        if constexpr (i() == digit_step_of_stores)
          if (s == depth - 1) {
            add_to_c(digit_strip);
            store_sums(std::integral_constant<int, 0>());
          }
        if (i() >= delay || s > 0) add_to_c(each);
        if constexpr (i() % 3 == 2) meanwhile();
      });
    }
    store_sums(std::integral_constant<int, 1>());
    store_sums(std::integral_constant<int, 2>());
  }

  alignas(64) std::int32_t sums_[2 * digit_places * ints];
};

/// Memory that a thread needs for its part of a product.
template <Operand A, Operand B>
struct DigitScratch {
  long panel, a, inverses;
  /// `columns`: the most that a part has.
  DigitScratch(int m, int n, int k, int columns, int /*b_stride*/, bool packed) {
    const int at_once = steps(k);
    panel = packed ? 0 : digit_packed_lines(std::min(columns, n), at_once);
    a = 2 * digit_strip_lines(at_once, block(at_once));
    inverses = A == Operand::transposed ? ColumnInverses::lines(m) : 0;
  }
  long size() const { return panel + a + inverses; }

  /// Steps of k in a block that all rows go through before the next: as many as have one scale, where A's columns have to be looked through for it.
  static int steps(int k) { return A == Operand::plain ? k : std::min(k, digit_block); }
  /// Of A.
  static int block(int k) { return A == Operand::plain ? block_of<B>(k) : digit_block; }
};

/// The columns first .. last-1 of a product; `first` is a multiple of 16.
template <Operand A, Operand B>
void digit_product_columns(int m, int n, int k, int first, int last, ConstMatrix<float> a, ConstMatrix<float> b, const Digits* packed, const float* bias,
                           Matrix<float> c, Store how, const DigitScratch<A, B>& need, Digits* scratch) {
  using Need = DigitScratch<A, B>;
  Digits* const made = scratch;
  Digits* const packed_a[] = {scratch + need.panel, scratch + need.panel + need.a / 2};
  const ColumnInverses inverses(scratch + need.panel + need.a, m);
  DigitProduct multiply;
  for (int begin = 0; begin < k; begin += Need::steps(k)) {
    const int steps = std::min(Need::steps(k), k - begin), block = Need::block(steps);
    if (!packed) pack_digits<B>(last - first, steps, {B == Operand::plain ? b.row(begin) + first : b.row(first) + begin, b.stride}, made);
    const ConstMatrix<float> a_now{A == Operand::plain ? a.data + begin : a.row(begin), a.stride};
    if constexpr (A == Operand::transposed) inverses.of(a_now, steps, m);
    // Rows of A are packed while those before them are multiplied.
    const auto packing = [&](int i, Digits* to) {
      const int rows = std::clamp(m - i, 0, digit_strip), turns = digit_turns(std::min(m, digit_strip), last - first, steps);
      if constexpr (A == Operand::plain) {
        const PackStripRows work({a_now.row(i), a_now.stride}, steps, block, to);
        return Pieces(work.pieces(rows), turns, work);
      } else {
        return Pieces(rows > 0 ? PackStripColumns::pieces(steps, rows) : 0, turns, PackStripColumns(a_now, steps, rows, i, inverses, to));
      }
    };
    int at = 0;
    packing(0, packed_a[at]).finish();
    for (int i = 0; i < m; i += digit_strip, at ^= 1) {
      const int rows = std::min(digit_strip, m - i);
      auto next = packing(i + digit_strip, packed_a[at ^ 1]);
      for (int k0 = 0; k0 < steps; k0 += block) {
        const int now = std::min(block, steps - k0);
        const DigitPanel panel = packed ? DigitPanel::of(packed + digit_panel_lines(n, k0, block), n, now, first)
                                        : DigitPanel::of(made + digit_panel_lines(last - first, k0, block), last - first, now, 0);
        const bool begins = begin == 0 && k0 == 0;
        multiply(rows, last - first, packed_a[at] + digit_strip_lines(k0, block), panel, {c.row(i) + first, c.stride}, begins ? how : Store::add,
                 begins && bias ? bias + first : nullptr, Meanwhile(next));
      }
      next.finish();
    }
  }
}

}  // namespace detail

#endif

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
