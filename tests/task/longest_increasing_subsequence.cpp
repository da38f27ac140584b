#include <relay/task/longest_increasing_subsequence.hpp>

#include <algorithm>
#include <climits>
#include <cmath>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <doctest/doctest.h>

using namespace relay;

namespace {

using Lis = LongestIncreasingSubsequence;
using Layout = Lis::Layout;

// A second implementation that shares nothing with the first: over plain numbers, by looking at all pairs.
std::vector<int> values_of(const std::vector<int>& numbers) {
  std::vector<int> values;
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    values.push_back(1);
    for (std::size_t j = 0; j < i; ++j)
      if (numbers[j] < numbers[i] && values[j] >= values[i]) values[i] = values[j] + 1;
  }
  return values;
}

/// The definition: of all subsequences that increase and end at the number, the longest.
int longest_at(const std::vector<int>& numbers, std::size_t end) {
  int longest = 0;
  for (unsigned chosen = 0; chosen < 1u << end; ++chosen) {  // among the numbers before it
    int size = 1, last = INT_MIN;
    bool increases = true;
    for (std::size_t i = 0; i <= end && increases; ++i) {
      if (i < end && (chosen >> i & 1u) == 0) continue;
      increases = numbers[i] > last;
      last = numbers[i];
      size += i < end;
    }
    if (increases) longest = std::max(longest, size);
  }
  return longest;
}

std::vector<int> numbers_of(const Lis& task, const Example& example) {
  std::vector<int> out;
  std::string text = task.print(example.problem);
  REQUIRE(text.ends_with("<sep>"));
  text.resize(text.size() - 5);
  for (std::size_t at = 0; at < text.size();) {
    std::size_t end = 0;
    out.push_back(std::stoi(text.substr(at), &end));
    at += end + 1;
  }
  return out;
}

/// The rounds as they should be printed.
std::vector<std::string> rounds_of(const std::vector<int>& values, int group) {
  std::vector<std::string> out;
  for (std::size_t first = 0; first < values.size(); first += static_cast<std::size_t>(group)) {
    std::string round;
    for (std::size_t i = first; i < first + static_cast<std::size_t>(group); ++i)
      round += std::to_string(i < values.size() ? values[i] : values.back()) + " ";
    out.push_back(round + "<sep>");
  }
  return out;
}

Example solved(const Lis& task, std::string_view text) { return task.solve(task.parse(text).problem); }

/// Any tokens, as they are spelled.
Tokens written(const Lis& task, std::string_view text) {
  const Vocabulary vocabulary = task.vocabulary();
  Tokens out;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find(' '), text.size());
    out.push_back(vocabulary.token(text.substr(0, end)));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return out;
}

/// The looped model's row, if it printed just what a round's placement asks for, and `other` everywhere else.
Tokens in_row(const Lis& task, const Example& example, int round, Token other) {
  Tokens out(static_cast<std::size_t>(example.columns()), other);
  std::vector<Placed> placed{{0, 0}};
  task.placement().place(example, round, placed);
  for (const Placed& p : placed) out.at(static_cast<std::size_t>(p.column)) = p.token;
  return out;
}

std::string error(auto&& run) {
  try {
    run();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

/// '+' for a right step, '-' for a wrong one.
std::string steps(const Verdict& verdict) {
  std::string out;
  for (const Step& s : verdict.steps) {
    out += s.right ? '+' : '-';
    REQUIRE(s.right == s.why.empty());
  }
  return out;
}

/// A token that a model might print, or none at all.
Token any(const Lis& task, Random& random) {
  constexpr Token strange[] = {-1, INT_MIN, INT_MAX, 100000};
  const int n = random.below(10);
  if (n == 0) return strange[random.below(4)];
  return random.below(n < 4 ? 3 : n < 7 ? 10 : Lis::number(task.limit) + 2);
}

}  // namespace

TEST_CASE("the chain of the paper, to the token") {
  const Lis task;
  const Vocabulary vocabulary = task.vocabulary();
  const Example example = solved(task, "103 110 145 217 233 18 30 82 141 150 159 161 167 239");
  CHECK(vocabulary.spell(example.problem) == "103 110 145 217 233 18 30 82 141 150 159 161 167 239 <sep>");
  CHECK(vocabulary.spell(task.text(example)) == "1 2 3 4 5 1 2 3 4 5 <sep> 6 7 8 9 9 9 9 9 9 9 <sep> <sep> 9 <eos>");
  REQUIRE(example.rounds.size() == 2);
  CHECK(vocabulary.spell(example.rounds[0]) == "1 2 3 4 5 1 2 3 4 5 <sep>");
  CHECK(vocabulary.spell(example.rounds[1]) == "6 7 8 9 9 9 9 9 9 9 <sep>");
  CHECK(vocabulary.spelling(example.answer) == "9");
  CHECK(example.length == 14);
  CHECK(example.iterations == 2);
  CHECK(example.width == 0);
  CHECK(task.verify(example).right());
}

TEST_CASE("generated examples agree with a second implementation") {
  Random random{Key(1)};
  for (int i = 0; i < 100000; ++i) {
    Lis task;
    if (random.below(2) == 0) task.layout = Layout::in_place;
    if (random.below(3) == 0) task.group = 1 + random.below(13);
    if (random.below(3) == 0) task.limit = 241 + random.below(100);
    const int length = 1 + i % 120;
    const Example example = task.generate(length, random);
    const std::vector<int> numbers = numbers_of(task, example), values = values_of(numbers);
    REQUIRE(numbers.size() == static_cast<std::size_t>(length));
    REQUIRE(*std::min_element(numbers.begin(), numbers.end()) > length);
    REQUIRE(*std::max_element(numbers.begin(), numbers.end()) < task.limit);

    REQUIRE(example.length == length);
    REQUIRE(example.iterations == (length + task.group - 1) / task.group);
    REQUIRE(task.iterations(example.problem) == example.iterations);
    const std::vector<std::string> rounds = rounds_of(values, task.group);
    REQUIRE(example.rounds.size() == rounds.size());
    REQUIRE(example.iterations == static_cast<int>(rounds.size()));
    for (std::size_t t = 0; t < rounds.size(); ++t) REQUIRE(task.print(example.rounds[t]) == rounds[t]);
    REQUIRE(task.print({example.answer}) == std::to_string(*std::max_element(values.begin(), values.end())));
    REQUIRE(task.answer(example) == example.answer);

    REQUIRE(task.solve(example.problem) == example);
    const Example problem = task.parse(task.print(example.problem));
    REQUIRE(problem.problem == example.problem);
    REQUIRE(problem.rounds.empty());
    REQUIRE(problem.answer == Vocabulary::pad);
    REQUIRE(task.read(problem, task.text(example)) == example);
    Tokens text{1, 2, 3};
    task.text(example, text);
    REQUIRE(text == task.text(example));
    REQUIRE(task.text_size(example) == text.size());
    REQUIRE(task.verify(example).right());

    const int round = 1 + random.below(example.iterations);
    const Tokens row = in_row(task, example, round, random.below(100));
    REQUIRE(task.placement().read(example, round, row) == example.rounds[static_cast<std::size_t>(round - 1)]);
    if (task.layout == Layout::in_place) {
      REQUIRE(example.width == (length < std::max(task.group, 2) ? std::max(task.group + 1, 3) : 0));
      const int first = (round - 1) * task.group, last = std::min(first + task.group, length);
      const int left = example.columns() - static_cast<int>(example.problem.size());  // pads
      const std::vector<Placed> placed = task.placement().place(example, round);
      REQUIRE(placed.size() == static_cast<std::size_t>(last - first));
      for (const Placed& p : placed) {
        REQUIRE(p.column - left >= first);
        REQUIRE(p.token == Lis::number(values[static_cast<std::size_t>(p.column - left)]));
      }
    } else {
      REQUIRE(example.columns() == std::max({length + 1, task.group + 1, 3}));
      REQUIRE((example.width == 0) == (length >= std::max(task.group, 2)));
      REQUIRE(row.back() == Vocabulary::sep);
    }
    const Example largest = task.largest(length);
    REQUIRE(largest.columns() == example.columns());
    REQUIRE(largest.iterations == example.iterations);
    REQUIRE(task.text_size(largest) == text.size());
  }
}

TEST_CASE("the values are the longest of all subsequences, for short sequences of few numbers") {
  Random random{Key(2)};
  for (int i = 0; i < 3000; ++i) {
    const Lis task{.group = 1 + random.below(4), .limit = 30, .longest = 11};
    const int range = 1 + random.below(29);
    std::vector<int> numbers;
    std::string text;
    for (int n = 1 + random.below(11); n > 0; --n) {
      numbers.push_back(random.below(range));
      text += std::to_string(numbers.back()) + (random.below(2) == 0 ? " " : n > 1 ? ", " : "");
    }
    const Example example = solved(task, text);
    std::vector<int> values;
    for (std::size_t end = 0; end < numbers.size(); ++end) values.push_back(longest_at(numbers, end));
    REQUIRE(values == values_of(numbers));
    const std::vector<std::string> rounds = rounds_of(values, task.group);
    REQUIRE(example.rounds.size() == rounds.size());
    for (std::size_t t = 0; t < rounds.size(); ++t) REQUIRE(task.print(example.rounds[t]) == rounds[t]);
    REQUIRE(task.print({example.answer}) == std::to_string(*std::max_element(values.begin(), values.end())));
  }
}

// The generator as the method words it, with sorted shuffles.
TEST_CASE("the sequences are the generator's: one to three runs in a sequence that is uniform otherwise") {
  const auto some = [](std::vector<int> of, int count, Random& random) {  // in order
    for (std::size_t i = of.size(); i > 1; --i)
      std::swap(of[i - 1], of[static_cast<std::size_t>(random.below(static_cast<int>(i)))]);
    of.resize(static_cast<std::size_t>(count));
    std::sort(of.begin(), of.end());
    return of;
  };
  const auto reference = [&](int n, Random& random) {
    std::vector<int> numbers, range, places, sequence;
    for (int i = n + 1; i < 250; ++i) range.push_back(i);
    for (int i = 0; i < n; ++i) places.push_back(i), sequence.push_back(n + 1 + random.below(250 - n - 1));
    const int total = 3 + random.below(n - 2), kind = random.below(3);
    std::vector<int> runs = {total};
    if (kind == 1) {
      const int first = 1 + random.below(total / 2 + 1);
      runs = {first, total - first};
    } else if (kind == 2) {
      const int first = 1 + random.below(total / 3 + 1), second = 1 + random.below((total - first) / 2 + 1);
      runs = {first, second, total - first - second};
    }
    for (const int run : runs)
      for (const int number : some(range, run, random)) numbers.push_back(number);
    places = some(places, total, random);
    for (std::size_t i = 0; i < places.size(); ++i) sequence[static_cast<std::size_t>(places[i])] = numbers[i];
    return sequence;
  };
  const Lis task;
  const int samples = 20000;
  for (const int n : {3, 20, 100}) {
    CAPTURE(n);
    std::vector<double> means[2], squares[2];  // by place: of the values
    double answers[2] = {0, 0}, squared[2] = {0, 0};
    for (int which = 0; which < 2; ++which) {
      Random random{Key(static_cast<std::uint64_t>(30 + which))};
      means[which].resize(static_cast<std::size_t>(n));
      for (int i = 0; i < samples; ++i) {
        const std::vector<int> values =
            values_of(which == 0 ? numbers_of(task, task.generate(n, random)) : reference(n, random));
        for (std::size_t at = 0; at < values.size(); ++at)
          means[which][at] += static_cast<double>(values[at]) / samples;
        const double answer = *std::max_element(values.begin(), values.end());
        answers[which] += answer / samples;
        squared[which] += answer * answer / samples;
      }
    }
    const double deviation = std::sqrt(squared[1] - answers[1] * answers[1]);
    CHECK(std::abs(answers[0] - answers[1]) < 4.5 * deviation * std::sqrt(2.0 / samples));
    CHECK(std::abs(std::sqrt(squared[0] - answers[0] * answers[0]) / deviation - 1) < 0.03);
    for (std::size_t at = 0; at < means[0].size(); ++at)
      CHECK(std::abs(means[0][at] - means[1][at]) < 5 * deviation * std::sqrt(2.0 / samples));
  }
}

// A second implementation of the generator, in Python, gives answers of 10.55, 43.12 and 51.45 at 20, 100 and 120
// numbers (standard error 0.03, 0.16 and 0.20), between 4 and 20, 12 and 100, 14 and 120. A problem and its chain
// always have 214 tokens at 100 numbers: 215 with the token that names the task.
TEST_CASE("answers are those of another implementation, and sequences as long") {
  struct Answers {
    int length;
    double mean;
    int smallest;
    std::size_t tokens;
  };
  const Lis task;
  for (const Answers& want : {Answers{20, 10.55, 4, 46}, Answers{100, 43.12, 12, 214}, Answers{120, 51.45, 14, 256}}) {
    CAPTURE(want.length);
    Random random{Key(3)};
    const int n = 10000;
    double mean = 0;
    int smallest = INT_MAX, largest = 0;
    for (int i = 0; i < n; ++i) {
      const Example example = task.generate(want.length, random);
      REQUIRE(example.problem.size() + task.text(example).size() == want.tokens);
      const int answer = example.answer - Lis::zero;
      mean += static_cast<double>(answer) / n;
      smallest = std::min(smallest, answer);
      largest = std::max(largest, answer);
    }
    CHECK(std::abs(mean / want.mean - 1) < 0.02);
    CHECK(std::abs(smallest - want.smallest) <= 3);
    CHECK(largest == want.length);
  }
}

TEST_CASE("generation: every number as often, a pure function of the stream, the shortest sequences too") {
  const Lis task;
  Random random{Key(5)};
  std::vector<int> count(250);
  const int n = 20000;
  for (int i = 0; i < n; ++i)
    for (const int number : numbers_of(task, task.generate(20, random))) ++count[static_cast<std::size_t>(number)];
  for (std::size_t number = 0; number < count.size(); ++number)
    CHECK(std::abs(count[number] - (number <= 20 ? 0 : n * 20 / 229)) < 210);  // 5 standard errors
  for (std::size_t number = 0; number <= 20; ++number) CHECK(count[number] == 0);

  // Two numbers are one run of two in one of three problems and, of those of two runs, in every other one; else they
  // ascend as often as they descend: 1/3 + 1/6 + 1/4.
  const Lis small{.limit = 11, .longest = 5};
  std::set<Tokens> single;
  int ascents = 0;
  for (int i = 0; i < n; ++i) {
    single.insert(small.generate(1, random).problem);
    const std::vector<int> two = numbers_of(task, task.generate(2, random));
    ascents += two[0] < two[1];
  }
  CHECK(single.size() == 9);  // 2 .. 10
  CHECK(std::abs(ascents - n * 3 / 4) < 400);
  for (int i = 0; i < 2000; ++i)  // just enough numbers for a run of all
    for (const Token t : small.generate(5, random).problem) REQUIRE((t == Vocabulary::sep || t >= Lis::number(6)));

  Random a{Key(6)}, b{Key(6)};
  for (int i = 1; i <= 120; ++i) CHECK(task.generate(i, a) == task.generate(i, b));
  CHECK(Lis{.limit = 2500, .longest = 1000}.generate(1000, a).rounds.size() == 100);
  Random c{Key(7)}, d{Key(7)};  // how rows are laid out, or grouped, changes nothing in problems
  for (int i = 1; i <= 120; ++i)
    CHECK(Lis{.group = 3, .layout = Layout::in_place}.generate(i, c).problem == task.generate(i, d).problem);
}

TEST_CASE("bad options and lengths are refused") {
  for (const int group : {-1, 0, 1001})
    CHECK(error([&] { Lis{.group = group}.check(); }) == "longest_increasing_subsequence: the group is " +
                                                             std::to_string(group) +
                                                             ", but must be a number of values between 1 and 1000");
  for (const int limit : {-1, 0, 2, 10001, INT_MAX})
    CHECK(error([&] { Lis{.limit = limit}.check(); }) == "longest_increasing_subsequence: the limit is " +
                                                             std::to_string(limit) +
                                                             ", but must be between 3 and 10000");
  for (const int longest : {-1, 0, 125, INT_MAX})
    CHECK(error([&] { Lis{.longest = longest}.check(); }) ==
          "longest_increasing_subsequence: the longest length is " + std::to_string(longest) +
              ", but must be between 1 and 124, as there are numbers below the limit of 250: raise the limit");
  CHECK_NOTHROW(Lis{.longest = 124}.check());
  CHECK_NOTHROW(Lis{.limit = 3, .longest = 1}.check());
  CHECK_THROWS_AS((void)Lis{.group = 0}.vocabulary(), Error);
  CHECK_THROWS_AS((void)Lis{.group = 0}.parse("1"), Error);
  CHECK_THROWS_AS((void)Lis{.group = 0}.solve({}), Error);
  Random random{Key(7)};
  CHECK_THROWS_AS((void)Lis{.limit = 100}.generate(1, random), Error);
  for (const int length : {INT_MIN, -1, 0, 121, INT_MAX})
    CHECK(error([&] { Lis().generate(length, random); }) ==
          "longest_increasing_subsequence: the length is " + std::to_string(length) +
              ", but must be how many numbers, between 1 and 120, the longest length");
  CHECK(Lis().options() == "group=10,limit=250");
  CHECK(Lis{.group = 5, .limit = 300, .layout = Layout::in_place}.options() == "group=5,limit=300,layout=in_place");
}

TEST_CASE("the vocabulary spells what print prints") {
  const Lis task{.limit = 30, .longest = 3};
  const Vocabulary vocabulary = task.vocabulary();
  CHECK(vocabulary.size() == 33);
  for (Token t = 0; t < vocabulary.size(); ++t) {
    CHECK(task.print({t}) == vocabulary.spelling(t));
    CHECK(vocabulary.is_value(t) == (t >= 3));
    CHECK(task.is_number(t) == (t >= 3));
  }
  CHECK(!task.is_number(33));
  CHECK(task.print(task.parse("3 1,4").problem) == "3 1 4 <sep>");
  CHECK(task.print({0, 5, 2, -1, INT_MIN, Lis::number(500)}) == "<pad> 2 <eos> <?> <?> 500");
  CHECK(task.print({}) == "");
}

TEST_CASE("numbers as people type them; errors point at the character") {
  const Lis task;
  const Tokens numbers = task.parse("3 1 4 1 5").problem;
  for (const char* same : {"3,1,4,1,5", "  3, 1 ,4\t1\n5 ", "03 1 4 1 005", "3 1 4 1 5 <sep>", "3 1 4 1 5<sep>"})
    CHECK_MESSAGE(task.parse(same).problem == numbers, same);
  CHECK(task.parse("3 1 4 1 5").length == 5);
  CHECK(task.parse("3 1 4 1 5").iterations == 1);
  CHECK(task.parse("3 1 4 1 5").columns() == 11);
  CHECK(Lis{.layout = Layout::in_place}.parse("3 1 4 1 5").columns() == 11);
  CHECK(task.parse("1 2 3 4 5 6 7 8 9 10").columns() == 11);
  CHECK(task.parse("1 2 3 4 5 6 7 8 9 10 11").iterations == 2);
  CHECK(task.print(task.parse("0 249").problem) == "0 249 <sep>");

  struct Bad {
    std::string text, words;
  };
  for (const Bad& bad :
       {Bad{"", "numbers \"\": column 1 (end): there are no numbers: write some such as 9 7 12 7 15"},
        Bad{"  ", "numbers \"  \": column 3 (end): there are no numbers: write some such as 9 7 12 7 15"},
        Bad{"one", "numbers \"one\": column 1 ('o'): expected a number 0..249"},
        Bad{"1, 2,", "numbers \"1, 2,\": column 6 (end): expected a number 0..249"},
        Bad{"1,,2", "numbers \"1,,2\": column 3 (','): expected a number 0..249"},
        Bad{",1", "numbers \",1\": column 1 (','): expected a number 0..249"},
        Bad{"1 -3", "numbers \"1 -3\": column 3 ('-'): expected a number 0..249"},
        Bad{"1 250 2", "numbers \"1 250 2\": column 3 ('2'): the number is too large: expected 0..249"},
        Bad{"99999999999999999999",
            "numbers \"99999999999999999999\": column 1 ('9'): the number is too large: expected "
            "0..249"},
        Bad{"1 2a", "numbers \"1 2a\": column 4 ('a'): expected a blank, ',' or the end after a number"},
        Bad{"1.5", "numbers \"1.5\": column 2 ('.'): expected a blank, ',' or the end after a number"},
        Bad{"1é", "numbers \"1é\": column 2 ('é'): expected a blank, ',' or the end after a number"},
        Bad{"<sep>", "numbers \"<sep>\": column 1 ('<'): expected a number 0..249"},
        Bad{"1 <sep>2", "numbers \"1 <sep>2\": column 3 ('<'): expected a number 0..249"}})
    CHECK(error([&] { task.parse(bad.text); }) == bad.words);
  const Lis small{.limit = 9, .longest = 3};
  CHECK(small.parse("1 2 3").length == 3);
  CHECK(error([&] { small.parse("1 2 3 4"); }) ==
        "numbers \"1 2 3 4\": column 7 ('4'): more than 3 numbers: leave some out");

  Random random{Key(9)};
  for (int i = 0; i < 20000; ++i) {  // what is no problem is an Error
    std::string text;
    for (int n = random.below(12); n > 0; --n) text += "1290, \t<a\xc3"[random.below(10)];
    Example problem;
    const std::string e = error([&] { problem = task.parse(text); });
    if (e == "no error")
      REQUIRE(task.verify(task.solve(problem.problem)).right());
    else
      REQUIRE(e.starts_with("numbers \""));
  }
}

TEST_CASE("solve refuses what is no problem") {
  const Lis task{.limit = 50, .longest = 4};
  CHECK(error([&] { task.solve(written(task, "3 1 4")); }) ==
        "longest_increasing_subsequence: the problem \"3 1 4\" is not 1 to 4 numbers below 50 and <sep>: let parse() "
        "make it");
  for (const char* bad :
       {"", "<sep>", "3", "3 <sep> <sep>", "3 <pad> <sep>", "<sep> 3 <sep>", "3 <sep> 1", "1 2 3 4 5 <sep>"})
    CHECK_MESSAGE(
        error([&] { task.solve(written(task, bad)); }).starts_with("longest_increasing_subsequence: the problem "),
        bad);
  CHECK_NOTHROW(task.solve(written(task, "1 2 3 4 <sep>")));
  CHECK_THROWS_AS(task.solve({-1, Vocabulary::sep}), Error);
  CHECK_THROWS_AS(task.solve({Lis::number(50), Vocabulary::sep}), Error);
}

TEST_CASE("read is the inverse of text and takes whatever a model wrote") {
  const Lis task{.group = 3};
  const Example problem = task.parse("5 9 6 7");
  const auto read = [&](std::string_view text) { return task.read(problem, written(task, text)); };
  const Example whole = solved(task, "5 9 6 7");
  CHECK(task.print(task.text(whole)) == "1 2 2 <sep> 3 3 3 <sep> <sep> 3 <eos>");
  CHECK(read("1 2 2 <sep> 3 3 3 <sep> <sep> 3 <eos>") == whole);
  CHECK(read("1 2 2 <sep> 3 3 3 <sep> <sep> 3") == whole);
  CHECK(read("1 2 2 <sep> 3 3 3 <sep> <sep> 3 <sep> 7 <eos> 5") == whole);  // what follows the answer
  CHECK(read("") == problem);
  CHECK(read("<eos> 1 2 2 <sep> <sep> 3") == problem);
  CHECK(read("<sep>") == problem);
  CHECK(read("<sep> <eos>") == problem);
  CHECK(task.print({read("<sep> 3").answer}) == "3");
  CHECK(read("1 2 2 <sep> 3 3 3 <sep>").rounds == whole.rounds);
  CHECK(read("1 2 2 <sep> 3 3 3 <sep>").answer == Vocabulary::pad);
  CHECK(read("1 2 2 <sep> 3 3 3 <sep> <sep> <eos>").answer == Vocabulary::pad);
  const Example cut = read("1 2 2 <sep> 3 3 <eos>");
  REQUIRE(cut.rounds.size() == 2);
  CHECK(cut.rounds[1] == written(task, "3 3"));
  CHECK(cut.answer == Vocabulary::pad);
  CHECK(read("1 2 2 <eos>").problem == problem.problem);
  CHECK(read("1 2 2 <eos>").iterations == 2);

  Random random{Key(10)};
  for (int i = 0; i < 50000; ++i) {
    Tokens soup;
    for (int n = random.below(30); n > 0; --n) soup.push_back(any(task, random));
    const Example example = task.read(problem, soup);
    std::size_t kept = 0;
    for (const Tokens& round : example.rounds) {
      REQUIRE(!round.empty());
      kept += round.size();
      for (std::size_t j = 0; j + 1 < round.size(); ++j) REQUIRE(round[j] != Vocabulary::sep);
    }
    REQUIRE(kept <= soup.size());
    REQUIRE(task.verify(example).steps.size() == example.rounds.size());
    if (example.rounds.empty() || example.rounds.back().back() == Vocabulary::sep)
      REQUIRE(task.read(problem, task.text(example)) == example);
  }
}

TEST_CASE("the verifier judges each value against those before it as written") {
  const Lis task{.group = 3};
  const auto judge = [&](std::string_view problem, const std::vector<std::string>& rounds) {
    Example example = task.parse(problem);
    for (const std::string& round : rounds) example.rounds.push_back(written(task, round));
    example.answer = task.answer(example);
    return task.verify(example);
  };
  //                                 1 1 2     1 3 4      2
  const std::string_view problem = "3 1 4     1 5 9      2";
  const Verdict good = judge(problem, {"1 1 2 <sep>", "1 3 4 <sep>", "2 2 2 <sep>"});
  CHECK(steps(good) == "+++");
  CHECK(good.right());

  const Verdict slip =
      judge(problem, {"1 1 3 <sep>", "1 4 5 <sep>", "2 2 2 <sep>"});  // one slip, then right from there
  CHECK(steps(slip) == "-++");
  CHECK(slip.steps[0].why == "expected 1 1 2 <sep>");
  CHECK(slip.complete);
  CHECK(!slip.answer_right);
  CHECK(!slip.right());
  const Verdict late_slip = judge(problem, {"1 1 2 <sep>", "1 2 3 <sep>", "2 2 2 <sep>"});
  CHECK(steps(late_slip) == "+-+");
  CHECK(late_slip.steps[1].why == "expected 1 3 3 <sep>");  // the last follows from 2 as written: right

  CHECK(steps(judge(problem, {"1 1 2", "1 3 4 <sep>", "2 2 2 <sep>"})) == "-++");  // <sep> forgotten
  CHECK(steps(judge(problem, {"1 1 2 <sep> <sep>", "1 3 4 <sep>", "2 2 2 <sep>"})) == "-++");
  CHECK(steps(judge(problem, {"1 1 2 <sep>", "1 3 4 <sep>", "2 2 1 <sep>"})) == "++-");  // what fills the group
  CHECK(steps(judge(problem, {"1 1 2 <sep>", "1 3 4 <sep>", "2 <sep>"})) == "++-");
  CHECK(judge(problem, {"1 1 2 <sep>", "1 3 4 <sep>", "3 3 3 <sep>"}).steps[2].why == "expected 2 3 3 <sep>");
  CHECK(steps(judge(problem, {"1 1", "1 3 4 <sep>", "2 2 2 <sep>"})) == "-++");  // missing: the true value counts
  CHECK(steps(judge(problem, {"1 1 <eos> <sep>", "1 3 4 <sep>", "2 2 2 <sep>"})) == "-++");
  CHECK(steps(judge(problem, {"", "1 3 4 <sep>", "2 2 2 <sep>"})) == "-++");
  CHECK(steps(judge(problem, {"", "", ""})) == "---");
  CHECK(judge(problem, {"", "", ""}).steps[1].why == "expected 1 3 4 <sep>");

  const Verdict early = judge(problem, {"1 1 4 <sep>"});
  CHECK(steps(early) == "-");
  CHECK(early.answer_right);
  CHECK(!early.complete);
  CHECK(!early.right());

  const Verdict late = judge("1 2 3", {"1 2 3 <sep>", "3 3 3 <sep>"});
  CHECK(steps(late) == "+-");
  CHECK(late.steps[1].why == "expected no round: the one before has the last number's value");
  CHECK(late.answer_right);
  CHECK(!late.complete);

  Example none = task.parse("1 2 3");
  CHECK(task.verify(none).steps.empty());
  CHECK(!task.verify(none).right());
  none.problem.pop_back();
  none.rounds = {{}, {}};
  CHECK(steps(task.verify(none)) == "--");
  CHECK(task.verify(none).steps[0].why == "expected no round: the problem is no numbers");
}

TEST_CASE("one slip anywhere is one wrong step, at its round") {
  Random random{Key(11)};
  for (int i = 0; i < 20000; ++i) {
    const Lis task{.group = 1 + random.below(5)};
    Example example = task.generate(1 + random.below(25), random);
    const std::vector<int> numbers = numbers_of(task, example);
    std::vector<int> values;
    const std::size_t slip = static_cast<std::size_t>(random.below(example.length));
    for (std::size_t at = 0; at < numbers.size(); ++at) {  // those that follow are right, given the slip
      int before = 0;
      for (std::size_t j = 0; j < at; ++j)
        if (numbers[j] < numbers[at] && values[j] > before) before = values[j];
      values.push_back(before + 1);
      if (at == slip) values.back() += random.below(2) == 0 && before > 0 ? -1 : 1;
    }
    const std::size_t group = static_cast<std::size_t>(task.group);
    for (std::size_t t = 0; t < example.rounds.size(); ++t)
      for (std::size_t k = 0; k < group; ++k)
        example.rounds[t][k] = Lis::number(values[std::min(t * group + k, values.size() - 1)]);
    example.answer = task.answer(example);
    std::string want(example.rounds.size(), '+');
    want[slip / group] = '-';
    const Verdict verdict = task.verify(example);
    REQUIRE(steps(verdict) == want);
    REQUIRE(verdict.complete);
    REQUIRE(verdict.answer_right == (example.answer == task.solve(example.problem).answer));
    REQUIRE(!verdict.right());
  }
}

TEST_CASE("nothing that a model might write makes the verifier, the answer, print or a placement throw") {
  Random random{Key(8)};
  for (int i = 0; i < 30000; ++i) {
    Lis task{.group = 1 + random.below(4), .limit = 40, .longest = 12};
    if (random.below(2) == 0) task.layout = Layout::in_place;
    Example example = task.generate(1 + random.below(12), random);
    for (int round = 1; round <= example.iterations + 2; ++round) {  // and a round too many
      Tokens row;
      for (int n = example.columns(); n > 0; --n) row.push_back(any(task, random));
      const Tokens tokens = task.placement().read(example, round, row);
      if (task.layout == Layout::in_place && round <= example.iterations)
        REQUIRE(tokens.size() == static_cast<std::size_t>(task.group) + 1);
    }
    for (int change = random.below(6); change >= 0; --change) {
      Tokens& tokens =
          random.below(5) == 0
              ? example.problem
              : example.rounds[static_cast<std::size_t>(random.below(static_cast<int>(example.rounds.size())))];
      const int at = random.below(static_cast<int>(tokens.size()) + 1);
      if (at < static_cast<int>(tokens.size()))
        tokens[static_cast<std::size_t>(at)] = any(task, random);
      else if (random.below(2) == 0)
        tokens.push_back(any(task, random));
      else
        tokens.resize(tokens.size() / 2);
    }
    if (random.below(9) == 0) example.answer = -1;
    if (random.below(9) == 0) example.rounds.push_back(example.rounds.front());
    const Verdict verdict = task.verify(example);
    REQUIRE(verdict.steps.size() == example.rounds.size());
    for (const Step& s : verdict.steps) REQUIRE(s.right == s.why.empty());
    const Token answer = task.answer(example);
    REQUIRE((answer == Vocabulary::pad || task.is_number(answer)));
    task.print(example.problem);
  }
  Example nothing;
  nothing.answer = -1;
  nothing.rounds = {{}, {-1}, {100}};
  CHECK(steps(Lis().verify(nothing)) == "---");
  CHECK(!Lis().verify(nothing).right());
}

TEST_CASE("the answer of the rounds is their largest number") {
  const Lis task{.group = 3};
  const auto answer = [&](const std::vector<std::string>& rounds) {
    Example example = task.parse("5 9 6 7");
    for (const std::string& round : rounds) example.rounds.push_back(written(task, round));
    return task.print({task.answer(example)});
  };
  CHECK(answer({"1 2 2 <sep>", "3 3 3 <sep>"}) == "3");
  CHECK(answer({"1 9 2 <sep>", "3 3 3 <sep>"}) == "9");
  CHECK(answer({"1 2"}) == "2");
  CHECK(answer({"0"}) == "0");
  CHECK(answer({}) == "<pad>");
  CHECK(answer({"", "<eos> <sep>"}) == "<pad>");
  Example example = task.parse("5 9 6 7");
  example.rounds = {{-1, INT_MAX, Lis::number(250), Lis::number(4)}};
  CHECK(task.print({task.answer(example)}) == "4");
}

TEST_CASE("a row, and one for each round, have room for the text of a chain, however few the numbers") {
  Random random{Key(12)};
  for (const Layout layout : {Layout::flush_right, Layout::in_place})
    for (const int group : {1, 2, 3, 10})
      for (int length = 1; length <= 30; ++length) {
        const Lis task{.group = group, .layout = layout};
        const Example e = task.generate(length, random);
        CHECK(static_cast<int>(task.text_size(e)) <= e.columns() * (e.iterations + 1));
      }
}

TEST_CASE("values flush right and in place") {
  const Lis flush{.group = 3}, in_place{.group = 3, .layout = Layout::in_place};
  const auto row = [](const Lis& task, const Example& example, int round) {
    return task.print(in_row(task, example, round, Vocabulary::eos));
  };
  const Example a = solved(flush, "5 9 6 7"), b = solved(in_place, "5 9 6 7");
  CHECK(row(flush, a, 1) == "<pad> 1 2 2 <sep>");
  CHECK(row(flush, a, 2) == "<pad> 3 3 3 <sep>");
  CHECK(row(in_place, b, 1) == "1 2 2 <eos> <eos>");
  CHECK(row(in_place, b, 2) == "<eos> <eos> <eos> 3 <eos>");

  Example wide = b;  // what is left of the problem is <pad>
  wide.width = 8;
  CHECK(row(in_place, wide, 1) == "<eos> <eos> <eos> 1 2 2 <eos> <eos>");
  CHECK(row(in_place, wide, 2) == "<eos> <eos> <eos> <eos> <eos> <eos> 3 <eos>");
  for (int round = 1; round <= 2; ++round)
    CHECK(in_place.placement().read(wide, round, in_row(in_place, wide, round, Vocabulary::pad)) ==
          wide.rounds[static_cast<std::size_t>(round - 1)]);

  const Example few = solved(flush, "5 9");  // fewer numbers than a round has values
  CHECK(few.width == 4);
  CHECK(row(flush, few, 1) == "1 2 2 <sep>");
  CHECK(flush.placement().read(few, 1, few.rounds[0]) == few.rounds[0]);
  CHECK(solved(flush, "5 9 6").columns() == 4);
  CHECK(row(in_place, solved(in_place, "5 9"), 1) == "<eos> 1 2 <eos>");

  CHECK(in_place.print(in_place.placement().read(b, 1, written(in_place, "1 <pad> <eos> 7 7"))) ==
        "1 <pad> <eos> <sep>");
  CHECK(in_place.print(in_place.placement().read(b, 2, written(in_place, "1 1 1 <pad> 7"))) ==
        "<pad> <pad> <pad> <sep>");
  CHECK(in_place.print(in_place.placement().read(b, 3, written(in_place, "1 1 1 1 1"))) == "<sep>");
  Example bad = b;
  bad.rounds = {written(in_place, "1 2 <sep>"), b.rounds[1], b.rounds[1]};
  CHECK(error([&] { in_place.placement().place(bad, 1); }) ==
        "round 1 has 3 tokens, and the problem 3 numbers for it, but they must be 4 and at least 1");
  CHECK(error([&] { in_place.placement().place(bad, 3); }) ==
        "round 3 has 4 tokens, and the problem 0 numbers for it, but they must be 4 and at least 1");
}
