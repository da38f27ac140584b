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

TEST_CASE("ordered: rows of numbers near each other are alike, other rows stay") {
  constexpr int numbers = 60, width = 200;
  Cpu<double>::Tensor x(numbers + 3, width);
  initialise_normal<Cpu<double>>(x, 1, Key(1));
  const auto before = Cpu<double>::download(x);
  std::vector<std::optional<double>> of(3);
  for (int n = 0; n < numbers; ++n) of.push_back(n);
  initialise_ordered<Cpu<double>>(x, 0.5, of, Key(2));
  const auto values = Cpu<double>::download(x);
  CHECK(std::equal(before.begin(), before.begin() + 3 * width, values.begin()));
  double squares = 0;
  for (std::size_t i = 3 * width; i < values.size(); ++i) squares += values[i] * values[i];
  CHECK(squares / (numbers * width) == doctest::Approx(0.25).epsilon(0.1));
  const auto likeness = [&](int a, int b) {  // cosine
    double dot = 0, aa = 0, bb = 0;
    for (int i = 0; i < width; ++i) {
      const double va = x.row(3 + a)[i], vb = x.row(3 + b)[i];
      dot += va * vb, aa += va * va, bb += vb * vb;
    }
    return dot / std::sqrt(aa * bb);
  };
  for (const int n : {0, 10, 30}) {
    CHECK(likeness(n, n + 1) > likeness(n, n + 4));
    CHECK(likeness(n, n + 4) > likeness(n, n + 20));
    CHECK(likeness(n, n + 1) > 0.6);
    CHECK(likeness(n, n + 1) < 0.999);
  }

  Cpu<float>::Tensor f(numbers + 3, width);  // the same numbers on every backend, and again
  initialise_normal<Cpu<float>>(f, 1, Key(1));
  initialise_ordered<Cpu<float>>(f, 0.5, of, Key(2));
  for (long i = 3 * width; i < f.size(); ++i) REQUIRE(f.data()[i] == static_cast<float>(x.data()[i]));
  initialise_ordered<Cpu<double>>(x, 0.5, of, Key(3));
  CHECK(Cpu<double>::download(x) != values);
  CHECK_THROWS_AS(initialise_ordered<Cpu<double>>(x, 0.5, std::vector<std::optional<double>>(5), Key(2)), Error);
  const auto now = Cpu<double>::download(x);
  initialise_ordered<Cpu<double>>(x, 0.5, std::vector<std::optional<double>>(numbers + 3), Key(2));  // no numbers
  CHECK(Cpu<double>::download(x) == now);
}
