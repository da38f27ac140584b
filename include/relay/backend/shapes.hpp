// Shapes<S>: a backend whose tensors have shapes and no elements. It computes nothing and counts memory.
//
// A model, a layer or an objective on it asks for the memory that it would ask for on the CPU with the same Scalar, at the same
// moments: what a training needs is known before it runs (train/memory_plan.hpp), and no formula of memory is written twice.
// Memory is that of the CPU, size classes and reuse included (backend/memory.hpp), but for two things: what an operation of the CPU
// packs for itself while it runs is estimated, where it is much, and lists of the host are left out. What is read back are zeros.
//
// Shapes<S, keeping_on_gpu<A>> asks for what the CUDA backend would: elements of A between products, and what a loop keeps for weight
// gradients of all its iterations (backend/keeping.hpp).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <relay/backend/cpu/digit_layout.hpp>
#include <relay/backend/cpu/level.hpp>
#include <relay/backend/keeping.hpp>
#include <relay/backend/memory.hpp>
#include <relay/backend/ops.hpp>
#include <relay/core/bf16.hpp>
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
  Tensor(const Tensor& other) : buffer_(other.buffer_.pool()) { resize_like(other, other.rows_, other.cols_, other.element_); }
  Tensor(Tensor&& other) noexcept { swap(other); }
  Tensor& operator=(Tensor other) noexcept {
    swap(other);
    return *this;
  }

  int rows() const { return rows_; }
  int cols() const { return cols_; }
  long size() const { return static_cast<long>(rows_) * cols_; }
  Device device() const { return {buffer_.pool(), nullptr}; }
  /// Bytes of one.
  std::size_t element() const { return element_; }

  void resize(int rows, int cols, Device device) { resize(rows, cols, device, sizeof(S)); }
  void resize(int rows, int cols, Device device, std::size_t element) {
    require(rows >= 0 && cols >= 0, "a tensor cannot have ", rows, " rows and ", cols, " columns");
    if (std::exchange(views_, false)) buffer_.return_borrowed();
    if (buffer_.pool() != device.memory) buffer_.move_to(device.memory);
    buffer_.grow(static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols) * element);
    rows_ = rows;
    cols_ = cols;
    element_ = element;
  }
  void resize_like(const Tensor& other, int rows, int cols) { resize_like(other, rows, cols, sizeof(S)); }
  void resize_like(const Tensor& other, int rows, int cols, std::size_t element) { resize(rows, cols, other.device(), element); }
  /// What products want beside it.
  void lay_out(std::size_t bytes) {
    if (layouts_.pool() != buffer_.pool()) layouts_.move_to(buffer_.pool());
    layouts_.grow(bytes);
  }

  /// In so many bytes that are counted elsewhere, from now on; 0: in its own.
  void place(std::size_t bytes, Device device, const void* whose) {
    whose_ = whose;
    views_ = false;
    if (bytes == 0) return buffer_.return_borrowed();
    buffer_.move_to(device.memory);
    buffer_.borrow(nullptr, bytes);
  }
  const void* placed_for() const { return buffer_.is_borrowed() ? whose_ : nullptr; }
  /// Is the first rows of x, until it gets another shape.
  void view(const Tensor& x, int rows) {
    place(static_cast<std::size_t>(x.size()) * x.element_, x.device(), nullptr);
    resize_like(x, rows, x.cols_, x.element_);
    views_ = true;
  }

 private:
  void swap(Tensor& other) noexcept {
    buffer_.swap(other.buffer_);
    layouts_.swap(other.layouts_);
    std::swap(whose_, other.whose_);
    std::swap(views_, other.views_);
    std::swap(rows_, other.rows_);
    std::swap(cols_, other.cols_);
    std::swap(element_, other.element_);
  }

  Buffer<Nowhere> buffer_, layouts_;
  const void* whose_ = nullptr;
  bool views_ = false;
  int rows_ = 0, cols_ = 0;
  std::size_t element_ = sizeof(S);
};

/// What a pass through a loop keeps of all its iterations together (backend/cuda/applications.hpp).
template <class S>
class Applications {
 public:
  enum class Of { input, gradient, sums };

  void begin(int rows, Device device) {
    rows_ = rows;
    device_ = device;
    ++application_;
  }
  void set(int rows) {
    count_ = rows;
    ++application_;
  }
  Device device() const { return device_; }

  /// Of the rows of this application, in the place for those of all; 0 where the layer is applied once more.
  std::size_t bytes(const void* layer, Of of, int cols, std::size_t element) {
    Kept& kept = kept_of(layer, of);
    if (std::exchange(kept.application, application_) == application_) return 0;
    kept.all.resize(rows_, cols, device_, element);
    return static_cast<std::size_t>(count_) * static_cast<std::size_t>(cols) * element;
  }
  void sums(const void* layer, int parts, int cols) { kept_of(layer, Of::sums).all.resize(parts, cols, device_, sizeof(float)); }

 private:
  struct Kept {
    const void* layer;
    Of of;
    long application = 0;
    Tensor<S> all;
  };
  Kept& kept_of(const void* layer, Of of) {
    for (Kept& kept : list_)
      if (kept.layer == layer && kept.of == of) return kept;
    return list_.emplace_back(Kept{layer, of, 0, {}});
  }

  std::vector<Kept> list_;
  Device device_;
  int rows_ = 0, count_ = 0;
  long application_ = 0;
};

/// Those that this thread's layers are applied in; null: none.
template <class S>
inline thread_local Applications<S>* applications = nullptr;

struct Indices {};

}  // namespace shapes

template <class S, Keeping keeping = keeping_on_cpu<S>>
struct Shapes : ComposedOps<Shapes<S, keeping>> {
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

  static constexpr std::size_t between = keeping.between;
  static constexpr bool on_gpu = keeping.aligned > 0, narrow = between < sizeof(S);

  static void product(const Tensor& x, const Tensor& weight, Tensor& y) {
    y.resize_like(x, x.rows(), weight.rows(), between);
    convert(x);
  }
  static void logits(const Tensor& x, const Tensor& weight, const Tensor&, Tensor& y) {
    y.resize_like(x, x.rows(), narrow ? eights(weight.rows()) : weight.rows());
    y.resize_like(x, x.rows(), weight.rows());  // in the same rows
    convert(x);
  }
  static void product_backward(const Tensor& dy, const Tensor& weight, Tensor& dx) { dx.resize_like(dy, dy.rows(), weight.cols(), between); }
  static void add_outer_product(const Tensor& dy, const Tensor& x, Tensor&) {
    if (on_gpu)
      convert(x);
    else if (takes_digits(dy.cols(), x.cols()))
      scratch(floats(cpu::digit_gradient_lines(x.rows(), dy.cols(), x.cols())), dy);
    else
      scratch(128L * (std::max(dy.cols(), x.cols()) + 64), dy);
  }

  static void prepare(Tensor& weight) {
    if (weight.rows() <= 1) return;
    if (!takes_digits(weight.rows(), weight.cols())) return weight.lay_out(keeping.laid_out * static_cast<std::size_t>(weight.size()));
    const long lines = cpu::digit_packed_lines(weight.rows(), weight.cols()) + cpu::digit_packed_lines(weight.cols(), weight.rows());
    weight.lay_out(static_cast<std::size_t>(floats(lines)) * sizeof(float));
  }

  // What a loop keeps of all its iterations.
  static constexpr bool keeps_activated = keeping.activated, loops_give_needed_rows = !on_gpu;
  using Applications = shapes::Applications<S>;
  class Applied {
   public:
    Applied(Applications* to, int /*first*/, int rows) : before_(std::exchange(shapes::applications<S>, to)) {
      if (to != nullptr) to->set(rows);
    }
    Applied(const Applied&) = delete;
    Applied& operator=(const Applied&) = delete;
    ~Applied() { shapes::applications<S> = before_; }

   private:
    Applications* before_;
  };
  static void begin_applications(Applications& to, int rows, Device device) { to.begin(rows, device); }
  static void begin_gradients(Applications&) {}
  static void add_gradients(Applications&) {}
  static void place_input(const Tensor& weight, Tensor& x) { place(weight, Applications::Of::input, weight.cols(), x); }
  static void place_gradient(const Tensor& weight, Tensor& dy) { place(weight, Applications::Of::gradient, weight.rows(), dy); }

  static void fill(Tensor&, double) {}
  static void copy(const Tensor& x, Tensor& y) { copy_first(x, x.rows(), y); }
  static void copy_first(const Tensor& x, int count, Tensor& y) { y.resize_like(x, count, x.cols(), x.element()); }
  static void view_first(const Tensor& x, int count, Tensor& y) {
    if (on_gpu)
      y.view(x, count);
    else
      copy_first(x, count, y);
  }
  static void add(const Tensor&, Tensor&) {}
  static void add_row(const Tensor&, Tensor&) {}
  static void add_column_sums(const Tensor&, Tensor&) {}
  static void clear_rows(Tensor&, int, int) {}
  static void gather_rows(const Tensor&, const Indices&, int, Tensor&) {}
  static void scatter_rows(const Tensor&, int, const Indices&, Tensor&) {}
  static void make_room(const Tensor& x, int rows, Tensor& y) { y.resize_like(x, rows, x.cols(), x.element()); }
  static void spread_rows(const Tensor& x, int, const Indices&, int rows, Tensor& y) { make_room(x, rows, y); }
  static double sum_of_squares(const Tensor&) { return 0; }

  static void layer_norm(const Tensor& x, const Tensor&, const Tensor&, double, Tensor& y, Tensor& statistics) {
    y.resize_like(x, x.rows(), x.cols(), between);
    statistics.resize_like(x, x.rows(), 2);
  }
  static void layer_norm_backward(const Tensor& x, const Tensor&, const Tensor& scale, const Tensor&, Tensor& dx, Tensor&, Tensor&) {
    dx.resize_like(x, x.rows(), x.cols());
    if (auto* const all = applications()) all->sums(&scale, keeping.parts, 2 * x.cols());
  }
  static void layer_norm_backward_add(const Tensor& x, const Tensor& statistics, const Tensor& scale, const Tensor& dy, const Tensor&, Tensor& dx,
                                      Tensor& dscale, Tensor& dshift, const std::optional<Dropping>& next = {}) {
    layer_norm_backward(x, statistics, scale, dy, dx, dscale, dshift);
    if (!narrow || !next) return;
    Tensor branch;  // for the products that dx goes back through
    if (next->weight != nullptr) place_gradient(*static_cast<const Tensor*>(next->weight), branch);
    if (branch.placed_for() != nullptr)
      applications()->sums(next->weight, keeping.parts, x.cols());
    else
      dx.lay_out(static_cast<std::size_t>(x.size()) * between);
  }
  static void layer_norm_backward_add_first(const Tensor& x, const Tensor& statistics, const Tensor& scale, const Tensor& dy, const Tensor& skip,
                                            Tensor& dx, Tensor& dscale, Tensor& dshift, const std::optional<Dropping>& next = {}) {
    layer_norm_backward_add(x, statistics, scale, dy, skip, dx, dscale, dshift, next);
  }
  static void residual(const Tensor& x, const Tensor&, double, const std::optional<Key>&, Tensor& y) { y.resize_like(x, x.rows(), x.cols()); }
  static void gelu(const Tensor& x, Tensor& y) { y.resize_like(x, x.rows(), x.cols(), between); }
  static void gelu_backward(const Tensor& x, const Tensor&, Tensor& dx, Tensor& y) {
    dx.resize_like(x, x.rows(), x.cols(), between);
    y.resize_like(x, x.rows(), x.cols(), between);
  }
  static void gelu_linear_backward(const Tensor& x, const Tensor& activated, const Tensor& weight, const Tensor& dy, Tensor& dx, Tensor& dweight,
                                   Tensor& dbias) {
    if (!keeps_activated) return ComposedOps<Shapes>::gelu_linear_backward(x, activated, weight, dy, dx, dweight, dbias);
    product_backward(dy, weight, dx);
    if (dx.placed_for() != nullptr) applications()->sums(dx.placed_for(), keeping.parts, dx.cols());
  }
  static void feed_forward(const Tensor& x, const auto& up, const auto& down, bool forward_only, Tensor& hidden, Tensor& activated, Tensor& y) {
    if (!in_blocks(x, up.weight)) return ComposedOps<Shapes>::feed_forward(x, up, down, forward_only, hidden, activated, y);
    y.resize_like(x, x.rows(), down.weight.rows());
    const long rows = std::min(x.rows(), block), inner = up.weight.rows();
    const bool digits = takes_digits(up.weight.rows(), up.weight.cols());
    if (!forward_only) hidden.resize_like(x, digits ? in_tiles(x.rows()) : x.rows(), up.weight.rows());
    scratch(digits ? floats(cpu::digit_forward_lines(x.rows() + 1, x.cols(), up.weight.rows())) : rows * inner, x);
  }
  static void feed_forward_backward(const Tensor& x, const Tensor& hidden, const Tensor& activated, const auto& up, const auto& down, const Tensor& dy,
                                    Tensor& dx, auto& dup, auto& ddown) {
    if (!in_blocks(x, up.weight)) return ComposedOps<Shapes>::feed_forward_backward(x, hidden, activated, up, down, dy, dx, dup, ddown);
    dx.resize_like(x, x.rows(), x.cols());
    const long rows = std::min(x.rows(), block), inner = up.weight.rows();
    if (!takes_digits(up.weight.rows(), up.weight.cols())) return scratch(rows * (inner + x.cols() + (dy.cols() + tile - 1) / tile * tile + 128L), x);
    // Or what bf16 has by AMX, if that is more.
    const long digits = floats(cpu::DigitBackwardRooms(x.rows(), x.cols(), up.weight.rows(), dy.cols()).lines());
    scratch(std::max(digits, in_tiles(std::min(x.rows(), 256)) * (inner + x.cols() + 2L * dy.cols() + 224) / 2), x);
  }
  static void rotate(Tensor&, const Rows<Shapes>&, int, int, const Tensor&, int, const Indices& = {}) {}
  static void attention(const Tensor& qkv, const Rows<Shapes>& rows, const Heads& heads, Tensor& out, Tensor& lse) {
    out.resize_like(qkv, qkv.rows(), qkv.cols() / 3, between);
    lse.resize_like(qkv, qkv.rows(), heads.count);
    const int size = qkv.cols() / 3 / heads.count;
    if (!on_gpu) scratch(rows.longest() * (3L * size + 32) + 32L * size, qkv);
  }
  static void attention_backward(const Tensor& qkv, const Tensor&, const Tensor&, const Tensor&, const Rows<Shapes>& rows, const Heads& heads,
                                 Tensor& dqkv) {
    dqkv.resize_like(qkv, qkv.rows(), qkv.cols(), between);
    // On the CPU as bf16 has it, which takes the most.
    scratch(on_gpu ? static_cast<long>(qkv.rows()) * heads.count : rows.longest() * (7L * (qkv.cols() / 3 / heads.count) + 88), qkv);
  }
  static void attention_cached(const Tensor& qkv, const Rows<Shapes>&, const Indices&, const Indices&, int, Tensor&, Tensor&,
                               Tensor& out) {
    out.resize_like(qkv, qkv.rows(), qkv.cols() / 3);
  }
  static void make_cache(int slots, int positions, int width, int heads, Device device, Tensor& keys, Tensor& values) {
    keys.resize(slots * heads, positions * (width / heads), device);
    values.resize(slots * heads, positions * (width / heads), device);
  }
  static void dropout(const Tensor& x, double, Key, Tensor& y) { y.resize_like(x, x.rows(), x.cols(), between); }
  static void softmax_cross_entropy(Tensor& logits, const Indices&, std::span<const double>, Tensor& losses) {
    if (narrow) logits.lay_out(static_cast<std::size_t>(logits.rows()) * static_cast<std::size_t>(eights(logits.cols())) * between);
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
  /// With AVX-512 the CPU takes a feed-forward layer so many rows at a time, where rows are enough and hidden values fill panels, as here, at
  /// any level of the instruction set (backend/cpu/feed_forward.hpp); without it, it takes twice as many.
  static constexpr int block = 128, tile = 48;  // tile: the rows of a weight gradient that are laid out together
  static bool in_blocks(const Tensor& x, const Tensor& up) { return !on_gpu && std::is_same_v<S, float> && x.rows() >= 8 && up.rows() % 64 == 0; }

  /// Whether the CPU multiplies such a weight as digits, by AMX (backend/cpu/product.hpp); and their lines as floats.
  static constexpr long floats(long lines) { return 16 * lines; }
  static bool takes_digits(int outputs, int inputs) {
    return !on_gpu && std::is_same_v<S, float> && std::min(outputs, inputs) >= 96 && cpu::machine_level() == cpu::Level::amx_bf16;
  }

  /// Rows as AMX takes them, two tiles at once.
  static constexpr int in_tiles(long rows) { return static_cast<int>((rows + 31) / 32 * 32); }

  static constexpr int eights(int count) { return (count + 7) / 8 * 8; }

  /// Those that are, where the backend keeps something for them.
  static Applications* applications() { return on_gpu ? shapes::applications<S> : nullptr; }
  static void place(const Tensor& weight, typename Applications::Of of, int cols, Tensor& x) {
    std::size_t bytes = 0;
    if constexpr (on_gpu) {
      const auto whole = [](int count) { return static_cast<std::size_t>(count) * between % keeping.aligned == 0; };
      if (applications() != nullptr && whole(weight.rows()) && whole(weight.cols())) bytes = applications()->bytes(&weight, of, cols, between);
    }
    x.place(bytes, bytes > 0 ? applications()->device() : Device{}, &weight);
  }

  /// What an operation has for itself while it runs.
  static void scratch(long elements, const Tensor& like) {
    Buffer<shapes::Nowhere> packed(like.device().memory);
    packed.grow(static_cast<std::size_t>(elements) * sizeof(S));
  }
  /// x, as products want it.
  static void convert(const Tensor& x) {
    if (x.element() == between) return;
    Buffer<shapes::Nowhere> converted(x.device().memory);
    converted.grow(static_cast<std::size_t>(x.size()) * between);
  }
};

}  // namespace relay
