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

/// Products are planned for rows that begin at multiples of so many bytes.
inline constexpr std::size_t row_alignment = 256;

/// The applications of one pass forward and backward. What is placed here belongs to it: it must live as long as what borrows from it.
class Applications {
 public:
  /// Rows of which the gradient is yet to be added.
  struct Part {
    int first = 0, rows = 0;
    bool summed = false;  // the bias has it already
  };
  /// Of a linear layer.
  struct Layer {
    const void* of = nullptr;  // its weight
    Tensor x, dy;  // [rows of all applications, inputs], [.., outputs]
    Tensor *dweight = nullptr, *dbias = nullptr;
    long has_x = 0, has_dy = 0, taken = 0;  // the application whose rows got a place last, or were taken
    bool summed = false;                    // what lies in the place of dy is among the sums of the bias, and nobody has said whose that is
    bool used = false;                      // in this pass
    std::vector<Part> parts;
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
    ++application_;
    const auto unused = [](const auto& kept) { return !std::exchange(kept->used, false); };
    std::erase_if(layers_, unused);
    std::erase_if(sums_, unused);
  }
  /// Its backward pass begins: what one that was not finished left is forgotten.
  void begin_gradients() {
    for (auto& layer : layers_) {
      layer->parts.clear();
      layer->summed = false;
    }
    for (auto& sums : sums_) sums->begun = false;
  }
  /// Which application is computed now.
  void set(int first, int rows) {
    first_ = first;
    count_ = rows;
    ++application_;
  }

  /// Where the rows of this application lie in what the layer of this weight reads, and in the gradient of what it gives; null for rows that
  /// products would not find aligned, and for a layer that is applied once more: what comes first, forward or backward, has the place.
  void* input(const Tensor& weight, Type type) {
    if (!aligned(weight, type)) return nullptr;
    Layer& layer = used(layers_, &weight);
    return std::exchange(layer.has_x, application_) == application_ ? nullptr : place(layer.x, weight.cols(), type);
  }
  void* gradient(const Tensor& weight, Type type) {
    if (!aligned(weight, type)) return nullptr;
    Layer& layer = used(layers_, &weight);
    if (std::exchange(layer.has_dy, application_) == application_) return nullptr;
    layer.summed = false;
    return place(layer.dy, weight.rows(), type);
  }
  Device device() const { return device_; }
  std::size_t bytes(int cols, Type type) const { return static_cast<std::size_t>(count_) * static_cast<std::size_t>(cols) * size_of(type); }

  /// Whether all rows of x and dy are in their places, and not of what was taken already; the gradients of weight and bias are added later then.
  bool takes(const void* weight, const void* x, const void* dy, int rows, Tensor& dweight, Tensor& dbias) {
    Layer* const layer = find(layers_, weight);
    if (layer == nullptr || layer->taken == application_ || rows != count_) return false;
    if (x != at(layer->x) || dy != at(layer->dy) || x == nullptr || dy == nullptr) return false;
    layer->taken = application_;
    layer->dweight = &dweight;
    layer->dbias = &dbias;
    const bool summed = takes_sums(weight, dy, dbias);
    std::vector<Part>& parts = layer->parts;
    if (!parts.empty() && parts.back().first == first_ + count_ && parts.back().summed == summed) {  // backward comes from the last to the first
      parts.back().first = first_;
      parts.back().rows += count_;
    } else {
      parts.push_back({first_, count_, summed});
    }
    return true;
  }
  /// Whether dy is among the sums of this layer's bias, which are added later.
  bool takes_sums(const void* weight, const void* dy, Tensor& dbias) {
    Layer* const layer = find(layers_, weight);
    if (layer == nullptr || dy != at(layer->dy) || !std::exchange(layer->summed, false)) return false;
    used(sums_, weight).first = &dbias;
    return true;
  }

  /// Where sums of this (the scale of a norm) are added up, 0 at first.
  float* sums(const void* of, int parts, int cols, Tensor* first, Tensor* second) {
    Sums& sums = begun(of, parts, cols);
    sums.first = first;
    sums.second = second;
    return sums.partial.template as<float>();
  }
  /// The same for the bias of this weight's layer: of the rows that are being written to the place of dy.
  float* bias_sums(const void* weight, int parts, int cols) {
    used(layers_, weight).summed = true;
    return begun(weight, parts, cols).partial.template as<float>();
  }

  /// add(layer, part) and add(sums) for what was taken.
  void finish(auto&& add_layer, auto&& add_sums) {
    for (auto& layer : layers_) {
      for (const Part& part : layer->parts) add_layer(*layer, part);
      layer->parts.clear();
    }
    for (auto& sums : sums_)
      if (std::exchange(sums->begun, false) && sums->first != nullptr) add_sums(*sums);
  }

 private:
  Sums& begun(const void* of, int parts, int cols) {
    Sums& sums = used(sums_, of);
    if (std::exchange(sums.begun, true)) return sums;
    sums.first = sums.second = nullptr;
    sums.partial.resize(parts, cols, device_);
    check(cudaMemsetAsync(sums.partial.data(), 0, sums.partial.bytes(), stream()), "clear sums");
    return sums;
  }
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
  static bool aligned(const Tensor& weight, Type type) {
    const auto whole = [type](int cols) { return static_cast<std::size_t>(cols) * size_of(type) % row_alignment == 0; };
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
  long application_ = 0;  // which it is, of those of all passes
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
