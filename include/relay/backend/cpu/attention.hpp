// Attention of the CPU backend: one sequence and one head at a time, its queries, keys and values packed in the cache.
//
//   P = softmax(scale Q K^T, keys the mask allows)      O = P V
//   dV = P^T dO   dP = dO V^T   dS = P (dP - rowsum(P dP))   dQ = scale dS K   dK = scale dS^T Q
//
// Forward keeps the log-sum-exp of each row instead of P; backward recomputes P from it. Queries are taken in blocks, so the
// scratch is a block of rows by the sequence's length, and a causal block stops at its last visible key.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include <relay/backend/cpu/product.hpp>
#include <relay/backend/cpu/tensor.hpp>
#include <relay/backend/ops.hpp>
#include <relay/core/ragged.hpp>

namespace relay::cpu {

namespace detail {

inline constexpr int query_block = 32;

/// Scratch of one head of one sequence, cut out of one tensor.
template <class S>
class Scratch {
 public:
  Scratch(long elements, Device device) : memory_(1, static_cast<int>(elements), device), next_(memory_.data()) {}
  S* take(long elements) {
    S* here = next_;
    next_ += elements;
    return here;
  }

 private:
  Tensor<S> memory_;
  S* next_;
};

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

/// Turns a row of scores into e^(score - largest) of its first `visible` keys, zeros after.
template <class S>
struct Exponentials {
  S largest, sum;
};
template <class S>
Exponentials<S> exponentials(S* row, int visible, int padded) {
  // The hidden keys are masked in registers: a store of one element, read back as part of a vector, would stall.
  constexpr S least = -std::numeric_limits<S>::infinity();
  Vector<S> most = broadcast(least);
  int j = 0;
  for (; j + lanes<S> <= visible; j += lanes<S>) {
    const Vector<S> v = load(row + j);
    most = v > most ? v : most;
  }
  if (j < visible) {
    const Vector<S> v = keep_first(load(row + j), visible - j, least);
    most = v > most ? v : most;
  }
  const S top = largest<S>(most);
  Vector<S> total{};
  for (j = 0; j < padded; j += lanes<S>) {
    Vector<S> p = exp(load(row + j) - top);
    if (visible < j + lanes<S>) p = keep_first(p, visible - j, S(0));
    store(row + j, p);
    total += p;
  }
  return {top, sum<S>(total)};
}

}  // namespace detail

/// qkv [rows, 3 width] (queries, keys, values; rotated already) -> out [rows, width], lse [rows, heads].
template <class S>
void attention(const Tensor<S>& qkv, const auto& rows, int heads, Mask mask, Tensor<S>& out, Tensor<S>& lse) {
  const int width = qkv.cols() / 3, size = width / heads, size_padded = round_up<S>(size);
  const long longest = round_up<S>(rows.longest());
  const S scale = S(1) / std::sqrt(static_cast<S>(size));
  out.resize_like(qkv, qkv.rows(), width);
  lse.resize_like(qkv, qkv.rows(), heads);
  detail::Scratch<S> scratch(longest * (2 * size_padded + size) + detail::query_block * (longest + size_padded), qkv.device());
  S* q = scratch.take(longest * size_padded);
  S* kt = scratch.take(size * longest);
  S* v = scratch.take(longest * size_padded);
  S* p = scratch.take(detail::query_block * longest);
  S* o = scratch.take(detail::query_block * size_padded);
  for (int sequence = 0; sequence < rows.sequences(); ++sequence) {
    const int begin = rows.begin(sequence), n = rows.end(sequence) - begin, n_padded = round_up<S>(n);
    for (int head = 0; head < heads; ++head) {
      const S* from = qkv.row(begin) + head * size;
      const long stride = qkv.cols();
      detail::pack(from, stride, n, size, scale, q);
      detail::pack_transposed(from + width, stride, n, size, kt);
      detail::pack(from + 2 * width, stride, n, size, S(1), v);
      for (int first = 0; first < n; first += detail::query_block) {
        const int count = std::min(detail::query_block, n - first);
        const int keys = mask == Mask::causal ? first + count : n, padded = round_up<S>(keys);
        small_product<Operand::plain>(count, padded, size, q + first * size_padded, size_padded, kt, n_padded, p, padded,
                                      Store::assign);
        S inverse[detail::query_block];
        for (int i = 0; i < count; ++i) {
          const auto e = detail::exponentials(p + i * padded, mask == Mask::causal ? first + i + 1 : n, padded);
          inverse[i] = S(1) / e.sum;
          lse.row(begin + first + i)[head] = e.largest + std::log(e.sum);
        }
        small_product<Operand::plain>(count, size_padded, keys, p, padded, v, size_padded, o, size_padded, Store::assign);
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
void attention_backward(const Tensor<S>& qkv, const Tensor<S>& lse, const Tensor<S>& dout, const auto& rows, int heads,
                        Mask mask, Tensor<S>& dqkv) {
  const int width = qkv.cols() / 3, size = width / heads, size_padded = round_up<S>(size);
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
    for (int head = 0; head < heads; ++head) {
      const S* from = qkv.row(begin) + head * size;
      const long stride = qkv.cols();
      detail::pack(from, stride, n, size, scale, q);
      detail::pack(from + width, stride, n, size, scale, k);
      detail::pack_transposed(from + width, stride, n, size, kt);
      detail::pack_transposed(from + 2 * width, stride, n, size, vt);
      detail::pack(dout.row(begin) + head * size, dout.cols(), n, size, S(1), d);
      for (int first = 0; first < n; first += detail::query_block) {
        const int count = std::min(detail::query_block, n - first);
        const int keys = mask == Mask::causal ? first + count : n, padded = round_up<S>(keys);
        const S* qb = q + first * size_padded;
        const S* db = d + first * size_padded;
        small_product<Operand::plain>(count, padded, size, qb, size_padded, kt, n_padded, p, padded, Store::assign);
        small_product<Operand::plain>(count, padded, size, db, size_padded, vt, n_padded, dp, padded, Store::assign);
        for (int i = 0; i < count; ++i) {
          S* pi = p + i * padded;
          S* di = dp + i * padded;
          const S log_sum = lse.row(begin + first + i)[head];
          const int visible = mask == Mask::causal ? first + i + 1 : n;
          Vector<S> dot{};
          for (int j = 0; j < padded; j += lanes<S>) {
            Vector<S> v = exp(load(pi + j) - log_sum);
            if (visible < j + lanes<S>) v = keep_first(v, visible - j, S(0));
            store(pi + j, v);
            dot += v * load(di + j);
          }
          const S mean = sum<S>(dot);
          for (int j = 0; j < padded; j += lanes<S>) store(di + j, load(pi + j) * (load(di + j) - mean));
        }
        // Rows of dK and dV that this block sees for the first time are assigned, the others added to. Bidirectional
        // attention sees all of them in its first block; a causal block sees `count` new ones, cleared here.
        const int seen = first == 0 ? 0 : mask == Mask::causal ? first : n;
        std::fill(dk + seen * size_padded, dk + keys * size_padded, S(0));
        std::fill(dv + seen * size_padded, dv + keys * size_padded, S(0));
        small_product<Operand::transposed>(keys, size_padded, count, p, padded, db, size_padded, dv, size_padded, Store::add);
        small_product<Operand::transposed>(keys, size_padded, count, dp, padded, qb, size_padded, dk, size_padded, Store::add);
        small_product<Operand::plain>(count, size_padded, keys, dp, padded, k, size_padded, dq, size_padded, Store::assign);
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
        const S inverse = S(1) / detail::exponentials(p, visible, padded).sum;
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

}  // namespace relay::cpu
