// Supervision: what iteration t of T is asked, with what weight, and whether it learns from it. A pure policy; a lambda will do:
//
//   [](int t, int iterations) { return Asked{.round = t, .weight = 1.0 / t, .answer = t == iterations}; }
//
// The loss of one example (the paper's equation, with weights; each mean runs over the iterations that are asked):
//   L = AlignmentLoss::answer_weight L_answer + lambda L_chain,
//   L_chain  = mean over asked rounds of weight * CE(round),
//   L_answer = mean over asked answers of Asked::answer_weight * CE(answer),
//   CE(round) = mean or sum of the cross-entropy over the round's covered positions.
// What is asked but does not learn counts in the mean and adds nothing to it.
#pragma once

#include <algorithm>
#include <concepts>

#include <relay/core/require.hpp>

namespace relay {

struct Asked {
  int round = 0;             // the round the chain head must print, 1 ..; 0: none
  double weight = 1;         // of that round's loss
  bool answer = false;       // whether the answer head is asked
  double answer_weight = 1;  // of the answer's loss, on top of AlignmentLoss::answer_weight
  bool learns = true;        // false: measured, but no gradient
};

template <class S>
concept Supervision = requires(const S& supervision, int t) {
  { supervision(t, t) } -> std::same_as<Asked>;
};

/// The paper's: iteration t prints round t, the last one gives the answer.
struct Aligned {
  Asked operator()(int t, int iterations) const { return {.round = t, .answer = t == iterations}; }
};

/// The vanilla looped model: only the answer is asked, of the last iteration.
struct AnswerOnly {
  Asked operator()(int t, int iterations) const { return {.answer = t == iterations}; }
};

/// Rounds k, 2k, ... and the last one.
struct EveryKthRound {
  int k = 2;
  Asked operator()(int t, int iterations) const {
    require(k >= 1, "every k-th round: k must be at least 1, not ", k);
    return {.round = t % k == 0 || t == iterations ? t : 0, .answer = t == iterations};
  }
};

/// The rounds of the last w iterations.
struct LastIterations {
  int w = 1;
  Asked operator()(int t, int iterations) const {
    return {.round = t > iterations - w ? t : 0, .answer = t == iterations};
  }
};

enum class Normalisation { mean, sum };  // of the cross-entropy over a round's covered positions

struct AlignmentLoss {
  double lambda = 1;         // the chain's weight
  double answer_weight = 1;  // the answer's
  Normalisation over_round = Normalisation::mean;
};

}  // namespace relay
