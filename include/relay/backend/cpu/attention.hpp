// Attention of the CPU backend: one sequence and one head at a time, its queries, keys and values packed in the cache.
//
//   P = softmax(scale Q K^T, keys the mask allows)      O = P V
//   dV = P^T dO   dP = dO V^T   dS = scale P (dP - rowsum(P dP))   dQ = dS K   dK = dS^T Q
//
// Forward keeps the log-sum-exp of each row instead of P; backward recomputes P from it. Queries are taken in blocks, so the
// scratch is a block of rows by the sequence's length, and a causal block stops at its last visible key, an anticausal one begins
// at its first.
//
// The products are of factors F (factors.hpp): where those are pairs of bf16, P and dS are rounded as they are made, and written as the products
// behind them read them; exponentials, their sums and all that is kept are float32.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

namespace detail {

inline constexpr int query_block = 32;
static_assert(query_block % lanes<float> == 0, "blocks of keys begin with whole vectors and factors");

/// As many rows as a product of so many takes in a buffer of its own, which has round_up rows: the matrix unit is fastest with all of its rows.
/// What it reads in the last, nobody has written; what it makes of that are rows which nobody reads.
template <class F>
constexpr int rows_taken(int rows) {
  return uses_tiles<F> ? round_up<F>(rows) : rows;
}

/// Calls f(part, first, last) for the heads of all sequences, in order, in so many parts, each on a thread.
void over_heads(const Device& device, const auto& rows, int heads, int parts, auto&& f) {
  const long all = static_cast<long>(rows.sequences()) * heads;
  const auto part = [&](int i) { f(i, static_cast<int>(all * i / parts), static_cast<int>(all * (i + 1) / parts)); };
  if (parts == 1) return part(0);
  device.threads->run(parts, part);
}

/// Asks for the elements of the head that comes next: they lie in short pieces, which no processor foresees.
template <class S>
void prefetch(const S* from, long stride, int rows, int width) {
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < width; c += lanes<S>) __builtin_prefetch(from + r * stride + c);
}

/// to [rows, width] = from [rows, width']
template <class S>
void unpack(const S* from, int rows, int width, S* to, long stride) {
  const int padded = round_up<S>(width);
  for (int r = 0; r < rows; ++r)
    by_vector<S>(width, [&](long c, auto n) { store_first(to + r * stride + c, load(from + r * padded + c), n); });
}

/// Forward of one head of one sequence after another, in scratch of `room` elements.
template <class F, class S = SumOf<F>>
class Forward {
 public:
  static long room(int longest, int size) {
    const int rows = round_up<S>(longest);
    return room_of_head_rows<F>(rows, size) + room_of_transposed_head<F>(rows, size) + room_of_head_columns<F>(rows, size) +
           static_cast<long>(query_block) * (rows + round_up<S>(size));
  }

  Forward(int longest, int size, F* scratch) : size_(size), padded_(round_up<S>(size)), scale_(S(1) / std::sqrt(static_cast<S>(size))) {
    static_assert(sizeof(F) == sizeof(S), "scratch is of both");
    const int rows = round_up<S>(longest);
    q_ = scratch;
    kt_ = q_ + room_of_head_rows<F>(rows, size);
    v_ = kt_ + room_of_transposed_head<F>(rows, size);
    p_ = v_ + room_of_head_columns<F>(rows, size);
    o_ = reinterpret_cast<S*>(p_ + static_cast<long>(query_block) * rows);
  }

  /// A head of the sequence in rows begin .. begin+n-1; out and lse are given by their elements [rows, heads size] and [rows,
  /// heads]; `lse` may be null.
  void operator()(const Tensor<S>& qkv, int begin, int n, const Heads& heads, int head, S* out, S* lse) {
    const int width = qkv.cols() / 3, stride = qkv.cols(), n_padded = round_up<S>(n);
    const Mask mask = heads(head);
    const S* from = qkv.row(begin) + head * size_;
    const ConstMatrix<F> q = head_rows(from, stride, n, size_, q_), v = head_columns(from + 2 * width, stride, n, size_, v_);
    transpose_head(from + width, stride, n, size_, kt_);
    for (int first = 0; first < n; first += query_block) {
      const int count = std::min(query_block, n - first);
      const auto [from_key, to_key] = visible(mask, first, count, n);
      const int keys = to_key - from_key, padded = round_up<S>(keys);
      S* const scores = reinterpret_cast<S*>(p_);  // each row of P takes the place of its scores
      const int taken = rows_taken<F>(count);
      block_product<F>(taken, padded, factors<F>(size_), q.row(first), q.stride, kt_ + from_key, n_padded, scores, padded, Store::assign);
      alignas(64) S tops[query_block], sums[query_block], logs[query_block];
      for (int i = 0; i < count; ++i) {
        const auto [begin_i, end_i] = visible(mask, first + i, 1, n);
        const auto e = exponentials<F>(scores + i * padded, {begin_i - from_key, end_i - from_key}, padded, scale_, p_ + i * padded);
        tops[i] = e.largest, sums[i] = e.sum;
      }
      if (lse) {
        by_vector<S>(count, [&](long i, auto part) { store_first(logs + i, load_first(tops + i, part) + log(load_first(sums + i, part)), part); });
        for (int i = 0; i < count; ++i) lse[static_cast<long>(begin + first + i) * heads.count + head] = logs[i];
      }
      block_product<F>(taken, padded_, factors<F>(keys), p_, padded, v.row(from_key / steps<F>), v.stride, o_, padded_, Store::assign);
      for (int i = 0; i < count; ++i) {
        S* to = out + static_cast<long>(begin + first + i) * width + head * size_;
        const S inverse = S(1) / sums[i];
        by_vector<S>(size_, [&](long c, auto part) { store_first(to + c, load(o_ + i * padded_ + c) * inverse, part); });
      }
    }
  }

 private:
  int size_, padded_;  // of a head; in whole vectors
  S scale_;
  F *q_, *kt_, *v_, *p_;
  S* o_;
};

/// Backward of one head of one sequence after another.
template <class F, class S = SumOf<F>>
class Backward {
 public:
  Backward(int longest, int size, const Device& device)
      : size_(size),
        padded_(round_up<S>(size)),
        scale_(S(1) / std::sqrt(static_cast<S>(size))),
        scratch_(room(round_up<S>(longest), size), device) {
    static_assert(sizeof(F) == sizeof(S), "scratch is of both");
    const int rows = round_up<S>(longest);
    const auto take_sums = [&](int count) { return reinterpret_cast<S*>(scratch_.take(static_cast<long>(count) * padded_)); };
    const auto take_scores = [&] { return reinterpret_cast<S*>(scratch_.take(static_cast<long>(query_block) * rows)); };
    for (F** head : {&q_, &k_, &d_}) *head = scratch_.take(room_of_head<F>(rows, size));
    for (F** transposed : {&kt_, &vt_}) *transposed = scratch_.take(room_of_transposed_head<F>(rows, size));
    dk_ = take_sums(rows), dv_ = take_sums(rows), dq_ = take_sums(query_block);
    p_ = take_scores(), dp_ = take_scores();
    p_columns_ = reinterpret_cast<F*>(p_), ds_columns_ = reinterpret_cast<F*>(dp_);
    ds_rows_ = steps<F> == 1 ? ds_columns_ : scratch_.take(room_of_score_rows(rows));
    if (uses_tiles<F>) transposed_ = scratch_.take(room_of_transposed_scores(rows));
  }

  /// A head of the sequence in rows begin .. begin+n-1; dqkv is given by its elements.
  void operator()(const Tensor<S>& qkv, const Tensor<S>& lse, const Tensor<S>& dout, int begin, int n, const Heads& heads, int head, S* dqkv) {
    const int stride = qkv.cols(), width = stride / 3, n_padded = round_up<S>(n);
    const Mask mask = heads(head);
    const S* const from = qkv.row(begin) + head * size_;
    S* const to = dqkv + static_cast<long>(begin) * stride + head * size_;
    const auto q = head_factors(from, stride, n, size_, q_), k = head_factors(from + width, stride, n, size_, k_),
               d = head_factors(dout.row(begin) + head * size_, width, n, size_, d_);
    transpose_head(from + width, stride, n, size_, kt_);
    transpose_head(from + 2 * width, stride, n, size_, vt_);
    // The gradients are made where they belong, if rows are whole vectors, or in a buffer.
    const bool in_place = size_ == padded_ && !uses_tiles<F>;
    const Matrix<S> dk = in_place ? Matrix<S>{to + width, stride} : Matrix<S>{dk_, padded_};
    const Matrix<S> dv = in_place ? Matrix<S>{to + 2 * width, stride} : Matrix<S>{dv_, padded_};
    const bool one_block = n <= query_block;
    if (!one_block)
      for (int r = 0; r < n; ++r) {
        std::fill_n(dk.row(r), padded_, S(0));
        std::fill_n(dv.row(r), padded_, S(0));
      }
    for (int first = 0; first < n; first += query_block) {
      const int count = std::min(query_block, n - first);
      const Keys seen = visible(mask, first, count, n);
      const int keys = seen.end - seen.begin, padded = round_up<S>(keys), ds_stride = padded_factors<F>(padded);
      const int taken = rows_taken<F>(count);
      const auto scores_of = [&](ConstMatrix<F> a, const F* transposed, S* to_scores) {
        block_product<F>(taken, padded, factors<F>(size_), a.row(first), a.stride, transposed + seen.begin, n_padded, to_scores, padded, Store::assign);
      };
      scores_of(q.rows, kt_, p_);
      scores_of(d.rows, vt_, dp_);
      for (int i = 0; i < count; i += steps<F>) {
        S mean[steps<F>] = {};
        for (int r = i; r < std::min(i + steps<F>, count); ++r) {
          const auto [begin_r, end_r] = visible(mask, first + r, 1, n);
          const S log_sum = lse.row(begin + first + r)[head];
          mean[r - i] = probabilities(p_ + r * padded, dp_ + r * padded, {begin_r - seen.begin, end_r - seen.begin}, padded, log_sum);
        }
        score_gradients(i, std::min(steps<F>, count - i), padded, ds_stride, mean);
      }
      const auto add_over_queries = [&](F* columns, ConstMatrix<F> b, Matrix<S> c) {
        const int depth = factors<F>(count);
        const F* const b_rows = b.row(first / steps<F>);
        const Store how = one_block ? Store::assign : Store::add;
        if constexpr (uses_tiles<F>) {
          pad_factors(columns, count, padded);
          transpose_factors(columns, padded, depth, padded, transposed_, depth);
          block_product<F>(rows_taken<F>(keys), padded_, depth, transposed_, depth, b_rows, b.stride, c.row(seen.begin), c.stride, how);
        } else {
          small_product<Operand::transposed>(keys, padded_, depth, columns, padded, b_rows, b.stride, c.row(seen.begin), c.stride, how);
        }
      };
      add_over_queries(p_columns_, d.columns, dv);
      add_over_queries(ds_columns_, q.columns, dk);
      const Matrix<S> dq = in_place ? Matrix<S>{to + static_cast<long>(first) * stride, stride} : Matrix<S>{dq_, padded_};
      block_product<F>(taken, padded_, factors<F>(keys), ds_rows_, ds_stride, k.columns.row(seen.begin / steps<F>), k.columns.stride, dq.data, dq.stride,
                       Store::assign);
      if (!in_place) unpack(dq_, count, size_, to + static_cast<long>(first) * stride, stride);
    }
    if (in_place) return;
    unpack(dk_, n, size_, to + width, stride);
    unpack(dv_, n, size_, to + 2 * width, stride);
  }

 private:
  static long room(int rows, int size) {
    return 3 * room_of_head<F>(rows, size) + 2 * room_of_transposed_head<F>(rows, size) + (2L * rows + query_block) * round_up<S>(size) +
           2L * query_block * rows + (steps<F> == 1 ? 0 : room_of_score_rows(rows)) + (uses_tiles<F> ? room_of_transposed_scores(rows) : 0);
  }
  static long room_of_transposed_scores(int keys) { return static_cast<long>(keys) * factors<F>(query_block); }
  static long room_of_score_rows(int keys) { return static_cast<long>(query_block) * padded_factors<F>(keys); }

  /// A row of scores becomes one of P. Returns rowsum(P dP).
  S probabilities(S* scores, const S* dp, Keys keys, int padded, S log_sum) {
    Vector<S> dot{};
    for (int j = 0; j < padded; j += lanes<S>) {
      const Vector<S> p = masked<S>(probability<F>(load(scores + j), scale_, log_sum), keys, j, 0);
      store(scores + j, p);
      dot += p * load(dp + j);
    }
    return sum<S>(dot);
  }

  /// P and dS = scale P (dP - mean) of so many rows from the i-th, as many as make a factor, for the products behind them. (A row of columns is
  /// written where rows, or pairs of them, have been read.)
  [[gnu::always_inline]] void score_gradients(int i, int rows, int padded, int ds_stride, const S (&mean)[steps<F>]) {
    for (int j = 0; j < padded; j += steps<F> * lanes<S>) {
      const int vectors = std::min(steps<F>, (padded - j) / lanes<S>);
      Vector<S> p[steps<F>][steps<F>] = {}, ds[steps<F>][steps<F>] = {};  // of a vector, of a row; zeros where there is none
#pragma GCC unroll 2
      for (int r = 0; r < steps<F>; ++r) {
        if (r == rows) break;
        Vector<S> row[steps<F>] = {};
#pragma GCC unroll 2
        for (int v = 0; v < steps<F>; ++v) {
          if (v == vectors) break;
          const int at = (i + r) * padded + j + v * lanes<S>;
          p[v][r] = load(p_ + at);
          row[v] = ds[v][r] = p[v][r] * (load(dp_ + at) - mean[r]) * scale_;
        }
        store(ds_rows_ + (i + r) * ds_stride + j / steps<F>, along_row<F>(row));
      }
      if constexpr (steps<F> > 1) {
#pragma GCC unroll 2
        for (int v = 0; v < steps<F>; ++v) {
          if (v == vectors) break;
          const int at = i / steps<F> * padded + j + v * lanes<S>;
          store(p_columns_ + at, along_column<F>(p[v]));
          store(ds_columns_ + at, along_column<F>(ds[v]));
        }
      }
    }
  }

  int size_, padded_;  // of a head; in whole vectors
  S scale_;
  Scratch<F> scratch_;
  F *q_, *k_, *d_, *kt_, *vt_;
  S *dk_, *dv_, *dq_, *p_, *dp_;
  // P and dS of a block, as the A of products that sum over queries, in the place of what they are made from; dS as that of the one that sums
  // over keys, which is the same of single factors.
  F *p_columns_, *ds_columns_, *ds_rows_;
  F* transposed_ = nullptr;  // P or dS once more, as the matrix unit reads it
};

/// before_head(begin, n, head) is called on the thread that takes this head of the sequence in these rows.
template <class P, class S>
void attention_of_heads(auto&& before_head, const Tensor<S>& qkv, const auto& rows, const Heads& heads, Tensor<S>& out, Tensor<S>& lse) {
  const int width = qkv.cols() / 3, size = width / heads.count;
  out.resize_like(qkv, qkv.rows(), width);
  lse.resize_like(qkv, qkv.rows(), heads.count);
  S *const to = out.data(), *const kept = lse.data();
  using F = AttentionFactors<P>;
  const long room = Forward<F>::room(rows.longest(), size);
  const int parts = row_parts(qkv.device(), rows.count());
  Scratch<F> memory(room * parts, qkv.device());
  F* const scratch = memory.begin();
  over_heads(qkv.device(), rows, heads.count, parts, [&](int part, int first, int last) {
    const MatrixUnit<F> unit;
    Forward<F> forward(rows.longest(), size, scratch + part * room);
    for (int i = first; i < last; ++i) {
      const int sequence = i / heads.count, begin = rows.begin(sequence);
      if (i + 1 < last) {
        const int next = (i + 1) / heads.count, row = rows.begin(next);
        for (int third = 0; third < 3; ++third)
          prefetch(qkv.row(row) + third * width + (i + 1) % heads.count * size, qkv.cols(), rows.end(next) - row, size);
      }
      before_head(begin, rows.end(sequence) - begin, i % heads.count);
      forward(qkv, begin, rows.end(sequence) - begin, heads, i % heads.count, to, kept);
    }
  });
}

/// after_head(begin, n, head), when its gradient is there, which is given by its elements.
template <class P, class S>
void attention_backward_of_heads(auto&& after_head, const Tensor<S>& qkv, const Tensor<S>& lse, const Tensor<S>& dout, const auto& rows,
                                 const Heads& heads, S* dqkv) {
  const int width = qkv.cols() / 3, size = width / heads.count;
  const MatrixUnit<AttentionFactors<P>> unit;
  Backward<AttentionFactors<P>> backward(rows.longest(), size, qkv.device());
  for (int sequence = 0; sequence < rows.sequences(); ++sequence)
    for (int head = 0; head < heads.count; ++head) {
      if (const int next = head + 1 < heads.count ? sequence : sequence + 1; next < rows.sequences()) {
        const int row = rows.begin(next), count = rows.end(next) - row, at = (head + 1) % heads.count * size;
        for (int third = 0; third < 3; ++third) prefetch(qkv.row(row) + third * width + at, qkv.cols(), count, size);
        prefetch(dout.row(row) + at, width, count, size);
      }
      const int begin = rows.begin(sequence), n = rows.end(sequence) - begin;
      backward(qkv, lse, dout, begin, n, heads, head, dqkv);
      after_head(begin, n, head);
    }
}

}  // namespace detail

/// qkv [rows, 3 width] (queries, keys, values; rotated already) -> out [rows, width], lse [rows, heads].
template <class P, class S>
void attention(const Tensor<S>& qkv, const auto& rows, const Heads& heads, Tensor<S>& out, Tensor<S>& lse) {
  detail::attention_of_heads<P>([](int, int, int) {}, qkv, rows, heads, out, lse);
}

/// The same, after `rotate` of the first `rotated` heads.
template <class P, class S>
void rotary_attention(Tensor<S>& qkv, const auto& rows, const Heads& heads, int rotated, const Tensor<S>& table, Tensor<S>& out, Tensor<S>& lse) {
  const int stride = qkv.cols(), size = stride / 3 / heads.count;
  S* const elements = qkv.data();
  const auto turn = [&](int begin, int n, int head) {
    if (head < rotated) detail::rotate_head<S>(elements + static_cast<long>(begin) * stride + head * size, stride / 3, n, stride, size, table, 1);
  };
  detail::attention_of_heads<P>(turn, qkv, rows, heads, out, lse);
}

/// dout [rows, width] -> dqkv [rows, 3 width] (of the rotated queries and keys); qkv, lse as forward left them.
template <class P, class S>
void attention_backward(const Tensor<S>& qkv, const Tensor<S>& lse, const Tensor<S>& dout, const auto& rows, const Heads& heads, Tensor<S>& dqkv) {
  dqkv.resize_like(qkv, qkv.rows(), qkv.cols());
  detail::attention_backward_of_heads<P>([](int, int, int) {}, qkv, lse, dout, rows, heads, dqkv.data());
}

/// The same, of the queries and keys before they were rotated.
template <class P, class S>
void rotary_attention_backward(const Tensor<S>& qkv, const Tensor<S>& lse, const Tensor<S>& dout, const auto& rows, const Heads& heads, int rotated,
                               const Tensor<S>& table, Tensor<S>& dqkv) {
  const int stride = qkv.cols(), size = stride / 3 / heads.count;
  dqkv.resize_like(qkv, qkv.rows(), stride);
  S* const elements = dqkv.data();
  const auto turn = [&](int begin, int n, int head) {
    if (head < rotated) detail::rotate_head<S>(elements + static_cast<long>(begin) * stride + head * size, stride / 3, n, stride, size, table, -1);
  };
  detail::attention_backward_of_heads<P>(turn, qkv, lse, dout, rows, heads, elements);
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
