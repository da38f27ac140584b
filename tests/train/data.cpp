#include <relay/train/data.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <set>
#include <vector>

#include <doctest/doctest.h>

#include <relay/task/arithmetic.hpp>
#include <relay/task/edit_distance.hpp>
#include <relay/task/longest_increasing_subsequence.hpp>

using namespace relay;

namespace {

const Arithmetic task{.modulus = 5};
const EditDistance distance{.letters = 3, .longest = 6};
const LongestIncreasingSubsequence subsequence{.group = 3, .limit = 30, .longest = 8};

/// Draws lengths and compares with n^power: every count within five standard deviations.
void check_distribution(const Lengths& lengths) {
  constexpr int draws = 20000;
  std::map<int, int> counts;
  Random random{Key(1)};
  for (int i = 0; i < draws; ++i) ++counts[lengths(random)];
  double total = 0;
  for (int n = lengths.shortest; n <= lengths.longest; ++n) total += std::pow(n, lengths.power);
  for (const auto& [n, count] : counts) {
    REQUIRE(n >= lengths.shortest);
    REQUIRE(n <= lengths.longest);
  }
  for (int n = lengths.shortest; n <= lengths.longest; ++n) {
    const double p = std::pow(n, lengths.power) / total;
    CAPTURE(n);
    CHECK(std::abs(counts[n] - draws * p) <= 5 * std::sqrt(draws * p * (1 - p)) + 1e-9);
  }
}

}  // namespace

TEST_CASE("lengths are drawn with P(n) ~ n^power") {
  for (const double power : {0.0, 0.5, 1.0, 2.0, -1.0})
    check_distribution({.shortest = 1, .longest = 6, .power = power});
  check_distribution({.shortest = 4, .longest = 9, .power = 1});
  check_distribution({.shortest = 3, .longest = 3, .power = 1});
  check_distribution({.shortest = 1, .longest = 100, .power = 1});
}

TEST_CASE("the batch of a step is a pure function of key and step") {
  const Lengths lengths{.shortest = 1, .longest = 4, .power = 1};
  const ExampleStream<Arithmetic> stream(task, lengths, 8, Key(7)), again(task, lengths, 8, Key(7)),
      other(task, lengths, 8, Key(8));
  const auto fifth = stream(5), zeroth = stream(0);
  CHECK(fifth.size() == 8);
  CHECK(again(5) == fifth);  // whatever was drawn before
  CHECK(stream(5) == fifth);
  CHECK(stream(0) == zeroth);
  CHECK(fifth != zeroth);
  CHECK(other(5) != fifth);
  // A larger batch begins with the smaller one: an example depends on its place alone.
  const auto larger = ExampleStream<Arithmetic>(task, lengths, 20, Key(7))(5);
  CHECK(std::equal(fifth.begin(), fifth.end(), larger.begin()));
  for (const Example& e : larger) {
    CHECK(task.verify(e).right());
    CHECK(e.length >= 1);
    CHECK(e.length <= 4);
  }
}

TEST_CASE("problems held out for testing are in no training stream") {
  const ExampleStream<Arithmetic> stream(task, {.shortest = 1, .longest = 6, .power = 0.5}, 64, Key(9), 3);
  int held_out_short = 0;
  for (int step = 0; step < 200; ++step)
    for (const Example& e : stream(step)) {
      if (e.length >= 3)
        REQUIRE(!held_out(e.problem));
      else
        held_out_short += held_out(e.problem);
    }
  CHECK(held_out_short > 0);  // too short to hold any out
  std::set<Tokens> tests;
  for (const Example& e : examples_of_length(task, 5, 500, Key(10), Split::test)) {
    REQUIRE(held_out(e.problem));
    tests.insert(e.problem);
  }
  for (int step = 0; step < 200; ++step)
    for (const Example& e : stream(step)) REQUIRE(tests.count(e.problem) == 0);
}

TEST_CASE("merged data: a share of the others, each step its own") {
  const ExampleStream<Arithmetic> stream(task, {.shortest = 1, .longest = 2, .power = 1}, 100, Key(11));
  const auto others = examples_of_length(task, 6, 50, Key(12), Split::all);
  const MergedStream merged(stream, others, 0.6, Key(13));
  int from_others = 0;
  std::set<Tokens> seen;
  for (int step = 0; step < 100; ++step) {
    const auto batch = merged(step), plain = stream(step);
    REQUIRE(batch.size() == plain.size());
    for (std::size_t i = 0; i < batch.size(); ++i) {
      if (batch[i].length == 6) {
        ++from_others;
        seen.insert(batch[i].problem);
        REQUIRE(std::find(others.begin(), others.end(), batch[i]) != others.end());
      } else {
        REQUIRE(batch[i] == plain[i]);  // the rest is as it would be without
      }
    }
  }
  CHECK(std::abs(from_others - 6000) < 5 * std::sqrt(10000 * 0.6 * 0.4));
  CHECK(seen.size() >= 49);  // all are used
  CHECK(merged(17) == MergedStream(stream, others, 0.6, Key(13))(17));
  CHECK(merged(17) != MergedStream(stream, others, 0.6, Key(14))(17));
  CHECK(MergedStream(stream, {}, 0, Key(13))(3) == stream(3));
  CHECK(MergedStream(stream, others, 0, Key(13))(3) == stream(3));
  for (const Example& e : MergedStream(stream, others, 1, Key(13))(3)) CHECK(e.length == 6);
}

TEST_CASE("widened rows: the same problems, 0 .. n columns more, each step and example its own") {
  const ExampleStream<Arithmetic> stream(task, {.shortest = 1, .longest = 4, .power = 1}, 50, Key(11));
  const WidenedStream widened(stream, 3, Key(12));
  std::array<int, 4> times{};
  for (int step = 0; step < 40; ++step) {
    const auto batch = widened(step), plain = stream(step);
    REQUIRE(batch.size() == plain.size());
    for (std::size_t i = 0; i < batch.size(); ++i) {
      Example same = batch[i];
      const int more = batch[i].columns() - plain[i].columns();
      REQUIRE((0 <= more && more <= 3));
      ++times[static_cast<std::size_t>(more)];
      same.width = plain[i].width;
      REQUIRE(same == plain[i]);
    }
  }
  for (const int n : times) CHECK(std::abs(n - 500) < 5 * std::sqrt(2000 * 0.25 * 0.75));
  CHECK(widened(7) == WidenedStream(stream, 3, Key(12))(7));
  CHECK(widened(7) != WidenedStream(stream, 3, Key(13))(7));
  for (const Example& e : WidenedStream(stream, 0, Key(12))(7)) CHECK(e.columns() == static_cast<int>(e.problem.size()));
  CHECK_THROWS_AS(WidenedStream(stream, -1, Key(12)), Error);
}

TEST_CASE("examples of one length: the first of more are the same") {
  const auto few = examples_of_length(task, 4, 10, Key(15), Split::test);
  const auto many = examples_of_length(task, 4, 30, Key(15), Split::test);
  CHECK(std::equal(few.begin(), few.end(), many.begin()));
  for (const Example& e : many) CHECK(e.length == 4);
  CHECK(examples_of_length(task, 4, 10, Key(16), Split::test) != few);
  CHECK(examples_of_length(task, 4, 0, Key(15), Split::test).empty());
}

TEST_CASE("a mixture of one task: the same examples as the task's own stream") {
  const Lengths lengths{.shortest = 1, .longest = 5, .power = 1.5};
  const Mixture alone({task});
  const MixtureStream stream(alone, {{lengths, 3, 1, 3}}, 16, Key(7));
  const ExampleStream<Arithmetic> plain(task, lengths, 16, Key(7), 3);
  for (int step = 0; step < 20; ++step) CHECK(stream(step) == plain(step));
}

TEST_CASE("a mixture: each task as often as its share, with its lengths and weight, and nothing held out") {
  const Mixture mixture({task, distance, subsequence});
  const std::vector<TaskShare> shares = {{{.shortest = 1, .longest = 4, .power = 1}, 1, 1, 3},
                                         {{.shortest = 2, .longest = 6, .power = 0}, 2.5, 0.25, 3},
                                         {{.shortest = 3, .longest = 8, .power = 1}, 0.5, 2, 5}};
  const MixtureStream stream(mixture, shares, 50, Key(3)), again(mixture, shares, 50, Key(3)), other(mixture, shares, 50, Key(4));
  std::array<std::map<int, int>, 3> counts;  // [task][length]
  std::array<int, 3> drawn{}, held_out_short{};
  for (int step = 0; step < 200; ++step)
    for (const Example& e : stream(step)) {
      const auto i = static_cast<std::size_t>(e.task);
      REQUIRE(i < 3);
      ++counts[i][e.length];
      ++drawn[i];
      REQUIRE(e.weight == shares[i].weight);
      REQUIRE(mixture.vocabulary().spelling(e.problem.front()) == Mixture::task_token(mixture.task(e.task).name));
      const bool held = held_out(mixture.own(e).problem);
      if (e.length >= shares[i].split_from)
        REQUIRE(!held);
      else
        held_out_short[i] += held;
    }
  for (std::size_t i = 0; i < 3; ++i) {
    const double p = shares[i].share / 4;
    CHECK(std::abs(drawn[i] - 10000 * p) < 5 * std::sqrt(10000 * p * (1 - p)));
    CHECK(held_out_short[i] > 0);  // too short to hold any out
    double total = 0;
    const Lengths& lengths = shares[i].lengths;
    for (int n = lengths.shortest; n <= lengths.longest; ++n) total += std::pow(n, lengths.power);
    CHECK(static_cast<int>(counts[i].size()) == lengths.longest - lengths.shortest + 1);
    for (const auto& [n, count] : counts[i]) {
      const double q = std::pow(n, lengths.power) / total;
      CHECK(std::abs(count - drawn[i] * q) <= 5 * std::sqrt(drawn[i] * q * (1 - q)));
    }
  }
  for (int i = 0; i < 3; ++i) {  // training never sees a problem of the test data
    std::set<Tokens> tests;
    for (const Example& e : mixture.examples(i, 6, 50, Key(10), Split::test)) tests.insert(e.problem);
    for (int step = 0; step < 50; ++step)
      for (const Example& e : stream(step)) REQUIRE(tests.count(e.problem) == 0);
  }
  CHECK(again(5) == stream(5));
  CHECK(other(5) != stream(5));
  const auto larger = MixtureStream(mixture, shares, 80, Key(3))(5), fifth = stream(5);
  CHECK(std::equal(fifth.begin(), fifth.end(), larger.begin()));
  CHECK_THROWS_AS(MixtureStream(mixture, {shares[0]}, 50, Key(3)), Error);
  CHECK_THROWS_AS(MixtureStream(mixture, shares, 0, Key(3)), Error);
}

TEST_CASE("a curriculum: the longest length grows from the shortest to all, and then stays") {
  const TaskShare share{.lengths = {.shortest = 2, .longest = 5, .power = 0}, .curriculum = 40};
  int longest = 0;
  for (int step = 0; step < 100; ++step) {
    CHECK(share.at(step).shortest == 2);
    CHECK(share.at(step).longest >= longest);
    longest = share.at(step).longest;
    CHECK(longest == (step < 10 ? 2 : step < 20 ? 3 : step < 30 ? 4 : 5));
  }
  const Mixture alone({task});
  const MixtureStream stream(alone, {share}, 30, Key(7));
  for (const Example& e : stream(5)) CHECK(e.length == 2);
  std::set<int> lengths;
  for (const Example& e : stream(40)) lengths.insert(e.length);
  CHECK(lengths == std::set<int>{2, 3, 4, 5});
}

TEST_CASE("merged data of a mixture: an example makes way for one of its own task alone") {
  const Mixture mixture({task, distance, subsequence});
  const std::vector<TaskShare> shares(3, {{.shortest = 3, .longest = 4, .power = 1}});
  const MixtureStream stream(mixture, shares, 60, Key(3));
  std::vector<Example> others = mixture.examples(0, 5, 10, Key(1), Split::train);
  for (const Example& e : mixture.examples(1, 5, 40, Key(1), Split::train)) others.push_back(e);
  const MergedStream merged(stream, others, 0.6, Key(13));
  std::array<int, 3> drawn{}, replaced{};
  for (int step = 0; step < 100; ++step) {
    const auto batch = merged(step), plain = stream(step);
    REQUIRE(batch.size() == plain.size());
    for (std::size_t i = 0; i < batch.size(); ++i) {
      const auto of = static_cast<std::size_t>(plain[i].task);
      REQUIRE(batch[i].task == plain[i].task);
      ++drawn[of];
      if (batch[i] == plain[i]) continue;
      ++replaced[of];
      REQUIRE(std::find(others.begin(), others.end(), batch[i]) != others.end());
    }
  }
  for (const std::size_t i : {0, 1}) CHECK(std::abs(replaced[i] - drawn[i] * 0.6) < 5 * std::sqrt(drawn[i] * 0.6 * 0.4));
  CHECK(replaced[2] == 0);  // there are none of it
  for (const Example& e : MergedStream(stream, mixture.examples(2, 5, 3, Key(1), Split::train), 1, Key(13))(3))
    CHECK((e.length == 5) == (e.task == 2));
}

TEST_CASE("what makes no stream") {
  using Stream = ExampleStream<Arithmetic>;
  CHECK_THROWS_AS(Stream(task, {.shortest = 1, .longest = 2, .power = 1}, 0, Key(1)), Error);
  CHECK_THROWS_AS(Stream(task, {.shortest = 0, .longest = 2, .power = 1}, 1, Key(1)), Error);
  CHECK_THROWS_AS(Stream(task, {.shortest = 3, .longest = 2, .power = 1}, 1, Key(1)), Error);
  const Stream stream(task, {.shortest = 1, .longest = 2, .power = 1}, 1, Key(1));
  CHECK_THROWS_AS(MergedStream(stream, {}, 0.5, Key(1)), Error);
}

TEST_CASE("where not all lengths are known, none of the others is drawn, and those that are as often as their power says") {
  const Lengths lengths{.shortest = 1, .longest = 1000, .power = 1, .known = {2, 8, 500, 2000}};
  Random random(Key(21));
  int counts[3] = {};
  for (int i = 0; i < 51000; ++i) {
    const int n = lengths(random);
    REQUIRE((n == 2 || n == 8 || n == 500));
    ++counts[n == 2 ? 0 : n == 8 ? 1 : 2];
  }
  CHECK(counts[0] == doctest::Approx(200).epsilon(0.25));
  CHECK(counts[1] == doctest::Approx(800).epsilon(0.15));
  const Lengths none{.shortest = 3, .longest = 7, .power = 0, .known = {2, 8}};
  CHECK(none(random) == 2);
  const Lengths all{.shortest = 3, .longest = 7, .power = 2}, named{.shortest = 3, .longest = 7, .power = 2, .known = {3, 4, 5, 6, 7}};
  Random a(Key(22)), b(Key(22));
  for (int i = 0; i < 200; ++i) CHECK(all(a) == named(b));
}
