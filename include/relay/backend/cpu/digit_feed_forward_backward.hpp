// Feed-forward layers (feed_forward.hpp) of floats as digits (digits.hpp), back, by the matrix unit: blocks of rows, and of these chunks of hidden values, as
// forward (digit_feed_forward.hpp), with the bits of ComposedOps for the reasons given there. Of one chunk vectors take GELU back and make digits while the
// unit multiplies for the one before or behind.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

#ifdef RELAY_CPU_AMX

namespace detail {

/// A chunk of hidden values on the way back: rows `first` .., columns j .. of h [.., hidden].
struct HiddenChunk {
  int rows, wide, first, j;
  const float* h;
  HiddenLayout<Digits> layout;
  float *dh, *activated;                  // [rows, wide], rows hidden_pitch apart: dy Wd, then dh; GELU(h)
  ColumnInverses of_dh, of_activated;
  float* bias;                            // [wide], to which the sums of dh's columns are added
  Digits *dh_rows, *dh_strips, *panels;  // dh as the A of dx and of dWu; GELU(h) as the B of dWd
};

/// From dy Wd and h, dh in its place and GELU(h), as numbers; work in pieces of two rows of a vector, of which one is called after another.
class ActivateBackward {
 public:
  explicit ActivateBackward(const HiddenChunk& chunk) : at_(chunk) {}
  int pieces() const { return (at_.rows + 1) / 2 * (at_.wide / lanes<float>); }

  [[gnu::always_inline]] void operator()(int) {
    constexpr int panel = panel_columns<Digits>;
    const int c = tile_ * lanes<float>;
    Vector<float> sum = load(at_.bias + c);
    for (int r = row_; r < std::min(row_ + 2, at_.rows); ++r) {
      const auto [value, slope] = gelu_and_slope<Digits>(load(at_.h + at_.layout.at(at_.first + r, at_.j + c / panel * panel) + c % panel));
      const long at = static_cast<long>(r) * hidden_pitch(at_.wide) + c;
      const Vector<float> gradient = load(at_.dh + at) * slope;
      store(at_.dh + at, gradient);
      store(at_.activated + at, value);
      sum += gradient;
      at_.of_dh.add(tile_, gradient);
      at_.of_activated.add(tile_, value);
    }
    store(at_.bias + c, sum);
    if (++tile_ < at_.wide / lanes<float>) return;
    tile_ = 0, row_ += 2;
  }

 private:
  HiddenChunk at_;
  int row_ = 0, tile_ = 0;
};

/// What the products behind them read, of these numbers; work in pieces, of which one is called after another.
class PackHiddenBackward {
 public:
  explicit PackHiddenBackward(const HiddenChunk& chunk)
      : at_(chunk),
        rows_(rows_from(0)),
        strips_({chunk.dh, hidden_pitch(chunk.wide)}, chunk.rows, digit_strip, 0, chunk.of_dh, chunk.dh_strips),
        of_row_(rows_.pieces(1)),
        of_strip_(PackStripColumns::pieces(chunk.rows, digit_strip)) {}
  int pieces() const { return at_.rows * of_row_ + at_.wide / digit_strip * of_strip_ + at_.wide / 16 * digit_depth(at_.rows) * of_tile; }

  [[gnu::always_inline]] void operator()(int) {
    if (row_ < at_.rows) {
      rows_(0);
      if (++piece_ < of_row_) return;
      piece_ = 0;
      if (++row_ % digit_strip == 0) rows_ = rows_from(row_);
    } else if (column_ < at_.wide) {
      strips_(piece_++);
      if (piece_ < of_strip_) return;
      strips_.next(digit_strip_lines(at_.rows));
      piece_ = 0, column_ += digit_strip;
    } else {
      const int part = piece_ % of_tile, s = piece_ / of_tile, depth = digit_depth(at_.rows), pitch = hidden_pitch(at_.wide);
      const Vector<float> inverse = at_.of_activated[tile_];
      if (piece_ == 0) store(reinterpret_cast<float*>(at_.panels + tile_), digit_scale(inverse));
      Digits* const to = at_.panels + at_.wide / 16 + (static_cast<long>(tile_) * depth + s) * digit_places * digit_lines;
      pack_digit_columns(at_.activated + static_cast<long>(s) * digit_steps * pitch + 16 * tile_, pitch, at_.rows - s * digit_steps, 16, inverse, to, 4 * part,
                         4 * part + 4);
      if (++piece_ == of_tile * depth) piece_ = 0, ++tile_;
    }
  }

 private:
  static constexpr int of_tile = 4;
  [[gnu::always_inline]] PackStripRows rows_from(int r) const {
    const int pitch = hidden_pitch(at_.wide);
    Digits* const to = at_.dh_rows + r / digit_strip * digit_strip_lines(at_.wide);
    return {{at_.dh + static_cast<long>(r) * pitch, pitch}, at_.wide, at_.wide, to};
  }

  HiddenChunk at_;
  PackStripRows rows_;
  PackStripColumns strips_;
  int of_row_, of_strip_, row_ = 0, column_ = 0, tile_ = 0, piece_ = 0;
};

/// As feed_forward_backward; the weights as they are laid out, plain.
inline void digit_feed_forward_backward(const Tensor<float>& x, const Tensor<float>& h, const Digits* up_packed, const Tensor<float>& up, const Digits* down_packed,
                                        const Tensor<float>& down, const Tensor<float>& dy, Tensor<float>& dx, Tensor<float>& up_gradient,
                                        Tensor<float>& up_bias_gradient, Tensor<float>& down_gradient) {
  constexpr Operand plain = Operand::plain;
  constexpr int strip = digit_strip;
  const int inputs = up.cols(), hidden = up.rows(), outputs = down.rows();
  const DigitBackwardRooms rooms(dy.rows(), inputs, hidden, outputs);
  const int block = rooms.block, chunk = rooms.chunk;
  dx.resize_like(dy, dy.rows(), inputs);
  const HiddenLayout<Digits> layout(hidden);
  Scratch<Digits> memory(rooms.lines(), dy.device());
  const auto take_floats = [&] { return reinterpret_cast<float*>(memory.take(rooms.floats)); };
  Digits *const dy_rows = memory.take(rooms.dy_rows), *const dy_strips = memory.take(rooms.dy_strips), *const x_panels = memory.take(rooms.x);
  float *const dh[] = {take_floats(), take_floats()}, *const activated = take_floats();  // dh of a chunk, and of the one before
  Digits *const dh_rows = memory.take(rooms.dh_rows), *const dh_strips = memory.take(rooms.dh_strips), *const activated_panels = memory.take(rooms.hidden);
  Digits* const inverses[] = {memory.take(rooms.inverses), memory.take(rooms.inverses), memory.take(rooms.inverses)};
  const MatrixUnit<Digits> unit;
  DigitProduct product;

  for (int first = 0; first < dy.rows(); first += block) {
    const int rows = std::min(block, dy.rows() - first);
    const ConstMatrix<float> dy_block{dy.row(first), outputs};
    const DigitRows<plain> dy_by_rows(dy_rows, dy_block, outputs);
    for (int r = 0; r < rows; r += strip) {
      const PackStripRows work = dy_by_rows.packing(r);
      Pieces(work.pieces(std::min(strip, rows - r)), 1, work).finish();
    }
    const ColumnInverses of_dy(inverses[2], outputs);
    of_dy.of(dy_block, rows, outputs);
    for (int i = 0; i < outputs; i += strip) {
      const int columns = std::min(strip, outputs - i), pieces = PackStripColumns::pieces(rows, columns);
      Pieces(pieces, 1, PackStripColumns(dy_block, rows, columns, i, of_dy, dy_strips + i / strip * digit_strip_lines(rows))).finish();
    }
    pack_digits<plain>(inputs, rows, {x.row(first), inputs}, x_panels);

    // Of the chunk from j0 on: dy Wd, then dh and GELU(h), and what comes of them. `at` tells a chunk from the one before.
    const auto wide_of = [&](int j0) { return std::min(chunk, hidden - j0); };
    const auto chunk_of = [&](int j0, int at) {
      const int wide = wide_of(j0);
      const ColumnInverses of_dh(inverses[0], wide), of_activated(inverses[1], wide);
      float* const bias = up_bias_gradient.data() + j0;
      return HiddenChunk{rows, wide, first, j0, h.data(), layout, dh[at], activated, of_dh, of_activated, bias, dh_rows, dh_strips, activated_panels};
    };
    const auto to_hidden = [&](int j0, int at, const Meanwhile& meanwhile) {
      const int wide = wide_of(j0);
      for (int r = 0; r < rows; r += strip)
        dy_by_rows.multiply(product, std::min(strip, rows - r), r, down_packed, hidden, j0, wide, dh[at] + static_cast<long>(r) * hidden_pitch(wide), nullptr,
                            meanwhile);
    };
    const auto activation = [&](const HiddenChunk& now, int turns) {
      now.of_dh.begin();
      now.of_activated.begin();
      const ActivateBackward work(now);
      return Pieces(work.pieces(), turns, work);
    };
    const auto activated_all = [&](const HiddenChunk& now, auto& work) {
      work.finish();
      now.of_dh.finish();
      now.of_activated.finish();
    };
    const auto from_hidden = [&](int j0, const Meanwhile& meanwhile) {
      const int wide = wide_of(j0);
      const auto by_strips = [&](int count, int n, const Digits* a, int k, const DigitPanel& b, Matrix<float> c, Store how) {
        for (int i = 0; i < count; i += strip)
          product(std::min(strip, count - i), n, a + i / strip * digit_strip_lines(k), b, {c.row(i), c.stride}, how, nullptr, meanwhile);
      };
      by_strips(outputs, wide, dy_strips, rows, DigitPanel::of(activated_panels, wide, rows, 0), {down_gradient.data() + j0, hidden}, Store::add);
      by_strips(wide, inputs, dh_strips, rows, DigitPanel::of(x_panels, inputs, rows, 0), {up_gradient.row(j0), inputs}, Store::add);
      by_strips(rows, inputs, dh_rows, wide, DigitPanel::of(up_packed + digit_panel_lines(inputs, j0, chunk), inputs, wide, 0), {dx.row(first), inputs},
                j0 == 0 ? Store::assign : Store::add);
    };
    to_hidden(0, 0, Meanwhile());
    HiddenChunk now = chunk_of(0, 0);
    auto first_activation = activation(now, 1);
    activated_all(now, first_activation);
    for (int j0 = 0, at = 0; j0 < hidden; j0 += chunk, at ^= 1) {
      const int next = j0 + chunk;
      const bool more = next < hidden;
      PackHiddenBackward packing(now);
      Pieces pack_all(packing.pieces(), more ? digit_turns(rows, wide_of(next), outputs) : 1, packing);
      if (more) to_hidden(next, at ^ 1, Meanwhile(pack_all));
      pack_all.finish();
      if (!more) {
        from_hidden(j0, Meanwhile());
        continue;
      }
      const int wide = wide_of(j0);
      now = chunk_of(next, at ^ 1);
      auto next_activation = activation(now, digit_turns(outputs, wide, rows) + digit_turns(wide, inputs, rows) + digit_turns(rows, inputs, wide));
      from_hidden(j0, Meanwhile(next_activation));
      activated_all(now, next_activation);
    }
  }
}

}  // namespace detail

#endif

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
