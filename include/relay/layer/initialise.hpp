// How parameters start: drawn from a key, the same on every backend.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <span>
#include <vector>

#include <relay/core/random.hpp>
#include <relay/core/require.hpp>

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

/// Rows that stand for numbers, so that near numbers begin alike: element i of number x's row is sqrt(2) deviation cos(f_i x + phase_i),
/// the wavelengths of the f_i spread evenly, on a scale of logarithms, from 2 to four times the largest number. Other rows stay.
template <class Backend>
void initialise_ordered(typename Backend::Tensor& tensor, double deviation, std::span<const std::optional<double>> numbers, Key key) {
  if constexpr (requires { typename Backend::NoElements; }) return;
  require(static_cast<int>(numbers.size()) == tensor.rows(), "an embedding of ", tensor.rows(), " rows was given the numbers of ",
          numbers.size());
  double largest = 1;
  for (const auto& x : numbers) largest = std::max(largest, x.value_or(0));
  Random random(key);
  std::vector<double> frequency, phase;
  for (int i = 0; i < tensor.cols(); ++i) {
    frequency.push_back(2 * std::numbers::pi / (2 * std::pow(2 * largest, random.uniform())));
    phase.push_back(2 * std::numbers::pi * random.uniform());
  }
  auto values = Backend::download(tensor);
  for (std::size_t row = 0; row < numbers.size(); ++row)
    for (std::size_t i = 0; numbers[row] && i < frequency.size(); ++i)
      values[row * frequency.size() + i] =
          static_cast<typename Backend::Scalar>(std::numbers::sqrt2 * deviation * std::cos(frequency[i] * *numbers[row] + phase[i]));
  Backend::upload(values, tensor);
}

}  // namespace relay
