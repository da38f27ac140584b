// What one `each` per layer buys. A layer names its parameters, and its parts, once:
//
//   static void each(auto&& visit, auto&... layer) {
//     visit("weight", layer.weight...);          // a tensor of every given layer
//     visit("norm", layer.norm...);              // or a part, which has an `each` of its own
//   }
//
// `each` is a zip: given a layer, its gradient and Adam's two moments (all of the layer's own type), `visit` sees the four
// tensors of one parameter side by side. Counting, clearing, adding, clipping, optimising, saving and gradient checking are
// all this one walk.
#pragma once

#include <concepts>
#include <cstddef>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <relay/core/require.hpp>
#include <relay/core/threads.hpp>

namespace relay {

namespace detail {

struct Visitor {  // a lambda in the requirement would do, but not for nvcc
  void operator()(std::string_view, auto&...) const {}
};
template <class T>
concept HasEach = requires(T& part, Visitor visit) { std::remove_const_t<T>::each(visit, part); };

template <class T>
inline constexpr bool is_list = false;
template <class T>
inline constexpr bool is_list<std::vector<T>> = true;

/// A part's name, and the part it is in.
struct Path {
  const Path* outer;
  std::string_view name;

  std::string text() const { return outer ? outer->text() + "." + std::string(name) : std::string(name); }
};

/// Walks parts down to their tensors. The path "block.layers.0.norm.weight" is written only for a visitor that takes it.
template <class Visit>
struct Walk {
  Visit& visit;
  const Path* outer;

  template <class First, class... Rest>
  void operator()(std::string_view name, First& first, Rest&... rest) const {
    const Path here{outer, name};
    if constexpr (is_list<std::remove_const_t<First>>) {
      for (std::size_t i = 0; i < first.size(); ++i) Walk{visit, &here}(std::to_string(i), first[i], rest[i]...);
    } else if constexpr (HasEach<First>) {
      std::remove_const_t<First>::each(Walk{visit, &here}, first, rest...);
    } else if constexpr (std::invocable<Visit&, std::string_view, First&, Rest&...>) {
      visit(std::string_view(here.text()), first, rest...);
    } else {
      visit(first, rest...);
    }
  }
};

}  // namespace detail

/// Calls visit(path, tensor of the first layer, tensor of the second, ...) for every parameter, in a fixed order; a visitor that
/// takes no path, visit(tensor of the first layer, ...), gets none.
template <class Visit, class First, class... Rest>
void for_each_parameter(Visit&& visit, First& first, Rest&... rest) {
  std::remove_const_t<First>::each(detail::Walk<std::remove_reference_t<Visit>>{visit, nullptr}, first, rest...);
}

template <class Layer>
long count_parameters(const Layer& layer) {
  long count = 0;
  for_each_parameter([&](const auto& tensor) { count += tensor.size(); }, layer);
  return count;
}

/// Sets every parameter to zero: how a gradient starts.
template <class Layer>
void clear(Layer& layer) {
  typename Layer::Backend::Clearing all;
  for_each_parameter([&](auto& tensor) { all.add(tensor); }, layer);
  all.end();
}

/// Another value of the layer's own type, all zeros: a gradient, or a moment of the optimiser.
template <class Layer>
Layer zeros_like(const Layer& layer) {
  Layer zero = layer;
  clear(zero);
  return zero;
}

/// The same walk for several threads: a list of the tensors (types T) of several layers, side by side. Kept from step to step, it
/// asks for no memory.
template <class... T>
class ParameterList {
 public:
  void assign(auto&... layers) {
    list_.clear();
    for_each_parameter([&](auto&... tensors) { list_.emplace_back(&tensors...); }, layers...);
  }
  std::size_t size() const { return list_.size(); }

  /// Calls visit(i, tensor of the first layer, tensor of the second, ...) for the i-th parameter, for all, on any thread; visit must not
  /// care which. `threads` may be null.
  void visit(Threads* threads, auto&& visit) const {
    const auto one = [&](int i) {
      std::apply([&](auto*... tensors) { visit(static_cast<std::size_t>(i), *tensors...); }, list_[static_cast<std::size_t>(i)]);
    };
    const int count = static_cast<int>(list_.size());
    if (threads) return threads->run(count, one);
    for (int i = 0; i < count; ++i) one(i);
  }

 private:
  std::vector<std::tuple<T*...>> list_;
};

/// Lets the backend lay out every parameter for products (Backend::prepare), which then cost less until the weights are written
/// again. AdamW does so after every update (embeddings, which are small, go along); do it once to a model that was loaded or copied.
template <class Layer>
void prepare(Layer& layer) {
  for_each_parameter([](auto& tensor) { Layer::Backend::prepare(tensor); }, layer);
}

}  // namespace relay
