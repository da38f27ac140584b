// Memory of the CPU backend: a dense row-major matrix that owns its elements, and the free list they come from.
//
// A lane of a batch has one Memory and is run by one thread at a time, so the list needs no lock, and after the first steps
// no allocation reaches the system.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include <relay/core/require.hpp>

namespace relay::cpu {

/// Blocks of memory given back, kept by size class for the next tensor of about that size. Must outlive its tensors.
class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    for (auto& size_class : classes_)
      for (void* block : size_class.blocks) ::operator delete(block, alignment);
  }

  static constexpr std::align_val_t alignment{64};

  /// Bytes rounded up to a size class: four classes to an octave.
  static std::size_t size_class(std::size_t bytes) {
    if (bytes <= 256) return 256;
    const std::size_t step = std::bit_floor(bytes - 1) / 4;
    return (bytes + step - 1) / step * step;
  }

  void* take(std::size_t bytes) {
    auto& [blocks, made] = classes_[index(bytes)];
    if (blocks.empty()) {
      if (blocks.capacity() <= made) blocks.reserve(2 * made + 4);  // so that giving back needs no memory
      void* block = ::operator new(bytes, alignment);
      ++allocations_;
      ++made;
      return block;
    }
    void* block = blocks.back();
    blocks.pop_back();
    return block;
  }

  void give_back(void* block, std::size_t bytes) noexcept { classes_[index(bytes)].blocks.push_back(block); }

  /// How often the system was asked for memory: constant once training has warmed up.
  long allocations() const { return allocations_; }

 private:
  static std::size_t index(std::size_t bytes) {
    const int octave = static_cast<int>(std::bit_width(bytes - 1));
    const std::size_t quarter = (bytes - 1) >> (octave - 3) & 3;
    return static_cast<std::size_t>(octave) * 4 + quarter;
  }

  struct SizeClass {
    std::vector<void*> blocks;  // given back
    std::size_t made = 0;       // in all
  };
  SizeClass classes_[260];
  long allocations_ = 0;
};

/// Where tensors live: on the CPU, which free list they use (none: the system's).
struct Device {
  Memory* memory = nullptr;
};

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
  Tensor(int rows, int cols, Device device = {}) : device_(device) { resize(rows, cols); }
  Tensor(const Tensor& other) : device_(other.device_) {
    resize(other.rows_, other.cols_);
    if (size() > 0) std::memcpy(data_, other.data_, static_cast<std::size_t>(size()) * sizeof(S));
  }
  Tensor(Tensor&& other) noexcept { swap(other); }
  Tensor& operator=(Tensor other) noexcept {
    swap(other);
    return *this;
  }
  ~Tensor() { release(); }

  int rows() const { return rows_; }
  int cols() const { return cols_; }
  long size() const { return static_cast<long>(rows_) * cols_; }
  Device device() const { return device_; }
  S* data() {
    laid_out_ = false;
    return data_;
  }
  const S* data() const { return data_; }
  S* row(int r) { return data() + static_cast<long>(r) * cols_; }
  const S* row(int r) const { return data_ + static_cast<long>(r) * cols_; }

  /// Another shape; the elements are lost unless only the number of rows shrinks.
  void resize(int rows, int cols) {
    require(rows >= 0 && cols >= 0, "a tensor cannot have ", rows, " rows and ", cols, " columns");
    const std::size_t bytes = static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols) * sizeof(S);
    laid_out_ = false;
    if (bytes > capacity_) {
      release();
      const std::size_t wanted = Memory::size_class(bytes);
      data_ = static_cast<S*>(device_.memory ? device_.memory->take(wanted) : ::operator new(wanted, Memory::alignment));
      capacity_ = wanted;
    }
    rows_ = rows;
    cols_ = cols;
  }

  void resize(int rows, int cols, Device device) {
    if (device_.memory != device.memory) {
      release();
      device_ = device;
    }
    resize(rows, cols);
  }

  /// The layouts, null when there are none of these elements.
  const Layouts* layouts() const { return laid_out_ ? layouts_.get() : nullptr; }
  /// Has make(elements, layouts) fill them, unless they are there.
  void lay_out(auto&& make) {
    if (laid_out_) return;
    if (!layouts_) layouts_ = std::make_unique<Layouts>();
    make(std::as_const(*this), *layouts_);
    laid_out_ = true;
  }

  /// Another shape, on the device of `other`: how a layer makes the tensors of its trace.
  void resize_like(const Tensor& other, int rows, int cols) { resize(rows, cols, other.device_); }

 private:
  void release() noexcept {
    if (!data_) return;
    if (device_.memory)
      device_.memory->give_back(data_, capacity_);
    else
      ::operator delete(data_, Memory::alignment);
    data_ = nullptr;
    rows_ = cols_ = 0;
    capacity_ = 0;
  }
  void swap(Tensor& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(rows_, other.rows_);
    std::swap(cols_, other.cols_);
    std::swap(capacity_, other.capacity_);
    std::swap(layouts_, other.layouts_);
    std::swap(laid_out_, other.laid_out_);
  }

  Device device_{};
  S* data_ = nullptr;
  int rows_ = 0, cols_ = 0;
  std::size_t capacity_ = 0;
  std::unique_ptr<Layouts> layouts_;
  bool laid_out_ = false;
};

}  // namespace relay::cpu
