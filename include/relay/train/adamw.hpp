// AdamW (Loshchilov & Hutter 2019), gradient clipping by norm, and the linear schedule with warm-up.
//
//   g' = g min(1, clip / |g|)    m = b1 m + (1-b1) g'    v = b2 v + (1-b2) g'^2
//   w = w (1 - rate decay) - rate (m / (1-b1^n)) / (sqrt(v / (1-b2^n)) + eps)
//
// Only matrices decay: biases, and the scales and shifts of norms, which are single rows, do not. The moments are values of
// the model's own type.
#pragma once

#include <algorithm>
#include <cmath>

#include <relay/backend/ops.hpp>
#include <relay/core/parameters.hpp>

namespace relay {

struct AdamWConfig {
  double rate = 1e-3;
  double beta1 = 0.9, beta2 = 0.98;
  double epsilon = 1e-8;
  double decay = 0.01;
  double clip = 1;  // of the gradient's norm; 0: none
};

/// The factor of the learning rate at step 1 .. steps: min(1, step / up) * max(final, 1 - step / steps). The rise and the fall
/// are multiplied, so the largest factor is 1 - warm_up, not 1.
struct LinearSchedule {
  int steps = 1000;
  double warm_up = 0.01;  // share of the steps, at least one
  double final = 0;       // factor at the last step

  double operator()(int step) const {
    const double up = std::max(1.0, std::round(warm_up * steps));
    const double down = (steps - step) / std::max(1.0, static_cast<double>(steps));
    return std::min(1.0, step / up) * std::max(final, down);
  }
};

template <class Model>
class AdamW {
 public:
  using Backend = typename Model::Backend;

  AdamW(const Model& model, AdamWConfig config) : first(zeros_like(model)), second(zeros_like(model)), config_(config) {}

  Model first, second;  // moments
  int steps = 0;        // taken

  const AdamWConfig& config() const { return config_; }

  /// One update; returns the norm of the gradient before clipping. `threads`, if there are any, share the parameters. Weights are
  /// laid out for products again while they are at hand.
  double step(Model& model, const Model& gradient, double rate_factor, Threads* threads = nullptr) {
    parameters_.assign(model, gradient, first, second);
    const int step = steps + 1;
    const AdamWStep all{.rate = config_.rate * rate_factor,
                        .beta1 = config_.beta1,
                        .beta2 = config_.beta2,
                        .epsilon = config_.epsilon,
                        .decay = config_.decay,
                        .correction1 = 1 - std::pow(config_.beta1, step),
                        .correction2 = 1 - std::pow(config_.beta2, step),
                        .gradient_scale = 1};
    const double norm =
        Backend::clipped_adamw_all(updating_, parameters_, threads, all, config_.clip, [](const Tensor& weight) { return weight.rows() > 1; });
    require(std::isfinite(norm), "the gradient is not finite at step ", step, ": lower the learning rate, or look for bad values in the data");
    steps = step;
    return norm;
  }

 private:
  using Tensor = typename Backend::Tensor;

  ParameterList<Tensor, const Tensor, Tensor, Tensor> parameters_;
  typename Backend::Updating updating_;
  AdamWConfig config_;
};

}  // namespace relay
