// A single row of bf16 times a matrix by vectors, with the bits that the matrix unit gives it: what generating one text takes, where reading the matrix
// is all that matters. The unit adds up the even and the odd of 32 steps of k apart, their sums to each other, and those to C; numbers below 2^-126 are zeros
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
  FlushSubnormals() : before_(_mm_getcsr()) {
    constexpr unsigned to_nearest_without_exceptions = 0x1f80, flush_and_read_as_zeros = 0x8040;  // as the unit, whatever the caller has set
    _mm_setcsr(to_nearest_without_exceptions | flush_and_read_as_zeros);
  }
  ~FlushSubnormals() { _mm_setcsr(before_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  unsigned before_;
};

/// sums[v] += x B over `deep` factors, whose rows are V vectors; x holds two floats for each. (Not inlined: nothing of it may be computed before
/// FlushSubnormals.)
template <int V>
[[gnu::noinline]] void add_row_product(int deep, const float* x, const Pair* b, Vector<float>* sums) {
  for (int f = 0; f < deep; f += tile_side) {
    Vector<float> even[V] = {}, odd[V] = {};
    for (int i = 0; i < tile_side; ++i, x += 2)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v, b += lanes<Pair>) {
        __builtin_prefetch(b + 512);
        const Vector<std::int32_t> pairs = __builtin_bit_cast(Vector<std::int32_t>, load(b));
        even[v] += x[0] * __builtin_bit_cast(Vector<float>, pairs << 16);
        odd[v] += x[1] * __builtin_bit_cast(Vector<float>, pairs & ~0xffff);
      }
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[v] += even[v] + odd[v];
  }
}

/// c, columns first .. last-1 of a [1, k] B [k, n] + bias; `first` is a multiple of a panel's width. There is room for 3 factors(k).
inline void single_row_product(int n, int k, int first, int last, const float* a, const Pair* packed, const float* bias, float* c, Pair* room) {
  constexpr int width = panel_columns<Pair>, depth = panel_depth<Pair> * steps<Pair>;
  const int end = factors<Pair>(k);
  pack_rows<Pair>({a, k}, k, 1, room);
  float* const x = reinterpret_cast<float*>(room + end);
  for (int f = 0; f < end; f += lanes<Pair>) {
    Vector<float> v[2];
    apart(load(room + f), v);
    store(x + 2 * f, v[0]);
    store(x + 2 * f + lanes<float>, v[1]);
  }
  const FlushSubnormals flush;
  for (int j = first; j < last; j += width) {
    const int columns = std::min(width, last - j), vectors = round_up<float>(columns) / lanes<float>;
    Vector<float> sums[tile_vectors] = {};
    for (int v = 0; bias && v < vectors; ++v) sums[v] = load_first(bias + j + v * lanes<float>, std::min(lanes<float>, columns - v * lanes<float>));
    for (int k0 = 0; k0 < k; k0 += depth) {
      const int deep = factors<Pair>(std::min(depth, k - k0));
      const Pair* const panel = packed + static_cast<long>(k0 / steps<Pair>) * round_up<Pair>(n) + static_cast<long>(deep) * j;
      switch (vectors) {
        case 1: add_row_product<1>(deep, x + k0, panel, sums); break;
        case 2: add_row_product<2>(deep, x + k0, panel, sums); break;
        case 3: add_row_product<3>(deep, x + k0, panel, sums); break;
        default: add_row_product<tile_vectors>(deep, x + k0, panel, sums);
      }
    }
    by_vector<float>(columns, [&](long v, auto count) { store_first(c + j + v, sums[v / lanes<float>], count); });
  }
}

}  // namespace detail

#endif

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
