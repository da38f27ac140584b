// How good chains are: the answer, the whole chain, and the tokens of its rounds.
#pragma once

#include <algorithm>
#include <span>

#include <relay/pipeline/solve.hpp>

namespace relay {

struct Accuracy {
  long samples = 0;
  long answers = 0;               // answer right
  long chains = 0;                // every round and the answer right
  long tokens = 0, token_count = 0;  // tokens right, each round laid flush right on the true one

  double answer() const { return ratio(answers, samples); }
  double chain() const { return ratio(chains, samples); }
  double token() const { return ratio(tokens, token_count); }

  void add(const Example& written, const Example& truth) {
    ++samples;
    const bool answer_right = written.answer == truth.answer;
    answers += answer_right ? 1 : 0;
    chains += answer_right && written.rounds == truth.rounds ? 1 : 0;
    for (std::size_t t = 0; t < truth.rounds.size(); ++t) {
      const Tokens& wanted = truth.rounds[t];
      token_count += static_cast<long>(wanted.size());
      if (t >= written.rounds.size()) continue;
      const Tokens& got = written.rounds[t];
      for (std::size_t i = 1; i <= std::min(wanted.size(), got.size()); ++i)
        tokens += wanted[wanted.size() - i] == got[got.size() - i] ? 1 : 0;
    }
  }

 private:
  static double ratio(long part, long whole) { return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0; }
};

inline Accuracy accuracy(std::span<const Solution> written, std::span<const Example> truth) {
  require(written.size() == truth.size(), "accuracy of ", written.size(), " chains against ", truth.size(), " examples");
  Accuracy result;
  for (std::size_t i = 0; i < truth.size(); ++i) result.add(written[i].example, truth[i]);
  return result;
}

}  // namespace relay
