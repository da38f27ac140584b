// Weight gradients of layers that are applied again and again: what each linear layer read, and the gradient of what it gave, lie one
// application after another in memory, so that the gradient of its weight is one product over the rows of all of them, where one for each
// would be too small for the device.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include <relay/backend/cuda/tensor.hpp>

namespace relay::cuda {

/// The applications of one pass forward and backward. What is placed here belongs to it: it must live as long as what borrows from it.
class Applications {
 public:
  /// Of a linear layer.
  struct Layer {
    const void* of = nullptr;  // its weight
    Tensor x, dy;  // [rows of all applications, inputs], [.., outputs]
    Tensor *dweight = nullptr, *dbias = nullptr;
    int taken = -1;  // the first row of the application that was taken last
    bool used = false;                       // in this pass
    std::vector<std::pair<int, int>> parts;  // first rows, and how many, of which the gradient is yet to be added
  };

  /// Sums over parts of the rows of something [parts, cols], to which every application adds.
  struct Sums {
    const void* of = nullptr;
    Tensor partial;
    Tensor *first = nullptr, *second = nullptr;  // what they are added to: half of the columns each, where there is a second
    bool begun = false;                          // else what is there is of another pass
    bool used = false;                           // in this pass
  };

  /// A new pass, whose applications have so many rows in all. What the last one did not use goes: it is of a model that is no more, or not here.
  void begin(int rows, Device device) {
    rows_ = rows;
    device_ = device;
    const auto unused = [](const auto& kept) { return !std::exchange(kept->used, false); };
    std::erase_if(layers_, unused);
    std::erase_if(sums_, unused);
    for (auto& layer : layers_) {
      layer->parts.clear();
      layer->taken = -1;
    }
    for (auto& sums : sums_) sums->begun = false;
  }
  /// Which application is computed now.
  void set(int first, int rows) {
    first_ = first;
    count_ = rows;
  }

  /// Where the rows of this application lie in what the layer of this weight reads, and in the gradient of what it gives; null for rows that
  /// products would not find aligned.
  void* input(const Tensor& weight, Type type) {
    return aligned(weight, type) ? place(used(layers_, &weight).x, weight.cols(), type) : nullptr;
  }
  void* gradient(const Tensor& weight, Type type) {
    return aligned(weight, type) ? place(used(layers_, &weight).dy, weight.rows(), type) : nullptr;
  }
  Device device() const { return device_; }
  std::size_t bytes(int cols, Type type) const { return static_cast<std::size_t>(count_) * static_cast<std::size_t>(cols) * size_of(type); }

  /// Whether x and dy are in their places; the gradients of weight and bias are added later then.
  bool takes(const void* weight, const void* x, const void* dy, Tensor& dweight, Tensor& dbias) {
    Layer* const found = find(layers_, weight);
    if (found == nullptr) return false;
    Layer& layer = *found;
    require(layer.taken != first_, "a linear layer was applied twice in one iteration of a loop, for which the GPU has one place: use Keep::inputs");
    if (x != at(layer.x) || dy != at(layer.dy) || x == nullptr || dy == nullptr) return false;
    layer.taken = first_;
    layer.dweight = &dweight;
    layer.dbias = &dbias;
    if (!layer.parts.empty() && layer.parts.back().first == first_ + count_) {  // backward comes from the last to the first
      layer.parts.back().first = first_;
      layer.parts.back().second += count_;
    } else {
      layer.parts.emplace_back(first_, count_);
    }
    return true;
  }

  /// Where sums of this (the scale of a norm, the weight of a linear layer) are added up, 0 at first.
  float* sums(const void* of, int parts, int cols, Tensor* first, Tensor* second) {
    Sums& sums = used(sums_, of);
    if (!sums.begun) {
      sums.partial.resize(parts, cols, device_);
      check(cudaMemsetAsync(sums.partial.data(), 0, sums.partial.bytes(), stream()), "clear sums");
      sums.begun = true;
    }
    sums.first = first;
    sums.second = second;
    return sums.partial.template as<float>();
  }

  /// Whether there are sums for the bias of this weight's layer, which are added later then.
  bool sums_bias(const void* weight, Tensor& dbias) {
    Sums* const bias = find(sums_, weight);
    if (bias == nullptr || !bias->begun) return false;
    bias->first = &dbias;
    return true;
  }

  /// add(layer, first row, rows, whether its bias has sums of its own) and add(sums) for what was taken.
  void finish(auto&& add_layer, auto&& add_sums) {
    for (auto& layer : layers_) {
      for (const auto& [first, rows] : layer->parts) add_layer(*layer, first, rows, sums_bias(layer->of, *layer->dbias));
      layer->parts.clear();
      layer->taken = -1;
    }
    for (auto& sums : sums_)
      if (std::exchange(sums->begun, false) && sums->first != nullptr) add_sums(*sums);
  }

 private:
  /// Null where it is not there.
  template <class Of>
  static Of* find(const std::vector<std::unique_ptr<Of>>& list, const void* of) {
    const auto found = std::find_if(list.begin(), list.end(), [of](const auto& one) { return one->of == of; });
    return found == list.end() ? nullptr : found->get();
  }
  /// Which this pass uses.
  template <class Of>
  static Of& used(std::vector<std::unique_ptr<Of>>& list, const void* of) {
    Of* one = find(list, of);
    if (one == nullptr) {
      one = list.emplace_back(std::make_unique<Of>()).get();
      one->of = of;
    }
    one->used = true;
    return *one;
  }
  /// Products are planned for rows that begin at multiples of so many bytes.
  static bool aligned(const Tensor& weight, Type type) {
    const auto whole = [type](int cols) { return static_cast<std::size_t>(cols) * size_of(type) % 256 == 0; };
    return whole(weight.rows()) && whole(weight.cols());
  }
  void* place(Tensor& all, int cols, Type type) {
    if (all.rows() != rows_ || all.cols() != cols || all.type() != type || all.device().memory != device_.memory) {
      Tensor like(0, 0, device_);
      all.resize_like(like, rows_, cols, type);
    }
    return at(all);
  }
  void* at(Tensor& all) const {
    if (first_ + count_ > all.rows()) return nullptr;
    return static_cast<std::byte*>(all.data()) + static_cast<std::size_t>(first_) * static_cast<std::size_t>(all.cols()) * size_of(all.type());
  }

  std::vector<std::unique_ptr<Layer>> layers_;
  std::vector<std::unique_ptr<Sums>> sums_;
  Device device_;
  int rows_ = 0, first_ = 0, count_ = 0;
};

/// The one that this thread's layers are applied in; null: none.
inline thread_local Applications* applications = nullptr;

/// While it lives, layers are applied to so many rows, the first of which is the first-th of all applications'.
class Applied {
 public:
  Applied(Applications* to, int first, int rows) : before_(std::exchange(applications, to)) {
    if (to != nullptr) to->set(first, rows);
  }
  Applied(const Applied&) = delete;
  Applied& operator=(const Applied&) = delete;
  ~Applied() { applications = before_; }

 private:
  Applications* before_;
};

}  // namespace relay::cuda
