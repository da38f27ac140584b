// What every operation of a backend computes, in plain loops over doubles: slow, obvious, and written from the equations,
// not from any backend. tests/backend/conformance.hpp holds each backend against it.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <vector>

#include <relay/backend/ops.hpp>
#include <relay/core/random.hpp>

namespace reference {

struct Matrix {
  int rows = 0, cols = 0;
  std::vector<double> values;

  Matrix() = default;
  Matrix(int r, int c, double value = 0)
      : rows(r), cols(c), values(static_cast<std::size_t>(r) * static_cast<std::size_t>(c), value) {}
  double& operator()(int r, int c) {
    return values[static_cast<std::size_t>(r) * static_cast<std::size_t>(cols) + static_cast<std::size_t>(c)];
  }
  double operator()(int r, int c) const {
    return values[static_cast<std::size_t>(r) * static_cast<std::size_t>(cols) + static_cast<std::size_t>(c)];
  }
};

using Offsets = std::vector<int>;  // where each sequence begins, and the end of the last

inline Matrix transposed(const Matrix& a) {
  Matrix t(a.cols, a.rows);
  for (int r = 0; r < a.rows; ++r)
    for (int c = 0; c < a.cols; ++c) t(c, r) = a(r, c);
  return t;
}

inline Matrix product(const Matrix& a, const Matrix& b) {
  Matrix y(a.rows, b.cols);
  for (int r = 0; r < a.rows; ++r)
    for (int c = 0; c < b.cols; ++c)
      for (int k = 0; k < a.cols; ++k) y(r, c) += a(r, k) * b(k, c);
  return y;
}

inline Matrix sum(const Matrix& a, const Matrix& b) {
  Matrix y = a;
  for (std::size_t i = 0; i < y.values.size(); ++i) y.values[i] += b.values[i];
  return y;
}

inline Matrix column_sums(const Matrix& a) {
  Matrix y(1, a.cols);
  for (int r = 0; r < a.rows; ++r)
    for (int c = 0; c < a.cols; ++c) y(0, c) += a(r, c);
  return y;
}

struct LayerNorm {
  Matrix y, statistics;  // mean and 1 / sqrt(variance + eps) of each row
};

inline LayerNorm layer_norm(const Matrix& x, const Matrix& scale, const Matrix& shift, double eps) {
  LayerNorm out{Matrix(x.rows, x.cols), Matrix(x.rows, 2)};
  for (int r = 0; r < x.rows; ++r) {
    double mean = 0, variance = 0;
    for (int c = 0; c < x.cols; ++c) mean += x(r, c) / x.cols;
    for (int c = 0; c < x.cols; ++c) variance += (x(r, c) - mean) * (x(r, c) - mean) / x.cols;
    const double rstd = 1 / std::sqrt(variance + eps);
    for (int c = 0; c < x.cols; ++c) out.y(r, c) = (x(r, c) - mean) * rstd * scale(0, c) + shift(0, c);
    out.statistics(r, 0) = mean;
    out.statistics(r, 1) = rstd;
  }
  return out;
}

struct LayerNormGradient {
  Matrix dx, dscale, dshift;
};

inline LayerNormGradient layer_norm_backward(const Matrix& x, const Matrix& scale, const Matrix& dy, double eps) {
  LayerNormGradient out{Matrix(x.rows, x.cols), Matrix(1, x.cols), Matrix(1, x.cols)};
  const Matrix statistics = layer_norm(x, scale, Matrix(1, x.cols), eps).statistics;
  for (int r = 0; r < x.rows; ++r) {
    const double mean = statistics(r, 0), rstd = statistics(r, 1);
    const auto n = [&](int c) { return (x(r, c) - mean) * rstd; };
    for (int c = 0; c < x.cols; ++c) {
      out.dscale(0, c) += dy(r, c) * n(c);
      out.dshift(0, c) += dy(r, c);
      // The Jacobian, element by element: dn_j / dx_c = rstd (delta_jc - 1/width - n_j n_c / width).
      for (int j = 0; j < x.cols; ++j)
        out.dx(r, c) += dy(r, j) * scale(0, j) * rstd * ((j == c ? 1.0 : 0.0) - (1 + n(j) * n(c)) / x.cols);
    }
  }
  return out;
}

inline double normal_cdf(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }
inline double gelu(double x) { return x * normal_cdf(x); }
inline double gelu_slope(double x) {
  return normal_cdf(x) + x * std::exp(-0.5 * x * x) / std::sqrt(2 * std::numbers::pi);
}

/// Turns queries and keys of the first `rotated` heads by direction * position * base^(-2i/size).
inline Matrix rotate(const Matrix& qkv, const Offsets& offsets, int heads, int rotated, double base, int direction,
                     const std::vector<int>& starts) {
  Matrix y = qkv;
  const int width = qkv.cols / 3, size = width / heads;
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    for (int r = offsets[s]; r < offsets[s + 1]; ++r)
      for (int part = 0; part < 2; ++part)
        for (int head = 0; head < rotated; ++head)
          for (int i = 0; i < size / 2; ++i) {
            const int a = part * width + head * size + i, b = a + size / 2;
            const int position = r - offsets[s] + (starts.empty() ? 0 : starts[s]);
            const double angle = direction * position * std::pow(base, -2.0 * i / size);
            y(r, a) = qkv(r, a) * std::cos(angle) - qkv(r, b) * std::sin(angle);
            y(r, b) = qkv(r, b) * std::cos(angle) + qkv(r, a) * std::sin(angle);
          }
  return y;
}

struct Attention {
  Matrix out, lse, dqkv;
};

/// Forward, and backward for the gradient `dout` of out.
inline Attention attention(const Matrix& qkv, const Offsets& offsets, const relay::Heads& heads, const Matrix& dout) {
  const int width = qkv.cols / 3, size = width / heads.count;
  const double scale = 1 / std::sqrt(static_cast<double>(size));
  Attention result{Matrix(qkv.rows, width), Matrix(qkv.rows, heads.count), Matrix(qkv.rows, qkv.cols)};
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    for (int head = 0; head < heads.count; ++head) {
      const int q = head * size, k = width + q, v = 2 * width + q;
      for (int i = offsets[s]; i < offsets[s + 1]; ++i) {
        const int begin = heads(head) == relay::Mask::anticausal ? i : offsets[s];
        const int end = heads(head) == relay::Mask::causal ? i + 1 : offsets[s + 1];
        std::vector<double> p(static_cast<std::size_t>(end - begin)), dp(p.size());
        double most = -std::numeric_limits<double>::infinity(), total = 0, mean = 0;
        for (int j = begin; j < end; ++j) {
          double score = 0;
          for (int c = 0; c < size; ++c) score += scale * qkv(i, q + c) * qkv(j, k + c);
          p[static_cast<std::size_t>(j - begin)] = score;
          most = std::max(most, score);
        }
        for (double& score : p) total += score = std::exp(score - most);
        result.lse(i, head) = most + std::log(total);
        for (int j = begin; j < end; ++j) {
          const auto n = static_cast<std::size_t>(j - begin);
          p[n] /= total;
          for (int c = 0; c < size; ++c) {
            result.out(i, q + c) += p[n] * qkv(j, v + c);
            dp[n] += dout(i, q + c) * qkv(j, v + c);
            result.dqkv(j, v + c) += p[n] * dout(i, q + c);
          }
          mean += p[n] * dp[n];
        }
        for (int j = begin; j < end; ++j) {
          const auto n = static_cast<std::size_t>(j - begin);
          const double ds = p[n] * (dp[n] - mean);
          for (int c = 0; c < size; ++c) {
            result.dqkv(i, q + c) += scale * ds * qkv(j, k + c);
            result.dqkv(j, k + c) += scale * ds * qkv(i, q + c);
          }
        }
      }
    }
  return result;
}

/// Which elements are dropped is part of the interface: the same on every backend.
inline bool dropped(long i, double rate, relay::Key key) {
  const auto bits = relay::philox(
      {static_cast<std::uint32_t>(i / 4), static_cast<std::uint32_t>((i / 4) >> 32), 0x44524f50u, 0}, key.value);
  return bits[static_cast<std::size_t>(i % 4)] < rate * 4294967296.0;
}

inline Matrix dropout(const Matrix& x, double rate, relay::Key key) {
  Matrix y = x;
  for (std::size_t i = 0; i < y.values.size(); ++i)
    y.values[i] = dropped(static_cast<long>(i), rate, key) ? 0 : x.values[i] / (1 - rate);
  return y;
}

struct CrossEntropy {
  Matrix gradient, losses;
};

inline CrossEntropy softmax_cross_entropy(const Matrix& logits, const std::vector<std::int32_t>& targets,
                                          const std::vector<double>& weights) {
  CrossEntropy out{logits, Matrix(logits.rows, 2)};
  for (int r = 0; r < logits.rows; ++r) {
    const int target = targets[static_cast<std::size_t>(r)];
    int best = 0;
    double total = 0;
    for (int c = 0; c < logits.cols; ++c) best = logits(r, c) > logits(r, best) ? c : best;
    for (int c = 0; c < logits.cols; ++c) total += std::exp(logits(r, c) - logits(r, best));
    for (int c = 0; c < logits.cols; ++c)
      out.gradient(r, c) = weights[static_cast<std::size_t>(r)] *
                           (std::exp(logits(r, c) - logits(r, best)) / total - (c == target ? 1 : 0));
    out.losses(r, 0) = std::log(total) + logits(r, best) - logits(r, target);
    out.losses(r, 1) = best == target ? 1 : 0;
  }
  return out;
}

}  // namespace reference
