// Feed-forward layers of the CPU backend: y = GELU(x Wu^T + bu) Wd^T + bd, and back.
//
//   h = x Wu^T + bu     a = GELU(h)          dh = (dy Wd) GELU'(h)     dx = dh Wu
//                                            dWu += dh^T x             dWd += dy^T a
//
// The hidden values h, a and dh, four times as many as any others, stay in the cache: rows are taken in blocks, and of a block the
// columns of one panel of the weight, of which GELU is taken as soon as a few rows of them are made. It is written as the
// products behind it read it (product.hpp): rows of factors as A, a panel of factors as B. Every sum is taken in the same order as
// by operations one after the other, so these have the same bits.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

namespace detail {

/// Rows of hidden values that are made at a time: whole tiles, which stay in the L1 cache.
inline constexpr int hidden_rows = 8 * tile_rows;

/// Rows of a block: as many as a product that sums over rows takes at once.
template <class F>
inline constexpr int block_rows = panel_depth<F>* steps<F>;

/// Some vectors of a row as factors, neighbours along it.
template <class F, class S = SumOf<F>>
[[gnu::always_inline]] inline Vector<F> along_row(const Vector<S> (&v)[steps<F>]) {
  if constexpr (steps<F> == 1)
    return v[0];
  else
    return pair_up(v[0], v[1]);
}

/// The same vector of some rows as factors, neighbours along the column.
template <class F, class S = SumOf<F>>
[[gnu::always_inline]] inline Vector<F> along_column(const Vector<S> (&v)[steps<F>]) {
  if constexpr (steps<F> == 1)
    return v[0];
  else
    return interleave(v[0], v[1]);
}

/// C [rows, columns] = A [rows, k] B + start, of the columns j .. of a B [k, n] that is laid out already; j begins a panel. A's rows are lda
/// factors apart.
template <class F, class S = SumOf<F>>
void multiply_columns(int rows, const F* a, int lda, int k, const F* packed, int n, int j, int columns, Matrix<S> c, const S* start) {
  const int end = factors<F>(k), whole = round_up<F>(n);
  for (int k0 = 0; k0 < end; k0 += panel_depth<F>) {
    const int deep = std::min(panel_depth<F>, end - k0);
    multiply_panel<Operand::plain, F>(rows, columns, deep, a + k0, lda, packed + static_cast<long>(k0) * whole + static_cast<long>(deep) * j,
                                      round_up<F>(columns), c, k0 == 0 ? Store::assign : Store::add, k0 == 0 ? start : nullptr);
  }
}

/// The same of all columns.
template <class F, class S = SumOf<F>>
void multiply_rows(int rows, const F* a, int lda, int k, const F* packed, int n, Matrix<S> c, const S* bias) {
  alignas(64) S start[panel_columns<F>] = {};
  for (int j = 0; j < n; j += panel_columns<F>) {
    const int columns = std::min(panel_columns<F>, n - j);
    if (bias) std::copy_n(bias + j, columns, start);
    multiply_columns<F>(rows, a, lda, k, packed, n, j, columns, {c.data + j, c.stride}, bias ? start : nullptr);
  }
}

/// Rows as factors: where they lie, or made in `room`.
template <class F, class S = SumOf<F>>
const F* rows_as_factors(ConstMatrix<S> from, int rows, int columns, [[maybe_unused]] F* room) {
  if constexpr (steps<F> == 1) {
    return from.data;
  } else {
    pack_rows<F>(from, columns, rows, room);
    return room;
  }
}

/// GELU of h [rows, panel_columns]: h goes to `kept`, unless that is null, GELU(h) as factors to rows `stride` apart.
template <class F, class S = SumOf<F>>
void activate(int rows, const S* h, Matrix<S> kept, F* to, int stride) {
  for (int r = 0; r < rows; ++r, h += panel_columns<F>, to += stride)
    for (int c = 0; c < panel_columns<F>; c += steps<F> * lanes<S>) {
      Vector<S> a[steps<F>];
      for (int i = 0; i < steps<F>; ++i) {
        const Vector<S> v = load(h + c + i * lanes<S>);
        if (kept.data) store(kept.row(r) + c + i * lanes<S>, v);
        a[i] = gelu_of<S>(v);
      }
      store(to + c / steps<F>, along_row<F>(a));
    }
}

/// What the hidden values of one panel's columns become on the way back.
template <class F>
struct HiddenGradient {
  F* rows;       // dh as A, rows `stride` apart
  int stride;
  F* panel;      // dh as a panel, which A^T is read from, too
  F* activated;  // GELU(h) as a panel
};

/// Of dy Wd [rows, panel_columns], which becomes dh, and h; the sums of dh's columns are added to bias [panel_columns].
template <class F, class S = SumOf<F>>
void activate_backward(int rows, const S* d, ConstMatrix<S> h, const HiddenGradient<F>& to, S* bias) {
  for (int c = 0; c < panel_columns<F>; c += steps<F> * lanes<S>) {
    Vector<S> sums[steps<F>];
    for (int v = 0; v < steps<F>; ++v) sums[v] = load(bias + c + v * lanes<S>);
    for (int r = 0; r < rows; r += steps<F>) {
      Vector<S> dh[steps<F>][steps<F>], a[steps<F>][steps<F>];  // of a vector, of a row
      for (int i = 0; i < steps<F>; ++i) {
        Vector<S> row[steps<F>] = {};
        for (int v = 0; v < steps<F>; ++v) {
          const int at = c + v * lanes<S>;
          dh[v][i] = a[v][i] = Vector<S>{};
          if (r + i == rows) continue;  // an odd one has zeros behind it
          __builtin_prefetch(h.row(r + i) + at + panel_columns<F>);  // the next panel's, which lies in memory since forward
          const auto [value, slope] = gelu_and_slope<S>(load(h.row(r + i) + at));
          row[v] = dh[v][i] = load(d + (r + i) * panel_columns<F> + at) * slope;
          a[v][i] = value;
          sums[v] += row[v];
        }
        if (r + i < rows) store(to.rows + (r + i) * static_cast<long>(to.stride) + c / steps<F>, along_row<F>(row));
      }
      for (int v = 0; v < steps<F>; ++v) {
        const long at = static_cast<long>(r / steps<F>) * panel_columns<F> + c + v * lanes<S>;
        store(to.panel + at, along_column<F>(dh[v]));
        store(to.activated + at, along_column<F>(a[v]));
      }
    }
    for (int v = 0; v < steps<F>; ++v) store(bias + c + v * lanes<S>, sums[v]);
  }
}

/// Both weights as the products of P read them, if they are laid out.
template <class P, class S>
const Layouts* layouts_of(const Tensor<S>& weight) {
  return weight.layouts(&form_of<Factors<P>>);
}

}  // namespace detail

/// Whether the next two compute it: with weights that are laid out, hidden values that fill panels, and rows enough for all threads.
template <class P, class S>
bool has_feed_forward(const Tensor<S>& x, const Tensor<S>& up, const Tensor<S>& down) {
  const int threads = x.device().threads ? x.device().threads->count() : 1;
  return detail::layouts_of<P>(up) && detail::layouts_of<P>(down) && up.rows() % detail::panel_columns<Factors<P>> == 0 &&
         x.rows() >= rows_of_a_part * threads;
}

/// x [rows, inputs], up [hidden, inputs], down [outputs, hidden] -> y [rows, outputs], and h [rows, hidden], unless `forward_only`.
template <class P, class S>
void feed_forward(const Tensor<S>& x, const Tensor<S>& up, const Tensor<S>& up_bias, const Tensor<S>& down, const Tensor<S>& down_bias, bool forward_only,
                  Tensor<S>& h, Tensor<S>& y) {
  using F = Factors<P>;
  constexpr int width = detail::panel_columns<F>, block = detail::block_rows<F>;
  const int inputs = up.cols(), hidden = up.rows(), outputs = down.rows(), lda = steps<F> == 1 ? inputs : factors<F>(inputs);
  const F* const up_packed = detail::layouts_of<P>(up)->transposed.template as<F>();
  const F* const down_packed = detail::layouts_of<P>(down)->transposed.template as<F>();
  y.resize_like(x, x.rows(), outputs);
  if (!forward_only) h.resize_like(x, x.rows(), hidden);
  S *const to = y.data(), *const kept = forward_only ? nullptr : h.data();

  const int parts = row_parts(x.device(), x.rows()), rows_each = std::min(block, x.rows() / parts + 1);
  const long x_room = steps<F> == 1 ? 0 : static_cast<long>(rows_each) * round_up<F>(lda);
  const long room = x_room + static_cast<long>(rows_each) * factors<F>(hidden);
  detail::Scratch<F> memory(parts * room, x.device());
  F* const scratch = memory.begin();
  const auto part = [&](int i) {
    const auto edge = [&](int p) { return static_cast<int>(static_cast<long>(x.rows()) * p / parts); };
    F *const x_rows = scratch + i * room, *const activated = x_rows + x_room;
    alignas(64) S tile[detail::hidden_rows * width];
    for (int first = edge(i); first < edge(i + 1); first += block) {
      const int rows = std::min(block, edge(i + 1) - first);
      const F* const a = detail::rows_as_factors<F>({x.row(first), inputs}, rows, inputs, x_rows);
      for (int j = 0; j < hidden; j += width)
        for (int r = 0; r < rows; r += detail::hidden_rows) {
          const int now = std::min(detail::hidden_rows, rows - r);
          detail::multiply_columns<F>(now, a + static_cast<long>(r) * lda, lda, inputs, up_packed, hidden, j, width, {tile, width}, up_bias.data() + j);
          S* const beside = kept ? kept + (static_cast<long>(first) + r) * hidden + j : nullptr;
          detail::activate<F>(now, tile, {beside, hidden}, activated + static_cast<long>(r) * factors<F>(hidden) + j / steps<F>, factors<F>(hidden));
        }
      detail::multiply_rows<F>(rows, activated, factors<F>(hidden), hidden, down_packed, outputs, {to + static_cast<long>(first) * outputs, outputs},
                               down_bias.data());
    }
  };
  if (parts == 1) return part(0);
  x.device().threads->run(parts, part);
}

/// dy [rows, outputs], x and h as they were in forward -> dx [rows, inputs]; adds to the gradients of weights and biases.
template <class P, class S>
void feed_forward_backward(const Tensor<S>& x, const Tensor<S>& h, const Tensor<S>& up, const Tensor<S>& down, const Tensor<S>& dy, Tensor<S>& dx,
                           Tensor<S>& up_gradient, Tensor<S>& up_bias_gradient, Tensor<S>& down_gradient) {
  using F = Factors<P>;
  constexpr const S* none = nullptr;
  constexpr int width = detail::panel_columns<F>, block = detail::block_rows<F>, group = detail::tile_group<F>;
  const int inputs = up.cols(), hidden = up.rows(), outputs = down.rows(), lda = steps<F> == 1 ? outputs : factors<F>(outputs);
  const F* const up_packed = detail::layouts_of<P>(up)->plain.template as<F>();
  const F* const down_packed = detail::layouts_of<P>(down)->plain.template as<F>();
  dx.resize_like(dy, dy.rows(), inputs);
  S *const to = dx.data(), *const bias = up_bias_gradient.data();
  const Matrix<S> up_sum{up_gradient.data(), inputs}, down_sum{down_gradient.data(), hidden};

  const int most = std::min(block, dy.rows()), deepest = factors<F>(most);
  const long row_room = steps<F> == 1 ? 0 : static_cast<long>(most) * round_up<F>(lda), hidden_room = static_cast<long>(most) * factors<F>(hidden);
  const long tile_room = static_cast<long>(deepest) * ((outputs + group - 1) / group) * group, x_room = packed_size<F>(inputs, most);
  const long panel_room = static_cast<long>(deepest) * width;
  detail::Scratch<F> scratch(row_room + tile_room + x_room + hidden_room + 2 * panel_room, dy.device());
  F *const dy_rows = scratch.take(row_room), *const dy_tiles = scratch.take(tile_room), *const x_panels = scratch.take(x_room);
  F *const dh_rows = scratch.take(hidden_room), *const dh_panel = scratch.take(panel_room), *const activated = scratch.take(panel_room);
  alignas(64) S tile[detail::hidden_rows * width];

  for (int first = 0; first < dy.rows(); first += block) {
    const int rows = std::min(block, dy.rows() - first), deep = factors<F>(rows);
    const F* const a = detail::rows_as_factors<F>({dy.row(first), outputs}, rows, outputs, dy_rows);
    detail::pack_tiles<F>({dy.row(first), outputs}, rows, outputs, dy_tiles);
    pack<Operand::plain>(inputs, rows, ConstMatrix<S>{x.row(first), inputs}, x_panels);
    for (int j = 0; j < hidden; j += width) {
      for (int r = 0; r < rows; r += detail::hidden_rows) {
        const int now = std::min(detail::hidden_rows, rows - r);
        const long panel = static_cast<long>(r / steps<F>) * width;
        const detail::HiddenGradient<F> gradient{.rows = dh_rows + static_cast<long>(r) * factors<F>(hidden) + j / steps<F>,
                                                 .stride = factors<F>(hidden),
                                                 .panel = dh_panel + panel,
                                                 .activated = activated + panel};
        detail::multiply_columns<F>(now, a + static_cast<long>(r) * lda, lda, outputs, down_packed, hidden, j, width, {tile, width}, none);
        detail::activate_backward<F>(now, tile, {h.row(first + r) + j, hidden}, gradient, bias + j);
      }
      detail::multiply_panel<Operand::transposed, F>(outputs, width, deep, dy_tiles, group, activated, width, {down_sum.data + j, hidden}, Store::add,
                                                     none);
      for (int c = 0; c < inputs; c += width) {
        const int columns = std::min(width, inputs - c);
        detail::multiply_panel<Operand::transposed, F>(width, columns, deep, dh_panel, width, x_panels + static_cast<long>(deep) * c, round_up<F>(columns),
                                                       {up_sum.row(j) + c, inputs}, Store::add, none);
      }
    }
    const Matrix<S> dx_rows{to + static_cast<long>(first) * inputs, inputs};
    detail::multiply_rows<F>(rows, dh_rows, factors<F>(hidden), hidden, up_packed, inputs, dx_rows, none);
  }
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
