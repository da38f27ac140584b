// C (+)= A B and C (+)= A^T B for matrices that lie in the L1 cache: the products inside attention, one head at a time, and the
// blocks that larger products are cut into (product.hpp).
//
// A tile of C, six rows by a few vectors, stays in registers while k runs. Every element of C is summed over k in order,
// whatever the sizes, so a result does not depend on how many rows are computed together.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

/// A tile of C: with the vectors of B and a factor of A beside it, as many registers as the instruction set has (32 or 16).
inline constexpr int tile_rows = 6;
inline constexpr int tile_vectors = vector_bytes == 64 ? 4 : 2;

namespace detail {

// The unrolling is asked for, so that the tile is in registers under -O2 as well.
template <int M, int N, Operand A, class F, class S = SumOf<F>>
[[gnu::always_inline]] inline void tile(int k_count, const F* a, int lda, const F* b, int ldb, S* c, int ldc, Store how,
                                        const S* start) {
  Vector<S> sum[M][N];
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) sum[i][j] = start ? load(start + j * lanes<S>) : Vector<S>{};
  if (how == Store::add)  // what will be added to comes closer meanwhile
#pragma GCC unroll 6
    for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) __builtin_prefetch(c + static_cast<long>(i) * ldc + j * lanes<S>, 1);
  for (int k = 0; k < k_count; ++k) {
    Vector<F> row[N];
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) row[j] = load(b + static_cast<long>(k) * ldb + j * lanes<S>);
#pragma GCC unroll 6
    for (int i = 0; i < M; ++i) {
      const F factor = A == Operand::plain ? a[static_cast<long>(i) * lda + k] : a[static_cast<long>(k) * lda + i];
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) add_product(sum[i][j], row[j], factor);
    }
  }
#pragma GCC unroll 6
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      S* to = c + static_cast<long>(i) * ldc + j * lanes<S>;
      store(to, how == Store::add ? load(to) + sum[i][j] : sum[i][j]);
    }
}

/// Fewer rows than a tile has, in powers of two: every height of its own would be as much to compile again as all the rest.
template <int M, int N, Operand A, class F, class S = SumOf<F>>
inline void rest(int m, int k, const F* a, int lda, const F* b, int ldb, S* c, int ldc, Store how, const S* start) {
  if (m >= M) {
    tile<M, N, A>(k, a, lda, b, ldb, c, ldc, how, start);
    m -= M;
    a += A == Operand::plain ? static_cast<long>(M) * lda : M;
    c += static_cast<long>(M) * ldc;
  }
  if constexpr (M > 1)
    if (m > 0) rest<M / 2, N, A>(m, k, a, lda, b, ldb, c, ldc, how, start);
}

template <int N, Operand A, class F, class S = SumOf<F>>
inline void columns(int m, int k, const F* a, int lda, const F* b, int ldb, S* c, int ldc, Store how, const S* start) {
  const long step = A == Operand::plain ? lda : 1;
  int i = 0;
  for (; i + tile_rows <= m; i += tile_rows)
    tile<tile_rows, N, A>(k, a + i * step, lda, b, ldb, c + static_cast<long>(i) * ldc, ldc, how, start);
  if (i < m)
    rest<4, N, A>(m - i, k, a + i * step, lda, b, ldb, c + static_cast<long>(i) * ldc, ldc, how, start);
}

/// The last vectors of a row of C, fewer than a tile has.
template <int N, Operand A, class F, class S = SumOf<F>>
inline void last_columns(int vectors, int m, int k, const F* a, int lda, const F* b, int ldb, S* c, int ldc, Store how,
                         const S* start) {
  if (vectors == N) return columns<N, A>(m, k, a, lda, b, ldb, c, ldc, how, start);
  if constexpr (N > 1) last_columns<N - 1, A>(vectors, m, k, a, lda, b, ldb, c, ldc, how, start);
}

}  // namespace detail

/// C [m, n] (+)= op(A) [m, k] B [k, n] + start, k counted in factors; n a multiple of `lanes`, rows of B and C padded to it. `start` [n]: a row, such as
/// a bias, that every row of the sum begins with; null: zeros.
template <Operand A, class F, class S = SumOf<F>>
void small_product(int m, int n, int k, const F* a, int lda, const F* b, int ldb, S* c, int ldc, Store how,
                   const S* start = nullptr) {
  constexpr int whole = tile_vectors * lanes<S>;
  int j = 0;
  for (; j + whole <= n; j += whole)
    detail::columns<tile_vectors, A>(m, k, a, lda, b + j, ldb, c + j, ldc, how, start ? start + j : start);
  if (j < n)
    detail::last_columns<tile_vectors - 1, A>((n - j) / lanes<S>, m, k, a, lda, b + j, ldb, c + j, ldc, how,
                                              start ? start + j : start);
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
