#include <relay/task/split.hpp>

#include <cmath>
#include <set>

#include <doctest/doctest.h>

#include <relay/task/arithmetic.hpp>

using namespace relay;

TEST_CASE("one problem in sixteen is held out") {
  const Arithmetic task;
  Random random{Key(1)};
  std::set<Tokens> problems;
  while (problems.size() < 40000) problems.insert(task.generate(6, random).problem);
  int held = 0;
  for (const Tokens& problem : problems) held += held_out(problem);
  CHECK(std::abs(held - 2500) < 5 * std::sqrt(2500.0));
}

TEST_CASE("the side of a problem never changes") {  // a stored test set would be worthless if these did
  int bits = 0;
  for (int i = 0; i < 30; ++i) bits |= held_out(Tokens{10 + i, 3, 11, 9}) << i;
  CHECK(bits == 1 << 11);
}

TEST_CASE("every token and the length count") {
  int changed = 0;
  const Tokens problem = {10, 3, 11, 4, 12, 5, 13, 9};
  for (std::size_t i = 0; i < problem.size(); ++i)
    for (int value = 0; value < 200; ++value) {
      Tokens other = problem;
      other[i] = 10 + value;
      changed += held_out(other) != held_out(problem);
    }
  CHECK(std::abs(changed - 100) < 60);
  int differ = 0;
  for (int value = 0; value < 500; ++value) differ += held_out({10 + value}) != held_out({10 + value, 0});
  CHECK(differ > 20);
}

TEST_CASE("training and test examples never meet") {
  const Arithmetic task;
  Random random{Key(2)};
  for (const int length : {2, 3, 6}) {
    for (int i = 0; i < 2000; ++i) REQUIRE(!held_out(draw(task, length, random, Split::train).problem));
    for (int i = 0; i < 300; ++i) REQUIRE(held_out(draw(task, length, random, Split::test).problem));
    int held = 0;
    for (int i = 0; i < 4000; ++i) held += held_out(draw(task, length, random, Split::all).problem);
    CHECK(held > 0);
    CHECK(held < 1000);
  }
}

TEST_CASE("a draw is a pure function of the stream") {
  const Arithmetic task;
  for (const Split split : {Split::train, Split::test, Split::all}) {
    Random a{Key(3)}, b{Key(3)};
    for (int i = 0; i < 50; ++i) CHECK(draw(task, 4, a, split) == draw(task, 4, b, split));
  }
}

TEST_CASE("a length without a problem of the side asked for gives one of the other") {
  struct Single : Arithmetic {
    Tokens problem;
    Example generate(int, Random&) const {
      Example example;
      example.problem = problem;
      return example;
    }
  };
  Random random{Key(4)};
  for (int n = 0; n < 100; ++n) {
    Single task;
    task.problem = {10 + n, 3, 10, 9};
    CHECK(draw(task, 1, random, Split::train).problem == task.problem);
    CHECK(draw(task, 1, random, Split::test).problem == task.problem);
  }
}
