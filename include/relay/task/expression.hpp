// Arithmetic expressions over a prime field, as tokens: what is an expression, what reduces first, what it reduces to.
//
// One form of an expression is written, the generator's (Feng et al., arXiv 2305.15408): brackets only where they are
// needed. The left-most reducible operator has a number on either side; "*" and "/" need no other "*" or "/" just
// before, "+" and "-" stand first in their brackets with no "*" or "/" just after. Reducing it again and again
// evaluates the expression from left to right with the usual precedence, brackets vanish with the operator they hold,
// and after k operators a number is left.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include <relay/task/vocabulary.hpp>

namespace relay::expression {

// The tokens have fixed numbers, so that nothing has to look them up; number n of the field is token zero + n.
inline constexpr Token plus = 3, minus = 4, times = 5, over = 6, open = 7, close = 8, equals = 9, zero = 10;

constexpr bool is_number(Token t) { return t >= zero; }
constexpr bool is_operator(Token t) { return t >= plus && t <= over; }
constexpr bool is_sum(Token t) { return t == plus || t == minus; }
constexpr bool is_product(Token t) { return t == times || t == over; }
constexpr Token number(int n) { return zero + n; }

/// The generator's rule: does "a op b" need brackets between the token before and the token after it?
constexpr bool needs_brackets(Token before, Token op, Token after) {
  return before == over || (is_sum(op) && (is_product(before) || before == minus || is_product(after)));
}

constexpr bool is_prime(int n) {
  for (int d = 2; d * d <= n; ++d)
    if (n % d == 0) return false;
  return n >= 2;
}

/// 1 / a in the field, for a != 0 (Euclid).
constexpr int inverse(int a, int modulus) {
  int r = modulus, next_r = a, x = 0, next_x = 1;
  while (next_r != 0) {
    const int quotient = r / next_r, rest = r - quotient * next_r, y = x - quotient * next_x;
    r = next_r, next_r = rest, x = next_x, next_x = y;
  }
  return x < 0 ? x + modulus : x;
}

/// a op b in the field; nothing for a division by zero.
constexpr std::optional<int> apply(Token op, int a, int b, int modulus) {
  if (op == over && b == 0) return std::nullopt;
  switch (op) {
    case plus:
      return (a + b) % modulus;
    case minus:
      return (a - b + modulus) % modulus;
    case times:
      return a * b % modulus;
    default:
      return a * inverse(b, modulus) % modulus;
  }
}

/// Tokens first .. last-1 become one number; op is the operator, its numbers stand beside it.
struct Reduction {
  std::size_t first = 0, op = 0, last = 0;
};

/// The left-most reducible operator of e (without "="); nothing when e is a number, or no expression.
constexpr std::optional<Reduction> leftmost(std::span<const Token> e) {
  for (std::size_t i = 1; i + 1 < e.size(); ++i) {
    if (!is_operator(e[i]) || !is_number(e[i - 1]) || !is_number(e[i + 1])) continue;
    const Token before = i >= 2 ? e[i - 2] : open, after = i + 2 < e.size() ? e[i + 2] : close;
    if (is_product(e[i]) ? is_product(before) : before != open || is_product(after)) continue;
    if (i >= 2 && before == open && i + 2 < e.size() && after == close) return Reduction{i - 2, i, i + 3};
    return Reduction{i - 1, i, i + 2};
  }
  return std::nullopt;
}

/// What the two numbers beside the operator come to; nothing for a division by zero.
constexpr std::optional<int> value(std::span<const Token> e, Reduction r, int modulus) {
  return apply(e[r.op], e[r.op - 1] - zero, e[r.op + 1] - zero, modulus);
}

/// Can e (without "=") be reduced to one number? Brackets must pair and each pair must hold an operator: "(3)" does
/// not.
inline bool well_formed(std::span<const Token> e, int modulus) {
  std::vector<bool> holds_operator;  // for each open bracket
  bool number_next = true;
  for (const Token t : e) {
    if (number_next) {
      if (t == open) {
        holds_operator.push_back(false);
        continue;
      }
      if (!is_number(t) || t >= zero + modulus) return false;
      number_next = false;
    } else if (is_operator(t)) {
      if (!holds_operator.empty()) holds_operator.back() = true;
      number_next = true;
    } else {
      if (t != close || holds_operator.empty() || !holds_operator.back()) return false;
      holds_operator.pop_back();
    }
  }
  return !number_next && holds_operator.empty();
}

/// As people write it, "(1+2)*3=": spaces only between two numbers, other tokens of the vocabulary in their spelling.
inline std::string print(std::span<const Token> tokens) {
  std::string out;
  Token previous = Vocabulary::pad;
  for (const Token t : tokens) {
    if (is_number(t)) {
      if (is_number(previous)) out += ' ';
      out += std::to_string(t - zero);
    } else {
      constexpr const char* spellings[] = {"<pad>", "<sep>", "<eos>", "+", "-", "*", "/", "(", ")", "="};
      out += t >= 0 ? spellings[t] : "<?>";
    }
    previous = t;
  }
  return out;
}

}  // namespace relay::expression
