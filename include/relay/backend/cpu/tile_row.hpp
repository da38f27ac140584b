// A single row times a matrix by vectors, with the bits that the matrix unit gives it: what generating one text takes, where reading the matrix is all
// that matters. The unit adds up the even and the odd of 32 steps of k apart, their sums to each other, and those to C; numbers below 2^-126 are zeros
// (tile_product.hpp has the source).
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

#ifdef RELAY_CPU_AMX

namespace detail {

/// Subnormal numbers are zeros to vectors of this thread, as to the matrix unit, while it lives.
class FlushSubnormals {
 public:
  FlushSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushSubnormals() { _mm_setcsr(before_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  unsigned before_;
};

/// How a matrix B [k, n] lies for single rows: pairs as for other rows; floats that are to be split as columns of one vector, [n / 16, k, 16], since they
/// are read in less time than their parts.
template <class F>
struct RowOperand {
  static constexpr int vectors = tile_vectors, parts = 1;
  using Element = F;
};
template <>
struct RowOperand<Split> {
  static constexpr int vectors = 1, parts = Split::parts;
  using Element = float;
};

inline constexpr int unit_steps = 32;

/// Two rows of B, a vector of each, as floats, part by part.
[[gnu::always_inline]] inline void even_and_odd(const Pair* from, int, Vector<float> (&even)[1], Vector<float> (&odd)[1]) {
  const Vector<std::int32_t> pairs = __builtin_bit_cast(Vector<std::int32_t>, load(from));
  even[0] = __builtin_bit_cast(Vector<float>, pairs << 16);
  odd[0] = __builtin_bit_cast(Vector<float>, pairs & ~0xffff);
}
[[gnu::always_inline]] inline void even_and_odd(const float* from, int rows, Vector<float> (&even)[Split::parts], Vector<float> (&odd)[Split::parts]) {
  const Vector<Split> both = split(load(from), rows > 1 ? load(from + lanes<float>) : Vector<float>{});
#pragma GCC unroll 3
  for (int p = 0; p < Split::parts; ++p) {
    const Vector<std::int32_t> pairs = __builtin_bit_cast(Vector<std::int32_t>, both.part[p]);
    even[p] = __builtin_bit_cast(Vector<float>, pairs << 16);
    odd[p] = __builtin_bit_cast(Vector<float>, pairs & ~0xffff);
  }
}

/// sums[v] += x B over `deep` steps of k, where B's rows of two steps lie V vectors apart. x holds its parts one after the other, `x_stride` apart.
template <class F, int V>
[[gnu::noinline]] void add_row_product(int deep, const float* x, int x_stride, const typename RowOperand<F>::Element* b, Vector<float>* sums) {
  constexpr int parts = RowOperand<F>::parts, count = static_cast<int>(std::size(terms<F>));
  constexpr int pair_elements = (std::is_same_v<F, Split> ? 2 : 1) * V * lanes<float>;
  for (int k0 = 0; k0 < deep; k0 += unit_steps) {
    Vector<float> even[V][count] = {}, odd[V][count] = {};
    const int end = std::min(unit_steps, deep - k0);
    for (int k = 0; k < end; k += 2, b += pair_elements, x += 2) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        __builtin_prefetch(b + 1024 + v * lanes<float>);
        if constexpr (std::is_same_v<F, Split>) __builtin_prefetch(b + 1024 + lanes<float>);
        Vector<float> b_even[parts], b_odd[parts];
        even_and_odd(b + v * lanes<float>, end - k, b_even, b_odd);
#pragma GCC unroll 6
        for (int t = 0; t < count; ++t) {
          even[v][t] += x[terms<F>[t].a * x_stride] * b_even[terms<F>[t].b];
          odd[v][t] += x[terms<F>[t].a * x_stride + 1] * b_odd[terms<F>[t].b];
        }
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v)
#pragma GCC unroll 6
      for (int t = 0; t < count; ++t) sums[v] += even[v][t] + odd[v][t];
  }
}

/// Room for the parts of a row of k as floats, and for its factors, in F.
template <class F>
long room_of_row(int k) {
  return static_cast<long>(factors<F>(k)) * (1 + steps<F>);
}

/// c, columns first .. last-1 of a [1, k] B [k, n] + bias; `first` is a multiple of a panel's width.
template <class F>
void row_product_as_tiles(int n, int k, int first, int last, const float* a, const typename RowOperand<F>::Element* b, const float* bias, float* c, F* room) {
  constexpr int parts = RowOperand<F>::parts, vectors = RowOperand<F>::vectors, width = vectors * lanes<float>;
  const int deep = factors<F>(k), stride = deep * steps<F>;
  pack_rows<F>({a, k}, k, 1, room);
  float* const x = reinterpret_cast<float*>(room + deep);
  for (int i = 0; i < deep; i += lanes<F>)
    for (int p = 0; p < parts; ++p) {
      Vector<float> v[2];
      apart(load(reinterpret_cast<const Pair*>(room + i) + p * lanes<Pair>), v);
      store(x + p * stride + i * steps<F>, v[0]);
      store(x + p * stride + i * steps<F> + lanes<float>, v[1]);
    }
  const FlushSubnormals flush;
  for (int j = first; j < last; j += width) {
    const int columns = std::min(width, last - j), padded = round_up<float>(columns);
    Vector<float> sums[vectors] = {};
    for (int v = 0; bias && v < padded / lanes<float>; ++v) sums[v] = load_first(bias + j + v * lanes<float>, std::min(lanes<float>, columns - v * lanes<float>));
    if constexpr (std::is_same_v<F, Split>) {
      add_row_product<F, 1>(k, x, stride, b + static_cast<long>(j) * k, sums);
    } else {
      for (int k0 = 0; k0 < k; k0 += panel_depth<F> * steps<F>) {
        const int now = std::min(panel_depth<F> * steps<F>, k - k0);
        const F* const panel = b + static_cast<long>(k0 / steps<F>) * round_up<F>(n) + static_cast<long>(factors<F>(now)) * j;
        switch (padded / lanes<float>) {
          case 1: add_row_product<F, 1>(now, x + k0, stride, panel, sums); break;
          case 2: add_row_product<F, 2>(now, x + k0, stride, panel, sums); break;
          case 3: add_row_product<F, 3>(now, x + k0, stride, panel, sums); break;
          default: add_row_product<F, 4>(now, x + k0, stride, panel, sums);
        }
      }
    }
    by_vector<float>(columns, [&](long v, auto count) { store_first(c + j + v, sums[v / lanes<float>], count); });
  }
}

}  // namespace detail

#endif

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
