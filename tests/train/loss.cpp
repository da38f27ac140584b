#include <relay/train/loss.hpp>

#include <doctest/doctest.h>

using namespace relay;

TEST_CASE("losses add up; mean and accuracy of nothing are 0") {
  Losses a, b;
  CHECK((a.value.mean() == 0 && a.value.accuracy() == 0));
  a.value.add(2, true);
  a.value.add(4, false);
  b.value.add(6, true);
  b.structure.add(1, true);
  b.answer.add(3, false);
  a.objective = 1.5;
  b.objective = 2.5;
  a += b;
  CHECK(a.objective == 4);
  CHECK((a.value.count == 3 && a.value.right == 2));
  CHECK(a.value.mean() == 4);
  CHECK(a.value.accuracy() == doctest::Approx(2.0 / 3));
  CHECK((a.structure.count == 1 && a.answer.mean() == 3));
}
