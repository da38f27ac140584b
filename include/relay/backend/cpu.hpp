// The CPU backend: Cpu<float> to train with, Cpu<bf16> to train faster with, Cpu<double> to check gradients with. The only file
// that includes Eigen.
//
// A backend is a tensor type and the plain functions below on it; nothing else in the library knows a host pointer. All are
// single-threaded: parallelism is over lanes of a batch, where it costs nothing (train/trainer.hpp). Cpu<bf16> differs in
// the products of linear layers alone: their operands are rounded to bf16 and summed up in float32; tensors are float32.
#pragma once

#include <Eigen/Core>

#include <relay/backend/backend.hpp>
#include <relay/backend/cpu/attention.hpp>
#include <relay/backend/cpu/product.hpp>
#include <relay/backend/cpu/row_ops.hpp>
#include <relay/backend/cpu/tensor.hpp>
#include <relay/backend/ops.hpp>
#include <relay/core/ragged.hpp>

namespace relay {

namespace cpu {

/// The functions of the backend Self, on tensors of S, with products of P.
template <class Self, class S, class P>
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
  /// Lays a weight out for the products above and below, once for all of them, until it is written.
  static void prepare(Tensor& weight) {
    if constexpr (own_products)
      weight.lay_out([](const Tensor& w, Layouts& to) {
        const ConstMatrix<S> elements{w.data(), w.cols()};
        pack<Operand::transposed>(w.rows(), w.cols(), elements, to.transposed.resize<Factor>(packed_size<Factor>(w.rows(), w.cols())));
        pack<Operand::plain>(w.cols(), w.rows(), elements, to.plain.resize<Factor>(packed_size<Factor>(w.cols(), w.rows())));
      });
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
    std::copy_n(x.data(), y.size(), y.data());
  }
  /// y += x, over the rows that both have
  static void add(const Tensor& x, Tensor& y) { cpu::add(x.data(), y.data(), std::min(x.size(), y.size())); }
  /// every row of y += row [1, cols]
  static void add_row(const Tensor& row, Tensor& y) {
    for (int r = 0; r < y.rows(); ++r) cpu::add(row.data(), y.row(r), y.cols());
  }
  /// total [1, cols] += the sum of y's rows
  static void add_column_sums(const Tensor& y, Tensor& total) { cpu::add_column_sums(y, total); }
  /// rows begin .. end-1 of x = 0
  static void clear_rows(Tensor& x, int begin, int end) { std::fill(x.row(begin), x.row(end), S(0)); }
  /// y [indices, cols]: row i = x's row indices[i], written from y's row `first` on
  static void gather_rows(const Tensor& x, const Indices& indices, int first, Tensor& y) {
    for (std::size_t i = 0; i < indices.size(); ++i)
      std::copy_n(x.row(indices[i]), x.cols(), y.row(first + static_cast<int>(i)));
  }
  /// x's row indices[i] += y's row first + i
  static void scatter_rows(const Tensor& y, int first, const Indices& indices, Tensor& x) {
    for (std::size_t i = 0; i < indices.size(); ++i)
      cpu::add(y.row(first + static_cast<int>(i)), x.row(indices[i]), x.cols());
  }
  static double sum_of_squares(const Tensor& x) {
    cpu::Vector<S> total{};
    cpu::by_vector<S>(x.size(), [&](long i, auto n) {
      const auto v = cpu::load_first(x.data() + i, n);
      total += v * v;
    });
    return static_cast<double>(cpu::sum<S>(total));
  }

  // What layers are made of (row_ops.hpp, attention.hpp say what each computes).
  static void layer_norm(const Tensor& x, const Tensor& scale, const Tensor& shift, double eps, Tensor& y, Tensor& statistics) {
    cpu::layer_norm(x, scale, shift, eps, y, statistics);
  }
  static void layer_norm_backward(const Tensor& x, const Tensor& statistics, const Tensor& scale, const Tensor& dy, Tensor& dx,
                                  Tensor& dscale, Tensor& dshift) {
    cpu::layer_norm_backward(x, statistics, scale, dy, dx, dscale, dshift);
  }
  static void gelu(const Tensor& x, Tensor& y) { cpu::gelu(x, y); }
  static void gelu_backward(const Tensor& x, const Tensor& dy, Tensor& dx) { cpu::gelu_backward(x, dy, dx); }
  static void rotate(Tensor& qkv, const Rows<Self>& rows, int heads, int rotated, const Tensor& table, int direction,
                     const Indices& starts = {}) {
    cpu::rotate(qkv, rows, heads, rotated, table, static_cast<S>(direction), starts);
  }
  static void attention(const Tensor& qkv, const Rows<Self>& rows, const Heads& heads, Tensor& out, Tensor& lse) {
    cpu::attention(qkv, rows, heads, out, lse);
  }
  static void attention_backward(const Tensor& qkv, const Tensor& lse, const Tensor& dout, const Rows<Self>& rows,
                                 const Heads& heads, Tensor& dqkv) {
    cpu::attention_backward(qkv, lse, dout, rows, heads, dqkv);
  }
  static void attention_cached(const Tensor& qkv, const Rows<Self>& rows, const Indices& slots, const Indices& starts, int heads,
                               Tensor& keys, Tensor& values, Tensor& out) {
    cpu::attention_cached<Factors<P>>(qkv, rows, slots, starts, heads, keys, values, out);
  }
  static void make_cache(int slots, int positions, int width, int heads, Device device, Tensor& keys, Tensor& values) {
    const CacheLayout<Factors<P>> layout(width / heads);
    keys.resize(slots * heads, layout.keys(positions), device);
    values.resize(slots * heads, layout.values(positions), device);
  }
  static void dropout(const Tensor& x, double rate, Key key, Tensor& y) { cpu::dropout<S>(x, rate, key, nullptr, y); }
  static void softmax_cross_entropy(Tensor& logits, const Indices& targets, std::span<const double> weights, Tensor& losses) {
    cpu::softmax_cross_entropy(logits, targets, weights, losses);
  }
  /// Per row of logits: the class of the largest one and its probability.
  static void argmax(const Tensor& logits, std::vector<std::int32_t>& best, std::vector<double>& probability) {
    cpu::argmax(logits, best, probability);
  }
  /// (train/adamw.hpp)
  static void adamw(Tensor& weight, const Tensor& gradient, Tensor& first, Tensor& second, const AdamWStep& step) {
    const auto scalar = [](double value) { return static_cast<S>(value); };
    const S scale = scalar(step.gradient_scale), keep = scalar(1 - step.rate * step.decay), rate = scalar(step.rate / step.correction1);
    const S beta1 = scalar(step.beta1), rest1 = scalar(1 - step.beta1), beta2 = scalar(step.beta2), rest2 = scalar(1 - step.beta2);
    const S root = scalar(1 / std::sqrt(step.correction2)), epsilon = scalar(step.epsilon);
    cpu::by_vector<S>(weight.size(), [&](long i, auto n) {
      const auto g = cpu::load_first(gradient.data() + i, n) * scale;
      const auto m = cpu::load_first(first.data() + i, n) * beta1 + g * rest1;
      const auto v = cpu::load_first(second.data() + i, n) * beta2 + g * g * rest2;
      const auto w = cpu::load_first(weight.data() + i, n) * keep - m * rate / (cpu::sqrt(v) * root + epsilon);
      cpu::store_first(first.data() + i, m, n);
      cpu::store_first(second.data() + i, v, n);
      cpu::store_first(weight.data() + i, w, n);
    });
  }

  // Composed ops that are faster in one pass here.
  /// y = x weight^T + bias
  static void linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Tensor& y) {
    y.resize_like(x, x.rows(), weight.rows());
    multiply<Operand::plain, Operand::transposed>(x, weight, bias.data(), y, Store::assign);
  }
  /// y = x + dropout(branch)
  static void residual(const Tensor& x, const Tensor& branch, double rate, const std::optional<Key>& key, Tensor& y) {
    if (key && rate > 0) return cpu::dropout<S>(branch, rate, *key, &x, y);
    y.resize_like(x, x.rows(), x.cols());
    cpu::by_vector<S>(x.size(), [&](long i, auto n) {
      cpu::store_first(y.data() + i, cpu::load_first(x.data() + i, n) + cpu::load_first(branch.data() + i, n), n);
    });
  }

 private:
  using Factor = Factors<P>;
  /// double exists to check gradients and takes Eigen's products: slower, and an independent judge of everything built on them.
  static constexpr bool own_products = !std::is_same_v<S, double>;

  /// c (+)= op(a) op(b) + bias
  template <Operand A, Operand B>
  static void multiply(const Tensor& a, const Tensor& b, const S* bias, Tensor& c, Store how) {
    if constexpr (own_products) {
      // Scratch comes from where a lives, which is of a lane: c may be a gradient, which has no memory of its own to keep any.
      const int depth = A == Operand::plain ? a.cols() : a.rows();
      const Layouts* layouts = b.layouts();
      const Factor* packed = !layouts ? nullptr : B == Operand::plain ? layouts->plain.as<Factor>() : layouts->transposed.as<Factor>();
      cpu::product<A, B, Factor>(c.rows(), c.cols(), depth, {a.data(), a.cols()}, {b.data(), b.cols()}, packed, bias,
                                 {c.data(), c.cols()}, how, a.device());
    } else {
      const auto add = [&](const auto& op_a, const auto& op_b) { map(c).noalias() += op_a * op_b; };
      if (how == Store::assign) map(c).setZero();
      for (int r = 0; bias && r < c.rows(); ++r) cpu::add(bias, c.row(r), c.cols());
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

template <class S>
struct Cpu : cpu::Functions<Cpu<S>, S, S> {};
template <>
struct Cpu<bf16> : cpu::Functions<Cpu<bf16>, float, bf16> {};

static_assert(ComputeBackend<Cpu<float>> && ComputeBackend<Cpu<bf16>> && ComputeBackend<Cpu<double>>);

}  // namespace relay
