// The heart: forward and backward through the loop, every iteration asked what the supervision wants of it.
//
//   h_0 = embed(x)   y_1 .. y_T = loop(h_0)   chain head on the asked rows of y_t, answer head on the last column of
//   the iterations asked for the answer, by default y_T
//   <- the heads' gradients go back into y_t, last iteration first ->   dh_0   -> embedding
#pragma once

#include <algorithm>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include <relay/model/looped_transformer.hpp>
#include <relay/train/asked_rows.hpp>
#include <relay/train/needed_rows.hpp>
#include <relay/train/loss.hpp>
#include <relay/task/placement.hpp>
#include <relay/train/supervision.hpp>

namespace relay {

/// The objective of a looped model. One object, many lanes: all that changes lives in a lane's Workspace and Staged.
template <class Model, class S = Aligned, class P = FlushRight>
class Unroll {
  static_assert(Supervision<S>, "relay: a supervision is called with (iteration, iterations) and returns an Asked");
  static_assert(Placement<P>, "relay: a placement has place(example, round) and read(example, round, row), as FlushRight");

 public:
  using Backend = typename Model::Backend;
  using Tensor = typename Backend::Tensor;
  /// What needs no device, and can be made before its turn comes.
  struct Staged {
    std::vector<std::size_t> order;         // of the examples
    std::vector<const Example*> examples;   // sorted
    std::vector<int> lengths, counts;       // their columns and iterations
    std::vector<std::int32_t> tokens;
    std::vector<Placed> placed;             // of one round
    Questions chain, answer;
    NeededRows needed;
  };
  struct Workspace {
    explicit Workspace(typename Backend::Device on) : device(on), batch({}, on) {}
    typename Backend::Device device;
    Staged staged;  // where nobody has done so before
    Ragged<Backend> batch;
    typename Backend::Indices x;
    typename Embedding<Backend>::Trace embedding;
    typename Model::Loop::Trace loop;
    AskedRows<Backend> chain, answer;
    typename Backend::template IndexLists<typename Backend::Indices> needed;
  };

  explicit Unroll(S supervision = {}, AlignmentLoss loss = {}, P placement = {}, Token first_value = 0,
                  Keep keep = Keep::everything)
      : supervision_(std::move(supervision)), loss_(loss), placement_(std::move(placement)), first_value_(first_value), keep_(keep) {}

  /// The loss is a mean over examples: each counts as its weight.
  double size(const Example& example) const { return example.weight; }
  /// What an example costs, to cut a batch into lanes of like cost.
  double cost(const Example& example) const { return static_cast<double>(example.columns()) * example.iterations; }

  /// The batch of the lane, those with the most iterations first, and what is asked of them. `staged` refers to these examples.
  void stage(std::span<const Example* const> examples, Staged& staged) const {
    stage(examples, staged, [&](int t, int going_on, int rows) { staged.needed.need(t, going_on, rows, staged.chain, staged.answer); });
  }
  /// The same with no row left out, which takes the most memory: for plans of it.
  void stage_all_rows(std::span<const Example* const> examples, Staged& staged) const {
    stage(examples, staged, [&](int, int, int rows) { staged.needed.need_all(rows); });
  }

  /// Adds the gradient of sum(weight * loss of examples) / total to `grad`. `dropout`: the key of what is dropped, if any.
  Losses operator()(const Model& model, std::span<const Example* const> examples, double total, std::optional<Key> dropout,
                    Workspace& w, Model& grad) const {
    stage(examples, w.staged);
    return (*this)(model, w.staged, total, dropout, w, grad);
  }
  Losses operator()(const Model& model, const Staged& staged, double total, std::optional<Key> dropout, Workspace& w, Model& grad) const {
    w.batch.assign(staged.lengths);
    model.embedding.require_known(staged.tokens);
    Backend::indices_to(staged.tokens, w.device, w.x);
    const Rows<Backend> rows(w.batch, dropout);
    // What is asked goes to the device while it computes, if the states are there afterwards.
    const bool afterwards = keep_ == Keep::everything;
    const auto begin = [&] {
      w.chain.begin(staged.chain, total, w.device);
      w.answer.begin(staged.answer, total, w.device);
    };
    if (!afterwards) begin();
    w.needed.assign(staged.needed.rows(), staged.needed.firsts(), w.device);
    const auto needing = [&](int t, const Rows<Backend>& all) {
      const int count = staged.needed.count(t);
      return count > 0 ? all.needing(w.needed[static_cast<std::size_t>(t - 1)], count) : all;
    };
    const auto gather = [&](int t, const Tensor& y) {
      w.chain.gather(t, y);
      w.answer.gather(t, y);
    };

    w.loop.keep = keep_;
    const Tensor& h0 = model.embedding.forward(w.x, rows, w.embedding);
    model.loop.forward(h0, rows, staged.counts, w.loop, [&](int t, const auto&, const Tensor& y) {
      if (!afterwards) gather(t, y);
    }, model.feedback(), needing);
    if (afterwards) {
      begin();
      for (int t = 1; t <= w.loop.iterations(); ++t) gather(t, w.loop.state(t));
    }
    w.chain.learn(model.chain_head, grad.chain_head);
    w.answer.learn(model.answer_head, grad.answer_head);
    const Tensor dh0 = model.loop.backward(
        h0, rows, w.loop,
        [&](int t, const auto&, Tensor& dy) {
          w.chain.scatter(t, dy);
          w.answer.scatter(t, dy);
        },
        grad.loop, w.loop.applications.front(), model.feedback(grad), needing);
    model.embedding.backward(w.x, rows, w.embedding, dh0, grad.embedding);

    Losses losses;
    w.chain.read([&](Token target, double weight, double loss, bool right) {
      losses.objective += weight * loss;
      (target >= first_value_ ? losses.value : losses.structure).add(loss, right);
    });
    w.answer.read([&](Token, double weight, double loss, bool right) {
      losses.objective += weight * loss;
      losses.answer.add(loss, right);
    });
    return losses;
  }

 private:
  void stage(std::span<const Example* const> examples, Staged& staged, auto&& need) const {
    staged.order.resize(examples.size());
    std::iota(staged.order.begin(), staged.order.end(), std::size_t{0});
    std::sort(staged.order.begin(), staged.order.end(), [&](std::size_t a, std::size_t b) {  // std::stable_sort asks for memory
      return examples[a]->iterations != examples[b]->iterations ? examples[a]->iterations > examples[b]->iterations : a < b;
    });
    staged.examples.clear();
    staged.lengths.clear();
    staged.counts.clear();
    staged.tokens.clear();
    for (const std::size_t i : staged.order) {
      const Example& e = *examples[i];
      staged.examples.push_back(&e);
      staged.lengths.push_back(e.columns());
      staged.counts.push_back(e.iterations);
      staged.tokens.insert(staged.tokens.end(), static_cast<std::size_t>(e.columns()) - e.problem.size(), Vocabulary::pad);
      staged.tokens.insert(staged.tokens.end(), e.problem.begin(), e.problem.end());
    }
    ask(staged);
    staged.needed.start(most_iterations(staged));
    if (can_leave_out_rows) each_iteration(staged, need);
    staged.chain.finish();
    staged.answer.finish();
  }

  static constexpr bool can_leave_out_rows = Model::Loop::gives_needed_rows_at_end && Backend::loops_give_needed_rows;

  static int most_iterations(const Staged& staged) { return staged.counts.empty() ? 0 : staged.counts.front(); }

  /// need(t, rows of the sequences that go on after iteration t, all its rows)
  static void each_iteration(const Staged& staged, auto&& need) {
    int rows = std::accumulate(staged.lengths.begin(), staged.lengths.end(), 0);
    std::size_t sequences = staged.counts.size();
    for (int t = 1; t <= most_iterations(staged); ++t) {
      int going_on = rows;
      for (; sequences > 0 && staged.counts[sequences - 1] == t; --sequences) going_on -= staged.lengths[sequences - 1];
      need(t, going_on, std::exchange(rows, going_on));
    }
  }

  /// Asks each iteration of each example what the supervision wants. They are sorted. Weights are yet to be divided by the total.
  void ask(Staged& staged) const {
    staged.chain.start(most_iterations(staged));
    staged.answer.start(most_iterations(staged));
    int begin = 0;  // of an example's columns
    for (const Example* e : staged.examples) {
      int rounds = 0, answers = 0;
      for (int t = 1; t <= e->iterations; ++t) {
        const Asked asked = supervision_(t, e->iterations);
        rounds += asked.round > 0 ? 1 : 0;
        answers += asked.answer ? 1 : 0;
      }
      for (int t = 1; t <= e->iterations; ++t) {
        const Asked asked = supervision_(t, e->iterations);
        if (asked.round > 0) {
          require(asked.round <= static_cast<int>(e->rounds.size()), "iteration ", t, " is asked for round ", asked.round,
                  " of a chain of ", e->rounds.size(), " rounds");
          if constexpr (requires { placement_.place(*e, asked.round, staged.placed); })
            placement_.place(*e, asked.round, staged.placed);
          else
            staged.placed = placement_.place(*e, asked.round);
          const double share = loss_.over_round == Normalisation::mean ? 1.0 / static_cast<double>(staged.placed.size()) : 1.0;
          const double weight = asked.learns ? e->weight * loss_.lambda * asked.weight * share / rounds : 0;
          for (const Placed& p : staged.placed) staged.chain.ask(t, begin + p.column, p.token, weight);
        }
        if (asked.answer) {
          const double weight = asked.learns ? e->weight * loss_.answer_weight * asked.answer_weight / answers : 0;
          staged.answer.ask(t, begin + e->columns() - 1, e->answer, weight);
        }
      }
      begin += e->columns();
    }
  }

  S supervision_;
  AlignmentLoss loss_;
  P placement_;
  Token first_value_;
  Keep keep_;
};

/// Unroll with its types deduced: `loop_objective(model, Aligned{}, {.answer_weight = 0.1})`, or any policy, also a lambda.
/// `first_value`: Vocabulary::first_value(), if the losses of value and structure tokens are to be told apart.
template <class Model, class S = Aligned, class P = FlushRight>
Unroll<Model, S, P> loop_objective(const Model&, S supervision = {}, AlignmentLoss loss = {}, P placement = {},
                                   Token first_value = 0, Keep keep = Keep::everything) {
  return Unroll<Model, S, P>(std::move(supervision), loss, std::move(placement), first_value, keep);
}

}  // namespace relay
