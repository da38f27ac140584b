// C (+)= A B and C (+)= A^T B for matrices that lie in the L1 cache: the products inside attention, one head at a time.
//
// Four rows by two vectors of C stay in registers while k runs. Every element of C is summed over k in order, whatever the
// sizes, so a result does not depend on how many rows are computed together.
#pragma once

#include <relay/backend/cpu/simd.hpp>

namespace relay::cpu {

enum class Operand { plain, transposed };
enum class Store { assign, add };

namespace detail {

template <int M, int N, Operand A, class S>
[[gnu::always_inline]] inline void tile(int k_count, const S* a, int lda, const S* b, int ldb, S* c, int ldc, Store how) {
  Vector<S> sum[M][N] = {};
  for (int k = 0; k < k_count; ++k) {
    Vector<S> row[N];
    for (int j = 0; j < N; ++j) row[j] = load(b + static_cast<long>(k) * ldb + j * lanes<S>);
    for (int i = 0; i < M; ++i) {
      const S factor = A == Operand::plain ? a[static_cast<long>(i) * lda + k] : a[static_cast<long>(k) * lda + i];
      for (int j = 0; j < N; ++j) sum[i][j] += row[j] * factor;
    }
  }
  for (int i = 0; i < M; ++i)
    for (int j = 0; j < N; ++j) {
      S* to = c + static_cast<long>(i) * ldc + j * lanes<S>;
      store(to, how == Store::add ? load(to) + sum[i][j] : sum[i][j]);
    }
}

template <int N, Operand A, class S>
inline void columns(int m, int k, const S* a, int lda, const S* b, int ldb, S* c, int ldc, Store how) {
  const long step = A == Operand::plain ? lda : 1;
  int i = 0;
  for (; i + 4 <= m; i += 4) tile<4, N, A>(k, a + i * step, lda, b, ldb, c + static_cast<long>(i) * ldc, ldc, how);
  a += i * step;
  c += static_cast<long>(i) * ldc;
  if (m - i == 3) tile<3, N, A>(k, a, lda, b, ldb, c, ldc, how);
  if (m - i == 2) tile<2, N, A>(k, a, lda, b, ldb, c, ldc, how);
  if (m - i == 1) tile<1, N, A>(k, a, lda, b, ldb, c, ldc, how);
}

}  // namespace detail

/// C [m, n] (+)= op(A) [m, k] B [k, n]; n a multiple of `lanes`, rows of B and C padded to it.
template <Operand A, class S>
void small_product(int m, int n, int k, const S* a, int lda, const S* b, int ldb, S* c, int ldc, Store how) {
  int j = 0;
  for (; j + 2 * lanes<S> <= n; j += 2 * lanes<S>) detail::columns<2, A>(m, k, a, lda, b + j, ldb, c + j, ldc, how);
  if (j < n) detail::columns<1, A>(m, k, a, lda, b + j, ldb, c + j, ldc, how);
}

}  // namespace relay::cpu
