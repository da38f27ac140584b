// Feed-forward layers (feed_forward.hpp) of floats as digits (digits.hpp), forward, by the matrix unit. Back: digit_feed_forward_backward.hpp.
//
// Hidden values are made and used in chunks, so that many rows go through one before the next ones of the weights are read. What vectors have to do, GELU
// and taking what the next products read apart, they do in small pieces while the unit multiplies for the chunk or rows before or behind; they keep it waiting
// where there are none, at the beginning and the end of a block.
//
// Of few rows, making hidden values and reading them are two steps, of each of which every thread does what takes a part of the weights, so that it reads no
// more than that part.
//
// Chunks and blocks are blocks of k of the products that sum over them, so that every number has the scale and every sum is taken in the order of ComposedOps:
// the results have the same bits.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

#ifdef RELAY_CPU_AMX

namespace detail {

/// Rows of A [rows, k] as strips, for products with op(B).
template <Operand B>
class DigitRows {
 public:
  DigitRows(Digits* data, ConstMatrix<float> a, int k) : data_(data), a_(a), k_(k), block_(block_of<B>(k)) {}
  /// The strip that begins with row r.
  PackStripRows packing(int r) const { return {{a_.row(r), a_.stride}, k_, block_, strip(r, 0)}; }

  /// C [rows, wide], hidden values (hidden_pitch), = A B + bias, of the strip that begins with row r, and columns j .. of a B [k, n] that is laid out. `bias`
  /// may be null.
  void multiply(DigitProduct& product, int rows, int r, const Digits* packed, int n, int j, int wide, float* c, const float* bias,
                const Meanwhile& meanwhile) const {
    for (int k0 = 0; k0 < k_; k0 += block_)
      product(rows, wide, strip(r, k0), DigitPanel::of(packed + digit_panel_lines(n, k0, block_), n, std::min(block_, k_ - k0), j), {c, hidden_pitch(wide)},
              k0 == 0 ? Store::assign : Store::add, k0 == 0 ? bias : nullptr, meanwhile);
  }

 private:
  Digits* strip(int r, int k0) const { return data_ + r / digit_strip * digit_strip_lines(k_, block_) + digit_strip_lines(k0, block_); }

  Digits* data_;
  ConstMatrix<float> a_;
  int k_, block_;
};

/// GELU of a strip of hidden values [rows, wide] as the A of the next product, and these themselves as they are kept, if they are; work in pieces, of which
/// one is called after another.
class ActivateStrip {
 public:
  /// `kept`: h, or null; the strip begins with its row `first` and column j.
  ActivateStrip(int rows, int wide, float* values, float* kept, HiddenLayout<Digits> layout, int first, int j, Digits* to)
      : rows_(rows), wide_(wide), first_(first), j_(j), layout_(layout), values_(values), kept_(kept), to_(to) {}
  int pieces() const { return rows_ * (wide_ / at_once + 1 + digit_depth(wide_)); }

  [[gnu::always_inline]] void operator()(int) {
    constexpr int panel = panel_columns<Digits>;
    float* const values = values_ + row_ * hidden_pitch(wide_);
    if (at_ < wide_) {
      float* const keep = kept_ ? kept_ + layout_.at(first_ + row_, j_ + at_ / panel * panel) + at_ % panel : nullptr;
#pragma GCC unroll 2
      for (int v = 0; v < at_once; v += lanes<float>) {
        const Vector<float> value = load(values + at_ + v), activated = gelu_of<Digits>(value);
        if (keep) store(keep + v, value);
        store(values + at_ + v, activated);
        largest_ = largest_of(largest_, magnitude(activated));
      }
      at_ += at_once;
    } else if (at_ == wide_) {
      inverse_ = inverse_of_lanes(largest_);
      reinterpret_cast<float*>(to_)[row_] = digit_scale(inverse_)[0];
      at_ += digit_steps;
    } else {
      const int k = at_ - wide_ - digit_steps;
      pack_digit_line(values + k, wide_ - k, inverse_, to_ + 2 + k / digit_steps * (2 * digit_places * digit_lines) + row_, 2 * digit_lines);
      if ((at_ += digit_steps) < 2 * wide_ + digit_steps) return;
      at_ = 0;
      ++row_;
      largest_ = Vector<std::int32_t>{};
    }
  }

 private:
  static constexpr int at_once = 2 * lanes<float>;
  int rows_, wide_, first_, j_;
  HiddenLayout<Digits> layout_;
  float *values_, *kept_;
  Digits* to_;
  Vector<std::int32_t> largest_{};
  Vector<float> inverse_{};
  int row_ = 0, at_ = 0;
};

/// y = GELU(x Wu^T + bu) Wd^T + bd; the weights as they are laid out, transposed.
class DigitFeedForward {
 public:
  DigitFeedForward(const Tensor<float>& x, const Digits* up_packed, const Tensor<float>& up, const Tensor<float>& up_bias, const Digits* down_packed,
                   const Tensor<float>& down, const Tensor<float>& down_bias, float* kept, float* y)
      : x_(x.data()),
        up_packed_(up_packed),
        down_packed_(down_packed),
        up_bias_(up_bias.data()),
        down_bias_(down_bias.data()),
        inputs_(up.cols()),
        hidden_(up.rows()),
        outputs_(down.rows()),
        layout_(hidden_),
        kept_(kept),
        y_(y) {}

  /// Rows first .. last-1, chunk after chunk.
  void of_rows(int first_row, int last_row, Digits* room) {
    const MatrixUnit<Digits> unit(last_row - first_row);
    Digits* const second = room + digit_forward_lines(last_row - first_row, inputs_, hidden_) - digit_strip_lines(std::min(hidden_, chunk));
    Digits* const activated[] = {second - digit_strip_lines(std::min(hidden_, chunk)), second};
    for (int first = first_row; first < last_row; first += block) {
      const int rows = std::min(block, last_row - first), count = digit_strips(rows);
      const DigitRows<transposed> x_rows(room, {x_ + static_cast<long>(first) * inputs_, inputs_}, inputs_);
      const auto packing_x = [&](int s, int turns) {
        const PackStripRows work = x_rows.packing(s * strip);
        return Pieces(work.pieces(rows_of(s, rows)), turns, work);
      };
      for (int s = 0; s < 2; ++s) packing_x(s, 1).finish();
      for (int j0 = 0; j0 < hidden_; j0 += chunk) {
        const auto turns_of = [&](int s) {
          return (s + 1 < count ? digit_turns(strip, wide_of(j0), inputs_) : 0) + (s > 0 ? digit_turns(strip, outputs_, wide_of(j0)) : 0);
        };
        make(x_rows, rows, 0, j0, 0, Meanwhile());
        for (int s = 0; s < count; ++s) {
          auto activation = activating(first, rows, s, j0, s, activated[s % 2], turns_of(s));
          auto packing = packing_x(j0 == 0 ? s + 2 : count, turns_of(s));  // nothing, if it is there
          Together vectors(activation, packing);
          if (s + 1 < count) make(x_rows, rows, s + 1, j0, s + 1, Meanwhile(vectors));
          if (s > 0) multiply(first, rows, s - 1, j0, 0, outputs_, activated[(s - 1) % 2], Meanwhile(vectors));
          vectors.finish();
        }
        multiply(first, rows, count - 1, j0, 0, outputs_, activated[(count - 1) % 2], Meanwhile());
      }
    }
  }

  /// Few rows go in two steps that threads share. Hidden values are numbered for it by strips of 32 rows of a chunk, chunk after chunk: so many there are.
  int hidden_strips(int rows) const { return digit_strips(rows) * ((hidden_ + chunk - 1) / chunk); }
  /// Room for x, that each thread needs, and for all activated values, which threads have in common.
  static long room_of_x(int rows, int inputs) { return digit_strips(rows) * digit_strip_lines(inputs); }
  static long room_of_activated(int rows, int hidden) { return digit_strips(rows) * digit_strip_lines(hidden); }
  /// First step: the strips first .. last-1, activated, as `make_outputs` reads them.
  void make_hidden(int rows, int first, int last, Digits* x_room, Digits* activated) {
    if (first == last) return;
    const MatrixUnit<Digits> unit(rows);
    const int count = digit_strips(rows);
    const auto strip_of = [&](int i) { return i % count; };
    const auto chunk_of = [&](int i) { return i / count * chunk; };
    const DigitRows<transposed> x_rows(x_room, {x_, inputs_}, inputs_);
    for (int i = first; i < std::min(last, first + count); ++i) {
      const PackStripRows work = x_rows.packing(strip_of(i) * strip);
      Pieces(work.pieces(rows_of(strip_of(i), rows)), 1, work).finish();
    }
    const auto make_now = [&](int i, const Meanwhile& meanwhile) { make(x_rows, rows, strip_of(i), chunk_of(i), i, meanwhile); };
    make_now(first, Meanwhile());
    for (int i = first; i < last; ++i) {
      const int s = strip_of(i), j0 = chunk_of(i), next = i + 1;
      const int turns = next < last ? digit_turns(rows_of(strip_of(next), rows), wide_of(chunk_of(next)), inputs_) : 0;
      auto activation = activating(0, rows, s, j0, i, activated + activated_at(s, j0), turns);
      if (next < last) make_now(next, Meanwhile(activation));
      activation.finish();
    }
  }
  /// Second step: columns first .. last-1 of y, from all hidden values; `first` is a multiple of 16.
  void make_outputs(int rows, int first, int last, const Digits* activated) {
    const MatrixUnit<Digits> unit(rows);
    for (int s = 0; s < digit_strips(rows); ++s)
      for (int j0 = 0; j0 < hidden_; j0 += chunk) multiply(0, rows, s, j0, first, last, activated + activated_at(s, j0), Meanwhile());
  }

 private:
  static constexpr Operand transposed = Operand::transposed;
  static constexpr int strip = digit_strip, block = digit_forward_rows, chunk = digit_block;

  static int rows_of(int s, int rows) { return std::clamp(rows - s * strip, 0, strip); }
  int wide_of(int j0) const { return std::min(chunk, hidden_ - j0); }
  long activated_at(int s, int j0) const { return s * digit_strip_lines(hidden_) + digit_strip_lines(j0); }

  /// Hidden values from the j0-th on of strip s; as the i-th, of which two are kept.
  void make(const DigitRows<transposed>& x_rows, int rows, int s, int j0, int i, const Meanwhile& meanwhile) {
    x_rows.multiply(product_, rows_of(s, rows), s * strip, up_packed_, hidden_, j0, wide_of(j0), strips_[i % 2], up_bias_ + j0, meanwhile);
  }
  Pieces<ActivateStrip> activating(int first, int rows, int s, int j0, int i, Digits* to, int turns) {
    const ActivateStrip work(rows_of(s, rows), wide_of(j0), strips_[i % 2], kept_, layout_, first + s * strip, j0, to);
    return {work.pieces(), turns, work};
  }
  /// What these hidden values add to columns of y.
  void multiply(int first, int rows, int s, int j0, int first_column, int last_column, const Digits* activated, const Meanwhile& meanwhile) {
    const Matrix<float> to{y_ + static_cast<long>(first + s * strip) * outputs_ + first_column, outputs_};
    const DigitPanel panel = DigitPanel::of(down_packed_ + digit_panel_lines(outputs_, j0), outputs_, wide_of(j0), first_column);
    product_(rows_of(s, rows), last_column - first_column, activated, panel, to, j0 == 0 ? Store::assign : Store::add,
             j0 == 0 ? down_bias_ + first_column : nullptr, meanwhile);
  }

  const float* x_;
  const Digits *up_packed_, *down_packed_;
  const float *up_bias_, *down_bias_;
  int inputs_, hidden_, outputs_;
  HiddenLayout<Digits> layout_;
  float *kept_, *y_;
  DigitProduct product_;
  alignas(64) float strips_[2][strip * hidden_pitch(chunk)];  // of hidden values, of which one is made while the other is activated
};

/// As feed_forward; the weights as they are laid out, transposed.
inline void digit_feed_forward(const Tensor<float>& x, const Digits* up_packed, const Tensor<float>& up, const Tensor<float>& up_bias, const Digits* down_packed,
                               const Tensor<float>& down, const Tensor<float>& down_bias, bool forward_only, Tensor<float>& h, Tensor<float>& y) {
  const int rows = x.rows(), inputs = up.cols(), hidden = up.rows(), outputs = down.rows();
  y.resize_like(x, rows, outputs);
  const HiddenLayout<Digits> layout(hidden);
  if (!forward_only) h.resize_like(x, layout.rows(rows), layout.columns());
  float *const to = y.data(), *const kept = forward_only ? nullptr : h.data();
  const auto on_a_thread = [&] { return DigitFeedForward(x, up_packed, up, up_bias, down_packed, down, down_bias, kept, to); };

  const int parts = row_parts(x.device(), rows);
  const auto edge = [&](int whole, int part) { return static_cast<int>(static_cast<long>(whole) * part / parts); };
  const auto share = [&](auto&& part) { x.device().threads->run(parts, part); };
  if (parts > 1 && rows <= shared_forward_rows && shares_weights<Digits>(rows, parts)) {
    const int tiles = digit_tiles(outputs);
    const long x_room = DigitFeedForward::room_of_x(rows, inputs), activated_room = DigitFeedForward::room_of_activated(rows, hidden);
    Scratch<Digits> memory(parts * x_room + activated_room, x.device());
    Digits *const activated = memory.take(activated_room), *const own = memory.take(parts * x_room);
    share([&](int i) {
      DigitFeedForward layer = on_a_thread();
      const int strips = layer.hidden_strips(rows);
      layer.make_hidden(rows, edge(strips, i), edge(strips, i + 1), own + i * x_room, activated);
    });
    share([&](int i) { on_a_thread().make_outputs(rows, 16 * edge(tiles, i), std::min(outputs, 16 * edge(tiles, i + 1)), activated); });
    return;
  }
  const long room = digit_forward_lines(rows / parts + 1, inputs, hidden);
  Scratch<Digits> memory(parts * room, x.device());
  Digits* const own = memory.begin();
  const auto part = [&](int i) { on_a_thread().of_rows(edge(rows, i), edge(rows, i + 1), own + i * room); };
  if (parts == 1) return part(0);
  share(part);
}

}  // namespace detail

#endif

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
