// Memory of the CPU backend: a dense row-major matrix that owns its elements, and where they come from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include <relay/backend/memory.hpp>
#include <relay/core/require.hpp>
#include <relay/core/threads.hpp>

namespace relay::cpu {

/// The system's memory, aligned for whole cache lines.
struct System {
  static constexpr std::align_val_t alignment{64};
  static void* take(std::size_t bytes) { return ::operator new(bytes, alignment); }
  static void give_back(void* block) noexcept { ::operator delete(block, alignment); }
};

using Memory = BlockPool<System>;

/// Where tensors live: on the CPU, which pool they use (none: the system's memory), which threads may share the work of one
/// operation on them (none: the calling one does it alone). Both must outlive the tensors.
struct Device {
  Memory* memory = nullptr;
  Threads* threads = nullptr;
};

/// Fewer rows are not worth a thread's while.
inline constexpr int rows_of_a_part = 8;

/// Among how many threads an operation on so many rows is shared: all of the device's, or none.
inline int row_parts(const Device& device, int rows) {
  return device.threads && rows >= rows_of_a_part * device.threads->count() ? device.threads->count() : 1;
}

/// Calls f(first, last) for all rows first .. last-1, a part on each of the device's threads: the same part in every operation, so
/// that a thread finds in its cache what it wrote before.
void over_rows(const Device& device, int rows, auto&& f) {
  const int parts = row_parts(device, rows);
  if (parts == 1) return f(0, rows);
  const auto row = [&](int part) { return static_cast<int>(static_cast<long>(rows) * part / parts); };
  device.threads->run(parts, [&](int part) { f(row(part), row(part + 1)); });
}

/// Memory without a type, in whole lines of the cache.
class Bytes {
 public:
  template <class T>
  T* resize(long count) {
    lines_.resize((static_cast<std::size_t>(count) * sizeof(T) + sizeof(Line) - 1) / sizeof(Line));
    return reinterpret_cast<T*>(lines_.data());
  }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(lines_.data());
  }

 private:
  struct alignas(64) Line {
    std::byte bytes[64];
  };
  std::vector<Line> lines_;
};

/// A matrix a second and a third time, laid out as products read it (product.hpp): as weight^T and as weight.
struct Layouts {
  const void* form = nullptr;  // which products: those of other factors, or of another level of the instruction set, cannot read it
  Bytes transposed, plain;
};

/// A row-major matrix [rows, cols]. Copies are deep. New elements are not initialised.
///
/// Layouts for products are kept beside the elements for as long as nobody asks for the elements to write them: whoever
/// does, by a non-const data() or row(), makes them stale.
template <class S>
class Tensor {
 public:
  using Scalar = S;

  Tensor() = default;
  Tensor(int rows, int cols, Device device = {}) : buffer_(device.memory), threads_(device.threads) { resize(rows, cols); }
  Tensor(const Tensor& other) : buffer_(other.buffer_.pool()), threads_(other.threads_) {
    resize(other.rows_, other.cols_);
    if (size() > 0) std::memcpy(data(), other.data(), static_cast<std::size_t>(size()) * sizeof(S));
  }
  Tensor(Tensor&& other) noexcept { swap(other); }
  Tensor& operator=(Tensor other) noexcept {
    swap(other);
    return *this;
  }

  int rows() const { return rows_; }
  int cols() const { return cols_; }
  long size() const { return static_cast<long>(rows_) * cols_; }
  Device device() const { return {buffer_.pool(), threads_}; }
  S* data() {
    laid_out_ = false;
    return static_cast<S*>(buffer_.data());
  }
  const S* data() const { return static_cast<const S*>(buffer_.data()); }
  S* row(int r) { return data() + static_cast<long>(r) * cols_; }
  const S* row(int r) const { return data() + static_cast<long>(r) * cols_; }

  /// Another shape; the elements are lost unless only the number of rows shrinks.
  void resize(int rows, int cols) {
    require(rows >= 0 && cols >= 0, "a tensor cannot have ", rows, " rows and ", cols, " columns");
    rows_ = cols_ = 0;  // and so they stay, if there is not enough memory
    laid_out_ = false;
    buffer_.grow(static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols) * sizeof(S));
    rows_ = rows;
    cols_ = cols;
  }

  void resize(int rows, int cols, Device device) {
    if (buffer_.pool() != device.memory) buffer_.move_to(device.memory);
    threads_ = device.threads;
    resize(rows, cols);
  }

  /// The layouts in a form, null when there are none of these elements.
  const Layouts* layouts(const void* form) const { return laid_out_ && layouts_->form == form ? layouts_.get() : nullptr; }
  /// Has make(elements, layouts) fill them, unless they are there.
  void lay_out(const void* form, auto&& make) {
    if (layouts(form)) return;
    if (!layouts_) layouts_ = std::make_unique<Layouts>();
    make(std::as_const(*this), *layouts_);
    layouts_->form = form;
    laid_out_ = true;
  }

  /// Another shape, on the device of `other`: how a layer makes the tensors of its trace.
  void resize_like(const Tensor& other, int rows, int cols) { resize(rows, cols, other.device()); }

 private:
  void swap(Tensor& other) noexcept {
    buffer_.swap(other.buffer_);
    std::swap(threads_, other.threads_);
    std::swap(rows_, other.rows_);
    std::swap(cols_, other.cols_);
    std::swap(layouts_, other.layouts_);
    std::swap(laid_out_, other.laid_out_);
  }

  Buffer<System> buffer_;
  Threads* threads_ = nullptr;
  int rows_ = 0, cols_ = 0;
  std::unique_ptr<Layouts> layouts_;
  bool laid_out_ = false;
};

}  // namespace relay::cpu
