// Arithmetic in a prime field: (1+2)*3=  ->  3*3=  ->  9, one operator a round.
//
// Generator of Feng et al. (arXiv 2305.15408), reduction of RELAY (arXiv 2502.08482): a problem is an expression and
// "="; each round reduces the left-most reducible operator (see expression.hpp) and ends in "=", but the last, which is
// the answer. Length, operators and iterations are the same number. A model of chains writes the rounds one after
// another and <eos>.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <relay/core/random.hpp>
#include <relay/core/require.hpp>
#include <relay/task/example.hpp>
#include <relay/task/expression.hpp>
#include <relay/task/expression_parser.hpp>
#include <relay/task/placement.hpp>

namespace relay {

struct Arithmetic {
  static constexpr std::string_view name = "arithmetic";

  int modulus = 11;  // the size of the field: a prime, 2..997

  void check() const {
    require(modulus >= 2 && modulus <= 997 && expression::is_prime(modulus), "arithmetic: the modulus is ", modulus,
            ", but must be a prime between 2 and 997");
  }

  Vocabulary vocabulary() const {
    check();
    std::vector<std::string> numbers;
    for (int n = 0; n < modulus; ++n) numbers.push_back(std::to_string(n));
    return Vocabulary({"+", "-", "*", "/", "(", ")", "="}, numbers);
  }

  /// A random problem with `length` operators, its rounds and its answer.
  Example generate(int length, Random& random) const {
    using namespace expression;
    check();
    require(length >= 1 && length <= most_operators, "arithmetic: the length is ", length,
            ", but must be a number of operators between 1 and ", most_operators);
    Tokens e;
    e.reserve(static_cast<std::size_t>(3 * length) + 8);
    e.push_back(number(random.below(modulus)));
    for (int numbers = 1; numbers <= length; ++numbers) {
      std::size_t i = 0;  // of the number to replace
      for (int nth = random.below(numbers); !is_number(e[i]) || nth-- > 0;) ++i;
      const auto [a, op, b] = split(e[i] - zero, random);
      const Token before = i > 0 ? e[i - 1] : Vocabulary::pad, after = i + 1 < e.size() ? e[i + 1] : Vocabulary::pad;
      const Token pair[] = {open, number(a), op, number(b), close};
      const std::span<const Token> written =
          needs_brackets(before, op, after) ? std::span(pair) : std::span(pair).subspan(1, 3);
      e[i] = written[0];
      e.insert(e.begin() + static_cast<std::ptrdiff_t>(i) + 1, written.begin() + 1, written.end());
    }
    e.push_back(equals);
    return chain(std::move(e), length);
  }

  /// The rounds and the answer of a problem.
  Example solve(const Tokens& problem) const {
    check();
    const int length = iterations(problem);
    if (length < 1 || length > expression::most_operators || problem.back() != expression::equals ||
        !expression::well_formed(body(problem), modulus))
      fail("arithmetic: the problem \"", print(problem), "\" is no expression of 1 to ", expression::most_operators,
           " operators, with brackets only around operators and '=' at its end: let parse() make it");
    return chain(problem, length);
  }

  /// T: the operators of the problem.
  int iterations(const Tokens& problem) const {
    int operators = 0;
    for (const Token t : problem) operators += expression::is_operator(t);
    return operators;
  }

  /// The problem that a person typed, still to be solved; "=" at its end is optional. Errors point at the character.
  Example parse(std::string_view text) const {
    check();
    expression::Parser parser(text, modulus);
    auto [e, at] = parser.parse();
    Example example;
    example.problem = e;
    example.problem.push_back(expression::equals);
    example.length = example.iterations = iterations(e);
    for (int t = 1; const auto r = expression::leftmost(e); ++t) {  // does a round divide by zero?
      const std::optional<int> v = expression::value(e, *r, modulus);
      if (!v) parser.wrong(at[r->op], "step ", t, " divides by zero: ", print(e), "=");
      e[r->first] = expression::number(*v), at[r->first] = at[r->op];
      const auto first = static_cast<std::ptrdiff_t>(r->first) + 1, last = static_cast<std::ptrdiff_t>(r->last);
      e.erase(e.begin() + first, e.begin() + last), at.erase(at.begin() + first, at.begin() + last);
    }
    return example;
  }

  /// What an auto-regressive model writes after the problem: the rounds, the last of which is the answer, and <eos>.
  Tokens text(const Example& example) const {
    Tokens out;
    text(example, out);
    return out;
  }
  void text(const Example& example, Tokens& out) const {
    out.clear();
    for (std::size_t t = 0; t + 1 < example.rounds.size(); ++t)
      out.insert(out.end(), example.rounds[t].begin(), example.rounds[t].end());
    out.push_back(example.answer);
    out.push_back(Vocabulary::eos);
  }
  std::size_t text_size(const Example& example) const {
    std::size_t size = 2;
    for (std::size_t t = 0; t + 1 < example.rounds.size(); ++t) size += example.rounds[t].size();
    return size;
  }

  /// The inverse of text(), for whatever a model wrote: a round ends after "="; what stands after the last "=", up to
  /// <eos> or the end, is the last round, and its last token the answer (<pad> when nothing stands there).
  Example read(const Example& problem, const Tokens& written) const {
    Example example = problem;
    example.rounds.clear();
    example.answer = Vocabulary::pad;
    Tokens round;
    for (const Token t : written) {
      if (t == Vocabulary::eos) break;
      round.push_back(t);
      if (t == expression::equals) example.rounds.push_back(std::exchange(round, {}));
    }
    if (!round.empty()) {
      example.answer = round.back();
      example.rounds.push_back(std::move(round));
    }
    return example;
  }

  /// Judges each round against the round before it as written, the first against the problem. Where that is no
  /// expression, what should have stood in its place is taken instead: one slip is one wrong step. Never throws,
  /// whatever was written.
  Verdict verify(const Example& written) const {
    Verdict verdict;
    Tokens before = well(written.problem).value_or(Tokens());
    verdict.answer_right = !before.empty() && evaluate(before) == written.answer;
    verdict.complete = static_cast<int>(written.rounds.size()) == iterations(written.problem);
    for (const Tokens& round : written.rounds) {
      std::string why;
      const Tokens expected = next(before, why);  // empty: no round can follow
      const bool right = !expected.empty() && round == expected;
      verdict.steps.push_back({right, right ? "" : expected.empty() ? why : "expected " + print(expected)});
      if (std::optional<Tokens> e = well(round))
        before = std::move(*e);
      else if (!expected.empty())
        before = *well(expected);
    }
    return verdict;
  }

  /// What the last round says.
  Token answer(const Example& written) const {
    return written.rounds.empty() || written.rounds.back().empty() ? Vocabulary::pad : written.rounds.back().back();
  }

  FlushRight placement() const { return {}; }

  /// A round of n operators has 4 n tokens at most, as it has when there are brackets around all but one. It is not arithmetic.
  Example largest(int length) const {
    const auto tokens = [](int n) { return Tokens(static_cast<std::size_t>(n), expression::equals); };
    Example e;
    e.length = e.iterations = length;
    e.problem = tokens(4 * length);
    for (int left = length - 1; left >= 0; --left) e.rounds.push_back(tokens(std::max(1, 4 * left)));
    e.answer = expression::zero;
    return e;
  }

  std::string options() const { return message("modulus=", modulus); }

  /// As people write it: "(1+2)*3=".
  std::string print(const Tokens& tokens) const { return expression::print(tokens); }

 private:
  struct Pair {
    int a;
    Token op;
    int b;
  };

  static std::span<const Token> body(const Tokens& round) {  // without the "=" at its end
    return std::span(round).first(round.size() - (!round.empty() && round.back() == expression::equals));
  }

  /// The expression of a round, if it is one.
  std::optional<Tokens> well(const Tokens& round) const {
    const std::span<const Token> e = body(round);
    if (!expression::well_formed(e, modulus)) return std::nullopt;
    return Tokens(e.begin(), e.end());
  }

  /// a op b = v, uniform but for the draws that have no b.
  Pair split(int v, Random& random) const {
    using namespace expression;
    for (;;) {
      const int a = random.below(modulus);
      const Token op = plus + random.below(4);
      if (op == plus) return {a, op, (v - a + modulus) % modulus};
      if (op == minus) return {a, op, (a - v + modulus) % modulus};
      if (op == times && a != 0) return {a, op, v * inverse(a, modulus) % modulus};
      if (op == times && v == 0) return {a, op, random.below(modulus)};
      if (op == over && a != 0 && v != 0) return {a, op, a * inverse(v, modulus) % modulus};
      if (op == over && a == 0 && v == 0) return {a, op, 1 + random.below(modulus - 1)};
    }
  }

  /// The round with the reduction done: an expression and "=", or the answer alone.
  static Tokens reduced(std::span<const Token> e, expression::Reduction r, int v) {
    Tokens round;
    round.reserve(e.size());
    round.insert(round.end(), e.begin(), e.begin() + static_cast<std::ptrdiff_t>(r.first));
    round.push_back(expression::number(v));
    round.insert(round.end(), e.begin() + static_cast<std::ptrdiff_t>(r.last), e.end());
    if (round.size() > 1) round.push_back(expression::equals);
    return round;
  }

  Example chain(Tokens problem, int length) const {
    Example example;
    example.length = example.iterations = length;
    example.problem = std::move(problem);
    example.rounds.reserve(static_cast<std::size_t>(length));
    for (int t = 1; t <= length; ++t) {
      const Tokens& before = t == 1 ? example.problem : example.rounds.back();
      const auto r = expression::leftmost(body(before));
      const std::optional<int> v = expression::value(before, r.value(), modulus);
      if (!v) fail("arithmetic: step ", t, " of ", print(example.problem), " divides by zero: ", print(before));
      example.rounds.push_back(reduced(body(before), *r, *v));
    }
    example.answer = example.rounds.back().back();
    return example;
  }

  /// The round that follows an expression; empty, and why, when none can.
  Tokens next(const Tokens& e, std::string& why) const {
    const auto r = expression::leftmost(e);
    const std::optional<int> v = r ? expression::value(e, *r, modulus) : std::nullopt;
    if (v) return reduced(e, *r, *v);
    why = r           ? "expected no round: the one before divides by zero, " + print(e)
          : e.empty() ? "expected no round: the problem is no expression"
                      : "expected no round: the one before is the answer, " + print(e);
    return {};
  }

  std::optional<Token> evaluate(Tokens e) const {  // nothing for a division by zero
    while (const auto r = expression::leftmost(e)) {
      const std::optional<int> v = expression::value(e, *r, modulus);
      if (!v) return std::nullopt;
      e[r->first] = expression::number(*v);
      e.erase(e.begin() + static_cast<std::ptrdiff_t>(r->first) + 1, e.begin() + static_cast<std::ptrdiff_t>(r->last));
    }
    return e.front();
  }
};

static_assert(ReasoningTask<Arithmetic>);

}  // namespace relay
