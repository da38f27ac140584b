// C (+)= op(A) op(B) for matrices of any size: the products of linear layers, forward and backward.
//
//   y = x W^T     dx = dy W     dW += dy^T x
//
// B is cut into panels of a tile's width and of a depth that fits the L1 cache, each copied together once (transposed, if need
// be, and padded to whole vectors) and then read by every row of A: a weight, which many products read, may be laid out so
// beforehand. A is read where it lies, or, transposed or rounded to bf16, copied. (Floats by the matrix unit: digit_product.hpp;
// a single row of them: digit_row.hpp.) Goto & van de Geijn 2008 is the source of
// the scheme. As in small_product.hpp, an element is summed over k in an order that depends on k alone: a row of C has the same
// bits whatever other rows there are.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

namespace detail {

/// Whole vectors of columns, by whatever is fastest.
template <Operand A, class F, class S = SumOf<F>>
[[gnu::always_inline]] inline void multiply_block(int m, int n, int k, const F* a, int lda, const F* b, int ldb, S* c, int ldc, Store how, const S* start,
                                                  [[maybe_unused]] const Meanwhile& meanwhile) {
  if constexpr (A == Operand::plain)
    block_product(m, n, k, a, lda, b, ldb, c, ldc, how, start, meanwhile);
  else
    small_product<A>(m, n, k, a, lda, b, ldb, c, ldc, how, start);
}

/// The columns of C that one panel gives; a transposed A comes in groups of tiles, lda rows in each. Where the columns do not
/// fill whole vectors, tiles go through a buffer.
template <Operand A, class F, class S = SumOf<F>>
void multiply_panel(int m, int columns, int depth, const F* a, int lda, const F* panel, int ldb, Matrix<S> c, Store how, const S* start,
                    const Meanwhile& meanwhile) {
  const int padded = round_up<S>(columns);
  const bool whole = padded == columns;
  if (whole && A == Operand::plain)
    return multiply_block<A>(m, columns, depth, a, lda, panel, ldb, c.data, c.stride, how, start, meanwhile);
  constexpr int at_once = uses_tiles<F> ? 32 : tile_rows;
  alignas(64) S buffer[at_once * panel_columns<F>];
  for (int i = 0; i < m; i += at_once) {
    const int count = std::min(at_once, m - i);
    const F* rows = A == Operand::plain ? a + static_cast<long>(i) * lda : a + static_cast<long>(i / lda) * lda * depth + i % lda;
    S* to = c.data + static_cast<long>(i) * c.stride;
    if (whole) {
      multiply_block<A>(count, columns, depth, rows, lda, panel, ldb, to, c.stride, how, start, meanwhile);
    } else {
      const auto each_part = [&](auto&& f) {
        for (int r = 0; r < count; ++r)
          by_vector<S>(columns, [&](long j, auto n) { f(to + static_cast<long>(r) * c.stride + j, buffer + r * padded + j, n); });
      };
      // The matrix unit adds to what is there from the first step of k on, so that it does not matter how k is cut.
      const bool adds_in_buffer = uses_tiles<F> && how == Store::add;
      if (adds_in_buffer) each_part([](const S* from, S* here, auto n) { store(here, load_first(from, n)); });
      multiply_block<A>(count, padded, depth, rows, lda, panel, ldb, buffer, padded, adds_in_buffer ? Store::add : Store::assign, start, meanwhile);
      const bool add = how == Store::add && !adds_in_buffer;
      each_part([add](S* at, const S* here, auto n) { store_first(at, add ? load_first(at, n) + load(here) : load(here), n); });
    }
  }
}

/// C (+)= bias: what is left of a product of no terms.
template <class S>
void add_nothing(int m, int n, const S* bias, Matrix<S> c, Store how) {
  for (int i = 0; i < m; ++i) {
    S* row = c.data + static_cast<long>(i) * c.stride;
    if (how == Store::assign) std::fill_n(row, n, S(0));
    for (int j = 0; bias && j < n; ++j) row[j] += bias[j];
  }
}

/// Rows of A that the matrix unit goes through all panels with: they stay in the L1 cache, and B comes from the L2 cache for each of them. (The
/// other way round, as vectors have it, twice as much would come from there.)
inline constexpr int tile_product_rows = 32;

/// Steps of k that rows of a plain A go through before the next rows: all, so that C is written once, where a B that is laid out leaves most of the L2
/// cache to the rest, and the rows some of the L1 cache to it.
template <Operand A, class F>
constexpr int tile_product_steps(int k, int columns, bool packed) {
  constexpr long most_of_b = 1 << 19, most_of_a = 1 << 16;
  const long bytes = factors<F>(k) * static_cast<long>(sizeof(F));
  const bool all = A == Operand::plain && packed && bytes * columns <= most_of_b && bytes * tile_product_rows <= most_of_a;
  return all ? k : std::min(k, panel_depth<F> * steps<F>);
}

/// Memory that a thread needs for its part of a product.
template <Operand A, Operand B, class F>
struct ProductScratch {
  static constexpr bool a_in_place = A == Operand::plain && steps<F> == 1;  // A is read where it lies
  bool b_in_place;
  long panel, a;
  int at_once = 0;  // steps of k that rows of A go through before the next rows (tile_product_steps)

  /// `columns`: the most that a part has.
  ProductScratch(int m, int n, int k, int columns, int b_stride, bool packed) {
    if constexpr (uses_tiles<F>) {
      b_in_place = false;
      at_once = tile_product_steps<A, F>(k, columns, packed);
      if (m == 1 && packed) {  // single_row_product wants it whole, and as floats besides
        panel = 0, a = 3L * factors<F>(k);
        return;
      }
      panel = packed ? 0 : packed_size<F>(columns, at_once);
      a = 2L * factors<F>(at_once) * std::min(m, tile_product_rows);
      return;
    }
    const bool single = m == 1 && packed && A == Operand::plain;  // row_times_packed wants it whole
    const int depth = single ? k : std::min(panel_depth<F> * steps<F>, k), deepest = factors<F>(depth);
    b_in_place = B == Operand::plain && steps<F> == 1 && n == b_stride && n <= panel_columns<F> && n % lanes<F> == 0;
    panel = packed || b_in_place ? 0 : static_cast<long>(deepest) * panel_columns<F>;
    a = a_in_place ? 0 : A == Operand::plain ? static_cast<long>(deepest) * m : room_of_transposed<F>(m, depth);
  }
  long size() const { return (panel + a + lanes<F> - 1) / lanes<F> * lanes<F>; }  // the next thread's begins at a whole vector
};

/// Of a product of a single row and a packed B the columns first .. last-1, as product_columns below, with the same bits. It is what generating
/// one text takes, where reading B is all that matters: sums stay in registers from block to block of k, and what comes next is on its way.
template <class F, class S = SumOf<F>>
void row_times_packed(int n, int k, int first, int last, const F* a, const F* packed, const S* bias, S* c) {
  constexpr int width = panel_columns<F>, depth = panel_depth<F>;  // in factors
  const int whole = round_up<F>(n), end = factors<F>(k);
  for (int j = first; j < last; j += width) {
    const int columns = std::min(width, last - j), padded = round_up<S>(columns);
    Vector<S> total[tile_vectors] = {};
    for (int k0 = 0; k0 < end; k0 += depth) {
      const int deep = std::min(depth, end - k0);
      const F* from = packed + static_cast<long>(k0) * whole + static_cast<long>(deep) * j;
      Vector<S> sum[tile_vectors] = {};
      const auto add_block = [&](auto vectors) {
        constexpr int count = decltype(vectors)::value;
        if (k0 == 0 && bias)
          for (int v = 0; v < count; ++v)
            sum[v] = load_first(bias + j + v * lanes<S>, std::min(lanes<S>, columns - v * lanes<S>));
        for (int i = 0; i < deep; ++i, from += padded) {
          const F factor = a[k0 + i];
#pragma GCC unroll 4
          for (int v = 0; v < count; ++v) {
            __builtin_prefetch(from + 512 + v * lanes<S>);
            add_product(sum[v], load(from + v * lanes<S>), factor);
          }
        }
      };
      switch (padded / lanes<S>) {
        case 1: add_block(std::integral_constant<int, 1>()); break;
        case 2: add_block(std::integral_constant<int, 2>()); break;
        case 3: add_block(std::integral_constant<int, std::min(3, tile_vectors)>()); break;
        default: add_block(std::integral_constant<int, tile_vectors>());
      }
      for (int v = 0; v < tile_vectors; ++v) total[v] = k0 == 0 ? sum[v] : total[v] + sum[v];
    }
    by_vector<S>(columns, [&](long v, auto count) { store_first(c + j + v, total[v / lanes<S>], count); });
  }
}

/// The columns first .. last-1 of a product by the matrix unit; `first` is a multiple of a panel's width.
template <Operand A, Operand B, class F>
void tile_product_columns(int m, int n, int k, int first, int last, ConstMatrix<SumOf<F>> a, ConstMatrix<SumOf<F>> b, const F* packed,
                          const SumOf<F>* bias, Matrix<SumOf<F>> c, Store how, const ProductScratch<A, B, F>& need, F* scratch) {
  using S = SumOf<F>;
  constexpr int width = panel_columns<F>, strip = tile_product_rows, depth = panel_depth<F> * steps<F>;
  F* const made = scratch;
  F* const packed_a[] = {scratch + need.panel, scratch + need.panel + need.a / 2};
  alignas(64) S start[width] = {};
  for (int begin = 0; begin < k; begin += need.at_once) {
    const int end = std::min(begin + need.at_once, k);
    if (!packed)
      for (int j = first; j < last; j += width)
        pack_part<B, F>(b, begin, end - begin, j, std::min(width, last - j), made + static_cast<long>(factors<F>(end - begin)) * (j - first));
    // Rows of A, a block of k after another, are packed while those before them are multiplied.
    const auto deep_at = [&](int k0) { return factors<F>(std::min(depth, end - k0)); };
    const auto place = [&](F* to, int rows, int k0) { return to + static_cast<long>((k0 - begin) / steps<F>) * rows; };
    const auto packing = [&](int i, F* to) {
      const int rows = std::clamp(m - i, 0, strip), squares = (rows + lanes<S> - 1) / lanes<S>, whole = factors<F>(end - begin);
      const int blocks = (end - begin + depth - 1) / depth, turns = unit_turns<F>(strip, last - first, whole);
      return Pieces(A == Operand::plain ? rows * blocks : squares * (whole / lanes<F>), turns, [=](int piece) {
        if constexpr (A == Operand::plain) {
          const int k0 = begin + piece / rows * depth, r = piece % rows;
          pack_row<F>(a.row(i + r) + k0, std::min(depth, end - k0), place(to, rows, k0) + static_cast<long>(r) * deep_at(k0));
        } else {
          pack_transposed_square<F>(ConstMatrix<S>{a.data + static_cast<long>(begin) * a.stride + i, a.stride}, end - begin, rows,
                                    piece / squares * lanes<F>, piece % squares * lanes<S>, to);
        }
      });
    };
    int at = 0;
    packing(0, packed_a[at]).finish();
    for (int i = 0; i < m; i += strip, at ^= 1) {
      const int rows = std::min(strip, m - i);
      auto next = packing(i + strip, packed_a[at ^ 1]);
      for (int k0 = begin; k0 < end; k0 += depth) {
        const int deep = deep_at(k0);
        const F* const panels = packed ? packed + static_cast<long>(k0 / steps<F>) * round_up<F>(n) + static_cast<long>(deep) * first : made;
        for (int j = first; j < last; j += width) {
          const int columns = std::min(width, last - j);
          const S* from = bias && k0 == 0 ? start : nullptr;
          if (from) std::copy_n(bias + j, columns, start);
          const Matrix<S> to{c.data + static_cast<long>(i) * c.stride + j, c.stride};
          multiply_panel<Operand::plain, F>(rows, columns, deep, place(packed_a[at], rows, k0), deep, panels + static_cast<long>(deep) * (j - first),
                                            round_up<F>(columns), to, k0 == 0 ? how : Store::add, from, Meanwhile(next));
        }
      }
      next.finish();
    }
  }
}

/// The columns first .. last-1 of a product; `first` is a multiple of a panel's width.
template <Operand A, Operand B, class F>
void product_columns(int m, int n, int k, int first, int last, ConstMatrix<SumOf<F>> a, ConstMatrix<SumOf<F>> b, const F* packed,
                     const SumOf<F>* bias, Matrix<SumOf<F>> c, Store how, const ProductScratch<A, B, F>& need, F* scratch) {
  static_assert(!uses_tiles<F>);
  using S = SumOf<F>;
  constexpr int width = panel_columns<F>, depth = panel_depth<F> * steps<F>;
  constexpr bool in_place = ProductScratch<A, B, F>::a_in_place;
  if constexpr (A == Operand::plain)
    if (m == 1 && packed && how == Store::assign) {
      if constexpr (in_place) {
        return row_times_packed<F>(n, k, first, last, a.data, packed, bias, c.data);
      } else {
        pack_rows<F>(a, k, 1, scratch);
        return row_times_packed<F>(n, k, first, last, scratch, packed, bias, c.data);
      }
    }
  F* made = scratch;
  F* packed_a = scratch + need.panel;
  alignas(64) S start[width] = {};  // the panel's part of the bias, padded as the panel is
  for (int k0 = 0; k0 < k; k0 += depth) {
    const int now = std::min(depth, k - k0), deep = factors<F>(now);
    const Store store_as = k0 == 0 ? how : Store::add;
    if constexpr (A == Operand::transposed)
      pack_tiles<F>({a.data + static_cast<long>(k0) * a.stride, a.stride}, now, m, packed_a);
    else if constexpr (!in_place)
      pack_rows<F>({a.data + k0, a.stride}, now, m, packed_a);
    for (int j = first; j < last; j += width) {
      const int columns = std::min(width, last - j);
      const F* panel = made;
      if (packed) {
        panel = packed + static_cast<long>(deep) * j;
      } else if (need.b_in_place) {
        if constexpr (steps<F> == 1) panel = b.data + static_cast<long>(k0) * b.stride;
      } else {
        pack_part<B, F>(b, k0, now, j, columns, made);
      }
      const S* begin = bias && k0 == 0 ? start : nullptr;
      if (begin) std::copy_n(bias + j, columns, start);
      const Matrix<S> to{c.data + j, c.stride};
      const int ldb = round_up<F>(columns);
      if constexpr (in_place)
        multiply_panel<A, F>(m, columns, deep, a.data + k0, a.stride, panel, ldb, to, store_as, begin, Meanwhile());
      else
        multiply_panel<A, F>(m, columns, deep, packed_a, A == Operand::plain ? deep : tile_group<F>, panel, ldb, to, store_as, begin, Meanwhile());
    }
    if (packed) packed += static_cast<long>(deep) * round_up<F>(n);
  }
}

template <Operand A, Operand B, class F>
struct ScratchFor {
  using type = ProductScratch<A, B, F>;
};
#ifdef RELAY_CPU_AMX
template <Operand A, Operand B>
struct ScratchFor<A, B, Digits> {
  using type = DigitScratch<A, B>;
};
#endif
template <Operand A, Operand B, class F>
using ScratchOf = typename ScratchFor<A, B, F>::type;

/// Whether threads share a weight's panels and not rows, in so many parts: few rows are multiplied by the matrix unit in less time than a thread takes to
/// read all of a weight from the last cache.
template <class F>
constexpr bool shares_weights(int rows, int parts) {
  return rows < (uses_tiles<F> ? 64 : rows_of_a_part) * parts;
}

/// The fewest multiplications of a few rows that are worth another thread's while.
inline constexpr long shared_product = 1 << 15;

}  // namespace detail

/// C [m, n] (+)= op(A) [m, k] op(B) [k, n] + bias, the products of factors F; a transposed A lies in memory as [k, m], a
/// transposed B as [n, k]. `bias` [n] is added to every row; null: none. `packed`: op(B) as `pack` lays it out; null: not made yet.
/// The device's threads share the rows of a plain A, where they are enough and B is laid out already, or else the panels, for
/// each of which A is packed again, if need be. No bit depends on it.
template <Operand A, Operand B, class F>
void product(int m, int n, int k, ConstMatrix<SumOf<F>> a, ConstMatrix<SumOf<F>> b, const F* packed,
             const SumOf<F>* bias, Matrix<SumOf<F>> c, Store how, Device device) {
  if constexpr (is_digits<F> && A == Operand::transposed) packed = nullptr;  // blocks of k are A's
  if (m == 0 || n == 0) return;  // such a matrix may have no memory to point to
  if (k == 0) return detail::add_nothing(m, n, bias, c, how);
  using S = SumOf<F>;
  constexpr int width = detail::panel_columns<F>;
  const int panels = (n + width - 1) / width;
  const bool by_rows = A == Operand::plain && packed && row_parts(device, m) > 1 && !detail::shares_weights<F>(m, device.threads->count());
  const bool by_panels = !by_rows && device.threads && static_cast<long>(m) * n * k >= detail::shared_product;
  const int parts = by_rows ? row_parts(device, m) : by_panels ? std::min(device.threads->count(), panels) : 1;
  const int most_columns = by_rows ? n : (panels + parts - 1) / parts * width;
  const detail::ScratchOf<A, B, F> need(by_rows ? m / parts + 1 : m, n, k, most_columns, b.stride, packed);
  detail::Scratch<F> memory(parts * need.size(), device);
  F* const scratch = memory.begin();
  const auto columns = [](auto&&... arguments) {
#ifdef RELAY_CPU_AMX
    if constexpr (is_digits<F>) return detail::digit_product_columns<A, B>(arguments...);
#endif
    if constexpr (is_digits<F>)
      return;
    else if constexpr (uses_tiles<F>)
      detail::tile_product_columns<A, B, F>(arguments...);
    else
      detail::product_columns<A, B, F>(arguments...);
  };
  const auto part = [&](int i) {
    const auto edge = [&](int whole, int p) { return static_cast<int>(static_cast<long>(whole) * p / parts); };
    F* const own = scratch + i * need.size();
    const int row = by_rows ? edge(m, i) : 0, rows = by_rows ? edge(m, i + 1) - row : m;
#ifdef RELAY_CPU_AMX
    if constexpr (std::is_same_v<F, Pair> && A == Operand::plain)
      if (m == 1 && packed && how == Store::assign)
        return detail::single_row_product(n, k, edge(panels, i) * width, std::min(n, edge(panels, i + 1) * width), a.data, packed, bias, c.data, own);
    if constexpr (is_digits<F> && A == Operand::plain)
      if (m == 1 && packed && how == Store::assign)
        return detail::digit_row_product<B>(n, k, edge(panels, i) * width, std::min(n, edge(panels, i + 1) * width), a.data, packed, bias, c.data, own);
#endif
    const MatrixUnit<F> unit(rows);
    if (by_rows) {
      const ConstMatrix<S> a_rows{a.data + static_cast<long>(row) * a.stride, a.stride};
      const Matrix<S> c_rows{c.data + static_cast<long>(row) * c.stride, c.stride};
      columns(rows, n, k, 0, n, a_rows, b, packed, bias, c_rows, how, need, own);
    } else {
      const int first = edge(panels, i) * width, last = std::min(n, edge(panels, i + 1) * width);
      columns(m, n, k, first, last, a, b, packed, bias, c, how, need, own);
    }
  };
  if (parts == 1) return part(0);
  device.threads->run(parts, part);
}

/// Its address tells apart the layouts of these factors at this level.
template <class F>
inline constexpr char form_of = 0;

/// Whether products of P with a weight [outputs, inputs] take floats as digits: small ones are as fast as floats.
template <class P>
constexpr bool takes_digits(int outputs, int inputs) {
  return is_digits<Factors<P>> && std::min(outputs, inputs) >= 96;
}

/// f(factors) of those that products of P with a weight [outputs, inputs] multiply.
template <class P>
decltype(auto) with_factors(int outputs, int inputs, auto&& f) {
  if constexpr (is_digits<Factors<P>>)
    if (!takes_digits<P>(outputs, inputs)) return f(float());
  return f(Factors<P>());
}

/// The forms in which products of P read a weight [outputs, inputs], kept beside it.
template <class P, class S>
void lay_out(Tensor<S>& weight) {
  weight.lay_out(&form_of<Factors<P>>, [](const Tensor<S>& w, Layouts& to) {
    const ConstMatrix<S> elements{w.data(), w.cols()};
    with_factors<P>(w.rows(), w.cols(), [&](auto factor) {
      using F = decltype(factor);
      pack<Operand::transposed>(w.rows(), w.cols(), elements, to.transposed.resize<F>(packed_size<F>(w.rows(), w.cols())));
      pack<Operand::plain>(w.cols(), w.rows(), elements, to.plain.resize<F>(packed_size<F>(w.cols(), w.rows())));
    });
  });
}

/// Those forms of a weight; null, where it is not laid out for products of P.
template <class P, class S>
const Layouts* layouts_of(const Tensor<S>& weight) {
  return weight.layouts(&form_of<Factors<P>>);
}

/// op(weight) as factors F; null, if it is not laid out.
template <Operand B, class P, class F, class S>
const F* packed_of(const Tensor<S>& weight) {
  const Layouts* const layouts = layouts_of<P>(weight);
  if (!layouts || is_digits<F> != takes_digits<P>(weight.rows(), weight.cols())) return nullptr;  // (it may be what another weight's gradient is the product of)
  return B == Operand::transposed ? layouts->transposed.template as<F>() : layouts->plain.template as<F>();
}

/// c (+)= op(a) op(b) + bias with products of P, of whole tensors. Scratch comes from where a lives, which is of a lane: c may be a
/// gradient, which has no memory of its own to keep any.
template <Operand A, Operand B, class P, class S>
void product(const Tensor<S>& a, const Tensor<S>& b, const S* bias, Tensor<S>& c, Store how) {
  const Tensor<S>& weight = A == Operand::transposed ? c : b;  // or its gradient
  with_factors<P>(weight.rows(), weight.cols(), [&](auto factor) {
    using F = decltype(factor);
    product<A, B, F>(c.rows(), c.cols(), A == Operand::plain ? a.cols() : a.rows(), {a.data(), a.cols()}, {b.data(), b.cols()}, packed_of<B, P, F>(b), bias,
                     {c.data(), c.cols()}, how, a.device());
  });
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
