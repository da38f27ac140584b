// Reading expressions that people type: text -> tree -> tokens in the one form the generator writes.
//
// Brackets nobody needs are dropped and those that are needed are kept, so the value stays: a*(b/c) becomes a*b/c,
// while a/(b*c) and a-(b-c) stay. Whitespace is free and one "=" may end the expression. An error is one line that
// shows the text and points at the character: expression "1+&": column 3 ('&'): expected ...
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <relay/core/require.hpp>
#include <relay/task/expression.hpp>
#include <relay/task/typed_text.hpp>

namespace relay::expression {

inline constexpr int most_operators = 1000, most_brackets = 200;  // of an expression; open at once

/// The tokens, without "=", and the byte of the text that each stands at.
struct Parsed {
  Tokens tokens;
  std::vector<std::size_t> at;
};

class Parser {
 public:
  /// Numbers are 0 .. modulus-1. The text must outlive the parser.
  Parser(std::string_view text, int modulus) : text_(text), modulus_(modulus) {}

  Parsed parse() {
    space();
    if (at_ == text_.size()) wrong(at_, "the expression is empty: write one such as (1+2)*3");
    const int root = sum();
    if (peek() == ')') wrong(at_, "no '(' is open here: remove this ')' or add a '('");
    if (peek() == '(' || is_digit(peek())) wrong(at_, "expected an operator (+ - * /) between two numbers");
    if (peek() == '=') {
      ++at_;
      space();
      if (at_ < text_.size()) wrong(at_, "expected nothing after '='");
    }
    if (at_ < text_.size()) wrong(at_, "expected an operator (+ - * /) or the end");
    if (nodes_[index(root)].left < 0)
      wrong(nodes_[index(root)].at, "expected at least one operator (+ - * /), as in 1+2");
    Parsed out;
    write(root, Vocabulary::pad, Vocabulary::pad, out);
    return out;
  }

  /// Throws an error that points at a byte of the text.
  template <class... Parts>
  [[noreturn]] void wrong(std::size_t at, const Parts&... parts) const {
    TypedText{"expression", text_}.wrong(at, parts...);
  }

 private:
  struct Node {
    Token token;
    std::size_t at;
    int left = -1, right = -1;  // none: a number
  };

  static constexpr bool is_digit(char c) { return c >= '0' && c <= '9'; }
  static constexpr std::size_t index(int i) { return static_cast<std::size_t>(i); }

  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void space() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') ++at_;
  }
  std::string what() const { return message("a number 0..", modulus_ - 1, " or '('"); }

  int add(Node node) {
    nodes_.push_back(node);
    return static_cast<int>(nodes_.size()) - 1;
  }

  // sum = product { (+|-) product }    product = factor { (*|/) factor }    factor = number | ( sum )
  int sum() {
    int left = product();
    while (peek() == '+' || peek() == '-')
      left = operation(left, peek() == '+' ? plus : minus, [&] { return product(); });
    return left;
  }

  int product() {
    int left = factor();
    while (peek() == '*' || peek() == '/')
      left = operation(left, peek() == '*' ? times : over, [&] { return factor(); });
    return left;
  }

  int operation(int left, Token op, auto&& read_right) {
    const std::size_t at = at_;
    if (++operators_ > most_operators) wrong(at, "more than ", most_operators, " operators: shorten the expression");
    ++at_;
    space();
    const int right = read_right();
    return add({op, at, left, right});
  }

  int factor() {
    const std::size_t start = at_;
    if (is_digit(peek())) {
      int n = 0;
      for (; is_digit(peek()); ++at_) n = n < modulus_ ? n * 10 + (peek() - '0') : n;
      if (n >= modulus_)
        wrong(start, "the number is too large: expected 0..", modulus_ - 1, " (modulus ", modulus_, ")");
      space();
      return add({number(n), start});
    }
    if (peek() != '(') {
      if (peek() == '-') wrong(start, "expected ", what(), ": there is no minus sign, write 0-3 for -3");
      wrong(start, "expected ", what());
    }
    if (open_ == most_brackets)
      wrong(start, "more than ", most_brackets, " brackets open at once: remove those that are not needed");
    ++open_;
    ++at_;
    space();
    const int inside = sum();
    if (peek() != ')') {
      if (peek() == '(' || is_digit(peek())) wrong(at_, "expected an operator (+ - * /) between two numbers");
      wrong(at_, "expected ')' or an operator: the '(' of column ", TypedText{"", text_}.column(start), " is still open");
    }
    --open_;
    ++at_;
    space();
    return inside;
  }

  /// As the generator would have written it between these two tokens.
  void write(int i, Token before, Token after, Parsed& out) const {
    const Node& node = nodes_[index(i)];
    const auto put = [&](Token token) { out.tokens.push_back(token), out.at.push_back(node.at); };
    if (node.left < 0) return put(node.token);
    const bool brackets = needs_brackets(before, node.token, after);
    if (brackets) put(open), before = open, after = close;
    write(node.left, before, node.token, out);
    put(node.token);
    write(node.right, node.token, after, out);
    if (brackets) put(close);
  }

  std::string_view text_;
  int modulus_;
  std::size_t at_ = 0;
  int operators_ = 0, open_ = 0;
  std::vector<Node> nodes_;
};

}  // namespace relay::expression
