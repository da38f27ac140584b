// A single row of floats as digits (digits.hpp) times a matrix by vectors, with the bits that the matrix unit gives it: what generating one text takes, where
// reading the matrix is all that matters. VPDPBUSD adds the products of four unsigned bytes by four signed ones to an int32: 128 is added to the digits of B,
// and what that comes to taken away beforehand, from A alone.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

#ifdef RELAY_CPU_AMX

namespace detail {

/// sum += the products of each lane's four bytes of b, unsigned, and the four of a, signed and the same for all lanes. (Assembly: compilers need not know
/// the instruction.)
[[gnu::always_inline]] inline void add_dot_product(Vector<std::int32_t>& sum, const Vector<std::int32_t>& b, const std::int32_t& a) {
  asm("{vpdpbusd\t%2%{1to16%}, %1, %0|vpdpbusd\t%0, %1, %2%{1to16%}}" : "+v"(sum) : "v"(b), "m"(a));
}

/// The sum of bytes, signed.
inline std::int32_t sum_of_digits(const Digits* lines, int count, int between) {
  std::int32_t sum = 0;
  for (int i = 0; i < count; ++i)
    for (const std::int8_t digit : lines[i * between].digit) sum += digit;
  return sum;
}

/// The sums of a row's block of k, whose lines are [depth][places], by a tile of columns of B, as the matrix unit has them: of each place, largest first.
[[gnu::always_inline]] inline void row_sums(int depth, const Digits* row, const std::int32_t (&taken)[digit_places], const Digits* tile,
                                            Vector<std::int32_t> (&sums)[digit_places]) {
  using Vectors = Vector<std::int32_t>;
  const auto* a = reinterpret_cast<const std::int32_t*>(row);
  constexpr int lane = lanes<std::int32_t>;
  Vectors first{}, second[2] = {}, third[3] = {};
  for (int s = 0; s < depth; ++s, a += digit_places * lane, tile += digit_places * digit_lines)
    for (int i = 0; i < digit_lines; ++i) {
      Vectors b[digit_places];
#pragma GCC unroll 3
      for (int p = 0; p < digit_places; ++p) {
        __builtin_prefetch(tile + (p + 2 * digit_places) * digit_lines + i);
        b[p] = load(reinterpret_cast<const std::int32_t*>(tile + p * digit_lines + i)) ^ static_cast<std::int32_t>(0x80808080);
      }
      add_dot_product(first, b[0], a[i]);
      add_dot_product(second[0], b[1], a[i]);
      add_dot_product(second[1], b[0], a[lane + i]);
      add_dot_product(third[0], b[2], a[i]);
      add_dot_product(third[1], b[1], a[lane + i]);
      add_dot_product(third[2], b[0], a[2 * lane + i]);
    }
  sums[0] = first - taken[0];
  sums[1] = second[0] + second[1] - taken[1];
  sums[2] = third[0] + third[1] + third[2] - taken[2];
}

/// c, columns first .. last-1 of a [1, k] B [k, n] + bias; `first` is a multiple of 16. There is room for digit_strip_lines(k).
template <Operand B>
void digit_row_product(int n, int k, int first, int last, const float* a, const Digits* packed, const float* bias, float* c, Digits* room) {
  const int block = block_of<B>(k);
  for (int j = first; j < last; j += digit_lines) {
    const int columns = std::min(digit_lines, last - j);
    Vector<float> total{};
    if (bias) total = load_some(bias + j, columns);
    Digits* row = room;
    for (int k0 = 0; k0 < k; k0 += block) {
      const int now = std::min(block, k - k0), depth = digit_depth(now);
      struct Block {
        float scale;
        std::int32_t taken[digit_places];
      };
      auto& of_block = *reinterpret_cast<Block*>(row);  // a line for it, and then the row's
      Digits* const lines = row + 1;
      if (j == first) {
        const Vector<float> inverse = inverse_of_row(a + k0, now);
        for (int s = 0; s < depth; ++s) pack_digit_line(a + k0 + s * digit_steps, now - s * digit_steps, inverse, lines + s * digit_places, 1);
        of_block.scale = digit_scale(inverse)[0];
        std::int32_t taken = 0;
        for (int p = 0; p < digit_places; ++p) of_block.taken[p] = taken += 128 * sum_of_digits(lines + p, depth, digit_places);
      }
      const DigitPanel panel = DigitPanel::of(packed + digit_panel_lines(n, k0, block), n, now, j);
      Vector<std::int32_t> sums[digit_places];
      row_sums(depth, lines, of_block.taken, panel.tiles, sums);
      total = multiply_add(number_of_sums(sums, of_block.scale), load(panel.scales), total);
      row = lines + depth * digit_places;
    }
    store_first(c + j, total, columns);
  }
}

}  // namespace detail

#endif

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
