// What a training step reports: sums over its examples, added lane by lane in a fixed order.
#pragma once

namespace relay {

/// A cross-entropy summed over `count` tokens, `right` of which were the argmax.
struct TokenLoss {
  double sum = 0;
  long count = 0, right = 0;

  void add(double loss, bool correct) {
    sum += loss;
    ++count;
    right += correct ? 1 : 0;
  }
  double mean() const { return count > 0 ? sum / static_cast<double>(count) : 0; }
  double accuracy() const { return count > 0 ? static_cast<double>(right) / static_cast<double>(count) : 0; }
  TokenLoss& operator+=(const TokenLoss& other) {
    sum += other.sum;
    count += other.count;
    right += other.right;
    return *this;
  }
};

struct Losses {
  double objective = 0;            // what the gradient is of
  TokenLoss value, structure;      // tokens of the chain: numbers, and everything else
  TokenLoss answer;

  Losses& operator+=(const Losses& other) {
    objective += other.objective;
    value += other.value;
    structure += other.structure;
    answer += other.answer;
    return *this;
  }
};

}  // namespace relay
