// Feed-forward layers (feed_forward.hpp) of floats in three parts, by the matrix unit, forward.
//
// Hidden values are made and used in chunks, so that many rows go through one before the next ones of the weights, 6 bytes an element, are read.
// Of a chunk 32 rows are made at a time, and but for the first and last of them vectors do not keep the unit waiting: GELU of some is taken, and rows of x
// are packed, while it makes the next and multiplies those before.
//
// The unit adds to what is there from the first step of k on, so that it does not matter how k is cut: every sum is taken in the order of ComposedOps, and
// the results have the same bits.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

#ifdef RELAY_CPU_AMX

namespace detail {

/// Steps of k in a chunk: what one panel has; rows that are multiplied at once, and those that go through a chunk before the next.
inline constexpr int split_chunk = panel_depth<Split> * steps<Split>, split_strip = tile_product_rows, split_block = 384;

/// C [rows, n] (+)= A [rows, k] B + bias of a strip of A and one chunk of k, which is in factors; B is panels, side by side. A stays in the L1 cache, B comes
/// from the L2 cache. `bias` may be null.
inline void multiply_strip(int rows, int n, int k, const Split* a, const Split* b, Matrix<float> c, Store how, const float* bias, const Meanwhile& meanwhile) {
  constexpr int panel = panel_columns<Split>;
  alignas(64) float start[panel] = {};
  for (int j = 0; j < n; j += panel) {
    const int columns = std::min(panel, n - j);
    if (bias) std::copy_n(bias + j, columns, start);
    multiply_panel<Operand::plain, Split>(rows, columns, k, a, k, b + static_cast<long>(k) * j, round_up<Split>(columns), {c.data + j, c.stride}, how,
                                          bias ? start : nullptr, meanwhile);
  }
}

/// GELU of a panel's columns of one row of h as factors. h itself goes to `kept`, unless that is null.
[[gnu::always_inline]] inline void activate_split(const float* h, float* kept, Split* to) {
  constexpr int step = lanes<float>;
#pragma GCC unroll 2
  for (int c = 0; c < panel_columns<Split>; c += 2 * step) {
    const Vector<float> value[] = {load(h + c), load(h + c + step)};
    if (kept) {
      store(kept + c, value[0]);
      store(kept + c + step, value[1]);
    }
    store(to + c / 2, pair_up<Split>(gelu_of<Split>(value[0]), gelu_of<Split>(value[1])));
  }
}

/// As feed_forward; the weights as they are laid out, transposed.
inline void split_feed_forward(const Tensor<float>& x, const Split* up_packed, const Tensor<float>& up, const Tensor<float>& up_bias, const Split* down_packed,
                               const Tensor<float>& down, const Tensor<float>& down_bias, bool forward_only, Tensor<float>& h, Tensor<float>& y) {
  constexpr int panel = panel_columns<Split>, strip = split_strip, chunk = split_chunk;
  const int inputs = up.cols(), hidden = up.rows(), outputs = down.rows();
  y.resize_like(x, x.rows(), outputs);
  if (!forward_only) h.resize_like(x, x.rows(), hidden);
  float *const to = y.data(), *const kept = forward_only ? nullptr : h.data();

  const int parts = row_parts(x.device(), x.rows()), most = std::min(split_block, x.rows() / parts + 1);
  const long x_room = static_cast<long>(most) * factors<Split>(inputs), activated_room = strip * factors<Split>(chunk), room = x_room + 2 * activated_room;
  Scratch<Split> memory(parts * room, x.device());
  Split* const scratch = memory.begin();
  const auto part = [&](int i) {
    const auto edge = [&](int p) { return static_cast<int>(static_cast<long>(x.rows()) * p / parts); };
    const MatrixUnit<Split> unit(edge(i + 1) - edge(i));
    Split* const x_chunks = scratch + i * room;  // chunk after chunk, each [rows, its factors]
    Split* const activated[] = {x_chunks + x_room, x_chunks + x_room + activated_room};
    alignas(64) float strips[2][strip * chunk];  // of hidden values, of which one is made while the other is activated
    for (int first = edge(i); first < edge(i + 1); first += split_block) {
      const int rows = std::min(split_block, edge(i + 1) - first), count = (rows + strip - 1) / strip;
      const auto rows_of = [&](int s) { return std::clamp(rows - s * strip, 0, strip); };
      const auto pack_x_row = [&](int r) {
        for (int k0 = 0; k0 < inputs; k0 += chunk) {
          const int now = std::min(chunk, inputs - k0), deep = factors<Split>(now);
          pack_row<Split>(x.row(first + r) + k0, now, x_chunks + static_cast<long>(k0 / 2) * rows + static_cast<long>(r) * deep);
        }
      };
      for (int r = 0; r < std::min(rows, 2 * strip); ++r) pack_x_row(r);
      for (int j0 = 0; j0 < hidden; j0 += chunk) {
        const int wide = std::min(chunk, hidden - j0), deep = factors<Split>(wide);
        const auto make_hidden = [&](int s, const Meanwhile& meanwhile) {
          for (int k0 = 0; k0 < inputs; k0 += chunk) {
            const int now = factors<Split>(std::min(chunk, inputs - k0));
            const Split* const a = x_chunks + static_cast<long>(k0 / 2) * rows + static_cast<long>(s) * strip * now;
            const Split* const b = up_packed + static_cast<long>(k0 / 2) * hidden + static_cast<long>(now) * j0;
            multiply_strip(rows_of(s), wide, now, a, b, {strips[s % 2], wide}, k0 == 0 ? Store::assign : Store::add,
                           k0 == 0 ? up_bias.data() + j0 : nullptr, meanwhile);
          }
        };
        const auto multiply = [&](int s, const Meanwhile& meanwhile) {
          const Matrix<float> y_rows{to + static_cast<long>(first + s * strip) * outputs, outputs};
          multiply_strip(rows_of(s), outputs, deep, activated[s % 2], down_packed + static_cast<long>(j0 / 2) * round_up<Split>(outputs), y_rows,
                         j0 == 0 ? Store::assign : Store::add, j0 == 0 ? down_bias.data() : nullptr, meanwhile);
        };
        make_hidden(0, Meanwhile());
        for (int s = 0; s < count; ++s) {
          const int of_row = wide / panel, to_activate = rows_of(s) * of_row, to_pack = j0 == 0 ? rows_of(s + 2) : 0;
          const auto piece = [&](int p) {
            if (p >= to_activate) return pack_x_row((s + 2) * strip + p - to_activate);
            const int r = p / of_row, j = p % of_row * panel;
            activate_split(strips[s % 2] + r * wide + j, kept ? kept + static_cast<long>(first + s * strip + r) * hidden + j0 + j : nullptr,
                           activated[s % 2] + r * deep + j / 2);
          };
          const int steps = (s + 1 < count ? unit_steps(strip, wide, factors<Split>(inputs)) : 0) + (s > 0 ? unit_steps(strip, outputs, deep) : 0);
          Pieces pieces(to_activate + to_pack, steps, piece);
          if (s + 1 < count) make_hidden(s + 1, Meanwhile(pieces));
          if (s > 0) multiply(s - 1, Meanwhile(pieces));
          pieces.finish();
        }
        multiply(count - 1, Meanwhile());
      }
    }
  };
  if (parts == 1) return part(0);
  x.device().threads->run(parts, part);
}

}  // namespace detail

#endif

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
