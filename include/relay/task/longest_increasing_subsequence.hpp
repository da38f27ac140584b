// Longest increasing subsequence: 3 1 4 1 5 9<sep>  ->  1 1 2 1 3 4 .. <sep>  ->  4, ten values a round.
//
// Generator of Feng et al. (arXiv 2305.15408), rounds of RELAY (arXiv 2502.08482): each number of the problem has a
// value, how many numbers the longest strictly increasing subsequence has that ends there. A problem is its numbers and
// <sep>. A round is the values of the next `group` numbers and <sep>; the last group is filled by repeating its last
// value. Length is how many numbers there are, iterations how many groups. A model of chains writes the rounds, <sep>,
// the answer, which is the largest value, and <eos>.
//
// In the looped model's row a round stands flush right, or its values stand in place: at the columns of their numbers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <relay/core/random.hpp>
#include <relay/core/require.hpp>
#include <relay/task/example.hpp>
#include <relay/task/placement.hpp>
#include <relay/task/typed_text.hpp>

namespace relay {

/// As FlushRight; or, `in_place`, each value at the column of its number. Then neither the values that fill the last
/// group nor the <sep> are in the row, since neither has a number; read() puts them back.
///
///   columns   5 9 6 7 <sep>         groups of 3
///   round 1   1 2 2 . .             1 2 2 <sep>
///   round 2   . . . 3 .             3 3 3 <sep>
struct LongestIncreasingSubsequencePlacement {
  int group = 10;
  bool in_place = false;

  std::vector<Placed> place(const Example& example, int round) const {
    std::vector<Placed> placed;
    place(example, round, placed);
    return placed;
  }
  void place(const Example& example, int round, std::vector<Placed>& placed) const {
    if (!in_place) return FlushRight().place(example, round, placed);
    const Tokens& tokens = example.rounds[static_cast<std::size_t>(round - 1)];
    const auto [column, values] = where(example, round);
    require(values > 0 && static_cast<int>(tokens.size()) == group + 1, "round ", round, " has ", tokens.size(),
            " tokens, and the problem ", values, " numbers for it, but they must be ", group + 1, " and at least 1");
    placed.clear();
    for (int i = 0; i < values; ++i) placed.push_back({column + i, tokens[static_cast<std::size_t>(i)]});
  }

  std::vector<int> columns(const Example& example, int round) const {
    if (!in_place) return FlushRight().columns(example, round);
    const auto [column, values] = where(example, round);
    std::vector<int> columns;
    for (int i = 0; i < values; ++i) columns.push_back(column + i);
    return columns;
  }

  Tokens read(const Example& example, int round, std::span<const Token> row) const {
    if (!in_place) return FlushRight().read(example, round, row);
    const auto [column, values] = where(example, round);
    Tokens tokens;
    for (int i = 0; i < values; ++i) tokens.push_back(row[static_cast<std::size_t>(column + i)]);
    if (!tokens.empty()) tokens.resize(static_cast<std::size_t>(group), Token{tokens.back()});
    tokens.push_back(Vocabulary::sep);
    return tokens;
  }

 private:
  struct Where {
    int column, values;
  };

  /// The column of the round's first number, and how many numbers it has. The problem ends at the row's right end.
  Where where(const Example& example, int round) const {
    const int tokens = static_cast<int>(example.problem.size()), first = (round - 1) * group;
    return {example.columns() - tokens + first, std::clamp(tokens - 1 - first, 0, group)};
  }
};

static_assert(Placement<LongestIncreasingSubsequencePlacement>);

struct LongestIncreasingSubsequence {
  static constexpr std::string_view name = "longest_increasing_subsequence";
  static constexpr Token zero = 3;

  enum class Layout { flush_right, in_place };

  int group = 10;                       // numbers to a round: 1..1000
  int limit = 250;                      // numbers are below it: 3..10000
  Layout layout = Layout::flush_right;  // of a round in the looped model's row
  int longest = 120;                    // length, at least 1

  /// A problem of n numbers may have n different ones that are larger than n, so there must be as many: n <= limit - (n
  /// + 1).
  void check() const {
    require(group >= 1 && group <= 1000, "longest_increasing_subsequence: the group is ", group,
            ", but must be a number of values between 1 and 1000");
    require(limit >= 3 && limit <= 10000, "longest_increasing_subsequence: the limit is ", limit,
            ", but must be between 3 and 10000");
    require(longest >= 1 && longest <= (limit - 1) / 2, "longest_increasing_subsequence: the longest length is ",
            longest, ", but must be between 1 and ", (limit - 1) / 2, ", as there are numbers below the limit of ",
            limit, ": raise the limit");
  }

  static constexpr Token number(int n) { return zero + n; }
  bool is_number(Token t) const { return t >= zero && t < number(limit); }

  Vocabulary vocabulary() const {
    check();
    std::vector<std::string> numbers;
    for (int n = 0; n < limit; ++n) numbers.push_back(std::to_string(n));
    return Vocabulary({}, numbers);
  }

  /// A random problem of `length` numbers between length + 1 and limit - 1, its rounds and its answer. One, two or
  /// three runs, equally often, stand one after another at places drawn anew for each problem; a run is a set of
  /// different numbers, any as likely as any other, in ascending order. All other numbers are uniform.
  Example generate(int length, Random& random) const {
    check();
    require(length >= 1 && length <= longest, "longest_increasing_subsequence: the length is ", length,
            ", but must be how many numbers, between 1 and ", longest, ", the longest length");
    Tokens problem;
    for (int i = 0; i < length; ++i) problem.push_back(number(length + 1 + random.below(limit - length - 1)));
    const int total = length < 3 ? length : 3 + random.below(length - 2);
    int runs[3] = {total, 0, 0};
    const int count = 1 + random.below(3);
    for (int i = 0; i + 1 < count; ++i) {
      const int left = runs[i];
      runs[i] = std::min(left, 1 + random.below(left / (count - i) + 1));  // more than are left: only of 1 number
      runs[i + 1] = left - runs[i];
    }
    const std::vector<int> places = ascending(total, 0, length, random);
    auto place = places.begin();
    for (const int run : runs)
      for (const int n : ascending(run, length + 1, limit, random))
        problem[static_cast<std::size_t>(*place++)] = number(n);
    problem.push_back(Vocabulary::sep);
    return chain(std::move(problem));
  }

  /// The rounds and the answer of a problem.
  Example solve(const Tokens& problem) const {
    check();
    if (!well_formed(problem))
      fail("longest_increasing_subsequence: the problem \"", print(problem), "\" is not 1 to ", longest,
           " numbers below ", limit, " and <sep>: let parse() make it");
    return chain(problem);
  }

  /// T: the groups of the problem's numbers.
  int iterations(const Tokens& problem) const { return (static_cast<int>(problem.size()) - 1 + group - 1) / group; }

  /// The problem that a person typed, still to be solved: numbers with blanks or commas between them. Errors point at
  /// the character.
  Example parse(std::string_view text) const {
    check();
    const TypedText typed{"numbers", text};
    Tokens problem;
    std::size_t at = 0;
    const auto space = [&] { at = std::min(text.find_first_not_of(" \t\r\n", at), text.size()); };
    const auto digit = [&] { return at < text.size() && text[at] >= '0' && text[at] <= '9'; };
    space();
    if (at == text.size()) typed.wrong(at, "there are no numbers: write some such as 9 7 12 7 15");
    do {
      const std::size_t start = at;
      if (!digit()) typed.wrong(at, "expected a number 0..", limit - 1);
      if (static_cast<int>(problem.size()) == longest)
        typed.wrong(at, "more than ", longest, " numbers: leave some out");
      int n = 0;
      for (; digit(); ++at) n = n < limit ? n * 10 + (text[at] - '0') : n;
      if (n >= limit) typed.wrong(start, "the number is too large: expected 0..", limit - 1);
      problem.push_back(number(n));
      if (at < text.size() && std::string_view(" \t\r\n,<").find(text[at]) == text.npos)
        typed.wrong(at, "expected a blank, ',' or the end after a number");
      space();
      if (text.substr(at) == "<sep>") at = text.size();  // as print() writes it
      if (at < text.size() && text[at] == ',') {
        ++at, space();
        if (at == text.size()) typed.wrong(at, "expected a number 0..", limit - 1);
      }
    } while (at < text.size());
    problem.push_back(Vocabulary::sep);
    return unsolved(std::move(problem));
  }

  /// What an auto-regressive model writes after the problem: the rounds, <sep>, the answer and <eos>.
  Tokens text(const Example& example) const {
    Tokens out;
    text(example, out);
    return out;
  }
  void text(const Example& example, Tokens& out) const { write_rounds_and_answer(example, out); }
  std::size_t text_size(const Example& example) const { return size_of_rounds_and_answer(example); }

  /// The inverse of text(), for whatever a model wrote: a round ends after <sep>; where one would begin with <sep>, the
  /// token after that is the answer (<pad> when none follows). <eos> ends everything.
  Example read(const Example& problem, const Tokens& written) const {
    Example example = problem;
    example.rounds.clear();
    example.answer = Vocabulary::pad;
    Tokens round;
    for (std::size_t i = 0; i < written.size() && written[i] != Vocabulary::eos; ++i) {
      if (round.empty() && written[i] == Vocabulary::sep) {
        if (i + 1 < written.size() && written[i + 1] != Vocabulary::eos) example.answer = written[i + 1];
        break;
      }
      round.push_back(written[i]);
      if (written[i] == Vocabulary::sep) example.rounds.push_back(std::exchange(round, {}));
    }
    if (!round.empty()) example.rounds.push_back(std::move(round));
    return example;
  }

  /// Judges each value against those before it as written: it must be one more than the largest among the values of
  /// earlier smaller numbers. Where a number's value is missing or is no number, the true one is taken instead: one
  /// slip is one wrong step. A round is right when it is, to the token. Never throws, whatever was written.
  Verdict verify(const Example& written) const {
    Verdict verdict;
    if (!well_formed(written.problem)) {
      verdict.steps.assign(written.rounds.size(), {false, "expected no round: the problem is no numbers"});
      return verdict;
    }
    const Example truth = chain(written.problem);
    verdict.answer_right = written.answer == truth.answer;
    verdict.complete = written.rounds.size() == truth.rounds.size();
    const std::size_t numbers = written.problem.size() - 1, in_group = static_cast<std::size_t>(group);
    std::vector<int> values;  // as written
    for (std::size_t t = 0; t < written.rounds.size(); ++t) {
      if (t >= truth.rounds.size()) {
        verdict.steps.push_back({false, "expected no round: the one before has the last number's value"});
        continue;
      }
      const Tokens& round = written.rounds[t];
      Tokens expected;
      for (std::size_t i = 0; i < in_group && t * in_group + i < numbers; ++i) {
        int before = 0;
        for (std::size_t j = 0; j < values.size(); ++j)
          if (written.problem[j] < written.problem[t * in_group + i]) before = std::max(before, values[j]);
        expected.push_back(number(before + 1));
        values.push_back((i < round.size() && is_number(round[i]) ? round[i] : truth.rounds[t][i]) - zero);
      }
      expected.resize(in_group, number(values.back()));
      expected.push_back(Vocabulary::sep);
      const bool right = round == expected;
      verdict.steps.push_back({right, right ? "" : "expected " + print(expected)});
    }
    return verdict;
  }

  /// The largest number in the rounds.
  Token answer(const Example& written) const {
    Token largest = Vocabulary::pad;
    for (const Tokens& round : written.rounds)
      for (const Token t : round)
        if (is_number(t)) largest = std::max(largest, t);
    return largest;
  }

  LongestIncreasingSubsequencePlacement placement() const { return {group, layout == Layout::in_place}; }

  /// All of one length are of one size.
  Example largest(int length) const {
    Example e = unsolved(Tokens(static_cast<std::size_t>(length) + 1, zero));
    e.rounds.assign(static_cast<std::size_t>(e.iterations), Tokens(static_cast<std::size_t>(group) + 1, zero));
    e.answer = zero;
    return e;
  }

  std::string options() const {
    return message("group=", group, ",limit=", limit, layout == Layout::in_place ? ",layout=in_place" : "");
  }

  /// As people write it: "3 1 4 1 5 <sep>".
  std::string print(const Tokens& tokens) const {
    std::string out;
    for (const Token t : tokens) {
      if (!out.empty()) out += ' ';
      constexpr std::string_view others[] = {"<pad>", "<sep>", "<eos>"};
      if (t < 0)
        out += "<?>";
      else if (t < zero)
        out += others[static_cast<std::size_t>(t)];
      else
        out += std::to_string(t - zero);
    }
    return out;
  }

 private:
  /// `count` different numbers of first .. last-1, every set as likely, in ascending order.
  static std::vector<int> ascending(int count, int first, int last, Random& random) {
    std::vector<int> out;
    for (; count > 0; ++first)
      if (random.below(last - first) < count) out.push_back(first), --count;
    return out;
  }

  bool well_formed(const Tokens& problem) const {
    return problem.size() >= 2 && problem.size() <= static_cast<std::size_t>(longest) + 1 &&
           problem.back() == Vocabulary::sep &&
           std::all_of(problem.begin(), problem.end() - 1, [&](Token t) { return is_number(t); });
  }

  /// A round has group + 1 tokens: with fewer numbers the row must be wider than the problem, for a round that lies flush right, and for
  /// what an auto-regressive model may write, which has the room of a row and of one for each round.
  Example unsolved(Tokens problem) const {
    Example example;
    example.problem = std::move(problem);
    example.length = static_cast<int>(example.problem.size()) - 1;
    example.iterations = iterations(example.problem);
    if (const int row = std::max(group + 1, 3); static_cast<int>(example.problem.size()) < row) example.width = row;
    return example;
  }

  Example chain(Tokens problem) const {
    Example example = unsolved(std::move(problem));
    std::vector<Token> ends;  // ends[k]: the smallest number that ends an increasing subsequence of k + 1
    for (int i = 0; i < example.iterations * group; ++i) {
      if (i % group == 0) example.rounds.emplace_back();
      Tokens& round = example.rounds.back();
      if (i < example.length) {
        const Token n = example.problem[static_cast<std::size_t>(i)];
        const auto end = std::lower_bound(ends.begin(), ends.end(), n);
        round.push_back(number(static_cast<int>(end - ends.begin()) + 1));
        if (end == ends.end())
          ends.push_back(n);
        else
          *end = n;
      } else {
        round.push_back(Token{round.back()});
      }
      if (i % group == group - 1) round.push_back(Vocabulary::sep);
    }
    example.answer = number(static_cast<int>(ends.size()));
    return example;
  }
};

static_assert(ReasoningTask<LongestIncreasingSubsequence>);

}  // namespace relay
