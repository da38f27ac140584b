// How parameters start: drawn from a key, the same on every backend.
#pragma once

#include <vector>

#include <relay/core/random.hpp>

namespace relay {

/// Each element as drawn. A backend without elements (backend/shapes.hpp) is spared the drawing.
template <class Backend>
void initialise(typename Backend::Tensor& tensor, auto&& draw) {
  if constexpr (requires { typename Backend::NoElements; }) return;
  std::vector<typename Backend::Scalar> values(static_cast<std::size_t>(tensor.size()));
  for (auto& value : values) value = static_cast<typename Backend::Scalar>(draw());
  Backend::upload(values, tensor);
}

/// Every element uniform over [-bound, bound).
template <class Backend>
void initialise_uniform(typename Backend::Tensor& tensor, double bound, Key key) {
  Random random(key);
  initialise<Backend>(tensor, [&] { return bound * (2 * random.uniform() - 1); });
}

/// Every element normal with mean 0.
template <class Backend>
void initialise_normal(typename Backend::Tensor& tensor, double deviation, Key key) {
  Random random(key);
  initialise<Backend>(tensor, [&] { return deviation * random.normal(); });
}

}  // namespace relay
