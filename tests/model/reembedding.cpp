// Re-embedding: what is fed back is the expected embedding of the tokens that the chain head reads, and its gradient flows into head,
// embedding and state.
#include <relay/model/looped_transformer.hpp>

#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include <relay/backend/cpu.hpp>
#include <relay/pipeline/solve.hpp>
#include <relay/task/arithmetic.hpp>
#include <relay/testing/gradcheck.hpp>
#include <relay/train/unroll.hpp>

#include "layer/check.hpp"

using namespace relay;
using B = Cpu<double>;
using Model = LoopedTransformer<B>;

namespace {

const Arithmetic task{.modulus = 5};

Model model_of(LoopConfig config) {
  Model model({.width = 8, .layers = 1, .heads = 2}, config, task.vocabulary().size(), Seed{1});
  check::perturb(model);
  return model;
}

std::vector<Example> batch() {
  Random random(Key(7));
  std::vector<Example> list;
  for (const int n : {2, 4, 1, 3}) list.push_back(task.generate(n, random));
  return list;
}

}  // namespace

TEST_CASE("what is fed back is softmax(y W^T + b) E of the first rows") {
  const Model model = model_of({.reembed = true});
  B::Tensor y(3, 8), s;
  Random random(Key(2));
  for (long i = 0; i < y.size(); ++i) y.data()[i] = random.normal();
  model.feedback().forward(y, 2, s);
  REQUIRE(s.rows() == 2);
  REQUIRE(s.cols() == 8);
  const int classes = task.vocabulary().size();
  for (int r = 0; r < 2; ++r) {
    std::vector<double> p(static_cast<std::size_t>(classes));
    double total = 0;
    for (int k = 0; k < classes; ++k) {
      double logit = model.chain_head.bias.data()[k];
      for (int c = 0; c < 8; ++c) logit += model.chain_head.weight.row(k)[c] * y.row(r)[c];
      total += p[static_cast<std::size_t>(k)] = std::exp(logit);
    }
    for (int c = 0; c < 8; ++c) {
      double expected = 0;
      for (int k = 0; k < classes; ++k) expected += p[static_cast<std::size_t>(k)] / total * model.embedding.weight.row(k)[c];
      CHECK(s.row(r)[c] == doctest::Approx(expected).epsilon(1e-12));
    }
  }
}

TEST_CASE("the gradient of the whole model is that of finite differences, stored or recomputed, with and without injection") {
  for (const bool inject : {true, false})
    for (const bool normalise : {true, false})
      for (const Keep keep : {Keep::everything, Keep::inputs}) {
        CAPTURE(inject);
        CAPTURE(normalise);
        Model model = model_of({.inject = inject, .normalise = normalise, .reembed = true});
        const auto examples = batch();
        std::vector<const Example*> pointers;
        for (const Example& e : examples) pointers.push_back(&e);
        const auto objective = loop_objective(model, Aligned{}, {.lambda = 0.7, .answer_weight = 0.3}, FlushRight{}, 0, keep);
        typename decltype(objective)::Workspace workspace{B::Device{}};
        Model gradient = zeros_like(model);
        objective(model, pointers, 4, std::nullopt, workspace, gradient);
        const auto loss = [&] {
          Model unused = zeros_like(model);
          return objective(model, pointers, 4, std::nullopt, workspace, unused).objective;
        };
        const auto report = check_gradient<B>(model, gradient, loss, 6);
        CHECK_MESSAGE(report.within(1e-6), report.text());
      }
}

TEST_CASE("it changes what the model does, and reading follows training") {
  const Model plain = model_of({.normalise = true}), reembedding = model_of({.normalise = true, .reembed = true});
  const auto examples = batch();
  std::vector<const Example*> pointers;
  for (const Example& e : examples) pointers.push_back(&e);
  const auto loss = [&](const Model& model) {
    const auto objective = loop_objective(model);
    typename decltype(objective)::Workspace workspace{B::Device{}};
    Model gradient = zeros_like(model);
    return objective(model, pointers, 4, std::nullopt, workspace, gradient);
  };
  const Losses with = loss(reembedding), without = loss(plain);
  CHECK(with.objective != without.objective);
  // The tokens that solving reads are those that training judged: as many are right.
  long right = 0;
  Threads threads(1);
  const auto chains = solve_looped(reembedding, std::span(examples), threads);
  for (std::size_t i = 0; i < examples.size(); ++i) right += chains[i].example.answer == examples[i].answer ? 1 : 0;
  CHECK(right == with.answer.right);
}
