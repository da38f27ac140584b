// Reading chains out of models. The looped model prints one round per iteration, in parallel; the auto-regressive model writes
// the rounds token by token. Both give an Example: the rounds as written, right or wrong, and the answer.
//
// Problems are cut into groups. On the CPU no bit of a row depends on others of its group, so chains depend on neither groups nor threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include <relay/core/threads.hpp>
#include <relay/model/generate.hpp>
#include <relay/model/looped_transformer.hpp>
#include <relay/task/example.hpp>
#include <relay/task/mixture.hpp>
#include <relay/task/placement.hpp>

namespace relay {

/// What a model made of a problem: the chain as it wrote it.
struct Solution {
  Example example;        // the problem with the model's rounds and answer
  double confidence = 1;  // the least probability that the model gave to one of the tokens that were read
  double rounds_confidence = 1;  // the same without the answer head (looped models)
  bool cut = false;       // the model's limit of positions came before <eos> (auto-regressive models)
};

namespace detail {

/// Calls solve(first, count, device) for every group of at most `group` problems: one after another on each thread that the device has
/// use for, or, where there are fewer problems than threads, all threads on each, if that is worth their while, else a thread each. `work`: about
/// what one product takes, in multiplications. To hand a part over and back takes about as long as some ten thousand.
template <class Backend>
void by_group(std::size_t problems, std::size_t group, Threads& threads, long work, auto&& solve) {
  constexpr long worth_while = 1 << 18;
  const auto divided = [](std::size_t a, std::size_t b) { return (a + b - 1) / b; };
  const auto count = Backend::in_order ? std::size_t{1} : static_cast<std::size_t>(threads.count());
  group = std::clamp<std::size_t>(divided(problems, count), 1, group);
  std::atomic<std::size_t> next = 0;
  const auto run = [&](Threads* shared) {  // whatever groups are left, in the same memory
    typename Backend::Memory memory;
    try {
      for (std::size_t first; (first = group * next++) < problems;)
        solve(first, std::min(group, problems - first), typename Backend::Device{&memory, shared});
    } catch (...) {
      next = problems;  // the other threads need not go on
      throw;
    }
  };
  if (problems >= count || work < worth_while)
    threads.run(static_cast<int>(std::min(count, problems)), [&](int) { run(nullptr); });
  else
    run(&threads);
}

/// The chains of one group of problems, whose iterations are sorted, most first.
template <class Model, Placement P>
void read_iterations(const Model& model, std::span<Solution> chains, const P& placement, typename Model::Backend::Device device) {
  using Backend = typename Model::Backend;
  std::vector<int> lengths, counts;
  std::vector<std::int32_t> tokens;
  for (const Solution& c : chains) {
    const Example& e = c.example;
    lengths.push_back(e.columns());
    counts.push_back(e.iterations);
    tokens.insert(tokens.end(), static_cast<std::size_t>(e.columns()) - e.problem.size(), Vocabulary::pad);
    tokens.insert(tokens.end(), e.problem.begin(), e.problem.end());
  }
  const Ragged<Backend> batch(lengths, device);
  const Rows<Backend> rows(batch);
  typename Embedding<Backend>::Trace embedded;
  typename Model::Loop::Trace trace;
  trace.keep = Keep::nothing;
  typename Backend::Tensor logits, last, answers;
  std::vector<std::int32_t> best, best_answer, ends;
  std::vector<double> probability, answer_probability;
  for (int s = 0; s < batch.sequences(); ++s) ends.push_back(batch.end(s) - 1);
  model.embedding.require_known(tokens);
  const auto& h0 = model.embedding.forward(Backend::indices(tokens, device), rows, embedded);
  model.loop.forward(h0, rows, counts, trace, [&](int t, const auto& live, const auto& y) {
    Backend::logits(y, model.chain_head.weight, model.chain_head.bias, logits);
    Backend::argmax(logits, best, probability);
    const std::span<const std::int32_t> columns(best);
    const std::vector<std::int32_t> last_rows(ends.begin(), ends.begin() + live.sequences());
    last.resize_like(y, live.sequences(), y.cols());
    Backend::gather_rows(y, Backend::indices(last_rows, device), 0, last);
    Backend::logits(last, model.answer_head.weight, model.answer_head.bias, answers);
    Backend::argmax(answers, best_answer, answer_probability);
    for (int s = 0; s < live.sequences(); ++s) {
      Solution& c = chains[static_cast<std::size_t>(s)];
      const auto row = columns.subspan(static_cast<std::size_t>(live.begin(s)), static_cast<std::size_t>(lengths[static_cast<std::size_t>(s)]));
      c.example.rounds.push_back(placement.read(c.example, t, row));
      const auto first = static_cast<std::size_t>(live.begin(s));
      for (const int column : placement.columns(c.example, t))
        c.rounds_confidence = std::min(c.rounds_confidence, probability[first + static_cast<std::size_t>(column)]);
      if (t == c.example.iterations) {
        c.example.answer = best_answer[static_cast<std::size_t>(s)];
        c.confidence = std::min(c.rounds_confidence, answer_probability[static_cast<std::size_t>(s)]);
      }
    }
  }, model.feedback());
}

}  // namespace detail

/// The chains that a looped model writes: T iterations each, T known from the problem. `problems` need no rounds or answer.
template <class Model, Placement P = FlushRight>
std::vector<Solution> solve_looped(const Model& model, std::span<const Example> problems, Threads& threads, const P& placement = {}) {
  using Backend = typename Model::Backend;
  std::vector<std::size_t> order(problems.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return problems[a].iterations > problems[b].iterations; });
  std::vector<Solution> sorted(problems.size());
  for (std::size_t i = 0; i < order.size(); ++i) {
    sorted[i].example = problems[order[i]];
    sorted[i].example.rounds.clear();
    sorted[i].example.answer = Vocabulary::pad;
  }
  int columns = 1;
  for (const Example& e : problems) columns = std::max(columns, e.columns());
  const auto group = static_cast<std::size_t>(std::max(1, Backend::rows_at_once(model.chain_head.inputs(), typename Backend::Device{}) / columns));
  const long width = model.chain_head.inputs();
  detail::by_group<Backend>(problems.size(), group, threads, columns * width * width, [&](std::size_t first, std::size_t count, auto device) {
    detail::read_iterations(model, std::span(sorted).subspan(first, count), placement, device);
  });
  std::vector<Solution> chains(problems.size());
  for (std::size_t i = 0; i < order.size(); ++i) chains[order[i]] = std::move(sorted[i]);
  return chains;
}

/// The chains that an auto-regressive model writes after each problem, greedily. It may write at most as many tokens as a
/// chain of full rows would have; where the model's positions end before that, and before <eos>, the chain is marked as cut.
template <class Model, ChainText TaskT>
std::vector<Solution> solve_causal(const Model& model, std::span<const Example> problems, Threads& threads, const TaskT& task) {
  using Backend = typename Model::Backend;
  std::vector<Solution> chains(problems.size());
  // A queue that generation refills its batch from, and not all of them, so that threads end together.
  constexpr std::size_t group = 128;
  constexpr long reading = 16;  // an element of the weights, which a step is about, takes as long as so many multiplications
  const long width = model.head.inputs();
  detail::by_group<Backend>(problems.size(), group, threads, reading * width * width, [&](std::size_t first, std::size_t count, auto device) {
    std::vector<Tokens> prompts;
    const auto room = [](const Example& e) { return e.columns() * (e.iterations + 1); };
    int most = 1;
    for (const Example& e : problems.subspan(first, count)) {
      require(static_cast<int>(e.problem.size()) < model.positions(), "a problem of ", e.problem.size(),
              " tokens leaves the auto-regressive model no room: its limit is ", model.positions(), " tokens");
      prompts.push_back(e.problem);
      most = std::max(most, room(e));
    }
    const GenerateConfig config{.new_tokens = most, .stop = Vocabulary::eos};
    std::vector<bool> stopped;
    std::vector<std::vector<double>> probabilities;
    const auto written = generate(model, std::span<const Tokens>(prompts), config, device, &stopped, &probabilities);
    for (std::size_t i = 0; i < count; ++i) {
      const Example& e = problems[first + i];
      const auto own = static_cast<std::size_t>(room(e));
      Tokens text = written[i];  // a chain does not depend on the room that another in its group was given
      text.resize(std::min(text.size(), own));
      chains[first + i].cut = !stopped[i] && text.size() < own;
      const auto& all = probabilities[i];  // what was written beyond its own room does not count, <eos> neither
      const auto read = all.begin() + static_cast<std::ptrdiff_t>(std::min(all.size(), own));
      if (read != all.begin()) chains[first + i].confidence = *std::min_element(all.begin(), read);
      chains[first + i].example = task.read(e, text);
    }
  });
  return chains;
}

/// One problem, one chain, on the calling thread.
template <class Model, Placement P = FlushRight>
  requires requires(const Model& model) { model.loop; }
Example solve(const Model& model, const Example& problem, const P& placement = {}) {
  Threads alone(1);
  return solve_looped(model, std::span(&problem, 1), alone, placement).front().example;
}

/// The chain as text, a line per round and one for the answer, each judged by the task's verifier.
inline std::string chain_text(const Verdict& verdict, const Example& chain, auto&& print) {
  std::string out;
  const auto line = [&](std::string begin, const Tokens& tokens, bool right, const std::string& why) {
    begin += print(tokens) + " ";
    out += begin + std::string(begin.size() < 47 ? 47 - begin.size() : 0, ' ');
    out += (right ? "right" : verdict.known ? "WRONG" + why : "not known") + "\n";
  };
  for (std::size_t t = 0; t < chain.rounds.size(); ++t) {
    const std::string number = std::to_string(t + 1);
    line((number.size() < 2 ? "   " : "  ") + number + "  ", chain.rounds[t], verdict.steps[t].right, ": " + verdict.steps[t].why);
  }
  line("  answer ", {chain.answer}, verdict.answer_right, "");
  return out;
}
template <Task TaskT>
  requires requires(const TaskT& task, const Example& chain) {
    { task.verify(chain) } -> std::same_as<Verdict>;
    { task.print(chain.problem) } -> std::same_as<std::string>;
  }
std::string chain_text(const TaskT& task, const Example& chain) {
  return chain_text(task.verify(chain), chain, [&](const Tokens& tokens) { return task.print(tokens); });
}
inline std::string chain_text(const Mixture& mixture, const Example& chain) {
  return chain_text(mixture.verify(chain), chain, [&](const Tokens& tokens) { return mixture.print(chain.task, tokens); });
}

}  // namespace relay
