// The gradient checker: compares a hand-written backward with finite differences. Public, so that users can check layers of
// their own; see examples/01_layer.cpp.
//
// For a random dy, backward must give the gradient of the scalar f = sum(dy * forward(x)) with respect to x and to every
// parameter. The derivative is taken from central differences at steps h and h/2 (Richardson: the error is of order h^4). The
// gradient is pre-filled with a non-zero value first, because backward must add, never assign.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <relay/core/concepts.hpp>
#include <relay/core/parameters.hpp>
#include <relay/layer/initialise.hpp>

namespace relay {

/// The worst disagreement found: |analytic - numeric| / max(|analytic|, |numeric|, floor).
struct GradientReport {
  double error = 0;
  std::string parameter = "none";  // or "input"
  long index = 0;
  double analytic = 0, numeric = 0;
  long checked = 0;

  bool within(double tolerance) const { return checked > 0 && error <= tolerance; }
  std::string text() const {
    return message("worst of ", checked, " derivatives: ", parameter, "[", index, "], backward says ", analytic,
                   ", differences say ", numeric, ", relative error ", error);
  }
};

namespace detail {

/// Compares `analytic` with the differences of `loss` in `tensor`, at up to `samples` elements.
template <class Backend>
void check_tensor(std::string_view name, typename Backend::Tensor& tensor, const std::vector<double>& analytic, auto&& loss,
                  int samples, Random& random, GradientReport& report) {
  auto values = Backend::download(tensor);
  const long size = tensor.size();
  const bool all = size <= samples;
  double largest = 0;
  for (const double a : analytic) largest = std::max(largest, std::abs(a));
  for (long k = 0; k < (all ? size : samples); ++k) {
    const long index = all ? k : random.below(static_cast<int>(size));
    auto& value = values[static_cast<std::size_t>(index)];
    const double old = value, h = 1e-3 * std::max(1.0, std::abs(old));
    const auto at = [&](double offset) {
      value = static_cast<typename Backend::Scalar>(old + offset);
      Backend::upload(values, tensor);
      return loss();
    };
    const double wide = (at(h) - at(-h)) / (2 * h), narrow = (at(h / 2) - at(-h / 2)) / h;
    at(0);
    const double numeric = (4 * narrow - wide) / 3, a = analytic[static_cast<std::size_t>(index)];
    // Relative to the element, or to a thousandth of its tensor's largest derivative where the element itself is near zero.
    const double scale = std::max({std::abs(a), std::abs(numeric), 1e-3 * largest, 1e-6});
    const double error = std::abs(a - numeric) / scale;
    ++report.checked;
    if (error > report.error || report.checked == 1 || std::isnan(error))
      report = {std::isnan(error) ? INFINITY : error, std::string(name), index, a, numeric, report.checked};
  }
}

}  // namespace detail

/// Checks a whole model: `loss()` is a scalar function of the model's parameters, `gradient` what backward says of it.
template <class Backend, class Model>
GradientReport check_gradient(Model& model, const Model& gradient, auto&& loss, int samples = 20, Key key = Key(1)) {
  GradientReport report;
  Random random(key);
  for_each_parameter(
      [&](std::string_view name, auto& weight, const auto& grad) {
        const auto values = Backend::download(grad);
        detail::check_tensor<Backend>(name, weight, std::vector<double>(values.begin(), values.end()), loss, samples, random,
                                      report);
      },
      model, gradient);
  return report;
}

/// Checks one layer at x: its parameters and its input. `samples`: elements tried of each tensor. An Error, where a pass that is
/// forward only gives another output.
template <Layer L>
GradientReport check_layer(L& layer, typename L::Input& x, const Rows<typename L::Backend>& rows, int samples = 50,
                           Key key = Key(1)) {
  using Backend = typename L::Backend;
  using Tensor = typename Backend::Tensor;
  constexpr double prefill = 0.5;
  typename L::Trace trace;
  const Tensor& y = layer.forward(x, rows, trace);
  Tensor dy;
  dy.resize_like(y, y.rows(), y.cols());
  initialise_normal<Backend>(dy, 1, key.fold(1));
  const auto weights = Backend::download(dy);

  L grad = layer;
  for_each_parameter([&](std::string_view, auto& g) { Backend::fill(g, prefill); }, grad);
  const Tensor dx = layer.backward(x, rows, trace, dy, grad);

  typename L::Trace scratch;
  require(Backend::download(layer.forward(x, rows.forward_only(), scratch)) == Backend::download(layer.forward(x, rows, trace)),
          "forward gives another output with rows.forward_only(): in such a pass a layer may read no more of an inner layer's trace than ",
          "its output (core/concepts.hpp)");
  const auto loss = [&] {
    const auto values = Backend::download(layer.forward(x, rows, scratch));
    double sum = 0;
    for (std::size_t i = 0; i < values.size(); ++i) sum += static_cast<double>(values[i]) * static_cast<double>(weights[i]);
    return sum;
  };
  GradientReport report;
  Random random(key);
  for_each_parameter(
      [&](std::string_view name, auto& weight, const auto& g) {
        const auto values = Backend::download(g);
        std::vector<double> analytic;
        for (const auto v : values) analytic.push_back(static_cast<double>(v) - prefill);
        detail::check_tensor<Backend>(name, weight, analytic, loss, samples, random, report);
      },
      layer, grad);
  const auto values = Backend::download(dx);
  detail::check_tensor<Backend>("input", x, std::vector<double>(values.begin(), values.end()), loss, samples, random, report);
  return report;
}

}  // namespace relay
