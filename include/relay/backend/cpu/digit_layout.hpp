// What floats as digits (digits.hpp) take: the sizes of their operands, in lines of 64 digits, for products and for plans of memory.
#pragma once

#include <algorithm>

namespace relay::cpu {

/// Digits of a number; steps of k in a line; lines of a tile; rows of A in a strip, which are two tiles.
inline constexpr int digit_places = 3, digit_steps = 64, digit_lines = 16, digit_strip = 32;

/// Lines for so many steps of k, of a row and a place; tiles for so many columns; strips for so many rows.
constexpr int digit_depth(int k) { return (k + digit_steps - 1) / digit_steps; }
constexpr int digit_tiles(int columns) { return (columns + digit_lines - 1) / digit_lines; }
constexpr int digit_strips(int rows) { return (rows + digit_strip - 1) / digit_strip; }

/// Steps of k that have one scale, a block. If a plain B has several, they are smaller: backward goes through hidden values in chunks of that size.
inline constexpr int digit_block = 256;
constexpr int plain_digit_block(int k) { return k > digit_block ? 128 : digit_block; }

/// A strip of A: in each block of k, two lines of scales and the tiles.
constexpr long digit_strip_lines(int k, int block = digit_block) {
  return 2L * (digit_depth(k) * digit_places * digit_lines + (k + block - 1) / block);
}
/// B [k, n]: in each block of k, a line of scales for each tile of columns, and the tiles.
constexpr long digit_panel_lines(int n, int k, int block = digit_block) {
  return digit_tiles(n) * (static_cast<long>(digit_depth(k)) * digit_places * digit_lines + (k + block - 1) / block);
}
/// The same, whatever the blocks are.
constexpr long digit_packed_lines(int n, int k) { return digit_panel_lines(n, k, plain_digit_block(k)); }

/// Room for the gradient of a weight [outputs, inputs] from so many rows: those of x, two strips of dy, and what its columns are multiplied by.
constexpr long digit_gradient_lines(int rows, int outputs, int inputs) {
  const int block = std::min(rows, digit_block);
  return digit_panel_lines(inputs, block) + 2 * digit_strip_lines(block) + digit_tiles(outputs);
}

/// From a row of so many hidden values to the next, in floats: a line more, since rows a power of two apart drive each other from the L1 cache.
constexpr int hidden_pitch(int wide) { return wide + 16; }

/// Room for a feed-forward layer (digit_feed_forward.hpp): so many rows of x, and two strips of a chunk of hidden values.
inline constexpr int digit_forward_rows = 384;
constexpr long digit_forward_lines(int rows, int inputs, int hidden) {
  return digit_strips(std::min(rows, digit_forward_rows)) * digit_strip_lines(inputs) + 2 * digit_strip_lines(std::min(hidden, digit_block));
}
/// And backward (digit_feed_forward_backward.hpp), of so many rows: what each of its operands takes.
struct DigitBackwardRooms {
  int block, chunk;                 // the most rows and hidden values at once
  long dy_rows, dy_strips, x;       // dy as the A of dy Wd and of dWd, x as the B of dWu
  long floats;                      // a chunk's dh, or GELU(h), as numbers: two and one of these
  long dh_rows, dh_strips, hidden;  // dh as the A of dx and of dWu, GELU(h) as the B of dWd
  long inverses;                    // what columns are multiplied by: of dy, dh and GELU(h)

  constexpr DigitBackwardRooms(int rows, int inputs, int hidden_values, int outputs)
      : block(std::min(rows, digit_block)),
        chunk(std::min(hidden_values, plain_digit_block(hidden_values))),
        dy_rows(digit_strips(block) * digit_strip_lines(outputs, plain_digit_block(outputs))),
        dy_strips(digit_strips(outputs) * digit_strip_lines(block)),
        x(digit_panel_lines(inputs, block)),
        floats(static_cast<long>(block) * hidden_pitch(chunk) / 16),
        dh_rows(digit_strips(block) * digit_strip_lines(chunk)),
        dh_strips(digit_strips(chunk) * digit_strip_lines(block)),
        hidden(digit_panel_lines(chunk, block)),
        inverses(digit_tiles(std::max(outputs, chunk))) {}
  constexpr long lines() const { return dy_rows + dy_strips + x + 3 * floats + dh_rows + dh_strips + hidden + 3 * inverses; }
};

}  // namespace relay::cpu
