// Shapes<S>: a backend whose tensors have shapes and no elements. It computes nothing and counts memory.
//
// A model, a layer or an objective on it asks for the memory that it would ask for on the CPU with the same Scalar, at the same
// moments: what a training needs is known before it runs (train/memory_plan.hpp), and no formula of memory is written twice.
// Memory is that of the CPU, size classes and reuse included (backend/memory.hpp), but for two things: what an operation of the CPU
// packs for itself while it runs is estimated, where it is much, and lists of the host are left out. What is read back are zeros.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <relay/backend/memory.hpp>
#include <relay/backend/ops.hpp>
#include <relay/core/ragged.hpp>
#include <relay/core/require.hpp>
#include <relay/core/threads.hpp>

namespace relay {

namespace shapes {

/// Where blocks come from that nobody reads or writes.
struct Nowhere {
  static void* take(std::size_t) { return nullptr; }
  static void give_back(void*) noexcept {}
};

using Memory = BlockPool<Nowhere>;

struct Device {
  Memory* memory = nullptr;    // where tensors are counted; null: nowhere
  Threads* threads = nullptr;  // have nothing to do
};

template <class S>
class Tensor {
 public:
  using Scalar = S;

  Tensor() = default;
  Tensor(int rows, int cols, Device device = {}) : buffer_(device.memory) { resize(rows, cols, device); }
  Tensor(const Tensor& other) : Tensor(other.rows_, other.cols_, other.device()) {}
  Tensor(Tensor&& other) noexcept { swap(other); }
  Tensor& operator=(Tensor other) noexcept {
    swap(other);
    return *this;
  }

  int rows() const { return rows_; }
  int cols() const { return cols_; }
  long size() const { return static_cast<long>(rows_) * cols_; }
  Device device() const { return {buffer_.pool(), nullptr}; }

  void resize(int rows, int cols, Device device) {
    require(rows >= 0 && cols >= 0, "a tensor cannot have ", rows, " rows and ", cols, " columns");
    if (buffer_.pool() != device.memory) buffer_.move_to(device.memory);
    buffer_.grow(static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols) * sizeof(S));
    rows_ = rows;
    cols_ = cols;
  }
  void resize_like(const Tensor& other, int rows, int cols) { resize(rows, cols, other.device()); }
  /// Two forms of a weight for products, beside itself, as the CPU has them.
  void lay_out() {
    layouts_.move_to(buffer_.pool());
    layouts_.grow(2 * static_cast<std::size_t>(size()) * sizeof(S));
  }

 private:
  void swap(Tensor& other) noexcept {
    buffer_.swap(other.buffer_);
    layouts_.swap(other.layouts_);
    std::swap(rows_, other.rows_);
    std::swap(cols_, other.cols_);
  }

  Buffer<Nowhere> buffer_, layouts_;
  int rows_ = 0, cols_ = 0;
};

struct Indices {};

}  // namespace shapes

template <class S>
struct Shapes : ComposedOps<Shapes<S>> {
  using Scalar = S;
  using Memory = shapes::Memory;
  using Device = shapes::Device;
  using Tensor = shapes::Tensor<S>;
  using Indices = shapes::Indices;
  using NoElements = void;  // so that nobody draws or fills what is thrown away

  static Indices indices(std::span<const std::int32_t>, Device) { return {}; }
  static void upload(std::span<const S>, Tensor&) {}
  static void indices_to(std::span<const std::int32_t>, Device, Indices&) {}
  static std::vector<S> download(const Tensor& x) { return std::vector<S>(static_cast<std::size_t>(x.size())); }

  static void product(const Tensor& x, const Tensor& weight, Tensor& y) { y.resize_like(x, x.rows(), weight.rows()); }
  static void product_backward(const Tensor& dy, const Tensor& weight, Tensor& dx) {
    dx.resize_like(dy, dy.rows(), weight.cols());
  }
  static void add_outer_product(const Tensor& dy, const Tensor&, Tensor&) { scratch(128L * (dy.cols() + 64), dy); }

  static void prepare(Tensor& weight) {
    if (weight.rows() > 1) weight.lay_out();
  }

  static void fill(Tensor&, double) {}
  static void copy(const Tensor& x, Tensor& y) { copy_first(x, x.rows(), y); }
  static void copy_first(const Tensor& x, int count, Tensor& y) { y.resize_like(x, count, x.cols()); }
  static void add(const Tensor&, Tensor&) {}
  static void add_row(const Tensor&, Tensor&) {}
  static void add_column_sums(const Tensor&, Tensor&) {}
  static void clear_rows(Tensor&, int, int) {}
  static void gather_rows(const Tensor&, const Indices&, int, Tensor&) {}
  static void scatter_rows(const Tensor&, int, const Indices&, Tensor&) {}
  static double sum_of_squares(const Tensor&) { return 0; }

  static void layer_norm(const Tensor& x, const Tensor&, const Tensor&, double, Tensor& y, Tensor& statistics) {
    y.resize_like(x, x.rows(), x.cols());
    statistics.resize_like(x, x.rows(), 2);
  }
  static void layer_norm_backward(const Tensor& x, const Tensor&, const Tensor&, const Tensor&, Tensor& dx, Tensor&, Tensor&) {
    dx.resize_like(x, x.rows(), x.cols());
  }
  static void gelu(const Tensor& x, Tensor& y) { y.resize_like(x, x.rows(), x.cols()); }
  static void gelu_backward(const Tensor& x, const Tensor&, Tensor& dx, Tensor& y) {
    dx.resize_like(x, x.rows(), x.cols());
    y.resize_like(x, x.rows(), x.cols());
  }
  static void rotate(Tensor&, const Rows<Shapes>&, int, int, const Tensor&, int, const Indices& = {}) {}
  static void attention(const Tensor& qkv, const Rows<Shapes>& rows, const Heads& heads, Tensor& out, Tensor& lse) {
    out.resize_like(qkv, qkv.rows(), qkv.cols() / 3);
    lse.resize_like(qkv, qkv.rows(), heads.count);
    const int size = qkv.cols() / 3 / heads.count;
    scratch(rows.longest() * (3L * size + 32) + 32L * size, qkv);
  }
  static void attention_backward(const Tensor& qkv, const Tensor&, const Tensor&, const Tensor&, const Rows<Shapes>& rows, const Heads& heads,
                                 Tensor& dqkv) {
    dqkv.resize_like(qkv, qkv.rows(), qkv.cols());
    scratch(rows.longest() * (7L * (qkv.cols() / 3 / heads.count) + 64), qkv);
  }
  static void attention_cached(const Tensor& qkv, const Rows<Shapes>&, const Indices&, const Indices&, int, Tensor&, Tensor&,
                               Tensor& out) {
    out.resize_like(qkv, qkv.rows(), qkv.cols() / 3);
  }
  static void make_cache(int slots, int positions, int width, int heads, Device device, Tensor& keys, Tensor& values) {
    keys.resize(slots * heads, positions * (width / heads), device);
    values.resize(slots * heads, positions * (width / heads), device);
  }
  static void dropout(const Tensor& x, double, Key, Tensor& y) { y.resize_like(x, x.rows(), x.cols()); }
  static void softmax_cross_entropy(Tensor& logits, const Indices&, std::span<const double>, Tensor& losses) {
    losses.resize_like(logits, logits.rows(), 2);
  }
  static void argmax(const Tensor& logits, std::vector<std::int32_t>& best, std::vector<double>& probability) {
    best.assign(static_cast<std::size_t>(logits.rows()), 0);
    probability.assign(best.size(), 0);
  }
  static void softmax(Tensor&) {}
  static void softmax_backward(const Tensor&, Tensor&) {}
  static void adamw(Tensor&, const Tensor&, Tensor&, Tensor&, const AdamWStep&) {}

 private:
  /// What an operation has for itself while it runs.
  static void scratch(long elements, const Tensor& like) {
    Buffer<shapes::Nowhere> packed(like.device().memory);
    packed.grow(static_cast<std::size_t>(elements) * sizeof(S));
  }
};

}  // namespace relay
