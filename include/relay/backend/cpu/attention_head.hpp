// What attention reads of one sequence and one head: its elements as operands of products, what a query sees, and probabilities.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

namespace detail {

/// A head's elements [rows, width], in rows `stride` apart, as products read them: where they lie, if a row is one vector; or else
/// copied to `room`, padded with zeros to whole vectors. (Longer rows, of many columns apart, would drive each other from the L1 cache.)
template <class S>
ConstMatrix<S> gathered(const S* from, int stride, int rows, int width, S* room) {
  if (width == lanes<S>) return {from, stride};
  const int padded = round_up<S>(width);
  for (int r = 0; r < rows; ++r)
    by_vector<S>(width, [&](long c, auto n) { store(room + r * padded + c, load_first(from + static_cast<long>(r) * stride + c, n)); });
  return {room, padded};
}

/// A head's elements as the A of a product, [rows, factors(width)], and as a B that is summed over rows, [factors(rows), width'].
template <class F>
long room_of_head_rows(long rows, int width) {
  return rows * padded_factors<F>(width);
}
template <class F, class S = SumOf<F>>
ConstMatrix<F> head_rows(const S* from, int stride, int rows, int width, F* room) {
  if constexpr (steps<F> == 1)
    return gathered(from, stride, rows, width, room);
  else
    return factor_rows<F>(ConstMatrix<S>{from, stride}, width, rows, room);
}
template <class F>
long room_of_head_columns(int rows, int width) {
  return static_cast<long>(factors<F>(rows)) * round_up<F>(width);
}
template <class F, class S = SumOf<F>>
ConstMatrix<F> head_columns(const S* from, int stride, int rows, int width, F* room) {
  if constexpr (steps<F> == 1) {
    return gathered(from, stride, rows, width, room);
  } else {
    pack_panel<F>(ConstMatrix<S>{from, stride}, rows, width, room);
    return {room, round_up<F>(width)};
  }
}

/// Both; of single factors they are the same.
template <class F>
struct HeadFactors {
  ConstMatrix<F> rows, columns;
};
template <class F>
long room_of_head(int rows, int width) {
  return room_of_head_rows<F>(rows, width) + (steps<F> == 1 ? 0 : room_of_head_columns<F>(rows, width));
}
template <class F, class S = SumOf<F>>
HeadFactors<F> head_factors(const S* from, int stride, int rows, int width, F* room) {
  const ConstMatrix<F> as_rows = head_rows(from, stride, rows, width, room);
  if constexpr (steps<F> == 1)
    return {as_rows, as_rows};
  else
    return {as_rows, head_columns(from, stride, rows, width, room + room_of_head_rows<F>(rows, width))};
}

/// A head's elements [rows, width] as a B that is summed over columns: [factors(width), rows'].
template <class F>
long room_of_transposed_head(int rows, int width) {
  return static_cast<long>(factors<F>(width)) * round_up<F>(rows);
}
template <class F, class S = SumOf<F>>
void transpose_head(const S* from, int stride, int rows, int width, F* to) {
  pack_panel_transposed<F>(ConstMatrix<S>{from, stride}, width, rows, to);
}

/// Keys begin .. end-1 of a sequence.
struct Keys {
  int begin, end;
};

/// What queries first .. first+count-1 of a sequence of n see, taken together; it begins at a whole block of queries.
inline Keys visible(Mask mask, int first, int count, int n) {
  return {mask == Mask::anticausal ? first : 0, mask == Mask::causal ? first + count : n};
}

/// Elements j .. of a row of scores, `rest` in the place of those outside of `keys`. (In registers: a store of one element, read back as
/// part of a vector, would stall.)
template <class S>
[[gnu::always_inline]] inline Vector<S> masked(const Vector<S>& v, Keys keys, int j, S rest) {
  return keys.begin <= j && j + lanes<S> <= keys.end ? v : keep_range(v, keys.begin - j, keys.end - j, rest);
}

/// e^(scale score - shift) for products of F; of bf16 off by 1.1e-4 of itself, and not below 2^-126.
template <class F, class S = SumOf<F>>
[[gnu::always_inline]] inline Vector<S> probability(const Vector<S>& score, S scale, S shift) {
#ifdef RELAY_CPU_BF16
  if constexpr (rounds_factors<F>) {  // 2^t = 2^k 2^(t - k) by a cubic, off by a twentieth of what rounding takes
    constexpr S log2_e = 1.44269504088896341f;
    const Vector<S> t = larger(broadcast(-126.0f), score * (scale * log2_e) - shift * log2_e);
    const Vector<S> k = _mm512_maskz_roundscale_ps(0xffff, t, 0), r = t - k;
    const Vector<S> power = ((r * 5.500905781e-02f + 2.422109747e-01f) * r + 6.932828980e-01f) * r + 1.0f;
    return _mm512_maskz_scalef_ps(0xffff, power, k);
  }
#endif
  return exp(score * scale - shift);
}

template <class S>
struct Exponentials {
  S largest, sum;
};

/// to = e^(scale score - largest) of the visible keys in a row of scores, zeros elsewhere, as factors, which may begin where the scores do.
template <class F, class S = SumOf<F>>
Exponentials<S> exponentials(const S* row, Keys keys, int padded, S scale, F* to) {
  constexpr S least = -std::numeric_limits<S>::infinity();
  Vector<S> most = broadcast(least);
  for (int j = 0; j < padded; j += lanes<S>) {
    const Vector<S> v = masked(load(row + j), keys, j, least);
    most = v > most ? v : most;
  }
  const S top = largest<S>(most) * scale;
  Vector<S> total{};
  for (int j = 0; j < padded; j += steps<F> * lanes<S>) {
    Vector<S> p[steps<F>] = {};
#pragma GCC unroll 2
    for (int v = 0; v < steps<F>; ++v)
      if (const int at = j + v * lanes<S>; v == 0 || at < padded) {
        p[v] = masked<S>(probability<F>(load(row + at), scale, top), keys, at, 0);
        total += p[v];
      }
    store(to + j / steps<F>, along_row<F>(p));
  }
  return {top, sum<S>(total)};
}

}  // namespace detail

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
