#include <relay/layer/initialise.hpp>

#include "check.hpp"

using namespace relay;

TEST_CASE("the same key gives the same numbers in float and in double") {
  Cpu<float>::Tensor f(5, 7);
  Cpu<double>::Tensor d(5, 7);
  initialise_normal<Cpu<float>>(f, 0.5, Key(3));
  initialise_normal<Cpu<double>>(d, 0.5, Key(3));
  for (long i = 0; i < f.size(); ++i) CHECK(f.data()[i] == static_cast<float>(d.data()[i]));
}

TEST_CASE("normal and uniform: mean, deviation, bounds") {
  Cpu<double>::Tensor x(100, 100);
  const auto moments = [&] {
    double sum = 0, squares = 0;
    for (const double v : Cpu<double>::download(x)) sum += v, squares += v * v;
    return std::pair(sum / 1e4, squares / 1e4);
  };
  initialise_normal<Cpu<double>>(x, 0.5, Key(1));
  CHECK(std::abs(moments().first) < 0.02);
  CHECK(moments().second == doctest::Approx(0.25).epsilon(0.05));
  initialise_uniform<Cpu<double>>(x, 2, Key(1));
  CHECK(std::abs(moments().first) < 0.06);
  CHECK(moments().second == doctest::Approx(4.0 / 3).epsilon(0.05));
  for (const double v : Cpu<double>::download(x)) {
    REQUIRE(v >= -2);
    REQUIRE(v < 2);
  }
}
