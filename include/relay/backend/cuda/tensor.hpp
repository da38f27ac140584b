// Memory of the CUDA backend: matrices and lists on the device, where their memory comes from, and how the host reaches it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <relay/backend/cuda/numbers.hpp>
#include <relay/backend/memory.hpp>
#include <relay/backend/ops.hpp>
#include <relay/core/threads.hpp>

namespace relay::cuda {

/// The device's memory, in the order of the stream: what is given back may be taken again at once, since whatever still uses it comes first.
struct DeviceMemory {
  static void* take(std::size_t bytes) {
    require(recording_stream == nullptr, "what is recorded needs memory that it did not need before");  // it would be the graph's
    void* block = nullptr;
    cudaError_t status = cudaMallocAsync(&block, bytes, stream());
    if (status == cudaErrorMemoryAllocation) {  // what was given back may be in the way
      (void)cudaGetLastError();
      synchronise("free memory");
      check(cudaMemPoolTrimTo(memory_pool(), 0), "free memory");
      status = cudaMallocAsync(&block, bytes, stream());
    }
    check(status, "find so much memory on the GPU");
    return block;
  }
  static void give_back(void* block) noexcept { (void)cudaFreeAsync(block, stream()); }
};

using Memory = BlockPool<DeviceMemory>;

/// Where tensors live: on the GPU, which pool they use (none: the device's own). Threads of the host have nothing to share there.
struct Device {
  Memory* memory = nullptr;
  Threads* threads = nullptr;
};

/// Memory of the host that the device copies from while the host goes on: a ring, waited for once a round.
class Staging {
 public:
  /// Copies to the device. `from` may be written again at once.
  static void copy(const void* from, void* to, std::size_t bytes) {
    if (bytes == 0) return;
    static Staging one;
    const std::lock_guard lock(one.mutex_);
    for (std::size_t done = 0; done < bytes;) {
      const std::size_t part = std::min(bytes - done, size / 2);
      std::byte* const room = one.take(part);
      std::memcpy(room, static_cast<const std::byte*>(from) + done, part);
      check(cudaMemcpyAsync(static_cast<std::byte*>(to) + done, room, part, cudaMemcpyHostToDevice, stream()), "copy to the GPU");
      done += part;
    }
  }

 private:
  static constexpr std::size_t size = std::size_t{64} << 20;

  std::byte* take(std::size_t bytes) {
    if (ring_ == nullptr) {
      void* block = nullptr;
      check(cudaMallocHost(&block, size), "pin memory of the host");
      ring_ = static_cast<std::byte*>(block);
    }
    if (at_ + bytes > size) {
      synchronise("copy to the GPU");
      at_ = 0;
    }
    return ring_ + std::exchange(at_, (at_ + bytes + 255) / 256 * 256);
  }

  std::mutex mutex_;
  std::byte* ring_ = nullptr;  // never given back: the driver may be gone before this is
  std::size_t at_ = 0;
};

/// Copies to the host, when all before is done.
inline void copy_to_host(const void* from, void* to, std::size_t bytes) {
  if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream()), "copy from the GPU");
  synchronise("finish what was asked of it");
}

/// Writes words of 4 bytes to memory of the host.
template <class = void>
__global__ void to_host_kernel(const std::uint32_t* from, long words, std::uint32_t* to) {
  after_earlier_kernels();
  const long i = static_cast<long>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < words) to[i] = from[i];
}

/// A copy to the host that is under way while device and host go on: begun behind all that was asked of the device before, and there when it
/// is waited for. A recorded copy could not have another place for every replay. What is small is written by a kernel: from kernels to the
/// device's copying and back to kernels takes several microseconds each way.
class Download {
 public:
  Download() = default;
  Download(Download&& other) noexcept { swap(other); }
  Download& operator=(Download&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Download() {
    if (done_ == nullptr) return;
    (void)cudaEventSynchronize(done_);  // what is still under way would go to memory that is nobody's
    (void)cudaEventDestroy(done_);
    (void)cudaFreeHost(room_);
  }

  void begin(const void* from, std::size_t bytes) {
    if (done_ == nullptr) check(cudaEventCreateWithFlags(&done_, cudaEventDisableTiming), "create an event");
    if (bytes > size_) {
      check(cudaEventSynchronize(done_), "finish what was asked of it");
      (void)cudaFreeHost(std::exchange(room_, nullptr));
      size_ = 0;
      const std::size_t room = bytes + bytes / 4;  // the next may be a little larger
      check(cudaMallocHost(&room_, room), "pin memory of the host");
      size_ = room;
    }
    if (bytes <= most_by_kernel && bytes % sizeof(std::uint32_t) == 0) {
      constexpr long threads = 128;
      const long words = static_cast<long>(bytes / sizeof(std::uint32_t));
      launch(to_host_kernel<>, dim3(static_cast<unsigned>((words + threads - 1) / threads)), static_cast<int>(threads), 0,
             static_cast<const std::uint32_t*>(from), words, static_cast<std::uint32_t*>(room_));
    } else {
      check(cudaMemcpyAsync(room_, from, bytes, cudaMemcpyDeviceToHost, stream()), "copy from the GPU");
    }
    check(cudaEventRecord(done_, stream()), "mark the end of a copy");
  }
  template <class T>
  const T* wait() {
    check(cudaEventSynchronize(done_), "finish what was asked of it");
    return static_cast<const T*>(room_);
  }

 private:
  static constexpr std::size_t most_by_kernel = 64 << 10;

  void swap(Download& other) noexcept {
    std::swap(done_, other.done_);
    std::swap(room_, other.room_);
    std::swap(size_, other.size_);
  }

  cudaEvent_t done_ = nullptr;
  void* room_ = nullptr;
  std::size_t size_ = 0;
};

/// What an element is. Parameters, their gradients, the residual stream and logits are float32. Between them, where Cuda<bf16> computes,
/// it is bf16: half the traffic, and what tensor cores take.
enum class Type { float32, bfloat16 };

inline constexpr std::size_t size_of(Type type) { return type == Type::float32 ? sizeof(float) : sizeof(bf16); }
template <class T>
inline constexpr Type type_of = std::is_same_v<T, float> ? Type::float32 : Type::bfloat16;

/// Tensor cores want rows that begin at multiples of 16 bytes, but vocabularies have any number of tokens: so many columns give them such rows.
inline constexpr int whole_eights(int cols) { return (cols + 7) / 8 * 8; }

/// A row-major matrix [rows, cols] on the device. Copies are deep. New elements are not initialised.
///
/// Its rows may be written further apart than they are long, apart() elements from one to the next; what lies between them is anything then.
/// Those who know of it ask for spread(); for all others they close up at once.
///
/// Beside a matrix may lie what whoever wrote it has made of it along with it: the same as bf16, for products, with zeros between its rows, and
/// below them where more were asked for; what dropout leaves of it, as bf16; the sums of its columns over some parts of its rows, or those of
/// what dropout leaves. Whoever asks for the elements to write them makes all that stale. A copy has nothing beside it.
class Tensor {
 public:
  using Scalar = float;

  Tensor() = default;
  Tensor(int rows, int cols, Device device = {}) : buffer_(device.memory), threads_(device.threads) { resize(rows, cols, Type::float32); }
  Tensor(const Tensor& other) : buffer_(other.buffer_.pool()), threads_(other.threads_) { assign(other, other.rows_); }
  Tensor(Tensor&& other) noexcept { swap(other); }
  Tensor& operator=(Tensor other) noexcept {
    swap(other);
    return *this;
  }

  int rows() const { return rows_; }
  int cols() const { return cols_; }
  long size() const { return static_cast<long>(rows_) * cols_; }
  std::size_t bytes() const { return static_cast<std::size_t>(size()) * size_of(type_); }
  Device device() const { return {buffer_.pool(), threads_}; }
  Type type() const { return type_; }

  void* data() {
    forget();
    close_up();
    return buffer_.data();
  }
  const void* data() const {
    close_up();
    return buffer_.data();
  }
  /// Of the type that the elements have.
  template <class T>
  T* as() {
    return static_cast<T*>(data());
  }
  template <class T>
  const T* as() const {
    return static_cast<const T*>(data());
  }

  /// The same without closing up.
  int apart() const { return apart_; }
  template <class T>
  T* spread() {
    forget();
    return static_cast<T*>(buffer_.data());
  }
  template <class T>
  const T* spread() const {
    return static_cast<const T*>(buffer_.data());
  }

  /// Another shape; the elements are lost. As everybody outside knows tensors, they are float32.
  void resize(int rows, int cols, Device device) {
    if (buffer_.pool() != device.memory) buffer_.move_to(device.memory);
    threads_ = device.threads;
    resize(rows, cols, Type::float32);
  }
  void resize_like(const Tensor& other, int rows, int cols) { resize_like(other, rows, cols, Type::float32); }
  void resize_like(const Tensor& other, int rows, int cols, Type type) { resize_like(other, rows, cols, type, cols); }
  void resize_like(const Tensor& other, int rows, int cols, Type type, int apart) {
    if (buffer_.pool() != other.buffer_.pool()) buffer_.move_to(other.buffer_.pool());
    threads_ = other.threads_;
    resize(rows, cols, type, apart);
  }
  /// The first rows of another tensor.
  void assign(const Tensor& other, int rows) {
    resize_like(other, rows, other.cols_, other.type_);
    if (size() > 0) check(cudaMemcpyAsync(data(), other.data(), bytes(), cudaMemcpyDeviceToDevice, stream()), "copy a tensor");
  }

  /// Has its elements at a place of somebody else's from now on, if that is large enough for the next that are written; null: at its own.
  void place(void* at, std::size_t bytes, Device device, const void* whose = nullptr) {
    if (at == nullptr && !buffer_.is_borrowed()) return;  // it is at its own already, and what is there stays
    forget();
    views_ = false;
    whose_ = whose;
    rows_ = cols_ = apart_ = 0;
    if (at == nullptr) return buffer_.return_borrowed();
    buffer_.move_to(device.memory);
    buffer_.borrow(at, bytes);
  }
  /// Becomes the first rows of x, until it gets another shape. Neither may be written meanwhile.
  void view(const Tensor& x, int rows) {
    x.close_up();
    place(x.buffer_.data(), (static_cast<std::size_t>(x.size()) + 7) / 8 * 8 * size_of(x.type_), x.device());
    resize_like(x, rows, x.cols_, x.type_);
    views_ = true;
  }
  /// Whose that is; null where it is nobody's.
  const void* placed_for() const { return buffer_.is_borrowed() ? whose_ : nullptr; }

  /// The same as bf16, with rows so far apart, and so many of them, if no fewer: null when that is not there.
  const bf16* converted(int rows, int apart) const {
    return rows <= converted_ && apart == apart_ ? static_cast<const bf16*>(beside_.data()) : nullptr;
  }
  const bf16* converted() const { return converted(std::max(rows_, 1), cols_); }
  /// Has make(elements, bf16 elements) write it, unless it is there. If more rows than there are are asked for, the others are zeros.
  void convert(auto&& make, int rows = 0) {
    rows = std::max(rows, rows_);
    if (converted_ >= rows || type_ == Type::bfloat16 || size() == 0) return;
    close_up();
    bf16* const to = room_for_converted(rows);
    make(static_cast<const float*>(buffer_.data()), to);
    converted_ = rows;
  }
  /// For whoever writes it along with the elements: room for so many rows, those beyond the elements' zeros.
  bf16* room_for_converted(int rows, void* place = nullptr) {
    const std::size_t bytes = static_cast<std::size_t>(rows) * static_cast<std::size_t>(apart_) * sizeof(bf16);
    if (beside_.pool() != buffer_.pool()) beside_.move_to(buffer_.pool());
    borrow_or_own(beside_, place, bytes);
    converted_ = 0;
    bf16* const to = static_cast<bf16*>(beside_.data());
    const std::size_t own = static_cast<std::size_t>(rows_) * static_cast<std::size_t>(apart_) * sizeof(bf16);
    if (bytes > own) check(cudaMemsetAsync(to + own / sizeof(bf16), 0, bytes - own, stream()), "clear rows");
    return to;
  }
  /// Now they are written. Before that products do not read them: what was to write them may have thrown.
  void set_converted(int rows) { converted_ = rows; }

  /// Room for what dropout leaves, and for the sums of that, or else of the elements.
  bf16* make_dropped(const Dropping& how, void* place = nullptr) {
    if (dropped_.pool() != buffer_.pool()) dropped_.move_to(buffer_.pool());
    borrow_or_own(dropped_, place, static_cast<std::size_t>(size()) * sizeof(bf16));
    dropping_ = how;
    return static_cast<bf16*>(dropped_.data());
  }
  float* make_column_sums(int parts) {
    if (sums_.pool() != buffer_.pool()) sums_.move_to(buffer_.pool());
    sums_.grow(static_cast<std::size_t>(parts) * static_cast<std::size_t>(cols_) * sizeof(float));
    parts_ = parts;
    return static_cast<float*>(sums_.data());
  }
  /// Becomes what dropout leaves of `from`, if that lies beside it, which then has it no more.
  bool take_dropped(const Tensor& from, const Dropping& how) {
    if (from.dropping_ != how) return false;
    forget();
    buffer_.swap(from.dropped_);
    sums_.swap(from.sums_);
    parts_ = std::exchange(from.parts_, 0);
    from.dropping_.reset();
    views_ = buffer_.is_borrowed();  // what it becomes next is not for that place
    whose_ = nullptr;
    threads_ = from.threads_;
    rows_ = from.rows_;
    cols_ = apart_ = from.cols_;
    type_ = Type::bfloat16;
    return true;
  }
  /// [column_parts(), cols]; null where they are not there.
  const float* column_sums() const { return column_parts() > 0 ? static_cast<const float*>(sums_.data()) : nullptr; }
  int column_parts() const { return dropping_ ? 0 : parts_; }

 private:
  void resize(int rows, int cols, Type type) { resize(rows, cols, type, cols); }
  void resize(int rows, int cols, Type type, int apart) {
    require(rows >= 0 && cols >= 0, "a tensor cannot have ", rows, " rows and ", cols, " columns");
    rows_ = cols_ = apart_ = 0;  // and so they stay, if there is not enough memory
    forget();
    if (std::exchange(views_, false)) buffer_.return_borrowed();
    // The last eight are whole, so that a bias may be read with columns that a product has more.
    buffer_.grow((static_cast<std::size_t>(rows) * static_cast<std::size_t>(apart) + 7) / 8 * 8 * size_of(type));
    rows_ = rows;
    cols_ = cols;
    apart_ = apart;
    type_ = type;
  }
  void swap(Tensor& other) noexcept {
    buffer_.swap(other.buffer_);
    beside_.swap(other.beside_);
    dropped_.swap(other.dropped_);
    sums_.swap(other.sums_);
    std::swap(dropping_, other.dropping_);
    std::swap(parts_, other.parts_);
    std::swap(whose_, other.whose_);
    std::swap(views_, other.views_);
    std::swap(threads_, other.threads_);
    std::swap(rows_, other.rows_);
    std::swap(cols_, other.cols_);
    std::swap(apart_, other.apart_);
    std::swap(type_, other.type_);
    std::swap(converted_, other.converted_);
  }

  void close_up() const {
    if (apart_ == cols_) return;
    Buffer<DeviceMemory> close(buffer_.pool());
    close.grow(bytes());
    const std::size_t row = static_cast<std::size_t>(cols_) * size_of(type_), apart = static_cast<std::size_t>(apart_) * size_of(type_);
    if (size() > 0)
      check(cudaMemcpy2DAsync(close.data(), row, buffer_.data(), apart, row, static_cast<std::size_t>(rows_), cudaMemcpyDeviceToDevice, stream()),
            "copy a tensor");
    buffer_.swap(close);
    apart_ = cols_;
    converted_ = 0;
  }
  /// Room for so many bytes at the place, or, without one, not at an earlier one.
  static void borrow_or_own(Buffer<DeviceMemory>& room, void* place, std::size_t bytes) {
    if (place != nullptr) return room.borrow(place, bytes);
    room.return_borrowed();
    room.grow(bytes);
  }
  void forget() {
    converted_ = 0;
    dropping_.reset();
    parts_ = 0;
  }

  mutable Buffer<DeviceMemory> buffer_;
  Buffer<DeviceMemory> beside_;
  mutable Buffer<DeviceMemory> dropped_, sums_;
  mutable std::optional<Dropping> dropping_;
  mutable int parts_ = 0;
  const void* whose_ = nullptr;
  bool views_ = false;
  Threads* threads_ = nullptr;
  int rows_ = 0, cols_ = 0;
  mutable int apart_ = 0, converted_ = 0;  // rows, of what is converted
  Type type_ = Type::float32;
};

/// A list of numbers T on the device, which the host has written at first.
template <class T>
class List {
 public:
  List() = default;
  explicit List(Device device) : buffer_(device.memory) {}
  List(const List& other) : buffer_(other.buffer_.pool()) {
    buffer_.grow(other.bytes());
    if (other.size_ > 0)
      check(cudaMemcpyAsync(buffer_.data(), other.data(), other.bytes(), cudaMemcpyDeviceToDevice, stream()), "copy a list");
    size_ = other.size_;
    ascending_ = other.ascending_;
  }
  List(List&& other) noexcept { swap(other); }
  List& operator=(List other) noexcept {
    swap(other);
    return *this;
  }

  void assign(std::span<const T> list, Device device) {
    if (buffer_.pool() != device.memory) buffer_.move_to(device.memory);
    size_ = 0;
    buffer_.grow(list.size() * sizeof(T));
    Staging::copy(list.data(), buffer_.data(), list.size() * sizeof(T));
    size_ = static_cast<int>(list.size());
    ascending_ = ascends(list);
  }

  /// Becomes a part of another list, from element `first` on, as long as that stays as it is; `list`: what the host has written there.
  void view(const List& whole, int first, std::span<const T> list) {
    buffer_.borrow(const_cast<T*>(whole.data()) + first, list.size() * sizeof(T));
    size_ = static_cast<int>(list.size());
    ascending_ = ascends(list);
  }

  int size() const { return size_; }
  const T* data() const { return static_cast<const T*>(buffer_.data()); }
  /// For the device to write others: nothing is known of them.
  T* rewritten() {
    ascending_ = false;
    return static_cast<T*>(buffer_.data());
  }
  /// Each is larger than the one before: none comes twice.
  bool ascending() const { return ascending_; }

 private:
  static bool ascends(std::span<const T> list) { return std::adjacent_find(list.begin(), list.end(), std::greater_equal<>()) == list.end(); }
  std::size_t bytes() const { return static_cast<std::size_t>(size_) * sizeof(T); }
  void swap(List& other) noexcept {
    buffer_.swap(other.buffer_);
    std::swap(size_, other.size_);
    std::swap(ascending_, other.ascending_);
  }

  Buffer<DeviceMemory> buffer_;
  int size_ = 0;
  bool ascending_ = true;
};

using Indices = List<std::int32_t>;

/// Several lists (ComposedOps::IndexLists), in one piece of memory: one copy to the device, where dozens would take the host longer than it has.
class IndexLists {
 public:
  void assign(std::span<const std::int32_t> all, std::span<const int> firsts, Device device) {
    whole_.assign(all, device);
    const std::size_t count = firsts.size() - 1;
    if (lists_.size() < count) lists_.resize(count);
    for (std::size_t i = 0; i < count; ++i)
      lists_[i].view(whole_, firsts[i], all.subspan(static_cast<std::size_t>(firsts[i]), static_cast<std::size_t>(firsts[i + 1] - firsts[i])));
  }
  const Indices& operator[](std::size_t i) const { return lists_[i]; }

 private:
  Indices whole_;
  std::vector<Indices> lists_;
};

/// The memory whose blocks what this thread records may use (graph.hpp): a replay writes them again. Null: nothing is recorded.
inline thread_local const Memory* recorded_memory = nullptr;

/// Room that an operation has for itself while it runs.
template <class T>
class Scratch {
 public:
  Scratch(long count, Device device) : buffer_(device.memory) {
    require(recorded_memory == nullptr || recorded_memory == device.memory, "what is recorded would use another's memory: prepare the model");
    buffer_.grow(static_cast<std::size_t>(count) * sizeof(T));
  }
  T* data() const { return static_cast<T*>(buffer_.data()); }

 private:
  Buffer<DeviceMemory> buffer_;
};

}  // namespace relay::cuda
