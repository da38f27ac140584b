// The objective of an auto-regressive model: cross-entropy of every token after the problem, given all before it.
//
// The loss is a mean over the tokens of the batch, each with its example's weight. What the model reads is the problem and the task's text of the chain.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include <relay/model/causal_transformer.hpp>
#include <relay/task/example.hpp>
#include <relay/train/asked_rows.hpp>
#include <relay/train/loss.hpp>

namespace relay {

template <class Model, ChainText TaskT>
class NextToken {
 public:
  using Backend = typename Model::Backend;
  using Tensor = typename Backend::Tensor;
  struct Workspace {
    explicit Workspace(typename Backend::Device on) : device(on), batch({}, on) {}
    typename Backend::Device device;
    Tokens text, last;  // of an example; the token that each text ends with, which is not read
    std::vector<int> lengths;
    std::vector<std::int32_t> tokens;
    Ragged<Backend> batch;
    typename Backend::Indices x;
    typename Model::Trace trace;
    AskedRows<Backend> asked;
    Tensor dstate;
  };

  explicit NextToken(TaskT task) : task_(std::move(task)), first_value_(task_.vocabulary().first_value()) {}

  /// The loss is a mean over tokens: each counts as its example's weight.
  double size(const Example& example) const { return example.weight * static_cast<double>(text_size(example)); }
  double cost(const Example& example) const { return static_cast<double>(example.problem.size() + text_size(example)); }

  /// Adds the gradient of sum(loss of tokens) / total to `grad`.
  Losses operator()(const Model& model, std::span<const Example* const> examples, double total, std::optional<Key> dropout,
                    Workspace& w, Model& grad) const {
    w.lengths.clear();
    w.tokens.clear();
    w.last.clear();
    for (const Example* e : examples) {
      if constexpr (requires { task_.text(*e, w.text); })
        task_.text(*e, w.text);
      else
        w.text = task_.text(*e);
      w.tokens.insert(w.tokens.end(), e->problem.begin(), e->problem.end());
      w.tokens.insert(w.tokens.end(), w.text.begin(), w.text.end() - 1);
      w.lengths.push_back(static_cast<int>(e->problem.size() + w.text.size()) - 1);
      w.last.push_back(w.text.back());
    }
    w.batch.assign(w.lengths);
    const Rows<Backend> rows(w.batch, dropout);
    Backend::indices_to(w.tokens, w.device, w.x);
    const Tensor& states = model.forward(w.x, rows, w.trace);

    // What is asked is worked out while the device computes: of each row from a problem's last on, the token that is read next.
    w.asked.start(1);
    for (std::size_t s = 0; s < examples.size(); ++s) {
      const Example& e = *examples[s];
      const int end = rows.end(static_cast<int>(s)) - 1;
      for (int row = rows.begin(static_cast<int>(s)) + static_cast<int>(e.problem.size()) - 1; row < end; ++row)
        w.asked.ask(1, row, w.tokens[static_cast<std::size_t>(row) + 1], e.weight / total);
      w.asked.ask(1, end, w.last[s], e.weight / total);
    }
    w.asked.finish(w.device, model.head.inputs());
    w.asked.gather(1, states);
    w.asked.learn(model.head, grad.head);
    w.dstate.resize(rows.count(), model.head.inputs(), w.device);
    Backend::fill(w.dstate, 0);
    w.asked.scatter(1, w.dstate);
    model.backward(w.x, rows, w.trace, w.dstate, grad);
    Losses losses;
    w.asked.read([&](Token target, double weight, double loss, bool right) {
      losses.objective += weight * loss;
      (target >= first_value_ ? losses.value : losses.structure).add(loss, right);
    });
    return losses;
  }

 private:
  std::size_t text_size(const Example& example) const {
    if constexpr (requires { task_.text_size(example); })
      return task_.text_size(example);
    else
      return task_.text(example).size();
  }

  TaskT task_;
  Token first_value_;
};

}  // namespace relay
