// Which rows the last layer must give: where nobody reads the others any more, it need not compute them.
#pragma once

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include <relay/core/ragged.hpp>
#include <relay/train/asked_rows.hpp>

namespace relay {

/// The rows that the last layer must give in each iteration: those of sequences that go on, and of those that end what is asked about. The others
/// are left out where they are many enough.
class NeededRows {
 public:
  using Index = Questions::Index;

  void start(int iterations) {
    firsts_.assign(1, 0);
    firsts_.reserve(static_cast<std::size_t>(iterations) + 1);
    rows_.clear();
  }
  /// Of iteration t, the next, which has so many rows, the first `going_on` of them needed by the next one. The questions then count among
  /// the rows that are needed.
  void need(int t, int going_on, int rows, auto&... questions) {
    const std::size_t first = rows_.size();
    for (Index row = 0; row < going_on; ++row) rows_.push_back(row);
    const auto ask = [&](const std::vector<Index>& asked) {
      std::copy_if(asked.begin(), asked.end(), std::back_inserter(rows_), [&](Index row) { return row >= going_on; });
    };
    (ask(questions.rows(t)), ...);
    const auto others = rows_.begin() + static_cast<std::ptrdiff_t>(first) + going_on;
    std::sort(others, rows_.end());
    rows_.erase(std::unique(others, rows_.end()), rows_.end());
    const auto needed = static_cast<int>(rows_.size() - first);
    if (needed == 0 || needed == rows || least_part * (rows - needed) < rows) {
      rows_.resize(first);
    } else {
      const auto place = [&](Index& row) {
        if (row >= going_on) row = static_cast<Index>(std::lower_bound(others, rows_.end(), row) - others) + going_on;
      };
      (std::for_each(questions.rows(t).begin(), questions.rows(t).end(), place), ...);
    }
    firsts_.push_back(static_cast<int>(rows_.size()));
  }

  /// Of iteration t, the next: all of them, as if they were some. Nothing that need() leaves takes more memory.
  void need_all(int rows) {
    for (Index row = 0; row < rows; ++row) rows_.push_back(row);
    firsts_.push_back(static_cast<int>(rows_.size()));
  }

  /// Of the iterations that have been given, one after another: none where no row is left out.
  const std::vector<Index>& rows() const { return rows_; }
  const std::vector<int>& firsts() const { return firsts_; }
  int count(int t) const {
    const auto i = static_cast<std::size_t>(t);
    return i < firsts_.size() ? firsts_[i] - firsts_[i - 1] : 0;
  }

 private:
  static constexpr long least_part = 8;  // an eighth: those that are needed are copied some times
  std::vector<Index> rows_;
  std::vector<int> firsts_{0};
};

}  // namespace relay
