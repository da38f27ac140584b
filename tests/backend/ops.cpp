// The default bodies of composed operations give what a backend's fused ones give: whoever writes a backend may begin
// with the defaults, and whoever fuses one may compare.
#include <relay/backend/ops.hpp>

#include <relay/backend/cpu.hpp>
#include <relay/layer/initialise.hpp>

#include <doctest/doctest.h>

using namespace relay;

namespace {

template <class B>
typename B::Tensor random(int rows, int cols, std::uint64_t key) {
  typename B::Tensor x(rows, cols);
  initialise_normal<B>(x, 1, Key(key));
  return x;
}

template <class T>
double difference(const T& a, const T& b) {
  REQUIRE(a.rows() == b.rows());
  REQUIRE(a.cols() == b.cols());
  double worst = 0;
  for (long i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(static_cast<double>(a.data()[i] - b.data()[i])));
  return worst;
}

}  // namespace

TEST_CASE("directional heads are the last ones, causal and anticausal in turn; a mask is every head's") {
  const Heads heads{5, Mask::none, 3};
  CHECK(heads(0) == Mask::none);
  CHECK(heads(1) == Mask::none);
  CHECK(heads(2) == Mask::causal);
  CHECK(heads(3) == Mask::anticausal);
  CHECK(heads(4) == Mask::causal);
  const Heads causal{2, Mask::causal, 2};
  CHECK(causal(0) == Mask::causal);
  CHECK(causal(1) == Mask::causal);
}

TEST_CASE_TEMPLATE("defaults and fused operations agree", S, float, double) {
  using B = Cpu<S>;
  using Default = ComposedOps<B>;
  const double tolerance = std::is_same_v<S, float> ? 1e-5 : 1e-13;
  for (const int n : {1, 7, 40}) {
    const auto x = random<B>(n, 13, 1), branch = random<B>(n, 13, 2), weight = random<B>(11, 13, 3),
               bias = random<B>(1, 11, 4);
    const auto dy = random<B>(n, 11, 5);
    typename B::Tensor a, b;
    for (const std::optional<Key>& key : {std::optional<Key>{}, std::optional<Key>{Key(6)}})
      for (const double rate : {0.0, 0.4}) {
        Default::residual(x, branch, rate, key, a);
        B::residual(x, branch, rate, key, b);
        CHECK(difference(a, b) < tolerance);
      }
    const auto scale = random<B>(1, 13, 9), shift = random<B>(1, 13, 10);
    typename B::Tensor normal_a, normal_b, statistics_a, statistics_b;
    for (const double rate : {0.0, 0.4}) {
      Default::residual_norm(x, branch, rate, Key(6), scale, shift, 1e-5, a, normal_a, statistics_a);
      B::residual_norm(x, branch, rate, Key(6), scale, shift, 1e-5, b, normal_b, statistics_b);
      CHECK(difference(a, b) < tolerance);
      CHECK(difference(normal_a, normal_b) < tolerance);
      CHECK(difference(statistics_a, statistics_b) < tolerance);
    }
    auto dscale_a = random<B>(1, 13, 11), dshift_a = random<B>(1, 13, 12);
    auto dscale_b = dscale_a, dshift_b = dshift_a;
    Default::layer_norm_backward_add(x, statistics_a, scale, normal_a, branch, a, dscale_a, dshift_a);
    B::layer_norm_backward_add(x, statistics_a, scale, normal_a, branch, b, dscale_b, dshift_b);
    CHECK(difference(a, b) < tolerance);
    CHECK(difference(dscale_a, dscale_b) < tolerance);
    CHECK(difference(dshift_a, dshift_b) < tolerance);

    Default::linear(x, weight, bias, a);
    B::linear(x, weight, bias, b);
    CHECK(difference(a, b) < tolerance);

    auto dweight_a = random<B>(11, 13, 7), dbias_a = random<B>(1, 11, 8);
    auto dweight_b = dweight_a, dbias_b = dbias_a;
    Default::linear_backward(x, weight, dy, a, dweight_a, dbias_a);
    B::linear_backward(x, weight, dy, b, dweight_b, dbias_b);
    CHECK(difference(a, b) < tolerance);
    CHECK(difference(dweight_a, dweight_b) < tolerance);
    CHECK(difference(dbias_a, dbias_b) < tolerance);
  }
}
