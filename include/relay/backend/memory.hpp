// Memory of tensors: blocks that are given back are kept by size class for the next tensor, so that training that has warmed up
// asks the system for nothing.
//
// Where its own class has no block, a request makes do with the smallest larger one that is free, as long as no more is in use
// than was at some time before; what grows beyond that gets blocks that fit, from the system. So whoever has run what needs the
// most has planned for all that needs less, and little is wasted.
// A lane of a batch has one pool and is run by one thread at a time: there is no lock. Where blocks come from is the Source: on
// the CPU (backend/cpu/tensor.hpp) the system; in backend/shapes.hpp nowhere, they are only counted.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <utility>
#include <vector>

namespace relay {

/// A Source has `static void* take(std::size_t bytes)` and `static void give_back(void*) noexcept`. Must outlive its tensors.
template <class Source>
class BlockPool {
 public:
  struct Block {
    void* data = nullptr;
    std::size_t bytes = 0;   // its size class
    std::size_t wanted = 0;  // the size class of what it is used for
  };

  BlockPool() = default;
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;
  ~BlockPool() {
    for (auto& size_class : classes_)
      for (const Block& block : size_class.free) Source::give_back(block.data);
  }

  /// Bytes rounded up to a size class: four classes to an octave.
  static std::size_t size_class(std::size_t bytes) {
    if (bytes <= 256) return 256;
    const std::size_t step = std::bit_floor(bytes - 1) / 4;
    return (bytes + step - 1) / step * step;
  }

  /// A block of at least so many bytes.
  Block take(std::size_t bytes) {
    const std::size_t wanted = size_class(bytes), first = index(wanted);
    Block block{nullptr, wanted, wanted};
    for (std::size_t i = first; i < (used_ + wanted <= peak_ ? classes : first + 1); ++i)
      if (auto& free = classes_[i].free; !free.empty()) {
        block = free.back();
        free.pop_back();
        block.wanted = wanted;
        return use(block);
      }
    auto& [free, made] = classes_[first];
    if (free.capacity() <= made) free.reserve(2 * made + 4);  // so that giving back needs no memory
    block.data = Source::take(wanted);
    ++made;
    ++allocations_;
    bytes_ += wanted;
    return use(block);
  }

  void give_back(Block block) noexcept {
    used_ -= block.wanted;
    classes_[index(block.bytes)].free.push_back(block);
  }

  /// How often the system was asked for memory: constant once training has warmed up.
  long allocations() const { return allocations_; }
  /// What it gave, in all: nothing goes back to it before the pool ends, so this is the peak, too.
  std::size_t bytes() const { return bytes_; }
  /// What tensors need now, in whole size classes.
  std::size_t used() const { return used_; }

 private:
  static constexpr std::size_t classes = 260;

  static std::size_t index(std::size_t bytes) {
    const int octave = static_cast<int>(std::bit_width(bytes - 1));
    const std::size_t quarter = (bytes - 1) >> (octave - 3) & 3;
    return static_cast<std::size_t>(octave) * 4 + quarter;
  }

  Block use(Block block) {
    used_ += block.wanted;
    peak_ = std::max(peak_, used_);
    return block;
  }

  struct SizeClass {
    std::vector<Block> free;
    std::size_t made = 0;  // in all
  };
  SizeClass classes_[classes];
  long allocations_ = 0;
  std::size_t bytes_ = 0, used_ = 0, peak_ = 0;  // peak: of used
};

/// The memory of one tensor: of a pool, or, without one, of the source itself. Grows, and never shrinks.
template <class Source>
class Buffer {
 public:
  using Pool = BlockPool<Source>;

  Buffer() = default;
  explicit Buffer(Pool* pool) : pool_(pool) {}
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() { release(); }

  Pool* pool() const { return pool_; }
  void* data() const { return block_.data; }

  /// Room for so many bytes; what is there is lost where there was not enough already.
  void grow(std::size_t bytes) {
    if (bytes <= block_.bytes) return;
    release();
    if (pool_)
      block_ = pool_->take(bytes);
    else
      block_ = {Source::take(Pool::size_class(bytes)), Pool::size_class(bytes), Pool::size_class(bytes)};
  }

  /// Somebody else's memory, which is not given back, in place of its own.
  void borrow(void* at, std::size_t bytes) noexcept {
    release();
    block_ = {at, bytes, bytes};
    borrowed_ = true;
  }
  bool is_borrowed() const { return borrowed_; }
  void return_borrowed() noexcept {
    if (borrowed_) release();
  }

  /// Empty, and of another pool from now on.
  void move_to(Pool* pool) noexcept {
    release();
    pool_ = pool;
  }

  void swap(Buffer& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(block_, other.block_);
    std::swap(borrowed_, other.borrowed_);
  }

 private:
  void release() noexcept {
    if (block_.bytes == 0) {
      borrowed_ = false;
      return;
    }
    if (pool_ && !borrowed_)
      pool_->give_back(block_);
    else if (!borrowed_)
      Source::give_back(block_.data);
    block_ = {};
    borrowed_ = false;
  }

  Pool* pool_ = nullptr;
  typename Pool::Block block_;
  bool borrowed_ = false;
};

}  // namespace relay
