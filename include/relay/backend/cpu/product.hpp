// C (+)= op(A) op(B) for matrices of any size: the products of linear layers, forward and backward.
//
//   y = x W^T     dx = dy W     dW += dy^T x
//
// B is cut into panels of a tile's width and of a depth that fits the L1 cache, each copied together once (transposed, if need
// be, and padded to whole vectors) and then read by every row of A. A is read where it lies, or, transposed, copied tile by
// tile. Goto & van de Geijn 2008 is the source of the scheme. As in small_product.hpp, an element is summed over k in
// an order that depends on k alone: a row of C has the same bits whatever other rows there are.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

/// Rows of A, B and C are `stride` elements apart.
template <class S>
struct ConstMatrix {
  const S* data;
  int stride;
};
template <class S>
struct Matrix {
  S* data;
  int stride;
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
  S* take(long elements) {
    S* here = next_;
    next_ += elements;
    return here;
  }

 private:
  Tensor<S> memory_;
  S* next_;
};

template <class S>
inline constexpr int panel_columns = tile_vectors* lanes<S>;

/// Rows of B in a panel: 32 KiB of them at most.
template <class S>
inline constexpr int panel_depth = std::min<int>(256, 32768 / (panel_columns<S> * static_cast<int>(sizeof(S))));

/// panel [depth, columns' ] = B [depth, columns], columns' = columns padded with zeros to whole vectors.
template <class S>
void pack_panel(ConstMatrix<S> b, int depth, int columns, S* panel) {
  const int whole = columns / lanes<S> * lanes<S>, padded = round_up<S>(columns);
  for (int k = 0; k < depth; ++k) {
    const S* from = b.data + static_cast<long>(k) * b.stride;
    S* to = panel + k * padded;
    for (int c = 0; c < whole; c += lanes<S>) store(to + c, load(from + c));
    if (whole < columns) store(to + whole, load_first(from + whole, columns - whole));
  }
}

/// The same panel from B^T [columns, depth]: square blocks of vectors are transposed in registers.
template <class S>
void pack_panel_transposed(ConstMatrix<S> b, int depth, int columns, S* panel) {
  const int padded = round_up<S>(columns);
  for (int c = 0; c < columns; c += lanes<S>) {
    const int rows = std::min(lanes<S>, columns - c);
    for (int k = 0; k < depth; k += lanes<S>) {
      const int count = std::min(lanes<S>, depth - k);
      Square<S> square{};
      const S* from = b.data + static_cast<long>(c) * b.stride + k;
      if (count == lanes<S>)
        for (int r = 0; r < rows; ++r) square.row[r] = load(from + static_cast<long>(r) * b.stride);
      else
        for (int r = 0; r < rows; ++r) square.row[r] = load_first(from + static_cast<long>(r) * b.stride, count);
      transpose<S>(square);
      for (int i = 0; i < count; ++i) store(panel + (k + i) * padded + c, square.row[i]);
    }
  }
}

/// to [rows / tile_rows, depth, tile_rows] = A^T [depth, rows]: what one tile reads lies together.
template <class S>
void pack_tiles(ConstMatrix<S> a, int depth, int rows, S* to) {
  for (int first = 0; first < rows; first += tile_rows) {
    const int count = std::min(tile_rows, rows - first);
    const S* from = a.data + first;
    if (count == tile_rows)
      for (int k = 0; k < depth; ++k, from += a.stride, to += tile_rows) std::copy_n(from, tile_rows, to);
    else
      for (int k = 0; k < depth; ++k, from += a.stride, to += tile_rows) std::copy_n(from, count, to);
  }
}

/// The columns of C that one panel gives. Where they do not fill whole vectors, tiles go through a buffer.
template <Operand A, class S>
void multiply_panel(int m, int columns, int depth, const S* a, int lda, const S* panel, Matrix<S> c, Store how,
                    const S* start) {
  const int padded = round_up<S>(columns);
  const bool whole = padded == columns;
  if (whole && A == Operand::plain)
    return small_product<A>(m, columns, depth, a, lda, panel, padded, c.data, c.stride, how, start);
  alignas(64) S buffer[tile_rows * panel_columns<S>];
  for (int i = 0; i < m; i += tile_rows) {
    const int count = std::min(tile_rows, m - i);
    S* to = c.data + static_cast<long>(i) * c.stride;
    if (whole) {
      small_product<A>(count, columns, depth, a, lda, panel, padded, to, c.stride, how, start);
    } else {
      small_product<A>(count, padded, depth, a, lda, panel, padded, buffer, padded, Store::assign, start);
      for (int r = 0; r < count; ++r)
        by_vector<S>(columns, [&](long j, auto n) {
          S* at = to + static_cast<long>(r) * c.stride + j;
          const Vector<S> v = load(buffer + r * padded + j);
          store_first(at, how == Store::add ? load_first(at, n) + v : v, n);
        });
    }
    a += A == Operand::plain ? static_cast<long>(tile_rows) * lda : static_cast<long>(tile_rows) * depth;
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

}  // namespace detail

/// C [m, n] (+)= op(A) [m, k] op(B) [k, n] + bias; a transposed A lies in memory as [k, m], a transposed B as [n, k]. `bias` [n] is
/// added to every row; null: none.
template <Operand A, Operand B, class S>
void product(int m, int n, int k, ConstMatrix<S> a, ConstMatrix<S> b, const S* bias, Matrix<S> c, Store how,
             Device device) {
  constexpr int width = detail::panel_columns<S>, depth = detail::panel_depth<S>;
  if (m == 0 || n == 0) return;  // such a matrix may have no memory to point to
  if (k == 0) return detail::add_nothing(m, n, bias, c, how);
  const int tiles = A == Operand::plain ? 0 : (m + tile_rows - 1) / tile_rows;
  detail::Scratch<S> memory(depth * (width + static_cast<long>(tiles) * tile_rows), device);
  S* panel = memory.take(depth * width);
  S* packed = memory.take(static_cast<long>(depth) * tiles * tile_rows);
  alignas(64) S start[width] = {};  // the panel's part of the bias, padded as the panel is
  for (int k0 = 0; k0 < k; k0 += depth) {
    const int now = std::min(depth, k - k0);
    const Store store_as = k0 == 0 ? how : Store::add;
    if constexpr (A == Operand::transposed)
      detail::pack_tiles<S>({a.data + static_cast<long>(k0) * a.stride, a.stride}, now, m, packed);
    for (int j = 0; j < n; j += width) {
      const int columns = std::min(width, n - j);
      if constexpr (B == Operand::plain)
        detail::pack_panel<S>({b.data + static_cast<long>(k0) * b.stride + j, b.stride}, now, columns, panel);
      else
        detail::pack_panel_transposed<S>({b.data + static_cast<long>(j) * b.stride + k0, b.stride}, now, columns,
                                         panel);
      const Matrix<S> to{c.data + j, c.stride};
      const S* first = bias && k0 == 0 ? start : nullptr;
      if (first) std::copy_n(bias + j, columns, start);
      if constexpr (A == Operand::plain)
        detail::multiply_panel<A>(m, columns, now, a.data + k0, a.stride, panel, to, store_as, first);
      else
        detail::multiply_panel<A>(m, columns, now, packed, tile_rows, panel, to, store_as, first);
    }
  }
}

/// The same of whole tensors.
template <Operand A, Operand B, class S>
void product(const Tensor<S>& a, const Tensor<S>& b, const S* bias, Tensor<S>& c, Store how) {
  product<A, B, S>(c.rows(), c.cols(), A == Operand::plain ? a.cols() : a.rows(), {a.data(), a.cols()}, {b.data(), b.cols()}, bias,
                   {c.data(), c.cols()}, how, c.device());
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
