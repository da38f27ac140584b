// Floats as whole numbers of three digits, as the matrix unit of AMX multiplies them fastest (digit_product.hpp).
//
//   x = scale q      q = d0 256^2 + d1 256 + d2, each digit from -128 to 127
//   x y = scale scale' (256^4 d0 d0' + 256^3 (d0 d1' + d1 d0') + 256^2 (d0 d2' + d1 d1' + d2 d0') + what is left out)
//
// A row of A and a column of B have a scale for each block of k, of 256 steps or 128 (digit_layout.hpp): its largest number has q = 8355000. So every number of it is off by less
// than 3 2^-24 of the largest, and a product by less than k (8 2^-24) of the product of the two largest numbers, and what float32 rounds in the end (by far less
// as a rule: errors have either sign). Sums of digits are exact. These are errors of float32's order in norm, not element by element: a number that is 2^n times
// smaller than the largest of its row has n bits less than a float, and what floats have exactly, 3 times 5, is off by a last bit (powers of two as
// scales would keep that, and cost nearly a bit of all the rest). With normal numbers, errors are 1.5 (k >= 256) to 2.3 times (k = 32) those of summing up
// products of floats; whole gradients of models have errors like those of floats (tests/backend/cpu_gradients.cpp). What is not a number or infinite makes its
// whole row, or column, not a number; rows whose largest number is below 2^-103 lose bits, above 2^112 sums may become infinite.
//
// Source: Ozaki, Ogita, Oishi & Rump, Error-free transformations of matrix multiplication, 2012; for digits of 8 bits: Ootomo, Ozaki & Yokota, DGEMM on
// integer matrix multiplication unit, 2024 (arXiv 2306.11975).
//
// A line is 64 digits of one place, of 64 steps of k. Within a line, byte 4 i + s is that of step 16 s + i: what four vectors side by side, or four rows one
// below the other, give without exchanging anything between lanes; it does not matter in which order A and B have their steps, if it is the same.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

#ifdef RELAY_CPU_AMX

namespace detail {

/// |x| as bits, which are ordered as the numbers are.
[[gnu::always_inline]] inline Vector<std::int32_t> magnitude(const Vector<float>& x) { return __builtin_bit_cast(Vector<std::int32_t>, x) & 0x7fffffff; }
[[gnu::always_inline]] inline Vector<std::int32_t> largest_of(const Vector<std::int32_t>& a, const Vector<std::int32_t>& b) { return a > b ? a : b; }

/// By what numbers are multiplied to be whole ones, from the largest magnitude.
[[gnu::always_inline]] inline Vector<float> digit_inverse(const Vector<std::int32_t>& largest) {
  constexpr float whole = 8355000, most = 0x1p126f;  // 127 256^2 + 127 256 + 127, and a little less for what the division rounds; for rows of zeros
  constexpr std::int32_t largest_number = 0x7f7fffff;
  const Vector<float> inverse = smaller(whole / __builtin_bit_cast(Vector<float>, largest), broadcast(most));
  return largest > largest_number ? broadcast(std::numeric_limits<float>::quiet_NaN()) : inverse;
}
/// By what the sum of whole numbers' products, each operand's taken by 256^2, is multiplied to be of numbers again.
[[gnu::always_inline]] inline Vector<float> digit_scale(const Vector<float>& inverse) { return 65536 / inverse; }

using Bits [[gnu::vector_size(vector_bytes)]] = std::uint32_t;
/// The bits of a where the mask has ones, those of b where it has zeros.
[[gnu::always_inline]] inline Bits choose(std::uint32_t mask, const Bits& a, const Bits& b) { return (a & mask) | (b & ~mask); }

/// The digits of four vectors: of each place, a line.
[[gnu::always_inline]] inline void digits_of(const Vector<float> (&x)[4], const Vector<float>& inverse, Vector<std::int32_t> (&places)[digit_places]) {
  constexpr std::uint32_t middle = 0x808080, lower = 0xffff, even = 0x00ff00ff;
  Bits q[4];  // the digits, 128 added to each, in the three lower bytes
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    q[i] = __builtin_bit_cast(Bits, _mm512_maskz_cvtps_epi32(0xffff, __builtin_bit_cast(__m512, Vector<float>(x[i] * inverse)))) + middle;
  const Bits outer[] = {choose(even, q[0], q[1] << 8), choose(even, q[2], q[3] << 8)};  // bytes 0 and 2 of two
  const Bits inner[] = {choose(even, q[0] >> 8, q[1]), choose(even, q[2] >> 8, q[3])};  // byte 1
  const Bits of_place[] = {choose(lower, outer[0] >> 16, outer[1]), choose(lower, inner[0], inner[1] << 16), choose(lower, outer[0], outer[1] << 16)};
#pragma GCC unroll 3
  for (int p = 0; p < digit_places; ++p) places[p] = __builtin_bit_cast(Vector<std::int32_t>, of_place[p] ^ 0x80808080);
}

[[gnu::always_inline]] inline Vector<float> load_some(const float* from, int left) { return left >= lanes<float> ? load(from) : load_first(from, std::max(0, left)); }

[[gnu::always_inline]] inline void store_line(Digits* to, const Vector<std::int32_t>& line) { std::memcpy(to, &line, sizeof line); }

/// The largest of all lanes, in all of them, as digit_inverse wants it.
[[gnu::always_inline]] inline Vector<float> inverse_of_lanes(const Vector<std::int32_t>& largest) {
  return digit_inverse(fold<std::int32_t>(largest, [](const auto& a, const auto& b) -> Vector<std::int32_t> { return a > b ? a : b; }));
}
[[gnu::always_inline]] inline Vector<float> inverse_of_row(const float* from, int count) {
  Vector<std::int32_t> largest{};
  by_vector<float>(count, [&](long i, auto n) { largest = largest_of(largest, magnitude(load_first(from + i, n))); });
  return inverse_of_lanes(largest);
}

/// The 64 steps of a row that `from` begins with, of which `left` are there: the line of place p is line p `between` of `to`.
[[gnu::always_inline]] inline void pack_digit_line(const float* from, int left, const Vector<float>& inverse, Digits* to, int between) {
  Vector<float> x[4];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) x[i] = load_some(from + i * lanes<float>, left - i * lanes<float>);
  Vector<std::int32_t> places[digit_places];
  digits_of(x, inverse, places);
#pragma GCC unroll 3
  for (int p = 0; p < digit_places; ++p) store_line(to + p * between, places[p]);
}

/// Lines first .. last-1 of the tiles of columns, `columns` of up to 16, and of steps of k that are rows `stride` apart, of which `rows` are left.
[[gnu::always_inline]] inline void pack_digit_columns(const float* from, long stride, int rows, int columns, const Vector<float>& inverse, Digits* to, int first,
                                                      int last) {
  for (int i = first; i < last; ++i) {
    Vector<float> x[4];
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) {
      const int row = 16 * s + i;
      x[s] = row < rows ? load_some(from + row * stride, columns) : Vector<float>{};
    }
    Vector<std::int32_t> places[digit_places];
    digits_of(x, inverse, places);
#pragma GCC unroll 3
    for (int p = 0; p < digit_places; ++p) store_line(to + p * digit_lines + i, places[p]);
  }
}

/// A tile of B from one of A, or the other way round.
[[gnu::always_inline]] inline void transpose_digit_tile(const Digits* from, Digits* to) {
  Square<std::int32_t> square;
#pragma GCC unroll 16
  for (int i = 0; i < digit_lines; ++i) std::memcpy(&square.row[i], from + i, sizeof square.row[i]);
  transpose<std::int32_t>(square);
#pragma GCC unroll 16
  for (int i = 0; i < digit_lines; ++i) store_line(to + i, square.row[i]);
}

/// Of columns, those of a tile side by side: first their largest magnitudes, then what digit_inverse makes of these.
class ColumnInverses {
 public:
  ColumnInverses(Digits* room, int columns) : room_(room), tiles_(digit_tiles(columns)) {}
  static long lines(int columns) { return digit_tiles(columns); }

  void begin() const { std::fill_n(reinterpret_cast<float*>(room_), 16L * tiles_, 0.0f); }
  [[gnu::always_inline]] void add(int tile, const Vector<float>& x) const { store_line(room_ + tile, largest_of(magnitudes(tile), magnitude(x))); }
  void finish() const {
    for (int t = 0; t < tiles_; ++t) store(reinterpret_cast<float*>(room_ + t), digit_inverse(magnitudes(t)));
  }
  /// All three, of a [rows, columns].
  void of(ConstMatrix<float> a, int rows, int columns) const {
    begin();
    for (int r = 0; r < rows; ++r) {
      const float* const row = a.row(r);
      by_vector<float>(columns, [&](long c, auto n) { add(static_cast<int>(c / 16), load_first(row + c, n)); });
    }
    finish();
  }
  [[gnu::always_inline]] Vector<float> operator[](int tile) const { return load(reinterpret_cast<const float*>(room_ + tile)); }

 private:
  [[gnu::always_inline]] Vector<std::int32_t> magnitudes(int tile) const { return load(reinterpret_cast<const std::int32_t*>(room_ + tile)); }

  Digits* room_;
  int tiles_;
};

/// A strip from rows of A [.., k], block after block of k; work in pieces, of which one is called after another.
class PackStripRows {
 public:
  PackStripRows(ConstMatrix<float> a, int k, int block, Digits* strip) : a_(a), k_(k), block_(block), strip_(strip) {}
  int pieces(int rows) const { return rows * (digit_depth(k_) + (k_ + block_ - 1) / block_); }

  [[gnu::always_inline]] void operator()(int) {
    const int now = std::min(block_, k_ - k0_);
    const float* const from = a_.row(row_) + k0_;
    if (at_ < 0) {
      inverse_ = inverse_of_row(from, now);
      reinterpret_cast<float*>(strip_ + lines_)[row_] = digit_scale(inverse_)[0];
      at_ = 0;
      return;
    }
    pack_digit_line(from + at_, now - at_, inverse_, strip_ + lines_ + 2 + at_ / digit_steps * (2 * digit_places * digit_lines) + row_, 2 * digit_lines);
    if ((at_ += digit_steps) < now) return;
    at_ = -1;
    lines_ += digit_strip_lines(now);
    if ((k0_ += block_) < k_) return;
    ++row_, k0_ = 0, lines_ = 0;
  }

 private:
  ConstMatrix<float> a_;
  int k_, block_;
  Digits* strip_;
  Vector<float> inverse_{};
  int row_ = 0, k0_ = 0, at_ = -1;  // at_: the step of the block that comes next; -1: to look for the largest
  long lines_ = 0;
};

/// A strip from columns of A^T [k, ..], whose scales are known; work in pieces.
class PackStripColumns {
 public:
  PackStripColumns(ConstMatrix<float> a, int k, int columns, int first, const ColumnInverses& inverses, Digits* strip)
      : a_(a), k_(k), columns_(columns), first_(first), inverses_(inverses), strip_(strip) {}
  static int pieces(int k, int columns) { return digit_depth(k) * digit_tiles(columns) * of_tile; }
  /// From now on the pieces of the strip behind, which lies so many lines further on.
  void next(long lines) { first_ += digit_strip, strip_ += lines; }

  [[gnu::always_inline]] void operator()(int piece) {
    const int part = piece % of_tile, both = piece / of_tile, half = columns_ > 16 ? both & 1 : 0, s = columns_ > 16 ? both >> 1 : both;
    if (part < 4) {
      const Vector<float> inverse = inverses_[first_ / 16 + half];
      if (part == 0 && s == 0) store(reinterpret_cast<float*>(strip_) + 16 * half, digit_scale(inverse));
      pack_digit_columns(a_.row(s * digit_steps) + first_ + 16 * half, a_.stride, k_ - s * digit_steps, columns_ - 16 * half, inverse, columns_of_a_, 4 * part,
                         4 * part + 4);
    } else {
      const int place = part - 4;
      transpose_digit_tile(columns_of_a_ + place * digit_lines, strip_ + 2 + ((s * digit_places + place) * 2 + half) * digit_lines);
    }
  }

 private:
  static constexpr int of_tile = 4 + digit_places;
  ConstMatrix<float> a_;
  int k_, columns_, first_;
  ColumnInverses inverses_;
  Digits* strip_;
  Digits columns_of_a_[digit_places * digit_lines];
};

/// A block of k of B, from a tile of columns on.
struct DigitPanel {
  const Digits* tiles;
  const float* scales;
  int depth;
  /// Of a block that is laid out for n columns.
  static DigitPanel of(const Digits* block, int n, int k, int column) {
    const int depth = digit_depth(k);
    return {block + digit_tiles(n) + static_cast<long>(column / 16) * depth * digit_places * digit_lines, reinterpret_cast<const float*>(block) + column, depth};
  }
};
/// Steps of k in a block of op(B).
template <Operand B>
constexpr int block_of(int k) {
  return B == Operand::plain ? plain_digit_block(k) : digit_block;
}

/// Column tile `tile` of a block of k of B, which begins with row or column 0 of b; of a plain B, the block has the inverses where scales will be.
template <Operand B>
void pack_digit_tile(int n, int k, ConstMatrix<float> b, int tile, Digits* block) {
  const int columns = std::min(16, n - 16 * tile), depth = digit_depth(k);
  Digits* to = block + digit_tiles(n) + static_cast<long>(tile) * depth * digit_places * digit_lines;
  float* const scales = reinterpret_cast<float*>(block + tile);
  if constexpr (B == Operand::plain) {
    const Vector<float> inverse = load(scales);
    store(scales, digit_scale(inverse));
    for (int s = 0; s < depth; ++s, to += digit_places * digit_lines)
      pack_digit_columns(b.row(s * digit_steps) + 16 * tile, b.stride, k - s * digit_steps, columns, inverse, to, 0, digit_lines);
  } else {
    for (int r = 0; r < digit_lines; ++r) {
      scales[r] = 0;
      if (r >= columns) continue;
      const float* const from = b.row(16 * tile + r);
      const Vector<float> inverse = inverse_of_row(from, k);
      scales[r] = digit_scale(inverse)[0];
      for (int s = 0; s < depth; ++s)
        pack_digit_line(from + s * digit_steps, k - s * digit_steps, inverse, to + s * digit_places * digit_lines + r, digit_lines);
    }
    for (int i = 0; i < depth * digit_places; ++i, to += digit_lines) {
      if (columns < digit_lines) std::fill(to + columns, to + digit_lines, Digits{});
      transpose_digit_tile(to, to);
    }
  }
}

/// op(B) [k, n] as products read it, block after block of k.
template <Operand B>
void pack_digits(int n, int k, ConstMatrix<float> b, Digits* packed) {
  const int block = block_of<B>(k);
  for (int k0 = 0; k0 < k; k0 += block) {
    const int now = std::min(block, k - k0);
    const ConstMatrix<float> from{B == Operand::plain ? b.row(k0) : b.data + k0, b.stride};
    if constexpr (B == Operand::plain) ColumnInverses(packed, n).of(from, now, n);
    for (int t = 0; t < digit_tiles(n); ++t) pack_digit_tile<B>(n, now, from, t, packed);
    packed += digit_panel_lines(n, now);
  }
}

}  // namespace detail

#endif

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
