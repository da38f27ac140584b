// task/any_task.hpp: a task behind the interface is the task itself, to the token.
#include <relay/task/any_task.hpp>

#include <doctest/doctest.h>

#include <relay/task/arithmetic.hpp>
#include <relay/task/edit_distance.hpp>
#include <relay/task/longest_increasing_subsequence.hpp>

using namespace relay;

namespace {

bool same(const std::vector<Placed>& a, const std::vector<Placed>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](const Placed& x, const Placed& y) { return x.column == y.column && x.token == y.token; });
}

void check_same(const auto& task, std::string_view typed) {
  const AnyTask any(task);
  CHECK(any.name == task.name);
  CHECK(any.options() == task.options());
  CHECK(any.vocabulary().spellings() == task.vocabulary().spellings());
  CHECK(any.vocabulary().first_value() == task.vocabulary().first_value());
  for (int length = 1; length <= 6; ++length) {
    Random one(Key(3)), other(Key(3));
    const Example e = task.generate(length, one);
    CHECK(any.generate(length, other) == e);
    CHECK(one.below(1 << 30) == other.below(1 << 30));
    for (const Split split : {Split::train, Split::test, Split::all}) {
      CHECK(any.draw(length, one, split) == draw(task, length, other, split));
      CHECK(any.examples(length, 5, Key(4), split) == examples_of_length(task, length, 5, Key(4), split));
    }
    CHECK(any.text(e) == task.text(e));
    Tokens text{1, 2, 3};
    any.text(e, text);
    CHECK(text == task.text(e));
    CHECK(any.text_size(e) == text.size());
    CHECK(any.read(e, text) == e);
    CHECK(any.solve(e.problem) == task.solve(e.problem));
    CHECK(any.verify(e).right());
    CHECK(any.answer(e) == e.answer);
    CHECK(any.print(e.problem) == task.print(e.problem));
    CHECK(any.largest(length) == task.largest(length));
    Example slip = e;
    slip.rounds.back().back() = Vocabulary::pad;
    CHECK(!any.verify(slip).right());
    const auto placement = any.placement();
    for (int t = 1; t <= e.iterations; ++t) {
      const auto placed = placement.place(e, t);
      CHECK(same(placed, task.placement().place(e, t)));
      std::vector<Placed> filled(3);
      placement.place(e, t, filled);
      CHECK(same(filled, placed));
      CHECK(placement.columns(e, t) == task.placement().columns(e, t));
      Tokens row(static_cast<std::size_t>(e.columns()), Vocabulary::pad);
      for (const Placed& p : placed) row[static_cast<std::size_t>(p.column)] = p.token;
      CHECK(placement.read(e, t, row) == e.rounds[static_cast<std::size_t>(t - 1)]);
    }
  }
  CHECK(any.parse(typed) == task.parse(typed));
  CHECK_THROWS_AS(any.parse("?"), Error);
}

/// A task that keeps its sides apart by itself, and whose placement has no list to fill.
struct OfItsOwn : Arithmetic {
  struct Placement {
    std::vector<Placed> place(const Example& e, int round) const { return FlushRight().place(e, round); }
    Tokens read(const Example& e, int round, std::span<const Token> row) const { return FlushRight().read(e, round, row); }
    std::vector<int> columns(const Example& e, int round) const { return FlushRight().columns(e, round); }
  };
  Placement placement() const { return {}; }
  Example draw(int length, Random& random, Split split) const {
    Example e = generate(length, random);
    e.weight = split == Split::test ? 7 : 8;
    return e;
  }
  std::vector<Example> examples(int length, int, Key, Split) const { return {largest(length)}; }
};

}  // namespace

TEST_CASE("the three tasks, as they are") {
  check_same(Arithmetic{.modulus = 5}, "(1+2)*3");
  check_same(EditDistance{.letters = 4, .longest = 8}, "abc bacd");
  check_same(EditDistance{.letters = 4, .rows = EditDistance::Rows::differences, .longest = 8}, "abc bacd");
  check_same(LongestIncreasingSubsequence{.group = 2, .limit = 30, .longest = 9}, "3 1 4 1 5");
  check_same(LongestIncreasingSubsequence{.group = 2, .limit = 30, .layout = LongestIncreasingSubsequence::Layout::in_place, .longest = 9},
             "3 1 4 1 5");
}

TEST_CASE("a task's own way to draw is used, and its placement need not fill lists") {
  const AnyTask any(OfItsOwn{});
  Random random(Key(1));
  CHECK(any.draw(3, random, Split::test).weight == 7);
  CHECK(any.draw(3, random, Split::train).weight == 8);
  CHECK(any.examples(3, 100, Key(2), Split::all).size() == 1);
  const Example e = any.generate(3, random);
  std::vector<Placed> placed(50);
  any.placement().place(e, 1, placed);
  CHECK(same(placed, FlushRight().place(e, 1)));
}

TEST_CASE("copies are the task, also when the first is gone; a placement holds its task") {
  std::vector<AnyTask> tasks;
  {
    const AnyTask first(Arithmetic{.modulus = 7});
    tasks = {first, AnyTask(LongestIncreasingSubsequence{.limit = 30, .longest = 9}), first};
  }
  CHECK(tasks[0].options() == "modulus=7");
  CHECK(tasks[1].name == "longest_increasing_subsequence");
  CHECK(tasks[2].vocabulary().size() == tasks[0].vocabulary().size());
  Random random(Key(1));
  const Example e = tasks[1].generate(4, random);
  const auto placement = tasks[1].placement();
  tasks.clear();
  CHECK(!placement.place(e, 1).empty());
}
