// How the operands of products are laid out as products read them: panels of B, rows and tiles of A, each of factors (factors.hpp), copied, transposed,
// or rounded as they need it. (Floats as digits: digits.hpp.)
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

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

/// Rows of factors in a panel: 32 KiB of them at most; of digits steps of k, the most that have one scale.
template <class F>
inline constexpr int panel_depth = is_digits<F> ? digit_block : std::min<int>(256, 32768 / (panel_columns<F> * static_cast<int>(sizeof(F))));

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

/// to [columns, rows] = from [rows, columns], rows `stride` apart, those of `to` `to_stride`; whole vectors of both.
template <class F>
void transpose_factors(const F* from, int stride, int rows, int columns, F* to, int to_stride) {
  for (int c = 0; c < columns; c += lanes<F>)
    for (int r = 0; r < rows; r += lanes<F>) {
      Square<F> square;
#pragma GCC unroll 16
      for (int i = 0; i < lanes<F>; ++i) square.row[i] = load(from + static_cast<long>(r + i) * stride + c);
      transpose<F>(square);
#pragma GCC unroll 16
      for (int i = 0; i < lanes<F>; ++i) store(to + static_cast<long>(c + i) * to_stride + r, square.row[i]);
    }
}

/// to [rows, factors(depth)] = A^T [depth, rows]: the same for the matrix unit; of it a vector of factors from `begin` on, of as many
/// rows from `first` on.
template <class F, class S = SumOf<F>>
[[gnu::always_inline]] inline void pack_transposed_square(ConstMatrix<S> a, int depth, int rows, int begin, int first, F* to) {
  const int end = factors<F>(depth), count = std::min(lanes<S>, rows - first);
  const int k = begin, left = depth - k * steps<F>;
  const S* const from = a.data + static_cast<long>(k) * steps<F> * a.stride + first;
  Square<F> square;
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
template <class F, class S = SumOf<F>>
void pack_transposed_rows(ConstMatrix<S> a, int depth, int rows, F* to) {
  for (int k = 0; k < factors<F>(depth); k += lanes<F>)
    for (int first = 0; first < rows; first += lanes<S>) pack_transposed_square<F>(a, depth, rows, k, first, to);
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

/// to [factors(depth)] = from [depth]
template <class F, class S = SumOf<F>>
[[gnu::always_inline]] inline void pack_row(const S* from, int depth, F* to) {
  by_vector<S>(factors<F>(depth), [&](long k, auto n) {
    store_first(to + k, load_factors<F>(from + k * steps<F>, depth - static_cast<int>(k) * steps<F>), n);
  });
}

/// to [rows, factors(depth)] = A [rows, depth]
template <class F, class S = SumOf<F>>
void pack_rows(ConstMatrix<S> a, int depth, int rows, F* to) {
  for (int r = 0; r < rows; ++r, to += factors<F>(depth)) pack_row<F>(a.row(r), depth, to);
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
#ifdef RELAY_CPU_AMX
  if constexpr (is_digits<F>) return digit_packed_lines(n, k);
#endif
  return static_cast<long>(round_up<F>(n)) * factors<F>(k);
}

template <Operand B, class F>
void pack(int n, int k, ConstMatrix<SumOf<F>> b, F* packed) {
#ifdef RELAY_CPU_AMX
  if constexpr (is_digits<F>) return detail::pack_digits<B>(n, k, b, packed);
#endif
  if constexpr (!is_digits<F>) {
    constexpr int width = detail::panel_columns<F>, depth = detail::panel_depth<F> * steps<F>;
    for (int k0 = 0; k0 < k; k0 += depth)
      for (int j = 0; j < n; j += width) {
        const int now = std::min(depth, k - k0), columns = std::min(width, n - j);
        detail::pack_part<B, F>(b, k0, now, j, columns, packed);
        packed += static_cast<long>(factors<F>(now)) * round_up<F>(columns);
      }
  }
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
