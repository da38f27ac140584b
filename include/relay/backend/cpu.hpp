// The CPU backend: Cpu<float> to train with, Cpu<bf16> to train faster with, Cpu<double> to check gradients with. The only file
// that includes Eigen.
//
// A backend is a tensor type and the plain functions below on it; nothing else in the library knows a host pointer. A function
// runs on the calling thread, or shares its rows among the threads of its tensors' device, if that has any (training needs none:
// its lanes are parallel, where it costs nothing, train/trainer.hpp). Where the CPU has AMX, Cpu<float> has it multiply the operands of large products as
// digits, which is faster, with errors of float32's order in norm (cpu/digits.hpp). Cpu<bf16> differs in
// the products of linear layers, but heads, and in those of attention: their operands are rounded to bf16 and summed up in float32. GELU and
// the probabilities of attention, which are rounded for products, are made no more exact than that asks for. All other tensors are float32, and
// everything is where the CPU has neither AVX512_BF16 nor AMX.
#pragma once

#ifdef __CUDACC__  // where both backends are in one program
#pragma nv_diagnostic push
#pragma nv_diag_suppress 20012  // Eigen 3.4 annotates what nvcc has annotated already
#pragma nv_diag_suppress 1675   // pragmas that are g++'s
#endif
#include <Eigen/Core>

#include <algorithm>
#include <functional>
#include <utility>

#include <relay/backend/backend.hpp>
#include <relay/backend/cpu/cache.hpp>
#include <relay/backend/cpu/levels.hpp>
#ifdef __CUDACC__
#pragma nv_diagnostic pop
#endif
#include <relay/backend/cpu/tensor.hpp>
#include <relay/backend/ops.hpp>
#include <relay/core/ragged.hpp>

namespace relay {

namespace cpu {

/// The functions of the backend Self, on tensors of S, with products of P, by the kernels of the highest level that this machine has, up
/// to `at_most` (cpu/levels.hpp).
template <class Self, class S, class P, Level at_most>
struct Functions : ComposedOps<Self> {
  using Scalar = S;
  using Memory = cpu::Memory;
  using Device = cpu::Device;
  using Tensor = cpu::Tensor<S>;
  using Indices = std::vector<std::int32_t>;

  // Moving data between the host and the device.
  static Indices indices(std::span<const std::int32_t> from, Device) { return Indices(from.begin(), from.end()); }
  static void upload(std::span<const S> from, Tensor& to) { std::copy(from.begin(), from.end(), to.data()); }
  static std::vector<S> download(const Tensor& from) { return std::vector<S>(from.data(), from.data() + from.size()); }
  static void indices_to(std::span<const std::int32_t> from, Device, Indices& to) { to.assign(from.begin(), from.end()); }
  static void download_to(const Tensor& from, std::vector<S>& to) { to.assign(from.data(), from.data() + from.size()); }

  // Products. Weights are [outputs, inputs], as in PyTorch.
  /// y [rows, outputs] = x [rows, inputs] weight^T
  static void product(const Tensor& x, const Tensor& weight, Tensor& y) {
    y.resize_like(x, x.rows(), weight.rows());
    multiply<Operand::plain, Operand::transposed>(x, weight, nullptr, y, Store::assign);
  }
  /// Lays a weight out for the products above and below, once for all of them, until it is written. A single row is a bias, or soon read.
  static void prepare(Tensor& weight) {
    if (weight.rows() <= 1) return;
    if constexpr (own_products) run([&](auto kernels) { kernels.template lay_out<P>(weight); });
  }
  /// dx [rows, inputs] = dy [rows, outputs] weight
  static void product_backward(const Tensor& dy, const Tensor& weight, Tensor& dx) {
    dx.resize_like(dy, dy.rows(), weight.cols());
    multiply<Operand::plain, Operand::plain>(dy, weight, nullptr, dx, Store::assign);
  }
  /// dweight [outputs, inputs] += dy^T x
  static void add_outer_product(const Tensor& dy, const Tensor& x, Tensor& dweight) {
    multiply<Operand::transposed, Operand::plain>(dy, x, nullptr, dweight, Store::add);
  }

  // Rows and elements.
  static void fill(Tensor& x, double value) { std::fill_n(x.data(), x.size(), static_cast<S>(value)); }
  /// y = x
  static void copy(const Tensor& x, Tensor& y) { copy_first(x, x.rows(), y); }
  /// y [count, cols] = the first rows of x
  static void copy_first(const Tensor& x, int count, Tensor& y) {
    y.resize_like(x, count, x.cols());
    S* const to = y.data();
    cpu::over_rows(x.device(), count, [&](int first, int last) {
      std::copy(x.row(first), x.row(last), to + static_cast<long>(first) * x.cols());
    });
  }
  /// y += x, over the rows that both have
  static void add(const Tensor& x, Tensor& y) {
    run([&](auto kernels) { kernels.add(x.data(), y.data(), std::min(x.size(), y.size())); });
  }
  /// every row of y += row [1, cols]
  static void add_row(const Tensor& row, Tensor& y) {
    run([&](auto kernels) {
      for (int r = 0; r < y.rows(); ++r) kernels.add(row.data(), y.row(r), y.cols());
    });
  }
  /// total [1, cols] += the sum of y's rows
  static void add_column_sums(const Tensor& y, Tensor& total) {
    run([&](auto kernels) { kernels.add_column_sums(y, total); });
  }
  /// rows begin .. end-1 of x = 0
  static void clear_rows(Tensor& x, int begin, int end) { std::fill(x.row(begin), x.row(end), S(0)); }
  /// y [indices, cols]: row i = x's row indices[i], written from y's row `first` on
  static void gather_rows(const Tensor& x, const Indices& indices, int first, Tensor& y) {
    for (std::size_t i = 0; i < indices.size(); ++i)
      std::copy_n(x.row(indices[i]), x.cols(), y.row(first + static_cast<int>(i)));
  }
  /// x's row indices[i] += y's row first + i
  static void scatter_rows(const Tensor& y, int first, const Indices& indices, Tensor& x) {
    run([&](auto kernels) {
      for (std::size_t i = 0; i < indices.size(); ++i) kernels.add(y.row(first + static_cast<int>(i)), x.row(indices[i]), x.cols());
    });
  }
  /// y [rows, cols]: row indices[i] = x's row first + i, all others are zeros, in one pass
  static void spread_rows(const Tensor& x, int first, const Indices& indices, int rows, Tensor& y) {
    const bool ascending = std::adjacent_find(indices.begin(), indices.end(), std::greater_equal()) == indices.end();
    if (!ascending) return ComposedOps<Self>::spread_rows(x, first, indices, rows, y);
    y.resize_like(x, rows, x.cols());
    S* const to = y.data();
    long at = 0;
    const auto clear_up_to = [&](int row) {
      const long end = static_cast<long>(row) * x.cols();
      std::fill(to + std::exchange(at, end), to + end, S(0));
    };
    for (std::size_t i = 0; i < indices.size(); ++i) {
      clear_up_to(indices[i]);
      at = std::copy_n(x.row(first + static_cast<int>(i)), x.cols(), to + at) - to;
    }
    clear_up_to(rows);
  }
  static double sum_of_squares(const Tensor& x) {
    return run([&](auto kernels) { return kernels.sum_of_squares(x); });
  }

  // What layers are made of (row_ops.hpp, gelu.hpp, rotary.hpp and attention.hpp say what each computes).
  static void layer_norm(const Tensor& x, const Tensor& scale, const Tensor& shift, double eps, Tensor& y, Tensor& statistics) {
    run([&](auto kernels) { kernels.layer_norm(x, scale, shift, eps, y, statistics); });
  }
  static void layer_norm_backward(const Tensor& x, const Tensor& statistics, const Tensor& scale, const Tensor& dy, Tensor& dx,
                                  Tensor& dscale, Tensor& dshift) {
    const Tensor* const skip = nullptr;
    run([&](auto kernels) { kernels.layer_norm_backward(x, statistics, scale, dy, skip, dx, dscale, dshift); });
  }
  static void gelu(const Tensor& x, Tensor& y) {
    run_without_digits([&](auto kernels) { kernels.template gelu<P>(x, y); });
  }
  static void gelu_backward(const Tensor& x, const Tensor& dy, Tensor& dx, Tensor& y) {
    run_without_digits([&](auto kernels) { kernels.template gelu_backward<P>(x, dy, dx, y); });
  }
  static void rotate(Tensor& qkv, const Rows<Self>& rows, int heads, int rotated, const Tensor& table, int direction,
                     const Indices& starts = {}) {
    run([&](auto kernels) { kernels.rotate(qkv, rows, heads, rotated, table, static_cast<S>(direction), starts); });
  }
  static void attention(const Tensor& qkv, const Rows<Self>& rows, const Heads& heads, Tensor& out, Tensor& lse) {
    run_without_digits([&](auto kernels) { kernels.template attention<P>(qkv, rows, heads, out, lse); });
  }
  static void attention_backward(const Tensor& qkv, const Tensor& /*out*/, const Tensor& lse, const Tensor& dout, const Rows<Self>& rows,
                                 const Heads& heads, Tensor& dqkv) {
    run_without_digits([&](auto kernels) { kernels.template attention_backward<P>(qkv, lse, dout, rows, heads, dqkv); });
  }
  static void attention_cached(const Tensor& qkv, const Rows<Self>& rows, const Indices& slots, const Indices& starts, int heads,
                               Tensor& keys, Tensor& values, Tensor& out) {
    run_without_digits([&](auto kernels) { kernels.template attention_cached<P>(qkv, rows, slots, starts, heads, keys, values, out); });
  }
  static void make_cache(int slots, int positions, int width, int heads, Device device, Tensor& keys, Tensor& values) {
    run_without_digits([&](auto kernels) { kernels.template make_cache<P>(slots, positions, width, heads, device, keys, values); });
  }
  /// Few enough for all that two transformer blocks of this width write (some 24 numbers for each of a row) to stay in 4 MiB.
  static int rows_at_once(int width, const Device&) { return std::max(1, (4 << 20) / (24 * width * static_cast<int>(sizeof(S)))); }
  /// Every token reads all that its sequence has cached: several times faster from the processor's cache than from memory. But the weights
  /// are read once for all sequences, products of fewer than four rows only wait for them, and threads want rows that they can share.
  static int sequences_at_once(long elements, const Device& device) {
    constexpr long few = 4, most = 64;
    const long share = cpu::cache_of_a_core(), threads = device.threads ? device.threads->count() : 1, bytes = std::max(1L, elements * long{sizeof(P)});
    const long least = threads == 1 ? few : cpu::rows_of_a_part * threads;
    return static_cast<int>(std::clamp(threads * share / bytes, least, std::max(least, most)));
  }
  static void dropout(const Tensor& x, double rate, Key key, Tensor& y) {
    const Tensor* const base = nullptr;
    run([&](auto kernels) { kernels.dropout(x, rate, key, base, y); });
  }
  static void softmax_cross_entropy(Tensor& logits, const Indices& targets, std::span<const double> weights, Tensor& losses) {
    run([&](auto kernels) { kernels.softmax_cross_entropy(logits, targets, weights, losses); });
  }
  /// Per row of logits: the class of the largest one and its probability.
  static void argmax(const Tensor& logits, std::vector<std::int32_t>& best, std::vector<double>& probability) {
    run([&](auto kernels) { kernels.argmax(logits, best, probability); });
  }
  static void softmax(Tensor& y) {
    run([&](auto kernels) { kernels.softmax(y); });
  }
  static void softmax_backward(const Tensor& y, Tensor& dy) {
    run([&](auto kernels) { kernels.softmax_backward(y, dy); });
  }
  /// (train/adamw.hpp)
  static void adamw(Tensor& weight, const Tensor& gradient, Tensor& first, Tensor& second, const AdamWStep& step) {
    run([&](auto kernels) { kernels.adamw(weight, gradient, first, second, step); });
  }

  // Composed ops that are faster in one pass here.
  /// y = x weight^T + bias
  static void linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& y) {
    y.resize_like(x, x.rows(), weight.rows());
    multiply<Operand::plain, Operand::transposed>(x, weight, bias.data(), y, Store::assign);
  }
  /// Of a head, in float32 also where other products are of bf16 (it is small: there it is laid out whenever it is read).
  static void logits(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& y) {
    y.resize_like(x, x.rows(), weight.rows());
    multiply<Operand::plain, Operand::transposed, S>(x, weight, bias.data(), y, Store::assign);
  }
  static void logits_backward(const Tensor& x, const Tensor& weight, const Tensor& dy, Tensor& dx, Tensor& dweight, Tensor& dbias) {
    dx.resize_like(dy, dy.rows(), weight.cols());
    multiply<Operand::plain, Operand::plain, S>(dy, weight, nullptr, dx, Store::assign);
    multiply<Operand::transposed, Operand::plain, S>(dy, x, nullptr, dweight, Store::add);
    add_column_sums(dy, dbias);
  }
  static void feed_forward(const Tensor& x, const auto& up, const auto& down, bool forward_only, Tensor& hidden, Tensor& activated, Tensor& y) {
    if constexpr (own_products)
      if (run([&](auto kernels) { return kernels.template has_feed_forward<P>(x, up.weight, down.weight, forward_only); }))
        return run([&](auto kernels) { kernels.template feed_forward<P>(x, up.weight, up.bias, down.weight, down.bias, forward_only, hidden, y); });
    ComposedOps<Self>::feed_forward(x, up, down, forward_only, hidden, activated, y);
    if constexpr (own_products)
      if (!forward_only) run([&](auto kernels) { kernels.template round_hidden<P>(hidden); });
  }
  static void feed_forward_backward(const Tensor& x, const Tensor& hidden, const Tensor& activated, const auto& up, const auto& down, const Tensor& dy,
                                    Tensor& dx, auto& dup, auto& ddown) {
    const Tensor* h = &hidden;
    Tensor rows;
    if constexpr (own_products) {
      if (run([&](auto kernels) { return kernels.template has_feed_forward_backward<P>(dy, hidden, up.weight, down.weight); })) {
        run([&](auto kernels) { kernels.template feed_forward_backward<P>(x, hidden, up.weight, down.weight, dy, dx, dup.weight, dup.bias, ddown.weight); });
        return add_column_sums(dy, ddown.bias);
      }
      if (run([&](auto kernels) { return kernels.template hidden_rows<P>(hidden, dy.rows(), up.weight.rows(), rows); })) h = &rows;
    }
    ComposedOps<Self>::feed_forward_backward(x, *h, activated, up, down, dy, dx, dup, ddown);
  }
  static void rotary_attention(Tensor& qkv, const Rows<Self>& rows, const Heads& heads, int rotated, const Tensor& table, Tensor& out, Tensor& lse) {
    run_without_digits([&](auto kernels) { kernels.template rotary_attention<P>(qkv, rows, heads, rotated, table, out, lse); });
  }
  static void rotary_attention_backward(const Tensor& qkv, const Tensor& /*out*/, const Tensor& lse, const Tensor& dout, const Rows<Self>& rows,
                                        const Heads& heads, int rotated, const Tensor& table, Tensor& dqkv) {
    run_without_digits([&](auto kernels) { kernels.template rotary_attention_backward<P>(qkv, lse, dout, rows, heads, rotated, table, dqkv); });
  }
  /// y = x + dropout(branch)
  static void residual(const Tensor& x, const Tensor& branch, double rate, const std::optional<Key>& key, Tensor& y) {
    if (key && rate > 0) return run([&](auto kernels) { kernels.dropout(branch, rate, *key, &x, y); });
    run([&](auto kernels) { kernels.residual(x, branch, y); });
  }
  static void residual_norm(const Tensor& x, const Tensor& branch, double rate, const std::optional<Key>& key, const Tensor& scale, const Tensor& shift,
                            double eps, Tensor& y, Tensor& normal, Tensor& statistics) {
    if (key && rate > 0) return ComposedOps<Self>::residual_norm(x, branch, rate, key, scale, shift, eps, y, normal, statistics);
    run([&](auto kernels) { kernels.residual_norm(x, branch, scale, shift, eps, y, normal, statistics); });
  }
  static void layer_norm_backward_add(const Tensor& x, const Tensor& statistics, const Tensor& scale, const Tensor& dy, const Tensor& skip, Tensor& dx,
                                      Tensor& dscale, Tensor& dshift, const std::optional<Dropping>& /*next*/ = {}) {
    run([&](auto kernels) { kernels.layer_norm_backward(x, statistics, scale, dy, &skip, dx, dscale, dshift); });
  }

 private:
  /// double exists to check gradients and takes Eigen's products: slower, and an independent judge of everything built on them.
  static constexpr bool own_products = !std::is_same_v<S, double>;
  /// What each operation goes through: the kernels of the level that this machine has.
  static decltype(auto) run(auto&& f) { return cpu::run<P, at_most>(f); }
  /// The same for what takes no digits, and is the same code with AMX as without, in float32.
  static decltype(auto) run_without_digits(auto&& f) { return cpu::run<P, std::is_same_v<P, float> ? std::min(at_most, Level::avx512) : at_most>(f); }

  /// c (+)= op(a) op(b) + bias, the products of F
  template <Operand A, Operand B, class F = P>
  static void multiply(const Tensor& a, const Tensor& b, const S* bias, Tensor& c, Store how) {
    if constexpr (own_products) {
      run([&](auto kernels) { kernels.template product<A, B, F>(a, b, bias, c, how); });
    } else {
      const auto add = [&](const auto& op_a, const auto& op_b) { map(c).noalias() += op_a * op_b; };
      if (how == Store::assign) map(c).setZero();
      run([&](auto kernels) {
        for (int r = 0; bias && r < c.rows(); ++r) kernels.add(bias, c.row(r), c.cols());
      });
      if constexpr (A == Operand::transposed)
        add(map(a).transpose(), map(b));
      else if constexpr (B == Operand::transposed)
        add(map(a), map(b).transpose());
      else
        add(map(a), map(b));
    }
  }

  using Dense = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  static auto map(Tensor& x) { return Eigen::Map<Dense, Eigen::Aligned64>(x.data(), x.rows(), x.cols()); }
  static auto map(const Tensor& x) { return Eigen::Map<const Dense, Eigen::Aligned64>(x.data(), x.rows(), x.cols()); }
};

}  // namespace cpu

/// `at_most`: the highest level of the instruction set to use, for tests of the others.
template <class S, cpu::Level at_most = cpu::highest>
struct Cpu : cpu::Functions<Cpu<S, at_most>, S, S, at_most> {};
template <cpu::Level at_most>
struct Cpu<bf16, at_most> : cpu::Functions<Cpu<bf16, at_most>, float, bf16, at_most> {};

static_assert(ComputeBackend<Cpu<float>> && ComputeBackend<Cpu<bf16>> && ComputeBackend<Cpu<double>>);

}  // namespace relay
