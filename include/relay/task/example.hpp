// The nouns of a reasoning task: a problem, the rounds of its chain of thought, its answer; and what a Task must offer.
//
// A task knows tokens and nothing of tensors. Its examples are pure functions of a random stream.
#pragma once

#include <algorithm>
#include <concepts>
#include <string>
#include <string_view>
#include <vector>

#include <relay/core/random.hpp>
#include <relay/task/vocabulary.hpp>

namespace relay {

/// A problem x, its chain z_1 .. z_T and its answer y. A problem still to be solved has no rounds and answer <pad>.
struct Example {
  int length = 0;               // the task's measure of size (arithmetic: operators)
  int iterations = 0;           // T, the oracle complexity: known from the problem alone
  int width = 0;                // columns of a row of the looped model; at least as many as problem tokens
  Tokens problem;
  std::vector<Tokens> rounds;   // rounds[t - 1] is what iteration t is aligned with
  Token answer = Vocabulary::pad;
  int task = 0;                 // of a mixture: which of its tasks
  double weight = 1;            // of its loss among a batch's

  int columns() const { return std::max(width, static_cast<int>(problem.size())); }
  bool operator==(const Example&) const = default;
};

/// One step of a chain, judged.
struct Step {
  bool right = true;
  std::string why;              // empty when right: what should stand there
};

/// A chain judged step by step: each round against the round before it *as written*, so one slip is one wrong step.
struct Verdict {
  std::vector<Step> steps;      // one per round
  bool answer_right = false;    // against the truth, not against the chain
  bool complete = false;        // as many rounds as the problem needs
  bool known = true;            // false: nobody knows the truth, and of the above only `complete` means anything

  bool right() const {
    if (!answer_right || !complete) return false;
    for (const Step& s : steps)
      if (!s.right) return false;
    return true;
  }
};

/// The text of a chain whose rounds show where they end: the rounds, <sep>, the answer and <eos>.
inline void write_rounds_and_answer(const Example& example, Tokens& out) {
  out.clear();
  for (const Tokens& round : example.rounds) out.insert(out.end(), round.begin(), round.end());
  out.insert(out.end(), {Vocabulary::sep, example.answer, Vocabulary::eos});
}
inline std::size_t size_of_rounds_and_answer(const Example& example) {
  std::size_t size = 3;
  for (const Tokens& round : example.rounds) size += round.size();
  return size;
}

/// How chains are written: `text(example)` is what an auto-regressive model writes after the problem, <eos> at its end;
/// `read(problem, text)` is its inverse and never throws on what a model might have written. So that a step of training asks for
/// no memory there may also be `text(example, tokens)`, which writes the text where there are tokens already, and
/// `text_size(example)`.
template <class T>
concept ChainText = requires(const T& task, const Example& example, const Tokens& tokens) {
  { task.vocabulary() } -> std::convertible_to<Vocabulary>;
  { task.text(example) } -> std::same_as<Tokens>;
  { task.read(example, tokens) } -> std::same_as<Example>;
};

/// A task that models can be trained on. Promises:
///  1. `generate(length, random)` draws an example of exactly that length; it depends on nothing else.
///  2. `text` and `read` are a ChainText.
///  3. Every token is in `vocabulary()`.
template <class T>
concept Task = ChainText<T> && requires(const T& task, Random& random) {
  { task.name } -> std::convertible_to<std::string_view>;
  { task.generate(1, random) } -> std::same_as<Example>;
};

/// A task that the whole pipeline can be run on. Promises, on top of Task's:
///  4. `parse(text)` is the problem that a person typed, still to be solved: its length and iterations are known, its rounds
///     and answer are not. Errors say what is wrong and where.
///  5. `solve(problem)` gives a problem's true rounds and answer.
///  6. `verify(written)` judges a chain, whatever a model wrote, and never throws.
///  7. `answer(written)` is the answer that the rounds themselves give, <pad> where they give none.
///  8. `placement()` says where the looped model's rows have a round's tokens (task/placement.hpp).
///  9. `largest(length)` is as large as any example of that length, in columns, iterations and text; only its size is of interest.
/// 10. `options()` names what its examples depend on besides their length: "modulus=5".
template <class T>
concept ReasoningTask = Task<T> && requires(const T& task, const Example& example, std::string_view text, const Tokens& tokens, Tokens& out) {
  task.text(example, out);
  { task.text_size(example) } -> std::same_as<std::size_t>;
  { task.parse(text) } -> std::same_as<Example>;
  { task.solve(tokens) } -> std::same_as<Example>;
  { task.verify(example) } -> std::same_as<Verdict>;
  { task.answer(example) } -> std::same_as<Token>;
  { task.print(tokens) } -> std::same_as<std::string>;
  task.placement();
  { task.largest(1) } -> std::same_as<Example>;
  { task.options() } -> std::same_as<std::string>;
};

}  // namespace relay
