// What else happens between the products on the CPU, row by row and vectorised: layer norm, dropout, softmax cross-entropy.
#ifndef RELAY_CPU_LEVEL
#include <relay/backend/cpu/kernels.hpp>
#else

namespace relay::cpu::RELAY_CPU_LEVEL {

/// to += from
template <class S>
void add(const S* from, S* to, long size) {
  by_vector<S>(size, [&](long i, auto n) { store_first(to + i, load_first(to + i, n) + load_first(from + i, n), n); });
}

/// total [1, cols] += the sum of x's rows: some columns at a time, whose sums stay in registers.
template <class S>
void add_column_sums(const Tensor<S>& x, Tensor<S>& total) {
  constexpr int vectors = 8;
  int c = 0;
  for (; c + vectors * lanes<S> <= x.cols(); c += vectors * lanes<S>) {
    Vector<S> sums[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) sums[v] = load(total.data() + c + v * lanes<S>);
    for (int r = 0; r < x.rows(); ++r)
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sums[v] += load(x.row(r) + c + v * lanes<S>);
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) store(total.data() + c + v * lanes<S>, sums[v]);
  }
  if (c < x.cols())
    for (int r = 0; r < x.rows(); ++r) add(x.row(r) + c, total.data() + c, x.cols() - c);
}

template <class S>
double sum_of_squares(const Tensor<S>& x) {
  Vector<S> total{};
  by_vector<S>(x.size(), [&](long i, auto n) {
    const Vector<S> v = load_first(x.data() + i, n);
    total += v * v;
  });
  return static_cast<double>(sum<S>(total));
}

/// y = x + branch
template <class S>
void residual(const Tensor<S>& x, const Tensor<S>& branch, Tensor<S>& y) {
  y.resize_like(x, x.rows(), x.cols());
  S* const to = y.data();
  over_elements(x, [&](long i, auto n) {
    store_first(to + i, load_first(x.data() + i, n) + load_first(branch.data() + i, n), n);
  });
}

namespace detail {

/// y = scale * (x - mean) * rstd + shift of one row, whose elements' sum is `total`; statistics [2]: mean, rstd.
template <class S>
[[gnu::always_inline]] inline void normalise_row(const S* x, int width, S total, const S* scale, const S* shift, S eps, S* y, S* statistics) {
  const S mean = total / static_cast<S>(width);
  Vector<S> squares{};
  by_vector<S>(width, [&](long i, auto n) {
    Vector<S> d = load_first(x + i, n) - mean;
    if constexpr (std::is_same_v<decltype(n), int>)
      for (int j = n; j < lanes<S>; ++j) d[j] = 0;  // what lies behind the row is no deviation
    squares += d * d;
  });
  const S rstd = S(1) / std::sqrt(sum<S>(squares) / static_cast<S>(width) + eps);
  by_vector<S>(width, [&](long i, auto n) {
    const Vector<S> normal = (load_first(x + i, n) - mean) * rstd;
    store_first(y + i, normal * load_first(scale + i, n) + load_first(shift + i, n), n);
  });
  statistics[0] = mean;
  statistics[1] = rstd;
}

}  // namespace detail

/// y = scale * (x - mean) * rstd + shift, per row; rstd = 1 / sqrt(variance + eps). statistics [rows, 2]: mean, rstd.
template <class S>
void layer_norm(const Tensor<S>& x, const Tensor<S>& scale, const Tensor<S>& shift, double eps, Tensor<S>& y,
                Tensor<S>& statistics) {
  const int width = x.cols();
  y.resize_like(x, x.rows(), width);
  statistics.resize_like(x, x.rows(), 2);
  S *const to = y.data(), *const kept = statistics.data();
  over_rows(x.device(), x.rows(), [&](int first, int last) {
    for (int r = first; r < last; ++r) {
      const S* xr = x.row(r);
      Vector<S> total{};
      by_vector<S>(width, [&](long i, auto n) { total += load_first(xr + i, n); });
      detail::normalise_row(xr, width, sum<S>(total), scale.data(), shift.data(), static_cast<S>(eps), to + static_cast<long>(r) * width, kept + 2L * r);
    }
  });
}

/// y = x + branch, and its layer norm: a row is in the cache when it is normalised.
template <class S>
void residual_norm(const Tensor<S>& x, const Tensor<S>& branch, const Tensor<S>& scale, const Tensor<S>& shift, double eps, Tensor<S>& y,
                   Tensor<S>& normal, Tensor<S>& statistics) {
  const int width = x.cols();
  y.resize_like(x, x.rows(), width);
  normal.resize_like(x, x.rows(), width);
  statistics.resize_like(x, x.rows(), 2);
  S *const sums = y.data(), *const to = normal.data(), *const kept = statistics.data();
  over_rows(x.device(), x.rows(), [&](int first, int last) {
    for (int r = first; r < last; ++r) {
      const S *xr = x.row(r), *br = branch.row(r);
      S* yr = sums + static_cast<long>(r) * width;
      Vector<S> total{};
      by_vector<S>(width, [&](long i, auto n) {
        const Vector<S> v = load_first(xr + i, n) + load_first(br + i, n);
        store_first(yr + i, v, n);
        total += v;
      });
      detail::normalise_row(yr, width, sum<S>(total), scale.data(), shift.data(), static_cast<S>(eps), to + static_cast<long>(r) * width, kept + 2L * r);
    }
  });
}

/// dx = rstd (g - mean(g) - n mean(g n)) + skip, g = dy scale, n = (x - mean) rstd; adds sum(dy n) to dscale, sum(dy) to dshift.
/// `skip` may be null. Some rows at a time, whose share of dscale and dshift is summed up in registers.
template <class S>
void layer_norm_backward(const Tensor<S>& x, const Tensor<S>& statistics, const Tensor<S>& scale, const Tensor<S>& dy,
                         const Tensor<S>* skip, Tensor<S>& dx, Tensor<S>& dscale, Tensor<S>& dshift) {
  constexpr int most = 4;
  const int width = x.cols();
  dx.resize_like(x, x.rows(), width);
  S *const to = dx.data(), *const scale_sum = dscale.data(), *const shift_sum = dshift.data();
  const auto rows = [&](int first, auto count) {
    S mean[most], rstd[most], mean_g[most], mean_gn[most];
    for (int r = 0; r < count; ++r) {
      const S *xr = x.row(first + r), *dyr = dy.row(first + r);
      mean[r] = statistics.row(first + r)[0], rstd[r] = statistics.row(first + r)[1];
      Vector<S> sum_g{}, sum_gn{};
      by_vector<S>(width, [&](long i, auto n) {
        const Vector<S> g = load_first(dyr + i, n) * load_first(scale.data() + i, n);
        sum_g += g;
        sum_gn += g * (load_first(xr + i, n) - mean[r]);
      });
      mean_g[r] = sum<S>(sum_g) / static_cast<S>(width), mean_gn[r] = sum<S>(sum_gn) * rstd[r] / static_cast<S>(width);
    }
    by_vector<S>(width, [&](long i, auto n) {
      const Vector<S> factor = load_first(scale.data() + i, n);
      Vector<S> of_scale = load_first(scale_sum + i, n), of_shift = load_first(shift_sum + i, n);
      for (int r = 0; r < count; ++r) {
        const long at = static_cast<long>(first + r) * width + i;
        const Vector<S> d = load_first(dy.data() + at, n), normal = (load_first(x.data() + at, n) - mean[r]) * rstd[r];
        of_scale += d * normal;
        of_shift += d;
        const Vector<S> own = (d * factor - mean_g[r] - normal * mean_gn[r]) * rstd[r];
        store_first(to + at, skip ? own + load_first(skip->data() + at, n) : own, n);
      }
      store_first(scale_sum + i, of_scale, n);
      store_first(shift_sum + i, of_shift, n);
    });
  };
  int r = 0;
  for (; r + most <= x.rows(); r += most) rows(r, std::integral_constant<int, most>{});
  if (r < x.rows()) rows(r, x.rows() - r);
}

/// One Philox block gives the bits that decide four elements.
/// y = base + x * (kept ? 1 / (1 - rate) : 0); without a base, y = the second term. y may be x or base.
template <class S>
void dropout(const Tensor<S>& x, double rate, Key key, const Tensor<S>* base, Tensor<S>& y) {
  y.resize_like(x, x.rows(), x.cols());
  const S kept = static_cast<S>(1.0 / (1.0 - rate));
  const auto threshold = static_cast<std::uint64_t>(rate * 4294967296.0);
  for (long i = 0; i < x.size(); i += 4) {
    const auto bits = philox({static_cast<std::uint32_t>(i >> 2), static_cast<std::uint32_t>(i >> 34), 0x44524f50u, 0}, key.value);
    const long count = std::min<long>(4, x.size() - i);
    for (long j = 0; j < count; ++j) {
      const S v = bits[static_cast<std::size_t>(j)] >= threshold ? x.data()[i + j] * kept : S(0);
      y.data()[i + j] = base ? base->data()[i + j] + v : v;
    }
  }
}

/// logits [rows, classes] -> losses [rows, 2]: -log softmax(logits)[target], and 1 where the target is the argmax; the
/// logits are overwritten by the gradient, weights[row] * (softmax - onehot).
template <class S>
void softmax_cross_entropy(Tensor<S>& logits, std::span<const std::int32_t> targets, std::span<const double> weights,
                           Tensor<S>& losses) {
  const int classes = logits.cols();
  losses.resize_like(logits, logits.rows(), 2);
  for (int r = 0; r < logits.rows(); ++r) {
    S* row = logits.row(r);
    const int target = targets[static_cast<std::size_t>(r)];
    int best = 0;
    for (int c = 1; c < classes; ++c)
      if (row[c] > row[best]) best = c;
    const S top = row[best], wanted = row[target];
    Vector<S> total{};
    S rest = 0;
    by_vector<S>(classes, [&](long i, auto n) {
      const Vector<S> e = exp(load_first(row + i, n) - top);
      store_first(row + i, e, n);
      if constexpr (std::is_same_v<decltype(n), int>)
        for (int j = 0; j < n; ++j) rest += e[j];
      else
        total += e;
    });
    const S denominator = sum<S>(total) + rest;
    const S factor = static_cast<S>(weights[static_cast<std::size_t>(r)]);
    by_vector<S>(classes, [&](long i, auto n) { store_first(row + i, load_first(row + i, n) * (factor / denominator), n); });
    row[target] -= factor;
    losses.row(r)[0] = std::log(denominator) + top - wanted;
    losses.row(r)[1] = best == target ? S(1) : S(0);
  }
}

/// Per row of logits: the class of the largest one (the first of equals) and its probability.
template <class S>
void argmax(const Tensor<S>& logits, std::vector<std::int32_t>& best, std::vector<double>& probability) {
  best.resize(static_cast<std::size_t>(logits.rows()));
  probability.resize(best.size());
  over_rows(logits.device(), logits.rows(), [&](int first, int last) {
    for (int r = first; r < last; ++r) {
      const S* row = logits.row(r);
      int top = 0;
      for (int c = 1; c < logits.cols(); ++c)
        if (row[c] > row[top]) top = c;
      S total = 0;
      by_vector<S>(logits.cols(), [&](long i, auto n) {
        const Vector<S> e = exp(load_first(row + i, n) - row[top]);
        for (int j = 0; j < n; ++j) total += e[j];
      });
      best[static_cast<std::size_t>(r)] = top;
      probability[static_cast<std::size_t>(r)] = static_cast<double>(S(1) / total);
    }
  });
}

/// Each row's logits become their softmax.
template <class S>
void softmax(Tensor<S>& y) {
  over_rows(y.device(), y.rows(), [&](int first, int last) {
    for (int r = first; r < last; ++r) {
      S* row = y.row(r);
      const S top = *std::max_element(row, row + y.cols());
      S total = 0;
      by_vector<S>(y.cols(), [&](long i, auto n) {
        const Vector<S> e = exp(load_first(row + i, n) - top);
        store_first(row + i, e, n);
        for (int j = 0; j < n; ++j) total += e[j];
      });
      by_vector<S>(y.cols(), [&](long i, auto n) { store_first(row + i, load_first(row + i, n) * (1 / total), n); });
    }
  });
}

/// Each row of dy, the gradient of the softmax y, becomes that of its logits: y (dy - sum(y dy)).
template <class S>
void softmax_backward(const Tensor<S>& y, Tensor<S>& dy) {
  over_rows(y.device(), y.rows(), [&](int first, int last) {
    for (int r = first; r < last; ++r) {
      const S* p = y.row(r);
      S* d = dy.row(r);
      S total = 0;
      for (int c = 0; c < y.cols(); ++c) total += p[c] * d[c];
      by_vector<S>(y.cols(), [&](long i, auto n) { store_first(d + i, load_first(p + i, n) * (load_first(d + i, n) - total), n); });
    }
  });
}

/// (train/adamw.hpp)
template <class S>
void adamw(Tensor<S>& weight, const Tensor<S>& gradient, Tensor<S>& first, Tensor<S>& second, const AdamWStep& step) {
  const auto scalar = [](double value) { return static_cast<S>(value); };
  const S scale = scalar(step.gradient_scale), keep = scalar(1 - step.rate * step.decay), rate = scalar(step.rate / step.correction1);
  const S beta1 = scalar(step.beta1), rest1 = scalar(1 - step.beta1), beta2 = scalar(step.beta2), rest2 = scalar(1 - step.beta2);
  const S root = scalar(1 / std::sqrt(step.correction2)), epsilon = scalar(step.epsilon);
  by_vector<S>(weight.size(), [&](long i, auto n) {
    const Vector<S> g = load_first(gradient.data() + i, n) * scale;
    const Vector<S> m = load_first(first.data() + i, n) * beta1 + g * rest1;
    const Vector<S> v = load_first(second.data() + i, n) * beta2 + g * g * rest2;
    const Vector<S> w = load_first(weight.data() + i, n) * keep - m * rate / (sqrt(v) * root + epsilon);
    store_first(first.data() + i, m, n);
    store_first(second.data() + i, v, n);
    store_first(weight.data() + i, w, n);
  });
}

}  // namespace relay::cpu::RELAY_CPU_LEVEL

#endif
