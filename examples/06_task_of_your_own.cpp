// A task of one's own: running sums modulo 5. Round t adds the number at the front to the one after it.
//
//   problem   3 1 4 2      rounds   4 4 2,  3 2,  0      answer   0
//
// The looped model is trained on 1..8 additions and solves 9 and 10, too: it learns the step, and the loop repeats it. A round
// lies flush right in the model's row, as in the paper; a task whose values belong elsewhere gives loop_objective and solve an
// AtColumns (task/placement.hpp).
#include <cstdio>

#include <relay/relay.hpp>

using namespace relay;

struct RunningSum {
  static constexpr std::string_view name = "running_sum";
  static constexpr int modulus = 5;

  Vocabulary vocabulary() const { return Vocabulary({}, {"0", "1", "2", "3", "4"}); }

  /// `length` additions. An example depends on the length and the random stream, and on nothing else.
  Example generate(int length, Random& random) const {
    const Token zero = vocabulary().first_value();
    Example e;
    e.length = e.iterations = length;  // T, the number of rounds, must be known from the problem alone
    for (int i = 0; i <= length; ++i) e.problem.push_back(zero + random.below(modulus));
    for (Tokens row = e.problem; row.size() > 1;) {
      row[1] = zero + (row[0] - zero + row[1] - zero) % modulus;
      row.erase(row.begin());
      e.rounds.push_back(row);
    }
    e.answer = e.rounds.back().front();
    return e;
  }

  /// What an auto-regressive model would write after the problem: the rounds, <sep> between them, <eos>.
  Tokens text(const Example& e) const {
    Tokens out;
    for (const Tokens& round : e.rounds) {
      out.insert(out.end(), round.begin(), round.end());
      out.push_back(&round == &e.rounds.back() ? Vocabulary::eos : Vocabulary::sep);
    }
    return out;
  }

  /// The inverse of text(), for whatever a model wrote.
  Example read(const Example& problem, const Tokens& text) const {
    Example e = problem;
    e.rounds.assign(1, {});
    for (const Token t : text) {
      if (t == Vocabulary::eos) break;
      if (t == Vocabulary::sep) e.rounds.emplace_back();
      else e.rounds.back().push_back(t);
    }
    e.answer = e.rounds.back().empty() ? Vocabulary::pad : e.rounds.back().back();
    return e;
  }
};
static_assert(Task<RunningSum>);

int main() {
  const RunningSum task;
  const Vocabulary vocabulary = task.vocabulary();
  LoopedTransformer<Cpu<float>> model({.width = 32, .layers = 2, .heads = 4, .rotary_base = 100, .query_key_bias = 1.5},
                                      {.normalise = true}, vocabulary.size(), Seed{1});
  const auto objective = loop_objective(model, Aligned{}, {.answer_weight = 0.1, .over_round = Normalisation::sum});
  const int steps = 600;
  Threads threads(2);
  Trainer trainer(model, objective, {.rate = 6e-3}, {.steps = steps}, Seed{1}, threads);
  trainer.fit(ExampleStream(task, {.shortest = 1, .longest = 8}, 32, Key(1)), steps, Progress("running sums", 0, steps));

  double answer[11] = {};
  for (const int length : {2, 5, 8, 9, 10}) {
    const auto examples = examples_of_length(task, length, 200, Key(2), Split::test);
    const Accuracy a = accuracy(solve_looped(model, std::span(examples), threads), examples);
    answer[length] = a.answer();
    std::printf("%2d additions: answer %.3f  chain %.3f%s\n", length, a.answer(), a.chain(), length > 8 ? "  never trained on" : "");
  }
  Random random(Key(3));
  const Example chain = solve(model, task.generate(9, random));
  std::printf("\n  %s\n", vocabulary.spell(chain.problem).c_str());
  for (const Tokens& round : chain.rounds)
    std::printf("  %*s\n", static_cast<int>(2 * chain.problem.size()) - 1, vocabulary.spell(round).c_str());
  const bool inverse = task.read(chain, task.text(chain)) == chain;
  return inverse && answer[8] > 0.95 && (answer[9] + answer[10]) / 2 > 0.7 ? 0 : 1;
}
