// The tokens of a task: spelling <-> number, and which of them are values (numbers) rather than structure.
//
// The first three tokens of every vocabulary are the pad, the separator and the end: <pad>, <sep> and <eos>, but where a task spells its
// separator another way. Values come last, so "is it a value" is one
// comparison; metrics report the loss of value and structure tokens apart, because a flat value loss beside a perfect
// structure loss is how a looped model shows that it has learned to copy but not yet to compute.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <relay/core/require.hpp>

namespace relay {

using Token = std::int32_t;
using Tokens = std::vector<Token>;

class Vocabulary {
 public:
  static constexpr Token pad = 0, sep = 1, eos = 2;

  Vocabulary(const std::vector<std::string>& structure, const std::vector<std::string>& values, std::string separator = "<sep>")
      : spellings_{"<pad>", std::move(separator), "<eos>"} {
    spellings_.insert(spellings_.end(), structure.begin(), structure.end());
    first_value_ = static_cast<Token>(spellings_.size());
    spellings_.insert(spellings_.end(), values.begin(), values.end());
    for (std::size_t i = 0; i < spellings_.size(); ++i)
      require(tokens_.emplace(spellings_[i], static_cast<Token>(i)).second, "the vocabulary has the token '", spellings_[i],
              "' twice: give each token its own spelling");
  }

  int size() const { return static_cast<int>(spellings_.size()); }
  bool contains(std::string_view spelling) const { return tokens_.count(std::string(spelling)) != 0; }
  bool is_value(Token token) const { return token >= first_value_; }
  Token first_value() const { return first_value_; }
  /// The number that a spelling of digits stands for.
  static std::optional<long> number(std::string_view spelling) {
    long value = 0;
    const auto [end, error] = std::from_chars(spelling.data(), spelling.data() + spelling.size(), value);
    if (error != std::errc() || end != spelling.data() + spelling.size() || spelling.front() == '-') return std::nullopt;
    return value;
  }
  const std::vector<std::string>& spellings() const { return spellings_; }

  /// The token spelled so; throws for an unknown one.
  Token token(std::string_view spelling) const {
    const auto found = tokens_.find(std::string(spelling));
    require(found != tokens_.end(), "the vocabulary has no token '", spelling, "'");
    return found->second;
  }

  const std::string& spelling(Token token) const {
    require(token >= 0 && token < size(), "token ", token, " is outside the vocabulary of ", size(), " tokens");
    return spellings_[static_cast<std::size_t>(token)];
  }

  /// All spellings with `between` between them.
  std::string spell(std::span<const Token> tokens, std::string_view between = " ") const {
    std::string out;
    for (const Token t : tokens) {
      if (!out.empty()) out += between;
      out += spelling(t);
    }
    return out;
  }

 private:
  std::vector<std::string> spellings_;
  std::unordered_map<std::string, Token> tokens_;
  Token first_value_ = 0;
};

}  // namespace relay
