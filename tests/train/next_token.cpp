#include <relay/train/next_token.hpp>

#include <relay/backend/cpu.hpp>
#include <relay/core/parameters.hpp>
#include <relay/task/arithmetic.hpp>

#include <doctest/doctest.h>

using namespace relay;
using B = Cpu<double>;
using Model = CausalTransformer<B>;

TEST_CASE(
    "the loss is the mean cross-entropy of the tokens after the problem, and the gradient adds up over examples") {
  const Arithmetic task{.modulus = 5};
  const Model model({.width = 8, .layers = 1, .heads = 2}, task.vocabulary().size(), Seed{1});
  Random random(Key(3));
  const std::vector<Example> batch{task.generate(2, random), task.generate(1, random), task.generate(3, random)};
  const NextToken<Model, Arithmetic> objective(task);

  double total = 0, by_hand = 0;
  long values = 0;
  for (const Example& e : batch) {
    const Tokens text = task.text(e);
    CHECK(text.back() == Vocabulary::eos);
    CHECK(objective.size(e) == static_cast<double>(text.size()));
    total += objective.size(e);
    Tokens whole = e.problem;
    whole.insert(whole.end(), text.begin(), text.end());
    const std::vector<int> length{static_cast<int>(whole.size())};
    const Ragged<B> alone(length);
    Model::Trace trace;
    B::Tensor logits;
    B::linear(model.forward(whole, alone, trace), model.head.weight, model.head.bias, logits);
    for (std::size_t i = e.problem.size(); i < whole.size(); ++i) {  // row i - 1 predicts token i
      const double* row = logits.row(static_cast<int>(i) - 1);
      double sum = 0;
      for (int k = 0; k < logits.cols(); ++k) sum += std::exp(row[k]);
      by_hand += std::log(sum) - row[whole[i]];
      values += task.vocabulary().is_value(whole[i]);
    }
  }
  NextToken<Model, Arithmetic>::Workspace workspace{{}};
  Model together = zeros_like(model), apart = together;
  const std::vector<const Example*> all{&batch[0], &batch[1], &batch[2]};
  const Losses losses = objective(model, all, total, {}, workspace, together);
  CHECK(losses.objective == doctest::Approx(by_hand / total).epsilon(1e-12));
  CHECK(losses.value.sum + losses.structure.sum == doctest::Approx(by_hand).epsilon(1e-12));
  CHECK(losses.value.count == values);
  CHECK(losses.value.count + losses.structure.count == static_cast<long>(total));
  CHECK(losses.answer.count == 0);

  for (const Example& e : batch) {
    const std::vector<const Example*> one{&e};
    objective(model, one, total, {}, workspace, apart);
  }
  for_each_parameter(
      [](std::string_view, const auto& a, const auto& b) {
        double worst = 0;
        for (long i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a.data()[i] - b.data()[i]));
        CHECK(worst < 1e-12);
      },
      together, apart);
}

TEST_CASE("leaving out the rows of problems, which nobody asks about, changes nothing but rounding") {
  const Arithmetic task{.modulus = 5};
  const Model model({.width = 8, .layers = 2, .heads = 2}, task.vocabulary().size(), Seed{1});
  Random random(Key(3));
  const std::vector<Example> batch{task.generate(2, random), task.generate(1, random), task.generate(3, random)};
  const std::vector<const Example*> examples{&batch[0], &batch[1], &batch[2]};
  const NextToken<Model, Arithmetic> objective(task);
  NextToken<Model, Arithmetic>::Workspace workspace{{}};
  NextToken<Model, Arithmetic>::Staged all, some;
  objective.stage_all_rows(examples, all);
  objective.stage(examples, some);
  CHECK(all.needed.rows().size() == all.tokens.size());
  CHECK(some.needed.count(1) == static_cast<int>(some.asked.rows().size()));
  CHECK(some.needed.rows() == all.asked.rows());
  Model dall = zeros_like(model), dsome = dall;
  const Losses expected = objective(model, all, 7, {}, workspace, dall), losses = objective(model, some, 7, {}, workspace, dsome);
  CHECK(losses.objective == doctest::Approx(expected.objective).epsilon(1e-14));
  CHECK(losses.value.count == expected.value.count);
  for_each_parameter(
      [](std::string_view, const auto& a, const auto& b) {
        double worst = 0, size = 0;
        for (long i = 0; i < a.size(); ++i) {
          worst = std::max(worst, std::abs(a.data()[i] - b.data()[i]));
          size = std::max(size, std::abs(a.data()[i]));
        }
        CHECK(worst < 1e-13);
        CHECK(size > 1e-6);
      },
      dall, dsome);
}

TEST_CASE("weights: doubling all of them changes nothing, and an example of weight 2 is the example twice") {
  const Arithmetic task{.modulus = 5};
  const Model model({.width = 8, .layers = 1, .heads = 2}, task.vocabulary().size(), Seed{1});
  Random random(Key(3));
  const std::vector<Example> batch{task.generate(2, random), task.generate(1, random), task.generate(3, random)};
  const NextToken<Model, Arithmetic> objective(task);
  /// The gradient of the mean loss, and the loss.
  const auto learn = [&](const std::vector<Example>& examples) {
    double total = 0;
    std::vector<const Example*> all;
    for (const Example& e : examples) total += objective.size(e), all.push_back(&e);
    NextToken<Model, Arithmetic>::Workspace workspace{{}};
    Model gradient = zeros_like(model);
    const Losses losses = objective(model, all, total, {}, workspace, gradient);
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
  const auto weighed = [&](std::vector<double> weights) {
    std::vector<Example> examples = batch;
    for (std::size_t i = 0; i < examples.size(); ++i) examples[i].weight = weights[i];
    return examples;
  };
  near(learn(batch), learn(weighed({2, 2, 2})));
  near(learn(weighed({1, 3, 0.5})), learn(weighed({4, 12, 2})));
  near(learn(weighed({1, 2, 1})), learn({batch[0], batch[1], batch[1], batch[2]}));
  const auto plain = learn(batch), some = learn(weighed({1, 2, 1}));
  CHECK(plain.second.objective != doctest::Approx(some.second.objective).epsilon(1e-6));
  CHECK(some.second.value.sum == doctest::Approx(plain.second.value.sum).epsilon(1e-12));  // what is reported has no weights
  CHECK(some.second.structure.count == plain.second.structure.count);
}
