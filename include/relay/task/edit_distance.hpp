// Edit distance of two words: ab|cab<sep>  ->  3 1 3 ,  ->  4 3 1 ,  ->  1, one row of the table a round.
//
// Generator of Feng et al. (arXiv 2305.15408), rounds of RELAY (arXiv 2502.08482): inserting and deleting a letter cost
// 2, replacing one 3, and d(i,j) is the cheapest way from the first i letters of the shorter word to the first j of the
// longer one, but at the table's boundary d(i,0) = i and d(0,j) = j. A problem is the shorter word, "|", the longer one
// and <sep>. A round is one row of the table without column 0, and ",". Length and iterations are the letters of the
// shorter word. A model of chains writes the rows, <sep>, the answer, which is the last number of the last row, and
// <eos>.
//
// In the looped model's row a round may also stand as differences, d(i,j) - d(i,j-1): these are -2..+2 for words of any
// length, while the numbers of longer words are numbers that no training has shown.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
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

/// Flush right, as FlushRight; and, where `differences`, each number as its difference to the number before it, the
/// first to d(i,0) = i, which is the round's number. A token that cannot be written so stands as it is, and so do all
/// that follow it: reading stops adding there, and never throws.
///
///   columns   a  b  |  c  a  b  <sep>
///   round 1   .  .  P +2 -2 +2  ,         3 1 3 ,
///   round 2   .  .  P +2 -1 -2  ,         4 3 1 ,
struct EditDistancePlacement {
  bool differences = false;
  Token zero = 0;  // the number 0; the five tokens before it are -2 .. +2
  int most = 0;    // the largest number

  std::vector<Placed> place(const Example& example, int round) const {
    std::vector<Placed> placed;
    place(example, round, placed);
    return placed;
  }
  void place(const Example& example, int round, std::vector<Placed>& placed) const {
    FlushRight().place(example, round, placed);
    if (!differences) return;
    const std::size_t tokens = example.rounds[static_cast<std::size_t>(round - 1)].size();
    Token before = zero + round;
    for (Placed& p : std::span(placed).last(tokens)) {
      if (!is_number(p.token) || p.token < before - 2 || p.token > before + 2) break;
      const Token difference = zero - 3 + (p.token - before);
      before = std::exchange(p.token, difference);
    }
  }

  std::vector<int> columns(const Example& example, int round) const { return FlushRight().columns(example, round); }

  Tokens read(const Example& example, int round, std::span<const Token> row) const {
    Tokens tokens = FlushRight().read(example, round, row);
    if (!differences) return tokens;
    Token before = zero + round;
    for (Token& t : tokens) {
      if (t < zero - 5 || t > zero - 1) break;
      const Token number = before + (t - (zero - 3));
      if (!is_number(number)) break;
      t = before = number;
    }
    return tokens;
  }

 private:
  bool is_number(Token t) const { return t >= zero && t <= zero + most; }
};

static_assert(Placement<EditDistancePlacement>);

struct EditDistance {
  static constexpr std::string_view name = "edit_distance";
  static constexpr Token bar = 3, comma = 4, first_letter = 5;

  enum class Rows { values, differences };

  int letters = 26;          // of the pool, a..; a problem uses 3 to 10 of them: 3..26
  Rows rows = Rows::values;  // what the looped model's rows show; a chain has values
  int longest = 40;          // length whose numbers have tokens: 1..1000

  void check() const {
    require(letters >= 3 && letters <= 26, "edit_distance: there are ", letters,
            " letters, but must be between 3 and 26");
    require(longest >= 1 && longest <= 1000, "edit_distance: the longest length is ", longest,
            ", but must be a number of letters between 1 and 1000");
  }

  /// Numbers are 0 .. most(). By i deletions from d(0,j), d(i,j) <= j + 2 i, and words that share no letter need as
  /// much; the words have at most `longest` and longest_other() letters.
  int most() const { return longest_other() + 2 * longest; }
  int longest_other() const { return longest + 2; }  // letters of the longer word

  Token zero() const { return first_letter + letters + (rows == Rows::differences ? 5 : 0); }
  Token number(int n) const { return zero() + n; }
  bool is_number(Token t) const { return t >= zero() && t <= number(most()); }
  bool is_letter(Token t) const { return t >= first_letter && t < first_letter + letters; }

  Vocabulary vocabulary() const {
    check();
    std::vector<std::string> structure = {"|", ","}, values;
    for (int i = 0; i < letters; ++i) structure.push_back(std::string(1, static_cast<char>('a' + i)));
    if (rows == Rows::differences) values = {"-2", "-1", "+0", "+1", "+2"};
    for (int n = 0; n <= most(); ++n) values.push_back(std::to_string(n));
    return Vocabulary(structure, values);
  }

  /// A random problem whose shorter word has `length` letters, its rounds and its answer. Of the generator's pairs, a
  /// word of `length` letters and another of up to 3 fewer or 2 more, those are drawn again whose second word is the
  /// shorter. The letters of the problem and how the second word comes about are drawn once: four in ten are unrelated
  /// to the first.
  Example generate(int length, Random& random) const {
    check();
    require(length >= 1 && length <= longest, "edit_distance: the length is ", length,
            ", but must be a number of letters between 1 and ", longest, ", the longest length");
    const int used = 3 + random.below(std::min(letters, 10) - 2);
    std::array<Token, 26> pool;
    for (int i = 0; i < letters; ++i) pool[index(i)] = first_letter + i;
    for (int i = 0; i < used; ++i) std::swap(pool[index(i)], pool[index(i + random.below(letters - i))]);
    const auto word = [&](int n) {
      Tokens out;
      for (int i = 0; i < n; ++i) out.push_back(pool[index(random.below(used))]);
      return out;
    };
    const bool unrelated = random.below(10) < 4;
    Tokens first, second;
    do {
      first = word(length);
      second = unrelated ? word(length + random.below(3)) : edited(first, 1 + random.below(length), word, random);
    } while (second == first || second.size() < first.size() || second.size() > first.size() + 2);
    first.push_back(bar);
    first.insert(first.end(), second.begin(), second.end());
    first.push_back(Vocabulary::sep);
    return chain(std::move(first));
  }

  /// The rounds and the answer of a problem.
  Example solve(const Tokens& problem) const {
    check();
    if (!words(problem))
      fail("edit_distance: the problem \"", print(problem),
           "\" is not two words with '|' between them and <sep> after ", "them, the shorter one first, of up to ",
           longest, " letters, and the other of up to ", longest_other(), ": let parse() make it");
    return chain(problem);
  }

  /// T: the letters of the first word.
  int iterations(const Tokens& problem) const {
    return static_cast<int>(std::find(problem.begin(), problem.end(), bar) - problem.begin());
  }

  /// The problem that a person typed, still to be solved: two words, with blanks, "|" or "," between them; the shorter
  /// comes first. Errors point at the character.
  Example parse(std::string_view text) const {
    check();
    const TypedText typed{"words", text};
    std::size_t at = 0;
    const auto space = [&] { at = std::min(text.find_first_not_of(" \t\r\n", at), text.size()); };
    const auto letter = [&] { return at < text.size() && text[at] >= 'a' && text[at] < 'a' + letters; };
    std::string expected = message("expected a letter a..", static_cast<char>('a' + letters - 1));
    if (letters < 26) expected += message(" (this task has but ", letters, ": edit_distance.letters)");
    std::array<std::pair<Tokens, std::size_t>, 2> words;  // and the byte of the text at which the word begins
    for (std::size_t i = 0; i < 2; ++i) {
      space();
      if (i == 1 && at < text.size() && (text[at] == '|' || text[at] == ',')) ++at, space();
      if (at == text.size())
        typed.wrong(at, i == 0 ? "there are no words: write two such as kitten sitting" : "expected a second word");
      if (!letter()) typed.wrong(at, expected);
      words[i].second = at;
      for (; letter(); ++at) words[i].first.push_back(first_letter + (text[at] - 'a'));
      if (at < text.size() && std::string_view(i == 0 ? " \t\r\n|," : " \t\r\n<").find(text[at]) == text.npos)
        typed.wrong(at, expected, i == 0 ? ", or a second word after a blank, ',' or '|'" : " or the end");
    }
    space();
    if (text.substr(at) == "<sep>") at = text.size();  // as print() writes it
    if (at < text.size()) typed.wrong(at, "expected nothing after the second word");

    if (words[1].first.size() < words[0].first.size()) std::swap(words[0], words[1]);
    for (std::size_t i = 0; i < 2; ++i)
      if (const std::size_t most = index(i == 0 ? longest : longest_other()); words[i].first.size() > most)
        typed.wrong(words[i].second + most, "the word is too long: the shorter one may have ", longest,
              " letters, the other ", longest_other());
    Example example;
    example.length = example.iterations = static_cast<int>(words[0].first.size());
    example.problem = std::move(words[0].first);
    example.problem.push_back(bar);
    example.problem.insert(example.problem.end(), words[1].first.begin(), words[1].first.end());
    example.problem.push_back(Vocabulary::sep);
    return example;
  }

  /// What an auto-regressive model writes after the problem: the rows, <sep>, the answer and <eos>.
  Tokens text(const Example& example) const {
    Tokens out;
    text(example, out);
    return out;
  }
  void text(const Example& example, Tokens& out) const { write_rounds_and_answer(example, out); }
  std::size_t text_size(const Example& example) const { return size_of_rounds_and_answer(example); }

  /// The inverse of text(), for whatever a model wrote: a round ends after ","; the first <sep> ends the last one, and
  /// the token after it is the answer (<pad> when none follows). <eos> ends everything.
  Example read(const Example& problem, const Tokens& written) const {
    Example example = problem;
    example.rounds.clear();
    example.answer = Vocabulary::pad;
    Tokens round;
    for (std::size_t i = 0; i < written.size() && written[i] != Vocabulary::eos; ++i) {
      if (written[i] == Vocabulary::sep) {
        if (i + 1 < written.size() && written[i + 1] != Vocabulary::eos) example.answer = written[i + 1];
        break;
      }
      round.push_back(written[i]);
      if (written[i] == comma) example.rounds.push_back(std::exchange(round, {}));
    }
    if (!round.empty()) example.rounds.push_back(std::move(round));
    return example;
  }

  /// Judges each row against the row before it as written, the first against d(0,j) = j. Where that is no row of as
  /// many numbers as the longer word has letters, what should have stood in its place is taken instead: one slip is one
  /// wrong step. Never throws, whatever was written.
  Verdict verify(const Example& written) const {
    Verdict verdict;
    const std::optional<Words> of = words(written.problem);
    if (!of) {
      verdict.steps.assign(written.rounds.size(), {false, "expected no round: the problem is not two words"});
      return verdict;
    }
    verdict.answer_right = written.answer == chain(written.problem).answer;
    verdict.complete = written.rounds.size() == of->first.size();
    std::vector<int> above = boundary(*of);
    for (std::size_t i = 1; i <= written.rounds.size(); ++i) {
      if (i > of->first.size()) {
        verdict.steps.push_back({false, "expected no round: the one before is the last row"});
        continue;
      }
      const Tokens& round = written.rounds[i - 1];
      above = row(*of, i, above);
      const Tokens expected = spelled(above);
      const bool right = round == expected;
      verdict.steps.push_back({right, right ? "" : "expected " + print(expected)});
      const std::span<const Token> numbers = body(round);
      if (numbers.size() == of->second.size() &&
          std::all_of(numbers.begin(), numbers.end(), [&](Token t) { return is_number(t); }))
        for (std::size_t j = 0; j < numbers.size(); ++j) above[j + 1] = numbers[j] - zero();
    }
    return verdict;
  }

  /// What stands at the end of the last row, where that is a number.
  Token answer(const Example& written) const {
    if (written.rounds.empty()) return Vocabulary::pad;
    const std::span<const Token> numbers = body(written.rounds.back());
    return numbers.empty() || !is_number(numbers.back()) ? Vocabulary::pad : numbers.back();
  }

  EditDistancePlacement placement() const { return {rows == Rows::differences, zero(), most()}; }

  /// The longer word has two letters more. It is no edit distance.
  Example largest(int length) const {
    const auto tokens = [](int n) { return Tokens(index(n), comma); };
    Example e;
    e.length = e.iterations = length;
    e.problem = tokens(length + 1 + length + 2 + 1);
    e.rounds.assign(index(length), tokens(length + 2 + 1));
    e.answer = zero();
    return e;
  }

  std::string options() const {
    return message("letters=", letters, rows == Rows::differences ? ",rows=differences" : "");
  }

  /// As people write it, "kitten|sitting <sep>" and "1 3 5 ,": blanks between all but letters and "|".
  std::string print(const Tokens& tokens) const {
    std::string out;
    bool together = false;  // with the token before
    for (const Token t : tokens) {
      const bool of_words = is_letter(t) || t == bar;
      if (!out.empty() && !(together && of_words)) out += ' ';
      together = of_words;
      constexpr std::string_view others[] = {"<pad>", "<sep>", "<eos>", "|", ","},
                                 differences[] = {"-2", "-1", "+0", "+1", "+2"};
      if (t < 0)
        out += "<?>";
      else if (t < first_letter)
        out += others[index(t)];
      else if (is_letter(t))
        out += static_cast<char>('a' + (t - first_letter));
      else if (t < zero())
        out += differences[index(t - (zero() - 5))];
      else
        out += std::to_string(t - zero());
    }
    return out;
  }

 private:
  struct Words {
    std::span<const Token> first, second;
  };

  static constexpr std::size_t index(int i) { return static_cast<std::size_t>(i); }

  /// `edits` letters deleted, replaced or inserted, each with the same probability and anywhere. There are at most as
  /// many edits as letters, so there always is a letter to delete.
  static Tokens edited(Tokens w, int edits, auto&& word, Random& random) {
    for (; edits > 0; --edits) {
      const int kind = random.below(3), letters = static_cast<int>(w.size());
      const std::ptrdiff_t at = random.below(kind == 2 ? letters + 1 : letters);
      if (kind == 0)
        w.erase(w.begin() + at);
      else if (kind == 1)
        w[static_cast<std::size_t>(at)] = word(1).front();
      else
        w.insert(w.begin() + at, word(1).front());
    }
    return w;
  }

  /// The words of a problem, if it is one.
  std::optional<Words> words(const Tokens& problem) const {
    const auto is = [&](std::span<const Token> w, int most) {
      return !w.empty() && w.size() <= index(most) &&
             std::all_of(w.begin(), w.end(), [&](Token t) { return is_letter(t); });
    };
    const std::size_t n = index(iterations(problem));
    if (n + 2 > problem.size() || problem.back() != Vocabulary::sep) return std::nullopt;
    const Words w{std::span(problem).first(n), std::span(problem).subspan(n + 1, problem.size() - n - 2)};
    if (!is(w.first, longest) || !is(w.second, longest_other()) || w.first.size() > w.second.size())
      return std::nullopt;
    return w;
  }

  static std::vector<int> boundary(const Words& of) {  // d(0,j)
    std::vector<int> row;
    for (std::size_t j = 0; j <= of.second.size(); ++j) row.push_back(static_cast<int>(j));
    return row;
  }

  /// Row i of the table, column 0 included, from the row above it.
  static std::vector<int> row(const Words& of, std::size_t i, const std::vector<int>& above) {
    std::vector<int> row = {static_cast<int>(i)};
    for (std::size_t j = 1; j < above.size(); ++j) {
      const int replace = above[j - 1] + (of.first[i - 1] == of.second[j - 1] ? 0 : 3);
      row.push_back(std::min({replace, above[j] + 2, row[j - 1] + 2}));
    }
    return row;
  }

  Tokens spelled(const std::vector<int>& row) const {
    Tokens round;
    for (std::size_t j = 1; j < row.size(); ++j) round.push_back(number(row[j]));
    round.push_back(comma);
    return round;
  }

  static std::span<const Token> body(const Tokens& round) {  // without the "," at its end
    return std::span(round).first(round.size() - (!round.empty() && round.back() == comma));
  }

  Example chain(Tokens problem) const {
    Example example;
    example.problem = std::move(problem);
    const Words of = *words(example.problem);
    example.length = example.iterations = static_cast<int>(of.first.size());
    std::vector<int> above = boundary(of);
    for (std::size_t i = 1; i <= of.first.size(); ++i) example.rounds.push_back(spelled(above = row(of, i, above)));
    example.answer = number(above.back());
    return example;
  }
};

static_assert(ReasoningTask<EditDistance>);

}  // namespace relay
