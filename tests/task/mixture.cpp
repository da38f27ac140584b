// task/mixture.hpp: one vocabulary for several tasks, and nothing of an example lost on the way there and back.
#include <relay/task/mixture.hpp>

#include <set>

#include <doctest/doctest.h>

#include <relay/task/arithmetic.hpp>
#include <relay/task/edit_distance.hpp>
#include <relay/task/longest_increasing_subsequence.hpp>

using namespace relay;

namespace {

using Rows = EditDistance::Rows;
using Layout = LongestIncreasingSubsequence::Layout;

const Arithmetic arithmetic{.modulus = 5};
EditDistance distance(Rows rows = Rows::differences) { return {.letters = 4, .rows = rows, .longest = 8}; }
LongestIncreasingSubsequence subsequence(Layout layout = Layout::in_place) {
  return {.group = 3, .limit = 40, .layout = layout, .longest = 12};
}

/// All three tasks, with differences in place, or as the papers have them.
Mixture three(bool of_our_own = true) {
  return Mixture({arithmetic, distance(of_our_own ? Rows::differences : Rows::values),
                  subsequence(of_our_own ? Layout::in_place : Layout::flush_right)});
}

std::string error_of(auto&& f) {
  try {
    f();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

std::vector<Example> some(const Mixture& mixture, int count = 40) {
  std::vector<Example> examples;
  Random random(Key(5));
  for (int i = 0; i < count; ++i)
    for (int task = 0; task < mixture.size(); ++task) examples.push_back(mixture.generate(task, 1 + random.below(8), random));
  return examples;
}

/// The row that a model with no mistake prints, `others` where it is asked nothing.
Tokens row_of(const std::vector<Placed>& placed, int columns, Token others) {
  Tokens row(static_cast<std::size_t>(columns), others);
  for (const Placed& p : placed) row[static_cast<std::size_t>(p.column)] = p.token;
  return row;
}

}  // namespace

TEST_CASE("one vocabulary: tokens spelled alike are one, the tasks' names first, the numbers last and in order") {
  const Mixture mixture = three();
  const Vocabulary& v = mixture.vocabulary();
  const auto& s = v.spellings();
  CHECK(std::vector<std::string>(s.begin(), s.begin() + 6) == std::vector<std::string>{"<pad>", "<sep>", "<eos>", "[ARI]", "[ED]", "[LIS]"});
  std::set<std::string> all{"[ARI]", "[ED]", "[LIS]"};
  for (int i = 0; i < 3; ++i) {
    const Vocabulary own = mixture.task(i).vocabulary();
    all.insert(own.spellings().begin(), own.spellings().end());
  }
  CHECK(std::set<std::string>(s.begin(), s.end()) == all);
  CHECK(s.size() == all.size());  // each once
  long next = 0;
  bool numbers = false;
  for (const std::string& spelling : s) {
    const auto number = Vocabulary::number(spelling);
    CHECK(number.has_value() >= numbers);  // behind a number there are numbers
    numbers = number.has_value();
    if (numbers) CHECK(*number == next++);
  }
  CHECK(next == 40);  // of LIS, which has the most
  CHECK(s.back() == "39");
  for (int i = 0; i < 3; ++i) {
    const Vocabulary own = mixture.task(i).vocabulary();
    for (Token t = 0; t < own.size(); ++t) CHECK(v.is_value(v.token(own.spelling(t))) == own.is_value(t));
  }
  CHECK(v.is_value(v.token("-2")));
  CHECK(!v.is_value(v.token("-")));
  CHECK(!v.is_value(v.token("[LIS]")));
  const Mixture two({arithmetic, distance()});
  CHECK(two.vocabulary().spellings().back() == "26");
}

TEST_CASE("what makes no mixture, and tasks by name") {
  CHECK(error_of([] { Mixture({}); }) == "a mixture needs at least one task");
  CHECK(error_of([] { Mixture({arithmetic, distance(), arithmetic}); }) ==
        "the task arithmetic is in the mixture twice: name each once");
  const Mixture mixture = three(), alone({arithmetic});
  CHECK(mixture.index("edit_distance") == 1);
  CHECK(alone.index("arithmetic") == 0);
  CHECK(error_of([&] { mixture.index("sorting"); }) ==
        "unknown task 'sorting': there are arithmetic, edit_distance and longest_increasing_subsequence");
  CHECK(error_of([&] { Mixture({distance(), arithmetic}).index(""); }) == "unknown task '': there are edit_distance and arithmetic");
  CHECK(error_of([&] { alone.index("edit_distance"); }) == "unknown task 'edit_distance': there is arithmetic");
  CHECK(Mixture::task_token("sorting") == "[sorting]");
}

TEST_CASE("a task's example becomes one of the mixture and comes back") {
  for (const bool of_our_own : {true, false}) {
    const Mixture mixture = three(of_our_own);
    Random random(Key(1));
    for (int task = 0; task < 3; ++task)
      for (int length = 1; length <= 8; ++length)
        for (const int extra : {0, 5}) {
          Example own = mixture.task(task).generate(length, random);
          own.weight = 0.5;
          if (extra > 0) own.width = own.columns() + extra;
          const Example joint = mixture.joint(task, own);
          CHECK(joint.task == task);
          CHECK(joint.weight == 0.5);
          CHECK(joint.length == length);
          CHECK(joint.iterations == own.iterations);
          CHECK(joint.columns() == own.columns() + 1);
          CHECK(joint.problem.size() == own.problem.size() + 1);
          const Vocabulary vocabulary = mixture.task(task).vocabulary();
          CHECK(mixture.vocabulary().spell(joint.problem) ==
                Mixture::task_token(mixture.task(task).name) + " " + vocabulary.spell(own.problem));
          for (std::size_t t = 0; t < own.rounds.size(); ++t)
            CHECK(mixture.vocabulary().spell(joint.rounds[t]) == vocabulary.spell(own.rounds[t]));
          CHECK(mixture.vocabulary().spelling(joint.answer) == vocabulary.spelling(own.answer));
          CHECK(mixture.own(joint) == own);
          CHECK(mixture.print(task, joint.problem) == mixture.task(task).print(own.problem));
          CHECK(mixture.print(task, joint.rounds[0]) == mixture.task(task).print(own.rounds[0]));
          CHECK(mixture.verify(joint).right());
          CHECK(mixture.answer(joint) == joint.answer);
          CHECK(mixture.solve(joint).rounds == joint.rounds);
          CHECK(mixture.solve(joint).answer == joint.answer);
          CHECK(mixture.solve(joint).columns() == joint.columns());
        }
  }
}

TEST_CASE("drawn examples are the task's own, translated") {
  const Mixture mixture = three();
  for (int task = 0; task < 3; ++task) {
    const AnyTask& own = mixture.task(task);
    Random a(Key(2)), b(Key(2));
    CHECK(mixture.generate(task, 5, a) == mixture.joint(task, own.generate(5, b)));
    for (const Split split : {Split::train, Split::test, Split::all}) {
      CHECK(mixture.draw(task, 5, a, split) == mixture.joint(task, own.draw(5, b, split)));
      const auto joint = mixture.examples(task, 5, 20, Key(3), split), plain = own.examples(5, 20, Key(3), split);
      REQUIRE(joint.size() == plain.size());
      for (std::size_t i = 0; i < joint.size(); ++i) {
        CHECK(joint[i] == mixture.joint(task, plain[i]));
        if (split != Split::all) CHECK(held_out(plain[i].problem) == (split == Split::test));  // by the task's own tokens
      }
    }
  }
}

TEST_CASE("what people type, of each task") {
  const Mixture mixture = three();
  const Example sum = mixture.parse(0, "1+2"), words = mixture.parse(1, "abc bad"), numbers = mixture.parse(2, "3 1 4 1 5");
  CHECK(mixture.vocabulary().spell(sum.problem) == "[ARI] 1 + 2 =");
  CHECK(mixture.vocabulary().spell(words.problem) == "[ED] a b c | b a d <sep>");
  CHECK(mixture.vocabulary().spell(numbers.problem) == "[LIS] 3 1 4 1 5 <sep>");
  CHECK(mixture.print(0, sum.problem) == "1+2=");
  CHECK(mixture.print(2, numbers.problem) == "3 1 4 1 5 <sep>");
  CHECK(mixture.print(0, {mixture.solve(sum).answer}) == "3");
  CHECK(mixture.print(2, {mixture.solve(numbers).answer}) == "3");
  CHECK(mixture.print(0, {}) == "");
  CHECK_THROWS_AS(mixture.parse(1, "1+2"), Error);
}

TEST_CASE("text and read are inverse") {
  for (const bool of_our_own : {true, false}) {
    const Mixture mixture = three(of_our_own);
    for (const Example& e : some(mixture)) {
      const Tokens text = mixture.text(e);
      CHECK(text.back() == Vocabulary::eos);
      CHECK(mixture.text_size(e) == text.size());
      Tokens filled{1, 2, 3};
      mixture.text(e, filled);
      CHECK(filled == text);
      Example open = e;
      open.rounds.clear();
      open.answer = Vocabulary::pad;
      CHECK(mixture.read(open, text) == e);
      CHECK(mixture.read(e, text) == e);  // whatever rounds there were
      Tokens more = text;
      more.push_back(text.front());
      CHECK(mixture.read(open, more) == e);
    }
  }
}

TEST_CASE("tokens of other tasks in a text are read, kept, and wrong") {
  const Mixture mixture = three();
  const Token foreign[] = {mixture.vocabulary().token("[LIS]"), mixture.vocabulary().token("a"), mixture.vocabulary().token("*"),
                           mixture.vocabulary().token("39"), mixture.vocabulary().token("[ARI]"), mixture.vocabulary().token("+2")};
  Random random(Key(6));
  int survived = 0;
  for (const Example& e : some(mixture)) {
    for (const Token stranger : foreign) {
      const std::string& spelling = mixture.vocabulary().spelling(stranger);
      if (mixture.task(e.task).vocabulary().contains(spelling)) continue;
      ++survived;
      Tokens text = mixture.text(e);
      const auto at = static_cast<std::size_t>(random.below(static_cast<int>(text.size()) - 1));
      const Token before = std::exchange(text[at], stranger);
      const Example written = mixture.read(e, text);
      CHECK(written.problem == e.problem);
      const bool ends = before == Vocabulary::sep || spelling.empty() ||
                        mixture.vocabulary().spelling(before) == "=" || mixture.vocabulary().spelling(before) == ",";
      if (!ends) CHECK(mixture.text(written) == text);  // what is read back to be learned from is what was written
      bool found = written.answer == stranger;
      for (const Tokens& round : written.rounds) found = found || std::find(round.begin(), round.end(), stranger) != round.end();
      CHECK(found);
      CHECK(!mixture.verify(written).right());
      CHECK(mixture.answer(written) >= 0);
      for (const Tokens& round : written.rounds) CHECK(!mixture.print(e.task, round).empty());
      Tokens alone = mixture.text(mixture.read(e, {stranger}));
      CHECK(std::find(alone.begin(), alone.end(), stranger) != alone.end());
    }
    // Anything at all.
    for (int i = 0; i < 5; ++i) {
      Tokens text;
      for (int n = random.below(30); n > 0; --n) text.push_back(random.below(mixture.vocabulary().size()));
      const Example written = mixture.read(e, text);
      CHECK(mixture.verify(written).steps.size() == written.rounds.size());
      for (const Tokens& round : written.rounds)
        for (const Token t : round) REQUIRE((t >= 0 && t < mixture.vocabulary().size()));
      REQUIRE((written.answer >= 0 && written.answer < mixture.vocabulary().size()));
      for (const Token t : mixture.text(written)) REQUIRE((t >= 0 && t < mixture.vocabulary().size()));
      CHECK(mixture.text(written).size() == mixture.text_size(written));
      const Token answer = mixture.answer(written);
      CHECK((answer >= 0 && answer < mixture.vocabulary().size()));
      mixture.print(e.task, text);
      mixture.print(e.task, {written.answer});
    }
  }
  CHECK(survived > 300);
}

TEST_CASE("a foreign token is printed as it is spelled") {
  const Mixture mixture = three();
  const Tokens tokens{mixture.vocabulary().token("1"), mixture.vocabulary().token("a")};
  CHECK(mixture.print(0, tokens) == "1 a");
  CHECK(mixture.print(0, {mixture.vocabulary().token("[ED]")}) == "[ED]");
  CHECK(mixture.print(0, {mixture.vocabulary().token("[ARI]")}) == "[ARI]");  // a round that is the task's name
}

TEST_CASE("placement: place and read are inverse, columns are those placed, also in wider rows") {
  for (const bool of_our_own : {true, false}) {
    const Mixture mixture = three(of_our_own);
    const auto placement = mixture.placement();
    for (Example e : some(mixture, 20))
      for (const int extra : {0, 1, 7}) {
        Example wide = e;
        if (extra > 0) wide.width = e.columns() + extra;
        for (int t = 1; t <= wide.iterations; ++t) {
          const auto placed = placement.place(wide, t);
          std::vector<Placed> filled(2);
          placement.place(wide, t, filled);
          REQUIRE(filled.size() == placed.size());
          std::vector<int> columns;
          for (std::size_t i = 0; i < placed.size(); ++i) {
            CHECK((filled[i].column == placed[i].column && filled[i].token == placed[i].token));
            CHECK((placed[i].column >= 1 && placed[i].column < wide.columns()));  // never the task's token
            columns.push_back(placed[i].column);
          }
          CHECK(placement.columns(wide, t) == columns);
          for (const Token others : {Vocabulary::pad, Vocabulary::eos, mixture.vocabulary().token("[ED]")})
            CHECK(placement.read(wide, t, row_of(placed, wide.columns(), others)) == wide.rounds[static_cast<std::size_t>(t - 1)]);
        }
      }
  }
}

TEST_CASE("placement: where the tasks have their tokens") {
  const Mixture mixture = three();
  const auto printed = [&](int task, const char* typed, int round, int extra) {
    Example e = mixture.solve(mixture.parse(task, typed));
    if (extra > 0) e.width = e.columns() + extra;
    std::string out;
    std::vector<std::string> row(static_cast<std::size_t>(e.columns()), "_");
    for (const Placed& p : mixture.placement().place(e, round))
      row[static_cast<std::size_t>(p.column)] = p.token == Vocabulary::pad ? "P" : mixture.vocabulary().spelling(p.token);
    for (const auto& token : row) out += (out.empty() ? "" : " ") + token;
    return out;
  };
  CHECK(printed(0, "3*2+1", 1, 0) == "_ _ P 1 + 1 =");           // [ARI] 3 * 2 + 1 =
  CHECK(printed(0, "3*2+1", 1, 2) == "_ _ _ _ P 1 + 1 =");
  CHECK(printed(1, "ab cab", 1, 0) == "_ _ _ P +2 -2 +2 ,");     // [ED] a b | c a b <sep>
  CHECK(printed(1, "ab cab", 2, 1) == "_ _ _ _ P +2 -1 -2 ,");
  CHECK(printed(2, "5 9 6 7", 1, 0) == "_ 1 2 2 _ _");           // [LIS] 5 9 6 7 <sep>
  CHECK(printed(2, "5 9 6 7", 2, 0) == "_ _ _ _ 3 _");
  CHECK(printed(2, "5 9 6 7", 2, 2) == "_ _ _ _ _ _ 3 _");
}

TEST_CASE("placement: whatever a model prints is read, and tokens of other tasks survive") {
  for (const bool of_our_own : {true, false}) {
    const Mixture mixture = three(of_our_own);
    const auto placement = mixture.placement();
    Random random(Key(8));
    for (Example e : some(mixture, 15)) {
      const std::vector<Tokens> truth = e.rounds;
      Example written = e;
      written.rounds.clear();
      for (int t = 1; t <= e.iterations; ++t) {
        Tokens row;
        for (int c = 0; c < e.columns(); ++c) row.push_back(random.below(mixture.vocabulary().size()));
        written.rounds.push_back(placement.read(written, t, row));
        for (const Token token : written.rounds.back()) REQUIRE((token >= 0 && token < mixture.vocabulary().size()));
        for (const int column : placement.columns(written, t)) REQUIRE((column >= 1 && column < e.columns()));

        // One foreign token, where the round is.
        auto placed = placement.place(e, t);
        const Token stranger = mixture.vocabulary().token(e.task == 0 ? "[LIS]" : "*");
        placed.back().token = stranger;
        const Tokens read = placement.read(e, t, row_of(placed, e.columns(), Vocabulary::pad));
        CHECK(std::find(read.begin(), read.end(), stranger) != read.end());
        Example slip = e;
        slip.rounds[static_cast<std::size_t>(t - 1)] = read;
        CHECK(!mixture.verify(slip).right());
        CHECK(placement.place(slip, t).back().token == stranger);  // and it can be placed again
      }
      CHECK(mixture.verify(written).steps.size() == written.rounds.size());
      for (const Token token : mixture.text(written)) REQUIRE((token >= 0 && token < mixture.vocabulary().size()));
    }
  }
}

TEST_CASE("a single task is taken as it is, bit for bit") {
  const auto check = [](const auto& task, const char* typed) {
    const Mixture alone({task});
    CHECK(alone.single());
    CHECK(alone.vocabulary().spellings() == task.vocabulary().spellings());
    CHECK(alone.vocabulary().first_value() == task.vocabulary().first_value());
    Random a(Key(4)), b(Key(4));
    for (int length = 1; length <= 7; ++length) {
      const Example e = task.generate(length, a);
      CHECK(alone.generate(0, length, b) == e);
      CHECK(alone.draw(0, length, b, Split::train) == draw(task, length, a, Split::train));
      CHECK(alone.examples(0, length, 4, Key(9), Split::test) == examples_of_length(task, length, 4, Key(9), Split::test));
      CHECK(alone.joint(0, e) == e);
      CHECK(alone.own(e) == e);
      CHECK(alone.text(e) == task.text(e));
      CHECK(alone.text_size(e) == task.text_size(e));
      CHECK(alone.read(e, task.text(e)) == e);
      CHECK(alone.verify(e).right());
      CHECK(alone.answer(e) == task.answer(e));
      CHECK(alone.solve(e) == task.solve(e.problem));
      CHECK(alone.print(0, e.problem) == task.print(e.problem));
      for (int t = 1; t <= e.iterations; ++t) {
        const auto placed = alone.placement().place(e, t), own = task.placement().place(e, t);
        CHECK(std::equal(placed.begin(), placed.end(), own.begin(), own.end(),
                         [](const Placed& x, const Placed& y) { return x.column == y.column && x.token == y.token; }));
        CHECK(alone.placement().columns(e, t) == task.placement().columns(e, t));
        CHECK(alone.placement().read(e, t, row_of(placed, e.columns(), 0)) == e.rounds[static_cast<std::size_t>(t - 1)]);
      }
    }
    CHECK(alone.parse(0, typed) == task.parse(typed));
  };
  check(arithmetic, "1+2");
  check(distance(), "ab ba");
  check(distance(Rows::values), "ab ba");
  check(subsequence(), "1 2 1");
  check(subsequence(Layout::flush_right), "1 2 1");
}
