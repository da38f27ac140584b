// Attention of the CPU backend: one sequence and one head at a time, its queries, keys and values packed in the cache.
//
//   P = softmax(scale Q K^T, keys the mask allows)      O = P V
//   dV = P^T dO   dP = dO V^T   dS = scale P (dP - rowsum(P dP))   dQ = dS K   dK = dS^T Q
//
// Forward keeps the log-sum-exp of each row instead of P; backward recomputes P from it. Queries are taken in blocks, so the
// scratch is a block of rows by the sequence's length, and a causal block stops at its last visible key, an anticausal one begins
// at its first.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

namespace detail {

inline constexpr int query_block = 32;

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

/// to [width, rows'] = from [rows, width] transposed, rows' = rows padded with zeros to whole vectors.
template <class S>
void pack_transposed(const S* from, long stride, int rows, int width, S* to) {
  pack_panel_transposed<S>({from, static_cast<int>(stride)}, width, rows, to);
}

/// Keys begin .. end-1 of a sequence.
struct Keys {
  int begin, end;
};

/// What queries first .. first+count-1 of a sequence of n see, taken together; it begins at a whole block of queries.
inline Keys visible(Mask mask, int first, int count, int n) {
  return {mask == Mask::anticausal ? first : 0, mask == Mask::causal ? first + count : n};
}

/// Calls f(j, change) for every vector of a row of `padded` scores, where change(v, rest) puts `rest` in the place of the
/// elements outside of `keys`. (In registers: a store of one element, read back as part of a vector, would stall.)
template <class S, class F>
[[gnu::always_inline]] inline void by_masked_vector(int padded, Keys keys, F&& f) {
  for (int j = 0; j < padded; j += lanes<S>) {
    if (keys.begin <= j && j + lanes<S> <= keys.end)
      f(j, [](const auto& v, S) -> Vector<S> { return v; });
    else
      f(j, [&](const auto& v, S rest) -> Vector<S> { return keep_range(v, keys.begin - j, keys.end - j, rest); });
  }
}

template <class S>
struct Exponentials {
  S largest, sum;
};

/// Turns a row of scores into e^(scale score - largest) of the visible keys, zeros elsewhere.
template <class S>
Exponentials<S> exponentials(S* row, Keys keys, int padded, S scale) {
  constexpr S least = -std::numeric_limits<S>::infinity();
  Vector<S> most = broadcast(least);
  by_masked_vector<S>(padded, keys, [&](int j, auto&& masked) {
    const Vector<S> v = masked(load(row + j), least);
    most = v > most ? v : most;
  });
  const S top = largest<S>(most) * scale;
  Vector<S> total{};
  by_masked_vector<S>(padded, keys, [&](int j, auto&& masked) {
    const Vector<S> p = masked(exp(load(row + j) * scale - top), S(0));
    store(row + j, p);
    total += p;
  });
  return {top, sum<S>(total)};
}

}  // namespace detail

namespace detail {

/// A row as factors: itself, or made in `room`.
template <class F, class S>
const F* as_factors(const S* row, int count, [[maybe_unused]] S* room) {
  if constexpr (steps<F> == 1) {
    return row;
  } else {
    F* made = reinterpret_cast<F*>(room);
    pack_rows<F>({row, count}, count, 1, made);
    return made;
  }
}

/// Calls f(part, first, last) for the heads of all sequences, in order, in so many parts, each on a thread.
void over_heads(const Device& device, const auto& rows, int heads, int parts, auto&& f) {
  const long all = static_cast<long>(rows.sequences()) * heads;
  const auto part = [&](int i) { f(i, static_cast<int>(all * i / parts), static_cast<int>(all * (i + 1) / parts)); };
  if (parts == 1) return part(0);
  device.threads->run(parts, part);
}

/// Forward of one head of one sequence after another, in scratch of `room` elements.
template <class S>
class Forward {
 public:
  static long room(int longest, int size) {
    const long rows = round_up<S>(longest), padded = round_up<S>(size);
    return rows * (2 * padded + size) + query_block * (rows + padded);
  }

  Forward(int longest, int size, S* scratch)
      : size_(size), padded_(round_up<S>(size)), scale_(S(1) / std::sqrt(static_cast<S>(size))) {
    const long rows = round_up<S>(longest);
    q_ = scratch;
    kt_ = q_ + rows * padded_;
    v_ = kt_ + rows * size;
    p_ = v_ + rows * padded_;
    o_ = p_ + query_block * rows;
  }

  /// A head of the sequence in rows begin .. begin+n-1; out and lse are given by their elements [rows, heads size] and [rows,
  /// heads]; `lse` may be null.
  void operator()(const Tensor<S>& qkv, int begin, int n, const Heads& heads, int head, S* out, S* lse) {
    const int width = qkv.cols() / 3, stride = qkv.cols(), n_padded = round_up<S>(n);
    const Mask mask = heads(head);
    const S* from = qkv.row(begin) + head * size_;
    const ConstMatrix<S> q = gathered(from, stride, n, size_, q_), v = gathered(from + 2 * width, stride, n, size_, v_);
    pack_transposed(from + width, stride, n, size_, kt_);
    for (int first = 0; first < n; first += query_block) {
      const int count = std::min(query_block, n - first);
      const auto [from_key, to_key] = visible(mask, first, count, n);
      const int keys = to_key - from_key, padded = round_up<S>(keys);
      small_product<Operand::plain>(count, padded, size_, q.row(first), q.stride, kt_ + from_key, n_padded, p_, padded, Store::assign);
      alignas(64) S tops[query_block], sums[query_block], logs[query_block];
      for (int i = 0; i < count; ++i) {
        const auto [begin_i, end_i] = visible(mask, first + i, 1, n);
        const auto e = exponentials<S>(p_ + i * padded, {begin_i - from_key, end_i - from_key}, padded, scale_);
        tops[i] = e.largest, sums[i] = e.sum;
      }
      if (lse) {
        by_vector<S>(count, [&](long i, auto part) { store_first(logs + i, load_first(tops + i, part) + log(load_first(sums + i, part)), part); });
        for (int i = 0; i < count; ++i) lse[static_cast<long>(begin + first + i) * heads.count + head] = logs[i];
      }
      small_product<Operand::plain>(count, padded_, keys, p_, padded, v.row(from_key), v.stride, o_, padded_, Store::assign);
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
  S *q_, *kt_, *v_, *p_, *o_;
};

}  // namespace detail

/// qkv [rows, 3 width] (queries, keys, values; rotated already) -> out [rows, width], lse [rows, heads].
template <class S>
void attention(const Tensor<S>& qkv, const auto& rows, const Heads& heads, Tensor<S>& out, Tensor<S>& lse) {
  const int width = qkv.cols() / 3, size = width / heads.count;
  out.resize_like(qkv, qkv.rows(), width);
  lse.resize_like(qkv, qkv.rows(), heads.count);
  S *const to = out.data(), *const kept = lse.data();
  const long room = detail::Forward<S>::room(rows.longest(), size);
  const int parts = row_parts(qkv.device(), rows.count());
  detail::Scratch<S> memory(room * parts, qkv.device());
  S* const scratch = memory.begin();
  detail::over_heads(qkv.device(), rows, heads.count, parts, [&](int part, int first, int last) {
    detail::Forward<S> forward(rows.longest(), size, scratch + part * room);
    for (int i = first; i < last; ++i) {
      const int sequence = i / heads.count, begin = rows.begin(sequence);
      if (i + 1 < last) {
        const int next = (i + 1) / heads.count, row = rows.begin(next);
        for (int third = 0; third < 3; ++third)
          detail::prefetch(qkv.row(row) + third * width + (i + 1) % heads.count * size, qkv.cols(), rows.end(next) - row, size);
      }
      forward(qkv, begin, rows.end(sequence) - begin, heads, i % heads.count, to, kept);
    }
  });
}

/// dout [rows, width] -> dqkv [rows, 3 width] (of the rotated queries and keys); qkv, lse as forward left them.
template <class S>
void attention_backward(const Tensor<S>& qkv, const Tensor<S>& lse, const Tensor<S>& dout, const auto& rows,
                        const Heads& heads, Tensor<S>& dqkv) {
  const int width = qkv.cols() / 3, size = width / heads.count, size_padded = round_up<S>(size);
  const long longest = round_up<S>(rows.longest());
  const S scale = S(1) / std::sqrt(static_cast<S>(size));
  dqkv.resize_like(qkv, qkv.rows(), qkv.cols());
  detail::Scratch<S> scratch(longest * (5 * size_padded + 2 * size) + detail::query_block * (2 * longest + size_padded),
                             qkv.device());
  S* q_room = scratch.take(longest * size_padded);
  S* k_room = scratch.take(longest * size_padded);
  S* kt = scratch.take(size * longest);
  S* vt = scratch.take(size * longest);
  S* d_room = scratch.take(longest * size_padded);
  S* dk_room = scratch.take(longest * size_padded);
  S* dv_room = scratch.take(longest * size_padded);
  S* p = scratch.take(detail::query_block * longest);
  S* dp = scratch.take(detail::query_block * longest);
  S* dq_room = scratch.take(detail::query_block * size_padded);
  for (int sequence = 0; sequence < rows.sequences(); ++sequence) {
    const int begin = rows.begin(sequence), n = rows.end(sequence) - begin, n_padded = round_up<S>(n);
    for (int head = 0; head < heads.count; ++head) {
      const Mask mask = heads(head);
      const int stride = qkv.cols();
      if (const int next = head + 1 < heads.count ? sequence : sequence + 1; next < rows.sequences()) {
        const int row = rows.begin(next), count = rows.end(next) - row, at = (head + 1) % heads.count * size;
        for (int part = 0; part < 3; ++part) detail::prefetch(qkv.row(row) + part * width + at, stride, count, size);
        detail::prefetch(dout.row(row) + at, width, count, size);
      }
      const S* from = qkv.row(begin) + head * size;
      S* to = dqkv.row(begin) + head * size;
      const ConstMatrix<S> q = detail::gathered(from, stride, n, size, q_room), k = detail::gathered(from + width, stride, n, size, k_room),
                           d = detail::gathered(dout.row(begin) + head * size, width, n, size, d_room);
      detail::pack_transposed(from + width, stride, n, size, kt);
      detail::pack_transposed(from + 2 * width, stride, n, size, vt);
      // The gradients are made where they belong, where `gathered` would read them, or in a buffer.
      const bool in_place = size == lanes<S>;
      const Matrix<S> dk = in_place ? Matrix<S>{to + width, stride} : Matrix<S>{dk_room, size_padded};
      const Matrix<S> dv = in_place ? Matrix<S>{to + 2 * width, stride} : Matrix<S>{dv_room, size_padded};
      const bool one_block = n <= detail::query_block;
      if (!one_block)
        for (int r = 0; r < n; ++r) {
          std::fill_n(dk.row(r), size_padded, S(0));
          std::fill_n(dv.row(r), size_padded, S(0));
        }
      for (int first = 0; first < n; first += detail::query_block) {
        const int count = std::min(detail::query_block, n - first);
        const auto [from_key, to_key] = detail::visible(mask, first, count, n);
        const int keys = to_key - from_key, padded = round_up<S>(keys);
        small_product<Operand::plain>(count, padded, size, q.row(first), q.stride, kt + from_key, n_padded, p, padded, Store::assign);
        small_product<Operand::plain>(count, padded, size, d.row(first), d.stride, vt + from_key, n_padded, dp, padded, Store::assign);
        for (int i = 0; i < count; ++i) {
          S* pi = p + i * padded;
          S* di = dp + i * padded;
          const S log_sum = lse.row(begin + first + i)[head];
          const auto [begin_i, end_i] = detail::visible(mask, first + i, 1, n);
          Vector<S> dot{};
          detail::by_masked_vector<S>(padded, {begin_i - from_key, end_i - from_key}, [&](int j, auto&& masked) {
            const Vector<S> v = masked(exp(load(pi + j) * scale - log_sum), S(0));
            store(pi + j, v);
            dot += v * load(di + j);
          });
          const S mean = sum<S>(dot);
          for (int j = 0; j < padded; j += lanes<S>) store(di + j, load(pi + j) * (load(di + j) - mean) * scale);
        }
        const Store how = one_block ? Store::assign : Store::add;
        small_product<Operand::transposed>(keys, size_padded, count, p, padded, d.row(first), d.stride, dv.row(from_key), dv.stride, how);
        small_product<Operand::transposed>(keys, size_padded, count, dp, padded, q.row(first), q.stride, dk.row(from_key), dk.stride, how);
        const Matrix<S> dq = in_place ? Matrix<S>{to + static_cast<long>(first) * stride, stride} : Matrix<S>{dq_room, size_padded};
        small_product<Operand::plain>(count, size_padded, keys, dp, padded, k.row(from_key), k.stride, dq.data, dq.stride, Store::assign);
        if (!in_place) detail::unpack(dq_room, count, size, to + static_cast<long>(first) * stride, stride);
      }
      if (in_place) continue;
      detail::unpack(dk_room, n, size, to + width, stride);
      detail::unpack(dv_room, n, size, to + 2 * width, stride);
    }
  }
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
