// Attention of the CPU backend: one sequence and one head at a time, its queries, keys and values packed in the cache.
//
//   P = softmax(scale Q K^T, keys the mask allows)      O = P V
//   dV = P^T dO   dP = dO V^T   dS = P (dP - rowsum(P dP))   dQ = scale dS K   dK = scale dS^T Q
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

/// to [rows, width'] = factor * from [rows, width], width' = width padded with zeros to whole vectors.
template <class S>
void pack(const S* from, long stride, int rows, int width, S factor, S* to) {
  const int padded = round_up<S>(width);
  for (int r = 0; r < rows; ++r) {
    int c = 0;
    for (; c + lanes<S> <= width; c += lanes<S>) store(to + r * padded + c, load(from + r * stride + c) * factor);
    if (c < width) store(to + r * padded + c, load_first(from + r * stride + c, width - c) * factor);
  }
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

/// Turns a row of scores into e^(score - largest) of the visible keys, zeros elsewhere.
template <class S>
Exponentials<S> exponentials(S* row, Keys keys, int padded) {
  constexpr S least = -std::numeric_limits<S>::infinity();
  Vector<S> most = broadcast(least);
  by_masked_vector<S>(padded, keys, [&](int j, auto&& masked) {
    const Vector<S> v = masked(load(row + j), least);
    most = v > most ? v : most;
  });
  const S top = largest<S>(most);
  Vector<S> total{};
  by_masked_vector<S>(padded, keys, [&](int j, auto&& masked) {
    const Vector<S> p = masked(exp(load(row + j) - top), S(0));
    store(row + j, p);
    total += p;
  });
  return {top, sum<S>(total)};
}

}  // namespace detail

/// qkv [rows, 3 width] (queries, keys, values; rotated already) -> out [rows, width], lse [rows, heads].
template <class S>
void attention(const Tensor<S>& qkv, const auto& rows, const Heads& heads, Tensor<S>& out, Tensor<S>& lse) {
  const int width = qkv.cols() / 3, size = width / heads.count, size_padded = round_up<S>(size);
  const long longest = round_up<S>(rows.longest());
  const S scale = S(1) / std::sqrt(static_cast<S>(size));
  out.resize_like(qkv, qkv.rows(), width);
  lse.resize_like(qkv, qkv.rows(), heads.count);
  detail::Scratch<S> scratch(longest * (2 * size_padded + size) + detail::query_block * (longest + size_padded), qkv.device());
  S* q = scratch.take(longest * size_padded);
  S* kt = scratch.take(size * longest);
  S* v = scratch.take(longest * size_padded);
  S* p = scratch.take(detail::query_block * longest);
  S* o = scratch.take(detail::query_block * size_padded);
  for (int sequence = 0; sequence < rows.sequences(); ++sequence) {
    const int begin = rows.begin(sequence), n = rows.end(sequence) - begin, n_padded = round_up<S>(n);
    for (int head = 0; head < heads.count; ++head) {
      const Mask mask = heads(head);
      const S* from = qkv.row(begin) + head * size;
      const long stride = qkv.cols();
      detail::pack(from, stride, n, size, scale, q);
      detail::pack_transposed(from + width, stride, n, size, kt);
      detail::pack(from + 2 * width, stride, n, size, S(1), v);
      for (int first = 0; first < n; first += detail::query_block) {
        const int count = std::min(detail::query_block, n - first);
        const auto [from_key, to_key] = detail::visible(mask, first, count, n);
        const int keys = to_key - from_key, padded = round_up<S>(keys);
        small_product<Operand::plain>(count, padded, size, q + first * size_padded, size_padded, kt + from_key, n_padded, p,
                                      padded, Store::assign);
        S inverse[detail::query_block];
        for (int i = 0; i < count; ++i) {
          const auto [begin_i, end_i] = detail::visible(mask, first + i, 1, n);
          const auto e = detail::exponentials<S>(p + i * padded, {begin_i - from_key, end_i - from_key}, padded);
          inverse[i] = S(1) / e.sum;
          lse.row(begin + first + i)[head] = e.largest + std::log(e.sum);
        }
        small_product<Operand::plain>(count, size_padded, keys, p, padded, v + from_key * size_padded, size_padded, o,
                                      size_padded, Store::assign);
        for (int i = 0; i < count; ++i) {
          S* to = out.row(begin + first + i) + head * size;
          by_vector<S>(size, [&](long c, auto part) { store_first(to + c, load(o + i * size_padded + c) * inverse[i], part); });
        }
      }
    }
  }
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
  S* q = scratch.take(longest * size_padded);
  S* k = scratch.take(longest * size_padded);
  S* kt = scratch.take(size * longest);
  S* vt = scratch.take(size * longest);
  S* d = scratch.take(longest * size_padded);
  S* dk = scratch.take(longest * size_padded);
  S* dv = scratch.take(longest * size_padded);
  S* p = scratch.take(detail::query_block * longest);
  S* dp = scratch.take(detail::query_block * longest);
  S* dq = scratch.take(detail::query_block * size_padded);
  for (int sequence = 0; sequence < rows.sequences(); ++sequence) {
    const int begin = rows.begin(sequence), n = rows.end(sequence) - begin, n_padded = round_up<S>(n);
    for (int head = 0; head < heads.count; ++head) {
      const Mask mask = heads(head);
      const S* from = qkv.row(begin) + head * size;
      const long stride = qkv.cols();
      detail::pack(from, stride, n, size, scale, q);
      detail::pack(from + width, stride, n, size, scale, k);
      detail::pack_transposed(from + width, stride, n, size, kt);
      detail::pack_transposed(from + 2 * width, stride, n, size, vt);
      detail::pack(dout.row(begin) + head * size, dout.cols(), n, size, S(1), d);
      std::fill_n(dk, n * size_padded, S(0));
      std::fill_n(dv, n * size_padded, S(0));
      for (int first = 0; first < n; first += detail::query_block) {
        const int count = std::min(detail::query_block, n - first);
        const auto [from_key, to_key] = detail::visible(mask, first, count, n);
        const int keys = to_key - from_key, padded = round_up<S>(keys), at = from_key * size_padded;
        const S* qb = q + first * size_padded;
        const S* db = d + first * size_padded;
        small_product<Operand::plain>(count, padded, size, qb, size_padded, kt + from_key, n_padded, p, padded, Store::assign);
        small_product<Operand::plain>(count, padded, size, db, size_padded, vt + from_key, n_padded, dp, padded,
                                      Store::assign);
        for (int i = 0; i < count; ++i) {
          S* pi = p + i * padded;
          S* di = dp + i * padded;
          const S log_sum = lse.row(begin + first + i)[head];
          const auto [begin_i, end_i] = detail::visible(mask, first + i, 1, n);
          Vector<S> dot{};
          detail::by_masked_vector<S>(padded, {begin_i - from_key, end_i - from_key}, [&](int j, auto&& masked) {
            const Vector<S> v = masked(exp(load(pi + j) - log_sum), S(0));
            store(pi + j, v);
            dot += v * load(di + j);
          });
          const S mean = sum<S>(dot);
          for (int j = 0; j < padded; j += lanes<S>) store(di + j, load(pi + j) * (load(di + j) - mean));
        }
        small_product<Operand::transposed>(keys, size_padded, count, p, padded, db, size_padded, dv + at, size_padded,
                                           Store::add);
        small_product<Operand::transposed>(keys, size_padded, count, dp, padded, qb, size_padded, dk + at, size_padded,
                                           Store::add);
        small_product<Operand::plain>(count, size_padded, keys, dp, padded, k + at, size_padded, dq, size_padded, Store::assign);
        for (int i = 0; i < count; ++i)
          std::copy_n(dq + i * size_padded, size, dqkv.row(begin + first + i) + head * size);
      }
      for (int j = 0; j < n; ++j) {
        std::copy_n(dk + j * size_padded, size, dqkv.row(begin + j) + width + head * size);
        std::copy_n(dv + j * size_padded, size, dqkv.row(begin + j) + 2 * width + head * size);
      }
    }
  }
}

/// Appends the keys and values of new rows to a cache and attends to all that is there, causally.
/// Sequence s of `rows` continues slot slots[s], which holds starts[s] positions. keys [slots * width, capacity] lie
/// transposed, so that one query's scores are vectors over the positions; values [slots * capacity, width].
template <class S, class Index>
void attention_cached(const Tensor<S>& qkv, const auto& rows, const Index& slots, const Index& starts, int heads,
                      Tensor<S>& keys, Tensor<S>& values, Tensor<S>& out) {
  const int width = qkv.cols() / 3, size = width / heads, capacity = keys.cols();
  const S scale = S(1) / std::sqrt(static_cast<S>(size));
  out.resize_like(qkv, qkv.rows(), width);
  Tensor<S> scratch(1, capacity + width, qkv.device());
  S* p = scratch.data();
  S* q = p + capacity;
  for (int sequence = 0; sequence < rows.sequences(); ++sequence) {
    const int slot = slots[static_cast<std::size_t>(sequence)], start = starts[static_cast<std::size_t>(sequence)];
    const int begin = rows.begin(sequence), n = rows.end(sequence) - begin;
    for (int i = 0; i < n; ++i) {
      const S* from = qkv.row(begin + i);
      for (int c = 0; c < width; ++c) keys.row(slot * width + c)[start + i] = from[width + c];
      std::copy_n(from + 2 * width, width, values.row(slot * capacity + start + i));
    }
    for (int i = 0; i < n; ++i) {
      const int visible = start + i + 1, padded = round_up<S>(visible);
      for (int c = 0; c < width; ++c) q[c] = qkv.row(begin + i)[c] * scale;
      for (int head = 0; head < heads; ++head) {
        small_product<Operand::plain>(1, padded, size, q + head * size, size, keys.row(slot * width + head * size), capacity, p,
                                      padded, Store::assign);
        const S inverse = S(1) / detail::exponentials<S>(p, {0, visible}, padded).sum;
        S* to = out.row(begin + i) + head * size;
        by_vector<S>(size, [&](long c, auto count) {
          Vector<S> total{};
          const S* v = values.row(slot * capacity) + head * size + c;
          for (int j = 0; j < visible; ++j) total += load_first(v + static_cast<long>(j) * width, count) * p[j];
          store_first(to + c, total * inverse, count);
        });
      }
    }
  }
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
