// Feed-forward layers (feed_forward.hpp) of floats in three parts, by the matrix unit.
//
// Hidden values are made and used in chunks, so that many rows go through one before the next ones of the weights, 6 bytes an element, are read. What
// vectors have to do, GELU and laying out what the next products read, they do in small pieces while the unit multiplies for the chunk or rows before
// or behind; they keep it waiting where there are none, at the beginning and the end of a block.
//
// The unit adds to what is there from the first step of k on, so that it does not matter how k is cut: every sum is taken in the order of ComposedOps, and
// the results have the same bits.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

#ifdef RELAY_CPU_AMX

namespace detail {

/// Hidden values of a chunk, as many steps of k as a panel has; rows that go through one before the next, forward and back.
inline constexpr int split_chunk = panel_depth<Split> * steps<Split>, forward_split_block = 384, backward_split_block = split_chunk;

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

/// Rows of A [rows, k] as products read them: block after block of split_chunk steps of k, each of all rows.
class SplitRows {
 public:
  SplitRows(Split* data, ConstMatrix<float> a, int rows, int k) : data_(data), a_(a), rows_(rows), k_(k) {}
  static long room(int rows, int k) { return static_cast<long>(rows) * factors<Split>(k); }
  void pack(int r) const {
    for (int k0 = 0; k0 < k_; k0 += split_chunk) pack_row<Split>(a_.row(r) + k0, std::min(split_chunk, k_ - k0), place(r, k0));
  }
  Split* place(int r, int k0) const { return data_ + static_cast<long>(k0 / 2) * rows_ + static_cast<long>(r) * deep(k0); }
  int deep(int k0) const { return factors<Split>(std::min(split_chunk, k_ - k0)); }

 private:
  Split* data_;
  ConstMatrix<float> a_;
  int rows_, k_;
};

/// C [rows, wide] = A B + bias, of a strip of A [.., k] that begins with row r, and columns j .. of a B [k, n] that is laid out. `bias` may be null.
inline void multiply_split_rows(int rows, const SplitRows& a, int r, int k, const Split* packed, int n, int j, int wide, float* c, const float* bias,
                                const Meanwhile& meanwhile) {
  for (int k0 = 0; k0 < k; k0 += split_chunk) {
    const Split* const panels = packed + static_cast<long>(k0 / 2) * round_up<Split>(n) + static_cast<long>(a.deep(k0)) * j;
    multiply_strip(rows, wide, a.deep(k0), a.place(r, k0), panels, {c, wide}, k0 == 0 ? Store::assign : Store::add, k0 == 0 ? bias : nullptr, meanwhile);
  }
}

/// GELU of two vectors of a row of h as factors. h itself goes to `kept`, unless that is null.
[[gnu::always_inline]] inline void activate_split(const float* h, float* kept, Split* to) {
  const Vector<float> value[] = {load(h), load(h + lanes<float>)};
  if (kept) {
    store(kept, value[0]);
    store(kept + lanes<float>, value[1]);
  }
  store(to, pair_up<Split>(gelu_of<Split>(value[0]), gelu_of<Split>(value[1])));
}

/// As feed_forward; the weights as they are laid out, transposed.
inline void split_feed_forward(const Tensor<float>& x, const Split* up_packed, const Tensor<float>& up, const Tensor<float>& up_bias, const Split* down_packed,
                               const Tensor<float>& down, const Tensor<float>& down_bias, bool forward_only, Tensor<float>& h, Tensor<float>& y) {
  constexpr int panel = panel_columns<Split>, strip = tile_product_rows, block = forward_split_block, at_once = 2 * lanes<float>;
  const int inputs = up.cols(), hidden = up.rows(), outputs = down.rows();
  y.resize_like(x, x.rows(), outputs);
  const HiddenLayout<Split> layout(hidden);
  if (!forward_only) h.resize_like(x, layout.rows(x.rows()), layout.columns());
  float *const to = y.data(), *const kept = forward_only ? nullptr : h.data();

  const int parts = row_parts(x.device(), x.rows()), most = std::min(block, x.rows() / parts + 1);
  const long x_room = SplitRows::room(most, inputs), activated_room = strip * factors<Split>(split_chunk), room = x_room + 2 * activated_room;
  Scratch<Split> memory(parts * room, x.device());
  Split* const scratch = memory.begin();
  const auto part = [&](int i) {
    const auto edge = [&](int p) { return static_cast<int>(static_cast<long>(x.rows()) * p / parts); };
    const MatrixUnit<Split> unit(edge(i + 1) - edge(i));
    Split* const own = scratch + i * room;
    Split* const activated[] = {own + x_room, own + x_room + activated_room};
    alignas(64) float strips[2][strip * split_chunk];  // of hidden values, of which one is made while the other is activated
    for (int first = edge(i); first < edge(i + 1); first += block) {
      const int rows = std::min(block, edge(i + 1) - first), count = (rows + strip - 1) / strip;
      const auto rows_of = [&](int s) { return std::clamp(rows - s * strip, 0, strip); };
      const SplitRows x_rows(own, {x.row(first), inputs}, rows, inputs);
      for (int r = 0; r < std::min(rows, 2 * strip); ++r) x_rows.pack(r);
      for (int j0 = 0; j0 < hidden; j0 += split_chunk) {
        const int wide = std::min(split_chunk, hidden - j0), deep = factors<Split>(wide);
        const auto make_hidden = [&](int s, const Meanwhile& meanwhile) {
          multiply_split_rows(rows_of(s), x_rows, s * strip, inputs, up_packed, hidden, j0, wide, strips[s % 2], up_bias.data() + j0, meanwhile);
        };
        const auto multiply = [&](int s, const Meanwhile& meanwhile) {
          const Matrix<float> y_rows{to + static_cast<long>(first + s * strip) * outputs, outputs};
          multiply_strip(rows_of(s), outputs, deep, activated[s % 2], down_packed + static_cast<long>(j0 / 2) * round_up<Split>(outputs), y_rows,
                         j0 == 0 ? Store::assign : Store::add, j0 == 0 ? down_bias.data() : nullptr, meanwhile);
        };
        make_hidden(0, Meanwhile());
        for (int s = 0; s < count; ++s) {
          const int of_row = wide / at_once, to_activate = rows_of(s) * of_row, to_pack = j0 == 0 ? rows_of(s + 2) : 0;
          const auto piece = [&](int p) {
            if (p >= to_activate) return x_rows.pack((s + 2) * strip + p - to_activate);
            const int r = p / of_row, c = p % of_row * at_once;
            activate_split(strips[s % 2] + r * wide + c, kept ? kept + layout.at(first + s * strip + r, j0 + c / panel * panel) + c % panel : nullptr,
                           activated[s % 2] + r * deep + c / 2);
          };
          const int turns = (s + 1 < count ? unit_turns<Split>(strip, wide, factors<Split>(inputs)) : 0) + (s > 0 ? unit_turns<Split>(strip, outputs, deep) : 0);
          Pieces pieces(to_activate + to_pack, turns, piece);
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

/// From dy Wd [rows, wide], and h, whose row `first` and column j it begins with: dh takes the place of dy Wd, and goes to dh_rows [rows, its factors], as
/// dx's product reads it; GELU(h) to `activated`, panels of [factors(rows), panel_columns], as dWd's does. The sums of dh's columns are added to bias [wide].
/// A piece is a vector's values, or what is made of those of two rows and two vectors; one is called after another.
class SplitActivationBackward {
 public:
  SplitActivationBackward(int rows, int wide, float* dh, const float* h, HiddenLayout<Split> layout, int first, int j, Split* dh_rows, Split* activated, float* bias)
      : rows_(rows), wide_(wide), first_(first), j_(j), layout_(layout), dh_(dh), h_(h), dh_rows_(dh_rows), activated_(activated), bias_(bias) {}
  int pieces() const { return (rows_ + 1) / 2 * (wide_ / columns) * pieces_of_square; }

  [[gnu::always_inline]] void operator()(int) {
    if (piece_ < 4)
      values(piece_ / 2, piece_ % 2);
    else if (piece_ == 4)
      rows();
    else
      pairs();
    if (++piece_ < pieces_of_square) return;
    piece_ = 0;
    if ((c_ += columns) < wide_) return;
    c_ = 0;
    r_ += 2;
  }

 private:
  static constexpr int panel = panel_columns<Split>, columns = 2 * lanes<float>, pieces_of_square = 6;

  [[gnu::always_inline]] float* dh(int i, int v) const { return dh_ + static_cast<long>(r_ + i) * wide_ + c_ + v * lanes<float>; }
  [[gnu::always_inline]] Vector<float> hidden(int i, int v) const {
    return load(h_ + layout_.at(first_ + r_ + i, j_ + c_ / panel * panel) + c_ % panel + v * lanes<float>);
  }
  [[gnu::always_inline]] void values(int i, int v) {
    Vector<float> value{};  // behind an odd row are zeros
    if (r_ + i < rows_) {
      const auto of_hidden = gelu_and_slope<Split>(hidden(i, v));
      const Vector<float> gradient = load(dh(i, v)) * of_hidden.slope;
      float* const sum = bias_ + c_ + v * lanes<float>;
      store(dh(i, v), gradient);
      store(sum, load(sum) + gradient);
      value = of_hidden.value;
    }
    store(values_[i][v], value);
  }
  [[gnu::always_inline]] void rows() const {
    for (int i = 0; i < std::min(2, rows_ - r_); ++i)
      store(dh_rows_ + static_cast<long>(r_ + i) * factors<Split>(wide_) + c_ / 2, pair_up<Split>(load(dh(i, 0)), load(dh(i, 1))));
  }
  [[gnu::always_inline]] void pairs() const {
    Split* const to = activated_ + static_cast<long>(c_ / panel) * factors<Split>(rows_) * panel + static_cast<long>(r_ / 2) * panel + c_ % panel;
#pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) store(to + v * lanes<float>, interleave<Split>(load(values_[0][v]), load(values_[1][v])));
  }

  int rows_, wide_, first_, j_;
  HiddenLayout<Split> layout_;
  float* dh_;
  const float* h_;
  Split *dh_rows_, *activated_;
  float* bias_;
  int piece_ = 0, r_ = 0, c_ = 0;
  alignas(64) float values_[2][2][lanes<float>] = {};  // of a row, of a vector
};

/// As feed_forward_backward; the weights as they are laid out, plain.
inline void split_feed_forward_backward(const Tensor<float>& x, const Tensor<float>& h, const Split* up_packed, const Tensor<float>& up,
                                        const Split* down_packed, const Tensor<float>& down, const Tensor<float>& dy, Tensor<float>& dx,
                                        Tensor<float>& up_gradient, Tensor<float>& up_bias_gradient, Tensor<float>& down_gradient) {
  constexpr int panel = panel_columns<Split>, strip = tile_product_rows, block = backward_split_block;
  static_assert(block <= panel_depth<Split> * steps<Split>, "x is laid out as one block of k");
  const int inputs = up.cols(), hidden = up.rows(), outputs = down.rows();
  dx.resize_like(dy, dy.rows(), inputs);
  const HiddenLayout<Split> layout(hidden);
  const int most = std::min(block, dy.rows()), deepest = factors<Split>(most), widest = std::min(split_chunk, hidden);
  const long dy_room = SplitRows::room(most, outputs), dy_tiles_room = static_cast<long>(outputs) * deepest, x_room = packed_size<Split>(inputs, most);
  const long rows_room = static_cast<long>(most) * factors<Split>(widest), columns_room = static_cast<long>(deepest) * widest;
  Scratch<Split> memory(dy_room + dy_tiles_room + x_room + 2 * rows_room + 3 * columns_room, dy.device());
  Split *const dy_rows = memory.take(dy_room), *const dy_tiles = memory.take(dy_tiles_room), *const x_panels = memory.take(x_room);
  Split *const dh_rows[] = {memory.take(rows_room), memory.take(rows_room)}, *const activated[] = {memory.take(columns_room), memory.take(columns_room)};
  Split* const dh_tiles = memory.take(columns_room);
  alignas(64) float dh[2][block * split_chunk];  // of a chunk, and of the one before
  const MatrixUnit<Split> unit;

  for (int first = 0; first < dy.rows(); first += block) {
    const int rows = std::min(block, dy.rows() - first), deep = factors<Split>(rows);
    const SplitRows dy_chunks(dy_rows, {dy.row(first), outputs}, rows, outputs);
    for (int r = 0; r < rows; ++r) dy_chunks.pack(r);
    pack_transposed<Split>({dy.row(first), outputs}, rows, outputs, dy_tiles);
    pack<Operand::plain>(inputs, rows, ConstMatrix<float>{x.row(first), inputs}, x_panels);

    // Of the chunk from j0 on: dy Wd, then dh and GELU(h), and what comes of them. `at` tells a chunk from the one before.
    const auto wide_of = [&](int j0) { return std::min(split_chunk, hidden - j0); };
    const auto to_hidden = [&](int j0, int at, const Meanwhile& meanwhile) {
      const int wide = wide_of(j0);
      for (int r = 0; r < rows; r += strip)
        multiply_split_rows(std::min(strip, rows - r), dy_chunks, r, outputs, down_packed, hidden, j0, wide, dh[at] + static_cast<long>(r) * wide, nullptr, meanwhile);
    };
    const auto activation = [&](int j0, int at, int turns) {
      SplitActivationBackward work(rows, wide_of(j0), dh[at], h.data(), layout, first, j0, dh_rows[at], activated[at], up_bias_gradient.data() + j0);
      return Pieces(work.pieces(), turns, work);
    };
    const auto from_hidden = [&](int j0, int at, const Meanwhile& meanwhile) {
      const int wide = wide_of(j0), dh_deep = factors<Split>(wide);
      const auto by_strips = [&](int count, int n, int k, const Split* a, const Split* b, Matrix<float> c, Store how) {
        for (int i = 0; i < count; i += strip)
          multiply_strip(std::min(strip, count - i), n, k, a + static_cast<long>(i) * k, b, {c.row(i), c.stride}, how, nullptr, meanwhile);
      };
      by_strips(outputs, wide, deep, dy_tiles, activated[at], {down_gradient.data() + j0, hidden}, Store::add);
      by_strips(wide, inputs, deep, dh_tiles, x_panels, {up_gradient.row(j0), inputs}, Store::add);
      by_strips(rows, inputs, dh_deep, dh_rows[at], up_packed + static_cast<long>(j0 / 2) * round_up<Split>(inputs), {dx.row(first), inputs},
                j0 == 0 ? Store::assign : Store::add);
    };
    to_hidden(0, 0, Meanwhile());
    activation(0, 0, 1).finish();
    for (int j0 = 0, at = 0; j0 < hidden; j0 += split_chunk, at ^= 1) {
      const int wide = wide_of(j0), next = j0 + split_chunk, squares = wide / lanes<float>;
      const bool more = next < hidden;
      for (int j = 0; j < wide; j += panel) pad_factors(activated[at] + static_cast<long>(j) * deep, rows, panel);
      const auto transpose_square = [&](int i) {
        pack_transposed_square<Split>(ConstMatrix<float>{dh[at], wide}, rows, wide, i / squares * lanes<Split>, i % squares * lanes<float>, dh_tiles);
      };
      Pieces transposition(squares * (deep / lanes<Split>), more ? unit_turns<Split>(rows, wide_of(next), factors<Split>(outputs)) : 1, transpose_square);
      if (more) to_hidden(next, at ^ 1, Meanwhile(transposition));
      transposition.finish();
      if (!more) {
        from_hidden(j0, at, Meanwhile());
        continue;
      }
      const int turns = unit_turns<Split>(outputs, wide, deep) + unit_turns<Split>(wide, inputs, deep) + unit_turns<Split>(rows, inputs, factors<Split>(wide));
      auto next_activation = activation(next, at ^ 1, turns);
      from_hidden(j0, at, Meanwhile(next_activation));
      next_activation.finish();
    }
  }
}

}  // namespace detail

#endif

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
