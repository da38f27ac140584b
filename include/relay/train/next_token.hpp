// The objective of an auto-regressive model: cross-entropy of every token after the problem, given all before it.
//
// The loss is a mean over the tokens of the batch, each with its example's weight. What the model reads is the problem and the task's text of the chain.
#pragma once

#include <functional>
#include <span>
#include <utility>
#include <vector>

#include <relay/model/causal_transformer.hpp>
#include <relay/task/example.hpp>
#include <relay/train/asked_rows.hpp>
#include <relay/train/loss.hpp>
#include <relay/train/needed_rows.hpp>

namespace relay {

template <class Model, ChainText TaskT>
class NextToken {
 public:
  using Backend = typename Model::Backend;
  using Tensor = typename Backend::Tensor;
  /// What needs no device, and can be made before its turn comes.
  struct Staged {
    std::vector<const Example*> examples;
    Tokens text;  // of an example; its last token is not read
    std::vector<int> lengths;
    std::vector<std::int32_t> tokens;
    Questions asked;
    NeededRows needed;
  };
  struct Workspace {
    explicit Workspace(typename Backend::Device on) : device(on), batch({}, on) {}
    typename Backend::Device device;
    Staged staged;  // where nobody has done so before
    Ragged<Backend> batch;
    typename Backend::Indices x;
    typename Model::Trace trace;
    AskedRows<Backend> asked;
    typename Backend::template IndexLists<typename Backend::Indices> needed;
    Tensor dstate;
  };

  explicit NextToken(TaskT task) : task_(std::move(task)), first_value_(task_.vocabulary().first_value()) {}

  /// The loss is a mean over tokens: each counts as its example's weight.
  double size(const Example& example) const { return example.weight * static_cast<double>(text_size(example)); }
  double cost(const Example& example) const { return static_cast<double>(example.problem.size() + text_size(example)); }
  /// Both: the text, of which each is made, may take longer than all the rest.
  std::pair<double, double> size_and_cost(const Example& example) const {
    const std::size_t text = text_size(example);
    return {example.weight * static_cast<double>(text), static_cast<double>(example.problem.size() + text)};
  }

  /// Texts and tokens of these examples, which `staged` refers to, and what is asked of them.
  void stage(std::span<const Example* const> examples, Staged& staged) const {
    stage(examples, staged, [&](int rows) { staged.needed.need(1, 0, rows, staged.asked); });
  }
  /// The same with no row left out, which takes the most memory: for plans of it.
  void stage_all_rows(std::span<const Example* const> examples, Staged& staged) const {
    stage(examples, staged, [&](int rows) { staged.needed.need_all(rows); });
  }

  /// Adds the gradient of sum(loss of tokens) / total to `grad`.
  Losses operator()(const Model& model, std::span<const Example* const> examples, double total, std::optional<Key> dropout,
                    Workspace& w, Model& grad) const {
    stage(examples, w.staged);
    return (*this)(model, w.staged, total, dropout, w, grad);
  }
  Losses operator()(const Model& model, const Staged& staged, double total, std::optional<Key> dropout, Workspace& w, Model& grad) const {
    w.batch.assign(staged.lengths);
    w.needed.assign(staged.needed.rows(), staged.needed.firsts(), w.device);
    const int needed = staged.needed.count(1);
    const Rows<Backend> all(w.batch, dropout), rows = needed > 0 ? all.needing(w.needed[0], needed) : all;
    model.embedding.require_known(staged.tokens);
    Backend::indices_to(staged.tokens, w.device, w.x);
    const Tensor& states = model.forward(w.x, rows, w.trace);

    w.asked.begin(staged.asked, total, w.device);  // while the device computes
    w.asked.gather(1, states);
    w.asked.learn(model.head, grad.head);
    w.asked.spread(1, rows.outputs(), w.dstate);
    model.backward(w.x, rows, w.trace, w.dstate, grad);
    Losses losses;
    w.asked.read([&](Token target, double weight, double loss, bool right) {
      losses.objective += weight * loss;
      (target >= first_value_ ? losses.value : losses.structure).add(loss, right);
    });
    return losses;
  }

 private:
  void stage(std::span<const Example* const> examples, Staged& staged, auto&& need) const {
    staged.examples.assign(examples.begin(), examples.end());
    staged.lengths.clear();
    staged.tokens.clear();
    staged.asked.start(1);
    for (const Example* e : examples) {
      if constexpr (requires { task_.text(*e, staged.text); })
        task_.text(*e, staged.text);
      else
        staged.text = task_.text(*e);
      staged.tokens.insert(staged.tokens.end(), e->problem.begin(), e->problem.end());
      staged.tokens.insert(staged.tokens.end(), staged.text.begin(), staged.text.end() - 1);
      staged.lengths.push_back(static_cast<int>(e->problem.size() + staged.text.size()) - 1);
      // Of each row from a problem's last on, the token that is read next.
      const int end = static_cast<int>(staged.tokens.size()) - 1;
      for (int row = end + 1 - staged.lengths.back() + static_cast<int>(e->problem.size()) - 1; row < end; ++row)
        staged.asked.ask(1, row, staged.tokens[static_cast<std::size_t>(row) + 1], e->weight);
      staged.asked.ask(1, end, staged.text.back(), e->weight);
    }
    staged.needed.start(1);
    need(static_cast<int>(staged.tokens.size()));
    staged.asked.finish();
  }

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
