// Where the tokens of a round lie in the looped model's row, for training and for reading a chain back.
//
// FlushRight is the paper's: the round ends at the last column, <pad> to its left; the last of these pads is part of the
// target, since it marks where the round begins. The others are asked nothing.
//
//   columns   3  *  2  +  6  /  3  =
//   round 1   .  P  6  +  6  /  3  =        "." not asked     "P" the covered <pad>
//
// AtColumns puts a task's values at columns that the task names from the problem alone.
#pragma once

#include <functional>
#include <span>

#include <relay/task/example.hpp>

namespace relay {

/// One token of a round at one column of the row.
struct Placed {
  int column;
  Token token;
};

/// Promises: `place` and `read` are inverse on every round that fits the row; `read` takes whatever a model may have printed; and
/// `columns` names those that a round lies at, also one that was read and makes no sense. A placement may also fill a list that is there already,
/// `place(example, round, placed)`, so that a step of training asks for no memory.
template <class P>
concept Placement = requires(const P& placement, const Example& example, int round, std::span<const Token> row) {
  { placement.place(example, round) } -> std::same_as<std::vector<Placed>>;
  { placement.read(example, round, row) } -> std::same_as<Tokens>;
  { placement.columns(example, round) } -> std::same_as<std::vector<int>>;
};

struct FlushRight {
  /// Round 1 .. rounds.size(); its tokens and, where there is room, the <pad> before them.
  std::vector<Placed> place(const Example& example, int round) const {
    std::vector<Placed> placed;
    place(example, round, placed);
    return placed;
  }
  void place(const Example& example, int round, std::vector<Placed>& placed) const {
    const Tokens& tokens = example.rounds[static_cast<std::size_t>(round - 1)];
    const int columns = example.columns(), first = columns - static_cast<int>(tokens.size());
    require(first >= 0, "round ", round, " has ", tokens.size(), " tokens but the row only ", columns,
            " columns: set Example::width to the longest round");
    placed.clear();
    if (first > 0) placed.push_back({first - 1, Vocabulary::pad});
    for (std::size_t i = 0; i < tokens.size(); ++i) placed.push_back({first + static_cast<int>(i), tokens[i]});
  }

  std::vector<int> columns(const Example& example, int round) const {
    const int size = static_cast<int>(example.rounds[static_cast<std::size_t>(round - 1)].size());
    std::vector<int> columns;
    for (int c = std::max(0, example.columns() - size - 1); c < example.columns(); ++c) columns.push_back(c);
    return columns;
  }

  /// From the right end to the first <pad>.
  Tokens read(const Example&, int, std::span<const Token> row) const {
    std::size_t first = row.size();
    while (first > 0 && row[first - 1] != Vocabulary::pad) --first;
    return Tokens(row.begin() + static_cast<std::ptrdiff_t>(first), row.end());
  }
};

struct AtColumns {
  /// The columns of round t's tokens, from the problem alone, in the tokens' order.
  std::function<std::vector<int>(const Example&, int)> columns;

  std::vector<Placed> place(const Example& example, int round) const {
    const Tokens& tokens = example.rounds[static_cast<std::size_t>(round - 1)];
    const std::vector<int> where = columns(example, round);
    require(where.size() == tokens.size(), "round ", round, " has ", tokens.size(), " tokens but the task names ", where.size(),
            " columns for them");
    std::vector<Placed> placed;
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      require(where[i] >= 0 && where[i] < example.columns(), "round ", round, " names column ", where[i], " of a row of ",
              example.columns());
      placed.push_back({where[i], tokens[i]});
    }
    return placed;
  }

  Tokens read(const Example& example, int round, std::span<const Token> row) const {
    Tokens tokens;
    for (const int column : columns(example, round)) tokens.push_back(row[static_cast<std::size_t>(column)]);
    return tokens;
  }
};

static_assert(Placement<FlushRight> && Placement<AtColumns>);

}  // namespace relay
