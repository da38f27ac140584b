// C (+)= op(A) op(B) for matrices of any size: the products of linear layers, forward and backward.
//
//   y = x W^T     dx = dy W     dW += dy^T x
//
// B is cut into panels of a tile's width and of a depth that fits the L1 cache, each copied together once (transposed, if need
// be, and padded to whole vectors) and then read by every row of A: a weight, which many products read, may be laid out so
// beforehand. A is read where it lies, or, transposed or rounded to bf16, copied. Goto & van de Geijn 2008 is the source of
// the scheme. As in small_product.hpp, an element is summed over k in an order that depends on k alone: a row of C has the same
// bits whatever other rows there are.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

/// Rows of A, B and C are `stride` elements apart.
template <class S>
struct ConstMatrix {
  const S* data;
  int stride;
  const S* row(int r) const { return data + static_cast<long>(r) * stride; }
};
template <class S>
struct Matrix {
  S* data;
  int stride;
  S* row(int r) const { return data + static_cast<long>(r) * stride; }
};

namespace detail {

/// One piece of memory, handed out part by part.
template <class S>
class Scratch {
 public:
  Scratch(long elements, Device device) {
    require(elements <= std::numeric_limits<int>::max(), "an operation needs room for ", elements,
            " intermediate values, more than can be had: give it shorter sequences or fewer rows at a time");
    memory_.resize(1, static_cast<int>(elements), device);
    next_ = memory_.data();
  }
  /// All of it; asked for before threads share it, for it marks the tensor as written.
  S* begin() { return memory_.data(); }
  S* take(long elements) {
    S* here = next_;
    next_ += elements;
    return here;
  }

 private:
  Tensor<S> memory_;
  S* next_;
};

template <class F>
inline constexpr int panel_columns = tile_vectors* lanes<F>;

/// Rows of factors in a panel: 32 KiB of them at most, or 16 of each of three parts.
template <class F>
inline constexpr int panel_depth = std::is_same_v<F, Split> ? 64 : std::min<int>(256, 32768 / (panel_columns<F> * static_cast<int>(sizeof(F))));

/// How the A of products of F is laid out: the matrix unit reads rows alone.
template <Operand A, class F>
inline constexpr Operand as_packed = uses_tiles<F> ? Operand::plain : A;

/// The first `count` columns' factors from a row and, in a pair, the next; `rows` is how many there are.
template <class F, class S = SumOf<F>>
[[gnu::always_inline]] inline Vector<F> column_factors(const S* row, [[maybe_unused]] int stride, int rows, auto count) {
  if constexpr (steps<F> == 1)
    return load_first(row, count);
  else
    return rows <= 0 ? Vector<F>{} : interleave<F>(load_first(row, count), rows > 1 ? load_first(row + stride, count) : Vector<S>{});
}

/// panel [factors(depth), columns'] = B [depth, columns], columns' = columns padded with zeros to whole vectors.
template <class F, class S = SumOf<F>>
void pack_panel(ConstMatrix<S> b, int depth, int columns, F* panel) {
  const int padded = round_up<S>(columns), end = factors<F>(depth) * steps<F>;
  for (int k = 0; k < end; k += steps<F>, panel += padded) {
    const S* from = b.data + static_cast<long>(k) * b.stride;
    by_vector<S>(columns, [&](long c, auto n) {
      // Rows lie far apart, and a backward pass reads them for the first time since forward.
      for (int i = 0; i < steps<F>; ++i) __builtin_prefetch(from + (8L + i) * b.stride + c);
      store(panel + c, column_factors<F>(from + c, b.stride, depth - k, n));
    });
  }
}

/// The same panel from B^T [columns, depth]: square blocks of vectors are transposed in registers.
template <class F, class S = SumOf<F>>
void pack_panel_transposed(ConstMatrix<S> b, int depth, int columns, F* panel) {
  const int padded = round_up<S>(columns), end = factors<F>(depth);
  for (int c = 0; c < columns; c += lanes<S>) {
    const int rows = std::min(lanes<S>, columns - c);
    for (int k = 0; k < end; k += lanes<S>) {
      Square<F> square;  // only constants index it, so that it is in registers
      const S* from = b.data + static_cast<long>(c) * b.stride + k * steps<F>;
      const int count = depth - k * steps<F>, kept = end - k;
#pragma GCC unroll 16
      for (int r = 0; r < lanes<S>; ++r)
        square.row[r] = load_factors<F>(r < rows ? from + static_cast<long>(r) * b.stride : from, r < rows ? count : 0);
      transpose<F>(square);
#pragma GCC unroll 16
      for (int i = 0; i < lanes<S>; ++i)
        if (i < kept) store(panel + (k + i) * padded + c, square.row[i]);
    }
  }
}

/// Rows of C whose factors of A^T are laid out together: whole tiles, and whole vectors to copy.
template <class F>
inline constexpr int tile_group = 3 * lanes<F>;

/// to [rows / tile_group, factors(depth), tile_group] = A^T [depth, rows]: what one tile reads lies close together.
template <class F, class S = SumOf<F>>
void pack_tiles(ConstMatrix<S> a, int depth, int rows, F* to) {
  constexpr int group = tile_group<F>;
  static_assert(group % tile_rows == 0);
  for (int first = 0; first < rows; first += group) {
    const int count = std::min(group, rows - first);
    for (int k = 0; k < depth; k += steps<F>, to += group) {
      const S* from = a.data + static_cast<long>(k) * a.stride + first;
      if (count == group)
#pragma GCC unroll 3
        for (int c = 0; c < group; c += lanes<S>) {
          const std::integral_constant<int, lanes<S>> all;
          store(to + c, column_factors<F>(from + c, a.stride, depth - k, all));
        }
      else
        by_vector<S>(count, [&](long c, auto n) { store(to + c, column_factors<F>(from + c, a.stride, depth - k, n)); });
    }
  }
}

/// Zeros behind the factors of `depth` rows [factors(depth), width] that were made one by one, where products read more of them.
template <class F>
void pad_factors(F* to, int depth, int width) {
  std::fill(to + static_cast<long>(least_factors<F>(depth)) * width, to + static_cast<long>(factors<F>(depth)) * width, F{});
}

/// to [columns, rows] = from [rows, columns], rows `stride` apart; whole vectors of both.
template <class F>
void transpose_factors(const F* from, int stride, int rows, int columns, F* to) {
  for (int c = 0; c < columns; c += lanes<F>)
    for (int r = 0; r < rows; r += lanes<F>) {
      Square<F> square;
#pragma GCC unroll 16
      for (int i = 0; i < lanes<F>; ++i) square.row[i] = load(from + static_cast<long>(r + i) * stride + c);
      transpose<F>(square);
#pragma GCC unroll 16
      for (int i = 0; i < lanes<F>; ++i) store(to + static_cast<long>(c + i) * rows + r, square.row[i]);
    }
}

/// to [rows, factors(depth)] = A^T [depth, rows]: the same for the matrix unit.
template <class F, class S = SumOf<F>>
void pack_transposed_rows(ConstMatrix<S> a, int depth, int rows, F* to) {
  const int end = factors<F>(depth);
  for (int k = 0; k < end; k += lanes<F>) {
    for (int first = 0; first < rows; first += lanes<S>) {
      const int count = std::min(lanes<S>, rows - first);
      Square<F> square;
      const int left = depth - k * steps<F>;
      const S* const from = a.data + static_cast<long>(k) * steps<F> * a.stride + first;
      const auto load_all = [&](auto n) {
#pragma GCC unroll 16
        for (int i = 0; i < lanes<F>; ++i)
          square.row[i] = column_factors<F>(from + static_cast<long>(i) * steps<F> * a.stride, a.stride, left - i * steps<F>, n);
      };
      if (count == lanes<S>)
        load_all(std::integral_constant<int, lanes<S>>());
      else
        load_all(count);
      transpose<F>(square);
#pragma GCC unroll 16
      for (int i = 0; i < lanes<F>; ++i)
        if (i < count) store(to + static_cast<long>(first + i) * end + k, square.row[i]);
    }
  }
}

/// A^T [depth, rows] as products read it.
template <class F>
long room_of_transposed(int rows, int depth) {
  constexpr int group = uses_tiles<F> ? 1 : tile_group<F>;
  return static_cast<long>(factors<F>(depth)) * ((rows + group - 1) / group * group);
}
template <class F, class S = SumOf<F>>
void pack_transposed(ConstMatrix<S> a, int depth, int rows, F* to) {
  if constexpr (uses_tiles<F>)
    pack_transposed_rows<F>(a, depth, rows, to);
  else
    pack_tiles<F>(a, depth, rows, to);
}

/// to [rows, factors(depth)] = A [rows, depth]
template <class F, class S = SumOf<F>>
void pack_rows(ConstMatrix<S> a, int depth, int rows, F* to) {
  const int end = factors<F>(depth);
  for (int r = 0; r < rows; ++r, to += end)
    by_vector<S>(end, [&](long k, auto n) {
      store_first(to + k, load_factors<F>(a.data + static_cast<long>(r) * a.stride + k * steps<F>, depth - static_cast<int>(k) * steps<F>), n);
    });
}

/// Rows of A [rows, depth] as factors: where they lie, or made in so much room.
template <class F>
long room_of_rows(int rows, int depth) {
  return steps<F> == 1 ? 0 : static_cast<long>(rows) * padded_factors<F>(depth);
}
template <class F, class S = SumOf<F>>
ConstMatrix<F> factor_rows(ConstMatrix<S> a, int depth, int rows, [[maybe_unused]] F* room) {
  if constexpr (steps<F> == 1) {
    return a;
  } else {
    pack_rows<F>(a, depth, rows, room);
    return {room, factors<F>(depth)};
  }
}

/// Whole vectors of columns, by whatever is fastest.
template <Operand A, class F, class S = SumOf<F>>
[[gnu::always_inline]] inline void multiply_block(int m, int n, int k, const F* a, int lda, const F* b, int ldb, S* c, int ldc, Store how, const S* start) {
  if constexpr (A == Operand::plain)
    block_product(m, n, k, a, lda, b, ldb, c, ldc, how, start);
  else
    small_product<A>(m, n, k, a, lda, b, ldb, c, ldc, how, start);
}

/// The columns of C that one panel gives; a transposed A comes in groups of tiles, lda rows in each. Where the columns do not
/// fill whole vectors, tiles go through a buffer.
template <Operand A, class F, class S = SumOf<F>>
void multiply_panel(int m, int columns, int depth, const F* a, int lda, const F* panel, int ldb, Matrix<S> c, Store how,
                    const S* start) {
  const int padded = round_up<S>(columns);
  const bool whole = padded == columns;
  if (whole && A == Operand::plain)
    return multiply_block<A>(m, columns, depth, a, lda, panel, ldb, c.data, c.stride, how, start);
  constexpr int at_once = uses_tiles<F> ? 32 : tile_rows;
  alignas(64) S buffer[at_once * panel_columns<F>];
  for (int i = 0; i < m; i += at_once) {
    const int count = std::min(at_once, m - i);
    const F* rows = A == Operand::plain ? a + static_cast<long>(i) * lda : a + static_cast<long>(i / lda) * lda * depth + i % lda;
    S* to = c.data + static_cast<long>(i) * c.stride;
    if (whole) {
      multiply_block<A>(count, columns, depth, rows, lda, panel, ldb, to, c.stride, how, start);
    } else {
      const auto each_part = [&](auto&& f) {
        for (int r = 0; r < count; ++r)
          by_vector<S>(columns, [&](long j, auto n) { f(to + static_cast<long>(r) * c.stride + j, buffer + r * padded + j, n); });
      };
      // The matrix unit adds to what is there from the first step of k on, so that it does not matter how k is cut.
      const bool adds_in_buffer = uses_tiles<F> && how == Store::add;
      if (adds_in_buffer) each_part([](const S* from, S* here, auto n) { store(here, load_first(from, n)); });
      multiply_block<A>(count, padded, depth, rows, lda, panel, ldb, buffer, padded, adds_in_buffer ? Store::add : Store::assign, start);
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

/// One panel of op(B): rows k .. k+depth-1, columns j .. j+columns-1.
template <Operand B, class F, class S = SumOf<F>>
void pack_part(ConstMatrix<S> b, int k, int depth, int j, int columns, F* panel) {
  if constexpr (B == Operand::plain)
    pack_panel<F>({b.data + static_cast<long>(k) * b.stride + j, b.stride}, depth, columns, panel);
  else
    pack_panel_transposed<F>({b.data + static_cast<long>(j) * b.stride + k, b.stride}, depth, columns, panel);
}

}  // namespace detail

/// The factors of a whole op(B) [k, n] laid out as products read it: block after block of k, panel after panel in each.
template <class F>
long packed_size(int n, int k) {
  return static_cast<long>(round_up<F>(n)) * factors<F>(k);
}

template <Operand B, class F>
void pack(int n, int k, ConstMatrix<SumOf<F>> b, F* packed) {
  constexpr int width = detail::panel_columns<F>, depth = detail::panel_depth<F> * steps<F>;
  for (int k0 = 0; k0 < k; k0 += depth)
    for (int j = 0; j < n; j += width) {
      const int now = std::min(depth, k - k0), columns = std::min(width, n - j);
      detail::pack_part<B, F>(b, k0, now, j, columns, packed);
      packed += static_cast<long>(factors<F>(now)) * round_up<F>(columns);
    }
}

namespace detail {

/// Rows of A that the matrix unit goes through all panels with: they stay in the L1 cache, and B comes from the L2 cache for each of them. (The
/// other way round, as vectors have it, twice as much would come from there.)
inline constexpr int tile_product_rows = 32;

/// Memory that a thread needs for its part of a product.
template <Operand A, Operand B, class F>
struct ProductScratch {
  static constexpr bool a_in_place = A == Operand::plain && steps<F> == 1;  // A is read where it lies
  bool b_in_place;
  long panel, a;

  /// `columns`: the most that a part has.
  ProductScratch(int m, int n, int k, int columns, int b_stride, bool packed) {
    if constexpr (uses_tiles<F>) {
      const int depth = std::min(panel_depth<F> * steps<F>, k);
      b_in_place = false;
      panel = packed ? 0 : packed_size<F>(columns, depth);
      a = static_cast<long>(factors<F>(depth)) * std::min(m, tile_product_rows);
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
  constexpr int width = panel_columns<F>, depth = panel_depth<F> * steps<F>;
  F* const made = scratch;
  F* const packed_a = scratch + need.panel;
  alignas(64) S start[width] = {};
  for (int k0 = 0; k0 < k; k0 += depth) {
    const int now = std::min(depth, k - k0), deep = factors<F>(now);
    const F* panels = packed ? packed + static_cast<long>(k0 / steps<F>) * round_up<F>(n) + static_cast<long>(deep) * first : made;
    if (!packed)
      for (int j = first; j < last; j += width)
        pack_part<B, F>(b, k0, now, j, std::min(width, last - j), made + static_cast<long>(deep) * (j - first));
    for (int i = 0; i < m; i += tile_product_rows) {
      const int rows = std::min(tile_product_rows, m - i);
      if constexpr (A == Operand::transposed)
        pack_transposed<F>({a.data + static_cast<long>(k0) * a.stride + i, a.stride}, now, rows, packed_a);
      else
        pack_rows<F>({a.data + static_cast<long>(i) * a.stride + k0, a.stride}, now, rows, packed_a);
      for (int j = first; j < last; j += width) {
        const int columns = std::min(width, last - j);
        const S* begin = bias && k0 == 0 ? start : nullptr;
        if (begin) std::copy_n(bias + j, columns, start);
        const Matrix<S> to{c.data + static_cast<long>(i) * c.stride + j, c.stride};
        multiply_panel<Operand::plain, F>(rows, columns, deep, packed_a, deep, panels + static_cast<long>(deep) * (j - first), round_up<F>(columns), to,
                                          k0 == 0 ? how : Store::add, begin);
      }
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
        multiply_panel<A, F>(m, columns, deep, a.data + k0, a.stride, panel, ldb, to, store_as, begin);
      else
        multiply_panel<A, F>(m, columns, deep, packed_a, A == Operand::plain ? deep : tile_group<F>, panel, ldb, to, store_as, begin);
    }
    if (packed) packed += static_cast<long>(deep) * round_up<F>(n);
  }
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
  if (m == 0 || n == 0) return;  // such a matrix may have no memory to point to
  if (k == 0) return detail::add_nothing(m, n, bias, c, how);
  using S = SumOf<F>;
  constexpr int width = detail::panel_columns<F>;
  const int panels = (n + width - 1) / width;
  const bool by_rows = A == Operand::plain && packed && row_parts(device, m) > 1;
  const bool by_panels = !by_rows && device.threads && static_cast<long>(m) * n * k >= detail::shared_product;
  const int parts = by_rows ? row_parts(device, m) : by_panels ? std::min(device.threads->count(), panels) : 1;
  const int most_columns = by_rows ? n : (panels + parts - 1) / parts * width;
  const detail::ProductScratch<A, B, F> need(by_rows ? m / parts + 1 : m, n, k, most_columns, b.stride, packed);
  detail::Scratch<F> memory(parts * need.size(), device);
  F* const scratch = memory.begin();
  const auto columns = [](auto&&... arguments) {
    if constexpr (uses_tiles<F>)
      detail::tile_product_columns<A, B, F>(arguments...);
    else
      detail::product_columns<A, B, F>(arguments...);
  };
  const auto part = [&](int i) {
    const auto edge = [&](int whole, int p) { return static_cast<int>(static_cast<long>(whole) * p / parts); };
    F* const own = scratch + i * need.size();
    const int row = by_rows ? edge(m, i) : 0, rows = by_rows ? edge(m, i + 1) - row : m;
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

/// The forms in which products of P read a weight [outputs, inputs], kept beside it.
template <class P, class S>
void lay_out(Tensor<S>& weight) {
  using F = Factors<P>;
  weight.lay_out(&form_of<F>, [](const Tensor<S>& w, Layouts& to) {
    const ConstMatrix<S> elements{w.data(), w.cols()};
    pack<Operand::transposed>(w.rows(), w.cols(), elements, to.transposed.resize<F>(packed_size<F>(w.rows(), w.cols())));
    pack<Operand::plain>(w.cols(), w.rows(), elements, to.plain.resize<F>(packed_size<F>(w.cols(), w.rows())));
  });
}

/// Those forms of a weight; null, where it is not laid out for products of P.
template <class P, class S>
const Layouts* layouts_of(const Tensor<S>& weight) {
  return weight.layouts(&form_of<Factors<P>>);
}

/// c (+)= op(a) op(b) + bias with products of P, of whole tensors. Scratch comes from where a lives, which is of a lane: c may be a
/// gradient, which has no memory of its own to keep any.
template <Operand A, Operand B, class P, class S>
void product(const Tensor<S>& a, const Tensor<S>& b, const S* bias, Tensor<S>& c, Store how) {
  using F = Factors<P>;
  const Layouts* layouts = layouts_of<P>(b);
  const F* packed = !layouts ? nullptr : B == Operand::plain ? layouts->plain.as<F>() : layouts->transposed.as<F>();
  product<A, B, F>(c.rows(), c.cols(), A == Operand::plain ? a.cols() : a.rows(), {a.data(), a.cols()}, {b.data(), b.cols()}, packed,
                   bias, {c.data(), c.cols()}, how, a.device());
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
