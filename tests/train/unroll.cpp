// What the objective of a looped model is, computed by hand from the states of the loop.
#include <relay/train/unroll.hpp>

#include <relay/backend/cpu.hpp>
#include <relay/core/parameters.hpp>
#include <relay/task/arithmetic.hpp>
#include <relay/testing/gradcheck.hpp>

#include <doctest/doctest.h>

#include "layer/written_out.hpp"

using namespace relay;
using B = Cpu<double>;
using Model = LoopedTransformer<B>;

namespace {

const Arithmetic task{.modulus = 5};

const Model& model() {
  static const Model m({.width = 8, .layers = 1, .heads = 2}, {.normalise = true}, task.vocabulary().size(), Seed{1});
  return m;
}

std::vector<Example> batch() {
  Random random(Key(7));
  std::vector<Example> list;
  for (const int n : {2, 4, 1, 4}) list.push_back(task.generate(n, random));
  list[1].width = list[1].columns() + 3;  // a row longer than its problem: pads to its left
  return list;
}

/// Cross-entropy of a head at one row.
double cross_entropy(const Linear<B>& head, const B::Tensor& state, int row, Token target) {
  double total = 0, wanted = 0;
  for (int k = 0; k < head.outputs(); ++k) {
    double logit = head.bias.data()[k];
    for (int c = 0; c < head.inputs(); ++c) logit += head.weight.row(k)[c] * state.row(row)[c];
    total += std::exp(logit);
    if (k == target) wanted = logit;
  }
  return std::log(total) - wanted;
}

/// L = mean over examples of
///   answer_weight mean over asked answers of their weight CE(answer) + lambda mean over asked rounds of weight CE(round).
double by_hand(const auto& policy, AlignmentLoss loss) {
  double mean = 0;
  for (const Example& e : batch()) {
    const std::vector<int> length{e.columns()}, count{e.iterations};
    Tokens row(static_cast<std::size_t>(e.columns()) - e.problem.size(), Vocabulary::pad);
    row.insert(row.end(), e.problem.begin(), e.problem.end());
    const Ragged<B> alone(length);
    Embedding<B>::Trace embedded;
    Model::Loop::Trace trace;
    double chain = 0, answer = 0;
    int rounds = 0, answers = 0;
    model().loop.forward(model().embedding.forward(row, alone, embedded), alone, count, trace,
                         [&](int t, const auto&, const B::Tensor& y) {
                           const Asked asked = policy(t, e.iterations);
                           if (asked.round > 0) {
                             ++rounds;
                             const Tokens& z = e.rounds[static_cast<std::size_t>(asked.round - 1)];
                             Tokens target(z);
                             if (static_cast<int>(z.size()) < e.columns())
                               target.insert(target.begin(), Vocabulary::pad);
                             const int n = static_cast<int>(target.size());
                             double sum = 0;
                             for (int i = 0; i < n; ++i)
                               sum += cross_entropy(model().chain_head, y, e.columns() - n + i,
                                                    target[static_cast<std::size_t>(i)]);
                             if (asked.learns)
                               chain += asked.weight * (loss.over_round == Normalisation::mean ? sum / n : sum);
                           }
                           if (asked.answer) {
                             ++answers;
                             if (asked.learns)
                               answer += asked.answer_weight *
                                         cross_entropy(model().answer_head, y, e.columns() - 1, e.answer);
                           }
                         });
    mean += ((answers > 0 ? loss.answer_weight * answer / answers : 0) + (rounds > 0 ? loss.lambda * chain / rounds : 0)) / 4;
  }
  return mean;
}

struct Result {
  Losses losses;
  Model gradient;
};

template <class S>
Result run(const S& policy, AlignmentLoss loss, Keep keep = Keep::everything) {
  const auto list = batch();
  std::vector<const Example*> examples;
  for (const Example& e : list) examples.push_back(&e);
  const Unroll<Model, S> objective(policy, loss, {}, task.vocabulary().first_value(), keep);
  typename Unroll<Model, S>::Workspace workspace{{}};
  Result result{{}, zeros_like(model())};
  result.losses = objective(model(), examples, 4, {}, workspace, result.gradient);
  return result;
}

double size(const auto& layer) {
  double squares = 0;
  for_each_parameter([&](std::string_view, const auto& g) { squares += B::sum_of_squares(g); }, layer);
  return squares;
}

}  // namespace

TEST_CASE("the loss is the paper's equation, for each policy, lambda, answer's weight and normalisation") {
  const auto own = [](int t, int iterations) {
    return Asked{.round = t, .weight = 1.0 / t, .answer = t == iterations};
  };
  const auto answers = [](int t, int iterations) {  // asked of several iterations, each with a weight, not all learning
    return Asked{.answer = t >= iterations - 2, .answer_weight = 0.5 * t, .learns = t != 2};
  };
  for (const AlignmentLoss& loss : {AlignmentLoss{}, AlignmentLoss{.lambda = 0.3, .answer_weight = 0.1},
                                    AlignmentLoss{.lambda = 2, .over_round = Normalisation::sum}}) {
    const auto check = [&](const auto& policy) {
      CHECK(run(policy, loss).losses.objective == doctest::Approx(by_hand(policy, loss)).epsilon(1e-12));
    };
    check(Aligned());
    check(AnswerOnly());
    check(EveryKthRound{2});
    check(LastIterations{2});
    check(own);
    check(answers);
  }
}

TEST_CASE("asked of every iteration, the answer counts as much as asked of the last: the mean, not the sum") {
  // Of a model whose loop changes nothing, all answers cost the same.
  Model still = model();
  clear(still.loop);
  const auto every = [](int, int) { return Asked{.answer = true}; };
  const auto half = [](int t, int iterations) { return Asked{.answer = t == iterations, .answer_weight = 0.5}; };
  const auto loss = [&](const auto& policy) {
    const auto list = batch();
    const std::vector<const Example*> examples{&list[0], &list[1], &list[2], &list[3]};
    const auto objective = loop_objective(still, policy);
    typename std::remove_const_t<decltype(objective)>::Workspace workspace{{}};
    Model gradient = zeros_like(still);
    return objective(still, examples, 4, {}, workspace, gradient);
  };
  const Losses last = loss(AnswerOnly()), all = loss(every);
  CHECK(last.answer.count == 4);
  CHECK(all.answer.count == 2 + 4 + 1 + 4);
  CHECK(all.objective == doctest::Approx(last.objective).epsilon(1e-12));
  CHECK(loss(half).objective == doctest::Approx(last.objective / 2).epsilon(1e-12));
}

TEST_CASE("tokens are counted: values and structure apart, the covered pad among the latter, one answer an example") {
  const auto losses = run(Aligned(), {}).losses;
  long values = 0, structure = 0;
  for (const Example& e : batch())
    for (const Tokens& z : e.rounds) {
      for (const Token token : z) (task.vocabulary().is_value(token) ? values : structure) += 1;
      structure += static_cast<int>(z.size()) < e.columns();
    }
  CHECK(losses.value.count == values);
  CHECK(losses.structure.count == structure);
  CHECK(losses.answer.count == 4);
  CHECK(run(AnswerOnly(), {}).losses.value.count == 0);
}

TEST_CASE("what does not learn is measured all the same, and changes nothing") {
  const auto measured = [](int t, int iterations) {
    return Asked{.round = t, .answer = t == iterations, .learns = t == iterations};
  };
  const auto none = [](int t, int iterations) { return Asked{.round = t, .answer = t == iterations, .learns = false}; };
  const auto all = run(Aligned(), {}), last = run(measured, {}), nothing = run(none, {});
  CHECK(last.losses.value.sum == doctest::Approx(all.losses.value.sum).epsilon(1e-12));
  CHECK(last.losses.structure.count == all.losses.structure.count);
  CHECK(last.losses.objective == doctest::Approx(by_hand(measured, {})).epsilon(1e-12));
  CHECK(last.losses.objective < all.losses.objective);
  CHECK(size(last.gradient) > 0);
  CHECK(nothing.losses.value.sum == doctest::Approx(all.losses.value.sum).epsilon(1e-12));
  CHECK(nothing.losses.answer.sum == doctest::Approx(all.losses.answer.sum).epsilon(1e-12));
  CHECK(nothing.losses.objective == 0);
  CHECK(size(nothing.gradient) == 0);
}

TEST_CASE("only the answer asked: the chain head learns nothing, the loop does") {
  const auto result = run(AnswerOnly(), {});
  CHECK(size(result.gradient.chain_head) == 0);
  CHECK(size(result.gradient.answer_head) > 0);
  CHECK(size(result.gradient.loop) > 0);
  CHECK(size(run(Aligned(), {.lambda = 0}).gradient.chain_head) == 0);
  CHECK(size(run(Aligned(), {.answer_weight = 0}).gradient.answer_head) == 0);
}

TEST_CASE("the gradient is added to; a workspace may be used again; examples come in any order") {
  const auto list = batch();
  const std::vector<const Example*> one{&list[0], &list[1], &list[2], &list[3]},
      other{&list[2], &list[3], &list[1], &list[0]};
  const auto objective = loop_objective(model());
  Unroll<Model>::Workspace workspace{{}};
  Model once = zeros_like(model()), twice = once, parts = once;
  const double loss = objective(model(), one, 4, {}, workspace, once).objective;
  objective(model(), one, 4, {}, workspace, twice);
  CHECK(objective(model(), other, 4, {}, workspace, twice).objective == doctest::Approx(loss).epsilon(1e-12));
  double sum = 0;
  for (const Example& e : list) {
    const std::vector<const Example*> single{&e};
    sum += objective(model(), single, 4, {}, workspace, parts).objective;
  }
  CHECK(sum == doctest::Approx(loss).epsilon(1e-12));
  for_each_parameter(
      [](std::string_view, const auto& a, const auto& b, const auto& c) {
        double worst = 0;
        for (long i = 0; i < a.size(); ++i)
          worst = std::max({worst, std::abs(2 * a.data()[i] - b.data()[i]), std::abs(a.data()[i] - c.data()[i])});
        CHECK(worst < 1e-12);
      },
      once, twice, parts);
}

TEST_CASE("leaving out the rows that nobody asks about changes nothing but rounding") {
  Random random(Key(9));
  std::vector<Example> list;
  for (const int n : {5, 3, 3, 1, 5}) list.push_back(task.generate(n, random));
  list[1].width = list[1].columns() + 2;
  const std::vector<const Example*> examples{&list[0], &list[1], &list[2], &list[3], &list[4]};
  const auto check_policy = [&](const auto& policy) {
    for (const LoopConfig& config : {LoopConfig{}, LoopConfig{.inject = true, .signal = true, .normalise = true, .window = 2},
                                     LoopConfig{.inject = true, .reembed = true}})
      for (const Keep keep : {Keep::everything, Keep::inputs}) {
        Model whole({.width = 8, .layers = 2, .heads = 2}, config, task.vocabulary().size(), Seed{3});
        check::perturb(whole);
        const auto objective = loop_objective(whole, policy, {.lambda = 0.7, .answer_weight = 0.3}, FlushRight{}, 0, keep);
        using Objective = std::remove_const_t<decltype(objective)>;
        typename Objective::Workspace workspace{{}};
        typename Objective::Staged all, some;
        objective.stage_all_rows(examples, all);
        objective.stage(examples, some);
        std::size_t rows = 0;
        for (const Example& e : list) rows += static_cast<std::size_t>(e.columns() * e.iterations);
        CHECK(all.needed.rows().size() == rows);
        CHECK(some.needed.count(5) > 0);  // the last
        CHECK(some.needed.count(5) < list[0].columns() + list[4].columns());
        CHECK(some.needed.count(4) == 0);  // where nobody is done
        Model dall = zeros_like(whole), dsome = dall;
        const Losses expected = objective(whole, all, 5, {}, workspace, dall), losses = objective(whole, some, 5, {}, workspace, dsome);
        CHECK(losses.objective == doctest::Approx(expected.objective).epsilon(1e-14));
        CHECK(losses.answer.sum == doctest::Approx(expected.answer.sum).epsilon(1e-14));
        CHECK(losses.structure.count == expected.structure.count);
        CHECK(check::parameter_difference(dall, dsome) < 1e-13);
        CHECK(size(dsome.loop) > 0);
      }
  };
  check_policy(Aligned());
  check_policy(AnswerOnly());
  check_policy([](int t, int iterations) { return Asked{.round = t, .answer = t == iterations, .learns = t > 1}; });
}

/// Asks for tokens in any order, and for some twice.
struct Scattered {
  std::vector<Placed> place(const Example& e, int) const {
    const int last = e.columns() - 1;
    return {{last, 3}, {last / 2, 4}, {last, 5}, {0, 6}};
  }
  std::vector<int> columns(const Example& e, int) const { return {e.columns() - 1, e.columns() / 2, 0}; }
  Tokens read(const Example&, int, std::span<const Token> row) const { return Tokens(row.begin(), row.end()); }
};

TEST_CASE("the gradient with dropout where rows are left out, in any order and some twice") {
  Random random(Key(9));
  std::vector<Example> list;
  for (const int n : {3, 2, 1, 3}) list.push_back(task.generate(n, random));
  const std::vector<const Example*> examples{&list[0], &list[1], &list[2], &list[3]};
  const auto check_placement = [&](const auto& placement) {
    for (const int layers : {1, 2})
      for (const Keep keep : {Keep::everything, Keep::inputs}) {
        Model whole({.width = 8, .layers = layers, .heads = 2, .hidden = 9, .dropout = 0.2}, {.inject = true, .normalise = true},
                    task.vocabulary().size(), Seed{3});
        check::perturb(whole);
        const auto objective = loop_objective(whole, Aligned(), {.lambda = 0.7, .answer_weight = 0.3}, placement, 0, keep);
        typename std::remove_const_t<decltype(objective)>::Workspace workspace{{}};
        Model gradient = zeros_like(whole), scratch = gradient;
        objective(whole, examples, 4, Key(5), workspace, gradient);
        CHECK(workspace.staged.needed.count(3) > 0);
        const auto loss = [&] { return objective(whole, examples, 4, Key(5), workspace, scratch).objective; };
        const auto report = check_gradient<B>(whole, gradient, loss, 6);
        CHECK_MESSAGE(report.within(1e-6), report.text());
      }
  };
  check_placement(FlushRight());
  check_placement(Scattered());
}

TEST_CASE("a row is never shorter than its problem") {
  auto list = batch();
  list[0].width = 1;
  const std::vector<const Example*> narrow{&list[0]};
  const auto objective = loop_objective(model());
  decltype(objective)::Workspace workspace{{}};
  Model gradient = zeros_like(model());
  const double loss = objective(model(), narrow, 1, {}, workspace, gradient).objective;
  list[0].width = 0;
  CHECK(objective(model(), narrow, 1, {}, workspace, gradient).objective == loss);
}

TEST_CASE("asked for a round that the chain has not: refused") {
  const auto list = batch();
  const std::vector<const Example*> examples{&list[0]};
  const auto beyond = [](int t, int) { return Asked{.round = t + 1}; };
  const auto objective = loop_objective(model(), beyond);
  decltype(objective)::Workspace workspace{{}};
  Model gradient = zeros_like(model());
  CHECK_THROWS_WITH_AS(objective(model(), examples, 1, {}, workspace, gradient),
                       "iteration 2 is asked for round 3 of a chain of 2 rounds", Error);
}

TEST_CASE("a truncated gradient of the whole model is that of the loss with the states frozen where windows end") {
  const TransformerConfig sizes{.width = 8, .layers = 1, .heads = 2, .hidden = 9, .dropout = 0.2};
  const std::optional<Key> dropout = Key(5);
  Random random(Key(9));
  std::vector<Example> list;  // sorted by iterations, as the objective sorts them
  for (const int n : {5, 3, 3, 1}) list.push_back(task.generate(n, random));
  list[1].width = list[1].columns() + 2;
  std::vector<const Example*> examples;
  std::vector<int> lengths, counts;
  Tokens tokens;
  for (const Example& e : list) {
    examples.push_back(&e);
    lengths.push_back(e.columns());
    counts.push_back(e.iterations);
    tokens.insert(tokens.end(), static_cast<std::size_t>(e.columns()) - e.problem.size(), Vocabulary::pad);
    tokens.insert(tokens.end(), e.problem.begin(), e.problem.end());
  }
  const Ragged<B> ragged(lengths);
  const Rows<B> rows(ragged, dropout);

  for (const LoopConfig& config : {LoopConfig{.inject = true, .window = 2},
                                   LoopConfig{.inject = true, .signal = true, .normalise = true, .window = 2},
                                   LoopConfig{.normalise = true, .window = 1}, LoopConfig{.inject = true, .window = 0}})
    for (const Keep keep : {Keep::everything, Keep::inputs}) {
      CAPTURE(config.window);
      Model whole(sizes, config, task.vocabulary().size(), Seed{3});
      check::perturb(whole);
      const auto objective = loop_objective(whole, Aligned{}, {.lambda = 0.7, .answer_weight = 0.3}, FlushRight{}, 0, keep);
      std::remove_const_t<decltype(objective)>::Workspace workspace{{}};
      Model gradient = zeros_like(whole);
      std::remove_const_t<decltype(objective)>::Staged staged;
      objective.stage_all_rows(examples, staged);  // all rows, as here: else what is dropped of the last ones is not the same
      const double value = objective(whole, staged, 4, dropout, workspace, gradient).objective;

      check::WrittenOut written(config, counts);
      const auto loss = [&] {  // the equation of train/supervision.hpp for Aligned
        Embedding<B>::Trace embedded;
        double sum = 0;
        written(whole.loop, whole.embedding.forward(tokens, rows, embedded), rows, [&](int t, const B::Tensor& y) {
          for (int s = 0; s < ragged.sequences() && counts[static_cast<std::size_t>(s)] >= t; ++s) {
            const Example& e = list[static_cast<std::size_t>(s)];
            const auto placed = FlushRight{}.place(e, t);
            double round = 0;
            for (const Placed& p : placed) round += cross_entropy(whole.chain_head, y, ragged.begin(s) + p.column, p.token);
            sum += 0.7 * round / static_cast<double>(placed.size()) / e.iterations / 4;
            if (t == e.iterations) sum += 0.3 * cross_entropy(whole.answer_head, y, ragged.end(s) - 1, e.answer) / 4;
          }
        });
        return sum;
      };
      CHECK(value == doctest::Approx(loss()).epsilon(1e-12));
      const auto report = check_gradient<B>(whole, gradient, loss, 6);
      CHECK_MESSAGE(report.within(1e-6), report.text());

      // It is not the whole gradient, unless there is no window.
      LoopConfig whole_window = config;
      whole_window.window = 0;
      Model full(sizes, whole_window, task.vocabulary().size(), Seed{3});
      check::perturb(full);
      Model untruncated = zeros_like(full);
      CHECK(objective(full, staged, 4, dropout, workspace, untruncated).objective == value);
      CHECK((check::parameter_difference(gradient, untruncated) > 1e-4) == (config.window > 0));
    }
}

TEST_CASE("weights: doubling all of them changes nothing, and an example of weight 2 is the example twice") {
  const auto objective = loop_objective(model(), Aligned{}, {.answer_weight = 0.3}, FlushRight{}, task.vocabulary().first_value());
  const auto learn = [&](const std::vector<Example>& examples) {
    double total = 0;
    std::vector<const Example*> all;
    for (const Example& e : examples) total += objective.size(e), all.push_back(&e);
    typename std::remove_cvref_t<decltype(objective)>::Workspace workspace{{}};
    Model gradient = zeros_like(model());
    const Losses losses = objective(model(), all, total, {}, workspace, gradient);
    return std::pair(gradient, losses);
  };
  const auto near = [](const auto& a, const auto& b) {
    CHECK(a.second.objective == doctest::Approx(b.second.objective).epsilon(1e-12));
    for_each_parameter(
        [](std::string_view, const auto& x, const auto& y) {
          double worst = 0;
          for (long i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(x.data()[i] - y.data()[i]));
          CHECK(worst < 1e-12);
        },
        a.first, b.first);
  };
  const auto weighed = [](std::vector<double> weights) {
    std::vector<Example> examples = batch();
    for (std::size_t i = 0; i < examples.size(); ++i) examples[i].weight = weights[i];
    return examples;
  };
  const std::vector<Example> plain = batch();
  near(learn(plain), learn(weighed({2, 2, 2, 2})));
  near(learn(weighed({1, 3, 0.5, 1})), learn(weighed({4, 12, 2, 4})));
  near(learn(weighed({1, 2, 1, 1})), learn({plain[0], plain[1], plain[1], plain[2], plain[3]}));
  const Losses all = learn(plain).second, some = learn(weighed({1, 2, 1, 1})).second;
  CHECK(all.objective != doctest::Approx(some.objective).epsilon(1e-6));
  CHECK(some.answer.sum == doctest::Approx(all.answer.sum).epsilon(1e-12));  // what is reported has no weights
  CHECK(some.value.count == all.value.count);
}
