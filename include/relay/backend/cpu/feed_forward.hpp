// Feed-forward layers of the CPU backend: y = GELU(x Wu^T + bu) Wd^T + bd, and back.
//
//   h = x Wu^T + bu                        dh = (dy Wd) GELU'(h)     dx = dh Wu
//   y = GELU(h) Wd^T + bd                  dWu += dh^T x             dWd += dy^T GELU(h)
//                                          dbu += column sums of dh  dbd += column sums of dy
//
// The hidden values, four times as many as any others, stay in the cache. Rows are taken in blocks. Of a block the columns of one panel of the
// weight are made a few rows at a time, a strip, of which GELU is taken at once, and written as the products behind it read it (product.hpp):
// rows of factors as A, a panel of factors as B. Only h goes to memory, for backward, and comes from there again. (Floats as digits go another way:
// digit_feed_forward.hpp.) Few rows that go through the matrix unit are shared in two steps, so that each thread reads its part of the weights alone.
//
// Every sum is taken in the order of ComposedOps, which has one operation after the other: the results have the same bits. But where the matrix
// unit does products of bf16, memory is what takes the time, and h is kept as bf16, which GELU and its slope in backward are then of.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

namespace detail {

/// Rows of a block: as many as a product that sums over rows takes at once; forward, where none does, as many as the matrix unit goes through all
/// panels with.
template <class F>
inline constexpr int block_rows = panel_depth<F>* steps<F>;
template <class F>
inline constexpr int forward_block_rows = uses_tiles<F> ? strip_rows<F> : block_rows<F>;

/// From one row of factors to the next: for the matrix unit, which reads 16 rows at once, not a power of two, that the rows drive each other from the
/// L1 cache by.
template <class F>
constexpr int row_stride(int columns) {
  return factors<F>(columns) + (uses_tiles<F> ? lanes<F> : 0);
}

/// C [rows, columns] = A [rows, k] B + start, of the columns j .. of a B [k, n] that is laid out; a panel begins with j.
template <class F, class S = SumOf<F>>
void multiply_columns(int rows, ConstMatrix<F> a, int k, const F* packed, int n, int j, int columns, Matrix<S> c, const S* start) {
  const int end = factors<F>(k), padded = round_up<F>(columns);
  for (int k0 = 0; k0 < end; k0 += panel_depth<F>) {
    const int deep = std::min(panel_depth<F>, end - k0);
    const F* const panel = packed + static_cast<long>(k0) * round_up<F>(n) + static_cast<long>(deep) * j;
    const Store how = k0 == 0 ? Store::assign : Store::add;
    multiply_panel<Operand::plain, F>(rows, columns, deep, a.data + k0, a.stride, panel, padded, c, how, k0 == 0 ? start : nullptr, Meanwhile());
  }
}

/// The same of columns first .. last-1; `first` is a multiple of a panel's width, `bias` may be null.
template <class F, class S = SumOf<F>>
void multiply_rows(int rows, ConstMatrix<F> a, int k, const F* packed, int n, int first, int last, const S* bias, Matrix<S> c) {
  alignas(64) S start[panel_columns<F>] = {};  // the panel's part of the bias, padded as the panel is
  for (int j = first; j < last; j += panel_columns<F>) {
    const int columns = std::min(panel_columns<F>, last - j);
    if (bias) std::copy_n(bias + j, columns, start);
    multiply_columns<F>(rows, a, k, packed, n, j, columns, {c.data + j, c.stride}, bias ? start : nullptr);
  }
}

/// GELU of a strip of h [rows, panel_columns] as rows of factors, `stride` apart. h itself goes to `kept`, unless that is null: what
/// HiddenLayout says of row `first` and column j.
template <class F, class S = SumOf<F>>
void activate(int rows, const S* h, S* kept, const HiddenLayout<F>& layout, int first, int j, F* to, int stride) {
  constexpr int columns = steps<F> * lanes<S>;
  static_assert(panel_columns<F> % columns == 0);
  using Kept = typename HiddenLayout<F>::Element;
  for (int r = 0; r < rows; ++r, h += panel_columns<F>, to += stride) {
    Kept* const keep = kept ? reinterpret_cast<Kept*>(kept) + layout.at(first + r, j) : nullptr;
    for (int c = 0; c < panel_columns<F>; c += columns) {
      Vector<S> value[steps<F>], activated[steps<F>];
#pragma GCC unroll 2
      for (int i = 0; i < steps<F>; ++i) {
        value[i] = load(h + c + i * lanes<S>);
        activated[i] = gelu_of<F>(value[i]);
      }
      if (keep) {
        if constexpr (HiddenLayout<F>::of_factors)
          store(keep + c / steps<F>, along_row<F>(value));
        else
#pragma GCC unroll 2
          for (int i = 0; i < steps<F>; ++i) store(keep + c + i * lanes<S>, value[i]);
      }
      store(to + c / steps<F>, along_row<F>(activated));
    }
  }
}

/// Where a strip's values go on the way back, each as the product reads them that it is for.
template <class F>
struct HiddenGradient {
  F* rows;       // dh, for dx: rows `stride` apart
  int stride;
  F* columns;    // dh, for dWu: [factors(rows), panel_columns]
  F* activated;  // GELU(h), for dWd: the same
};

/// From a strip of dy Wd [rows, panel_columns], and h, whose row `first` and column j it begins with. The sums of dh's columns are added to
/// bias [panel_columns].
template <class F, class S = SumOf<F>>
void activate_backward(int rows, const S* d, const S* h, const HiddenLayout<F>& layout, int first, int j, const HiddenGradient<F>& to, S* bias) {
  constexpr int columns = steps<F> * lanes<S>;
  const auto* const kept = reinterpret_cast<const typename HiddenLayout<F>::Element*>(h);
  const long next_panel = layout.at(first, j + panel_columns<F>) - layout.at(first, j);
  for (int c = 0; c < panel_columns<F>; c += columns) {
    Vector<S> sums[steps<F>];
#pragma GCC unroll 2
    for (int v = 0; v < steps<F>; ++v) sums[v] = load(bias + c + v * lanes<S>);
    for (int r = 0; r < rows; r += steps<F>) {
      Vector<S> dh[steps<F>][steps<F>] = {}, activated[steps<F>][steps<F>] = {};  // of a vector, of a row; behind an odd row are zeros
#pragma GCC unroll 2
      for (int i = 0; i < steps<F>; ++i) {
        if (r + i == rows) break;
        Vector<S> row[steps<F>], hidden[steps<F>];
        const auto* const here = kept + layout.at(first + r + i, j) + c / HiddenLayout<F>::step;
        if constexpr (HiddenLayout<F>::of_factors) {
          __builtin_prefetch(here + next_panel);  // the next panel's, which lies in memory since forward
          apart(load(here), hidden);
        } else {
#pragma GCC unroll 2
          for (int v = 0; v < steps<F>; ++v) {
            __builtin_prefetch(here + v * lanes<S> + next_panel);
            hidden[v] = load(here + v * lanes<S>);
          }
        }
#pragma GCC unroll 2
        for (int v = 0; v < steps<F>; ++v) {
          const int at = c + v * lanes<S>;
          const auto [value, slope] = gelu_and_slope<F>(hidden[v]);
          row[v] = dh[v][i] = load(d + (r + i) * panel_columns<F> + at) * slope;
          activated[v][i] = value;
          sums[v] += row[v];
        }
        store(to.rows + static_cast<long>(r + i) * to.stride + c / steps<F>, along_row<F>(row));
      }
#pragma GCC unroll 2
      for (int v = 0; v < steps<F>; ++v) {
        const long at = static_cast<long>(r / steps<F>) * panel_columns<F> + c + v * lanes<S>;
        store(to.columns + at, along_column<F>(dh[v]));
        store(to.activated + at, along_column<F>(activated[v]));
      }
    }
#pragma GCC unroll 2
    for (int v = 0; v < steps<F>; ++v) store(bias + c + v * lanes<S>, sums[v]);
  }
}

}  // namespace detail

/// Whether `feed_forward` can do it: it wants weights that are laid out, for the same factors, hidden values that fill panels, and rows: if h is not
/// kept, enough to be shared. (How h is kept may not depend on threads.)
template <class P, class S>
bool has_feed_forward(const Tensor<S>& x, const Tensor<S>& up, const Tensor<S>& down, bool forward_only) {
  const int threads = forward_only && x.device().threads ? x.device().threads->count() : 1;
  const bool alike = takes_digits<P>(up.rows(), up.cols()) == takes_digits<P>(down.rows(), down.cols());
  return alike && x.rows() >= rows_of_a_part * threads && up.cols() > 0 && up.rows() % detail::panel_columns<Factors<P>> == 0 && layouts_of<P>(up) &&
         layouts_of<P>(down);
}

/// Whether `feed_forward_backward` can do it, on one thread, with h as it was kept.
template <class P, class S>
bool has_feed_forward_backward(const Tensor<S>& dy, const Tensor<S>& h, const Tensor<S>& up, const Tensor<S>& down) {
  const int kept = with_factors<P>(up.rows(), up.cols(), [&](auto factor) { return detail::HiddenLayout<decltype(factor)>(up.rows()).columns(); });
  return !dy.device().threads && has_feed_forward<P>(dy, up, down, false) && h.cols() == kept;
}

/// h [rows, hidden] from one operation after the other, with the values that `feed_forward` would have kept.
template <class P, class S>
void round_hidden(Tensor<S>& h) {
  using F = Factors<P>;
  if constexpr (detail::HiddenLayout<F>::of_factors) {
    S* const elements = h.data();
    for (long i = 0; i < h.size(); i += steps<F> * lanes<S>) {
      const int left = static_cast<int>(std::min<long>(h.size() - i, steps<F> * lanes<S>)), second = std::max(0, left - lanes<S>);
      Vector<S> v[steps<F>];
      apart(load_factors<F>(elements + i, left), v);
      store_first(elements + i, v[0], left - second);
      if (second > 0) store_first(elements + i + lanes<S>, v[1], second);
    }
  }
}

/// What `feed_forward` kept as rows [rows, hidden] for one operation after the other; false, if it is that already.
template <class P, class S>
bool hidden_rows(const Tensor<S>& kept, int rows, int hidden, Tensor<S>& h) {
  using F = Factors<P>;
  using Layout = detail::HiddenLayout<F>;
  const Layout layout(hidden);
  if (kept.cols() == hidden) return false;
  h.resize_like(kept, rows, hidden);
  S* to = h.data();
  const auto* const from = reinterpret_cast<const typename Layout::Element*>(kept.data());
  for (int r = 0; r < rows; ++r)
    for (int j = 0; j < hidden; j += detail::panel_columns<F>)
      for (int c = 0; c < detail::panel_columns<F>; c += Layout::step * lanes<S>)
        if constexpr (Layout::of_factors) {
          Vector<S> v[steps<F>];
          apart(load(from + layout.at(r, j) + c / steps<F>), v);
          for (const Vector<S>& of_step : v) store(to, of_step), to += lanes<S>;
        } else {
          store(to, load(from + layout.at(r, j) + c)), to += lanes<S>;
        }
  return true;
}

namespace detail {

/// `feed_forward` with products of F.
template <class P, class F, class S>
void feed_forward_of(const Tensor<S>& x, const Tensor<S>& up, const Tensor<S>& up_bias, const Tensor<S>& down, const Tensor<S>& down_bias, bool forward_only,
                     Tensor<S>& h, Tensor<S>& y) {
  constexpr int panel = panel_columns<F>, block = forward_block_rows<F>, at_once = strip_rows<F>;
  const int inputs = up.cols(), hidden = up.rows(), outputs = down.rows(), stride = row_stride<F>(hidden);
  const F* const up_packed = packed_of<Operand::transposed, P, F>(up);
  const F* const down_packed = packed_of<Operand::transposed, P, F>(down);
  y.resize_like(x, x.rows(), outputs);
  const HiddenLayout<F> layout(hidden);
  if (!forward_only) h.resize_like(x, layout.rows(x.rows()), layout.columns());
  S *const to = y.data(), *const kept = forward_only ? nullptr : h.data();

  // Of rows from the first-th on, x's as factors: GELU of columns of hidden values, whole panels, and from all of these columns of y.
  const auto make_hidden = [&](ConstMatrix<F> a, int first, int rows, int first_column, int last_column, F* activated) {
    alignas(64) S strip[at_once * panel];
    for (int j = first_column; j < last_column; j += panel)
      for (int r = 0; r < rows; r += at_once) {
        const int now = std::min(at_once, rows - r);
        multiply_columns<F>(now, {a.row(r), a.stride}, inputs, up_packed, hidden, j, panel, {strip, panel}, up_bias.data() + j);
        activate<F>(now, strip, kept, layout, first + r, j, activated + static_cast<long>(r) * stride + j / steps<F>, stride);
      }
  };
  const auto make_outputs = [&](int first, int rows, int first_column, int last_column, const F* activated) {
    const Matrix<S> y_rows{to + static_cast<long>(first) * outputs, outputs};
    multiply_rows<F>(rows, {activated, stride}, hidden, down_packed, outputs, first_column, last_column, down_bias.data(), y_rows);
  };
  const auto rows_of_x = [&](int first, int rows, F* room) { return factor_rows<F>({x.row(first), x.cols()}, inputs, rows, room); };

  const int parts = row_parts(x.device(), x.rows());
  const auto edge = [&](int whole, int part) { return static_cast<int>(static_cast<long>(whole) * part / parts); };
  const auto share = [&](auto&& part) { x.device().threads->run(parts, part); };
  if constexpr (uses_tiles<F>)
    if (parts > 1 && x.rows() <= shared_forward_rows && shares_weights<F>(x.rows(), parts)) {  // two steps, of which a thread does what takes its part of the weights
      const int rows = x.rows(), hidden_panels = hidden / panel, panels = (outputs + panel - 1) / panel;
      const long x_room = room_of_rows<F>(rows, inputs), activated_room = static_cast<long>(rows) * stride;
      Scratch<F> memory(parts * x_room + activated_room, x.device());
      F *const activated = memory.take(activated_room), *const own = memory.take(parts * x_room);
      share([&](int i) {
        const int first = edge(hidden_panels, i), last = edge(hidden_panels, i + 1);
        if (first == last) return;
        const MatrixUnit<F> unit(rows);
        make_hidden(rows_of_x(0, rows, own + i * x_room), 0, rows, panel * first, panel * last, activated);
      });
      share([&](int i) {
        const MatrixUnit<F> unit(rows);
        make_outputs(0, rows, panel * edge(panels, i), std::min(outputs, panel * edge(panels, i + 1)), activated);
      });
      return;
    }
  const int most = std::min(block, x.rows() / parts + 1);
  const long x_room = room_of_rows<F>(most, inputs), room = x_room + static_cast<long>(most) * stride;
  Scratch<F> memory(parts * room, x.device());
  F* const scratch = memory.begin();
  const auto part = [&](int i) {
    const int end = edge(x.rows(), i + 1);
    const MatrixUnit<F> unit(end - edge(x.rows(), i));
    F *const own = scratch + i * room, *const activated = own + x_room;
    for (int first = edge(x.rows(), i); first < end; first += block) {
      const int rows = std::min(block, end - first);
      make_hidden(rows_of_x(first, rows, own), first, rows, 0, hidden, activated);
      make_outputs(first, rows, 0, outputs, activated);
    }
  };
  if (parts == 1) return part(0);
  share(part);
}

}  // namespace detail

/// x [rows, inputs], up [hidden, inputs], down [outputs, hidden] -> y [rows, outputs], and h (HiddenLayout), unless `forward_only`.
template <class P, class S>
void feed_forward(const Tensor<S>& x, const Tensor<S>& up, const Tensor<S>& up_bias, const Tensor<S>& down, const Tensor<S>& down_bias, bool forward_only,
                  Tensor<S>& h, Tensor<S>& y) {
  with_factors<P>(up.rows(), up.cols(), [&](auto factor) {
    using F = decltype(factor);
#ifdef RELAY_CPU_AMX
    if constexpr (is_digits<F>)
      return detail::digit_feed_forward(x, packed_of<Operand::transposed, P, F>(up), up, up_bias, packed_of<Operand::transposed, P, F>(down), down, down_bias,
                                        forward_only, h, y);
#endif
    if constexpr (!is_digits<F>) detail::feed_forward_of<P, F>(x, up, up_bias, down, down_bias, forward_only, h, y);
  });
}

namespace detail {

/// `feed_forward_backward` with products of F.
template <class P, class F, class S>
void feed_forward_backward_of(const Tensor<S>& x, const Tensor<S>& h, const Tensor<S>& up, const Tensor<S>& down, const Tensor<S>& dy, Tensor<S>& dx,
                              Tensor<S>& up_gradient, Tensor<S>& up_bias_gradient, Tensor<S>& down_gradient) {
  constexpr int panel = panel_columns<F>, block = block_rows<F>, at_once = strip_rows<F>;
  static_assert(at_once % steps<F> == 0, "neighbouring rows make pairs");
  constexpr const S* none = nullptr;
  const int inputs = up.cols(), hidden = up.rows(), outputs = down.rows(), stride = row_stride<F>(hidden);
  const F* const up_packed = packed_of<Operand::plain, P, F>(up);
  const F* const down_packed = packed_of<Operand::plain, P, F>(down);
  dx.resize_like(dy, dy.rows(), inputs);
  const HiddenLayout<F> layout(hidden);
  S *const to = dx.data(), *const bias = up_bias_gradient.data();
  const Matrix<S> dwu{up_gradient.data(), inputs}, dwd{down_gradient.data(), hidden};

  const int most = std::min(block, dy.rows()), deepest = factors<F>(most);
  const long dy_room = room_of_rows<F>(most, outputs), tile_room = room_of_transposed<F>(outputs, most);
  const long x_room = packed_size<F>(inputs, most), dh_room = static_cast<long>(most) * stride, panel_room = static_cast<long>(deepest) * panel;
  Scratch<F> scratch(dy_room + tile_room + x_room + dh_room + (uses_tiles<F> ? 3 : 2) * panel_room, dy.device());
  F *const dy_rows = scratch.take(dy_room), *const dy_tiles = scratch.take(tile_room), *const x_panels = scratch.take(x_room);
  F *const dh_rows = scratch.take(dh_room), *const dh_columns = scratch.take(panel_room), *const activated = scratch.take(panel_room);
  F* const dh_transposed = uses_tiles<F> ? scratch.take(panel_room) : dh_columns;  // as the A of dWu
  const MatrixUnit<F> unit;
  alignas(64) S strip[at_once * panel];

  for (int first = 0; first < dy.rows(); first += block) {
    const int rows = std::min(block, dy.rows() - first), deep = factors<F>(rows);
    const ConstMatrix<F> a = factor_rows<F>({dy.row(first), outputs}, outputs, rows, dy_rows);
    pack_transposed<F>({dy.row(first), outputs}, rows, outputs, dy_tiles);
    pack<Operand::plain>(inputs, rows, ConstMatrix<S>{x.row(first), inputs}, x_panels);
    for (int j = 0; j < hidden; j += panel) {
      for (int r = 0; r < rows; r += at_once) {
        const int now = std::min(at_once, rows - r);
        multiply_columns<F>(now, {a.row(r), a.stride}, outputs, down_packed, hidden, j, panel, {strip, panel}, none);
        const long below = static_cast<long>(r / steps<F>) * panel;
        const HiddenGradient<F> dh{.rows = dh_rows + static_cast<long>(r) * stride + j / steps<F>,
                                   .stride = stride,
                                   .columns = dh_columns + below,
                                   .activated = activated + below};
        activate_backward<F>(now, strip, h.data(), layout, first + r, j, dh, bias + j);
      }
      for (F* columns : {dh_columns, activated}) pad_factors(columns, rows, panel);
      constexpr Operand transposed = as_packed<Operand::transposed, F>;
      constexpr bool as_rows = transposed == Operand::plain;
      const Matrix<S> dwd_columns{dwd.data + j, dwd.stride};
      const int squares = uses_tiles<F> ? panel / lanes<F> * (deep / lanes<F>) : 0;
      const auto transpose_square = [&](int i) {
        const int c = i % (panel / lanes<F>) * lanes<F>, r = i / (panel / lanes<F>) * lanes<F>;
        if constexpr (uses_tiles<F>)
          transpose_factors(dh_columns + static_cast<long>(r) * panel + c, panel, lanes<F>, lanes<F>, dh_transposed + static_cast<long>(c) * deep + r, deep);
      };
      Pieces transposition(squares, unit_turns<F>(outputs, panel, deep), transpose_square);
      multiply_panel<transposed, F>(outputs, panel, deep, dy_tiles, as_rows ? deep : tile_group<F>, activated, panel, dwd_columns, Store::add, none,
                                    Meanwhile(transposition));
      transposition.finish();
      for (int c = 0; c < inputs; c += panel) {
        const int columns = std::min(panel, inputs - c);
        const F* const x_panel = x_panels + static_cast<long>(deep) * c;
        const Matrix<S> dwu_part{dwu.row(j) + c, dwu.stride};
        multiply_panel<transposed, F>(panel, columns, deep, dh_transposed, as_rows ? deep : panel, x_panel, round_up<F>(columns), dwu_part, Store::add, none,
                                      Meanwhile());
      }
    }
    const Matrix<S> dx_rows{to + static_cast<long>(first) * inputs, inputs};
    multiply_rows<F>(rows, {dh_rows, stride}, hidden, up_packed, inputs, 0, inputs, none, dx_rows);
  }
}

}  // namespace detail

/// dy [rows, outputs], x and h as they were in forward -> dx [rows, inputs]; adds to the gradients of both weights and of bu (not of bd, which
/// depends on dy alone).
template <class P, class S>
void feed_forward_backward(const Tensor<S>& x, const Tensor<S>& h, const Tensor<S>& up, const Tensor<S>& down, const Tensor<S>& dy, Tensor<S>& dx,
                           Tensor<S>& up_gradient, Tensor<S>& up_bias_gradient, Tensor<S>& down_gradient) {
  with_factors<P>(up.rows(), up.cols(), [&](auto factor) {
    using F = decltype(factor);
#ifdef RELAY_CPU_AMX
    if constexpr (is_digits<F>)
      return detail::digit_feed_forward_backward(x, h, packed_of<Operand::plain, P, F>(up), up, packed_of<Operand::plain, P, F>(down), down, dy, dx, up_gradient,
                                                 up_bias_gradient, down_gradient);
#endif
    if constexpr (!is_digits<F>) detail::feed_forward_backward_of<P, F>(x, h, up, down, dy, dx, up_gradient, up_bias_gradient, down_gradient);
  });
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
