#include <relay/task/placement.hpp>

#include <relay/task/arithmetic.hpp>

#include <doctest/doctest.h>

using namespace relay;

namespace {

/// The row that a model with no mistake prints, `others` where it is asked nothing.
Tokens row_of(const std::vector<Placed>& placed, int columns, Token others) {
  Tokens row(static_cast<std::size_t>(columns), others);
  for (const Placed& p : placed) row[static_cast<std::size_t>(p.column)] = p.token;
  return row;
}

}  // namespace

TEST_CASE("flush right: the example of the paper, 3 * 2 + 6 / 3 =") {
  const Arithmetic task{.modulus = 11};
  const Example e = task.solve(task.parse("3*2+6/3").problem);
  REQUIRE(e.problem.size() == 8);
  const auto printed = [&](int round) {
    std::string out;
    std::vector<std::string> row(8, "_");
    for (const Placed& p : FlushRight().place(e, round))
      row[static_cast<std::size_t>(p.column)] = p.token == Vocabulary::pad ? "P" : task.vocabulary().spelling(p.token);
    for (const auto& token : row) out += token;
    return out;
  };
  CHECK(printed(1) == "_P6+6/3=");
  CHECK(printed(2) == "___P6+2=");
  CHECK(printed(3) == "______P8");
}

TEST_CASE("flush right: place and read are inverse, whatever stands where nothing is asked") {
  const Arithmetic task{.modulus = 7};
  Random random(Key(1));
  for (int length = 1; length <= 12; ++length) {
    Example e = task.generate(length, random);
    for (const int extra : {0, 5}) {
      e.width = static_cast<int>(e.problem.size()) + extra;
      for (int t = 1; t <= length; ++t)
        for (const Token others : {Vocabulary::pad, Vocabulary::eos})
          CHECK(FlushRight().read(e, t, row_of(FlushRight().place(e, t), e.columns(), others)) ==
                e.rounds[static_cast<std::size_t>(t - 1)]);
    }
  }
}

TEST_CASE("flush right: the same in a list that is there already") {
  const Arithmetic task{.modulus = 7};
  Random random(Key(1));
  const Example e = task.generate(5, random);
  std::vector<Placed> placed(100);
  const Placed* where = placed.data();
  for (int t = 1; t <= 5; ++t) {
    FlushRight().place(e, t, placed);
    const auto other = FlushRight().place(e, t);
    CHECK(std::equal(placed.begin(), placed.end(), other.begin(), other.end(),
                     [](const Placed& a, const Placed& b) { return a.column == b.column && a.token == b.token; }));
  }
  CHECK(placed.data() == where);
}

TEST_CASE("flush right: a round as long as the row has no covered pad; a longer one is refused") {
  Example e;
  e.problem = {5, 6, 7};
  e.rounds = {{8, 9, 10}, {}, {8, 9, 10, 11}};
  CHECK(FlushRight().place(e, 1).size() == 3);
  CHECK(FlushRight().read(e, 1, Tokens{8, 9, 10}) == e.rounds[0]);
  const auto empty = FlushRight().place(e, 2);
  REQUIRE(empty.size() == 1);
  CHECK((empty[0].column == 2 && empty[0].token == Vocabulary::pad));
  CHECK(FlushRight().read(e, 2, Tokens{1, 1, Vocabulary::pad}).empty());
  CHECK_THROWS_WITH_AS(FlushRight().place(e, 3),
                       "round 3 has 4 tokens but the row only 3 columns: set Example::width to the longest round",
                       Error);
  e.width = 4;
  CHECK(FlushRight().place(e, 3).size() == 4);
}

TEST_CASE("at columns that the task names") {
  Example e;
  e.problem = {5, 6, 7, 8, 9};
  e.rounds = {{20, 21}, {22}};
  const AtColumns at{[](const Example&, int round) {
    return round == 1 ? std::vector<int>{3, 0} : std::vector<int>{4};
  }};
  const auto placed = at.place(e, 1);
  REQUIRE(placed.size() == 2);
  CHECK((placed[0].column == 3 && placed[0].token == 20 && placed[1].column == 0 && placed[1].token == 21));
  for (const int t : {1, 2})
    CHECK(at.read(e, t, row_of(at.place(e, t), 5, 1)) == e.rounds[static_cast<std::size_t>(t - 1)]);

  const AtColumns few{[](const Example&, int) { return std::vector<int>{1}; }}, outside{[](const Example&, int) {
    return std::vector<int>{1, 5};
  }};
  CHECK_THROWS_WITH_AS(few.place(e, 1), "round 1 has 2 tokens but the task names 1 columns for them", Error);
  CHECK_THROWS_WITH_AS(outside.place(e, 1), "round 1 names column 5 of a row of 5", Error);
}
