#include <relay/layer/rotary.hpp>

#include "check.hpp"

using namespace relay;
using check::B;

TEST_CASE("the table holds cosines and sines of position * base^(-2i/size)") {
  const Rotary<B> rotary(6, 10, 100);
  CHECK(rotary.positions() == 10);
  for (int p = 0; p < 10; ++p)
    for (int i = 0; i < 3; ++i) {
      const double angle = p * std::pow(100.0, -2.0 * i / 6);
      CHECK(rotary.table().row(p)[i] == doctest::Approx(std::cos(angle)).epsilon(1e-14));
      CHECK(rotary.table().row(p)[3 + i] == doctest::Approx(std::sin(angle)).epsilon(1e-14));
    }
}

TEST_CASE("turning back undoes turning, and lengths stay") {
  const Rotary<B> rotary(6, 40, 10000);
  const std::vector<int> lengths{7, 33};
  const Ragged<B> batch(lengths);
  const check::Tensor qkv = check::random(40, 36, Key(1));
  check::Tensor turned = qkv;
  B::rotate(turned, batch, 2, 2, rotary.table(), +1);
  CHECK(check::difference(turned, qkv) > 0.1);
  CHECK(B::sum_of_squares(turned) == doctest::Approx(B::sum_of_squares(qkv)).epsilon(1e-12));
  B::rotate(turned, batch, 2, 2, rotary.table(), -1);
  CHECK(check::difference(turned, qkv) < 1e-14);
}

TEST_CASE("an odd head and a base that does not turn are refused") {
  CHECK_THROWS_WITH_AS(
      Rotary<B>(3, 4, 100),
      "rotary positions turn pairs, so the size of a head must be even, not 3: choose width / heads even", Error);
  CHECK_THROWS_WITH_AS(Rotary<B>(4, 4, 1), "the base of rotary positions must be above 1, not 1", Error);
}
