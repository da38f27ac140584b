#include <relay/model/looped_transformer.hpp>

#include <relay/backend/cpu.hpp>
#include <relay/layer/residual.hpp>
#include <relay/task/arithmetic.hpp>
#include <relay/testing/gradcheck.hpp>
#include <relay/train/unroll.hpp>

#include <doctest/doctest.h>

using namespace relay;
using B = Cpu<double>;

namespace {

std::vector<Example> problems(std::initializer_list<int> lengths) {
  const Arithmetic task{.modulus = 5};
  Random random(Key(7));
  std::vector<Example> list;
  for (const int n : lengths) list.push_back(task.generate(n, random));
  return list;
}

/// The gradient of the whole model, through five, three, three and one iterations in one batch.
template <class Model>
void check(Model model, auto supervision, AlignmentLoss loss_config, std::optional<Key> dropout, Keep keep) {
  const auto batch = problems({3, 1, 5, 3});
  std::vector<const Example*> examples;
  for (const Example& e : batch) examples.push_back(&e);
  const Unroll<Model, decltype(supervision)> objective(supervision, loss_config, {}, 10, keep);
  typename decltype(objective)::Workspace workspace{{}};
  Model gradient = zeros_like(model), scratch = gradient;
  objective(model, examples, 4, dropout, workspace, gradient);
  const auto loss = [&] { return objective(model, examples, 4, dropout, workspace, scratch).objective; };
  const auto report = check_gradient<B>(model, gradient, loss, 4);
  CHECK_MESSAGE(report.within(1e-6), report.text());
}

const TransformerConfig small{.width = 8, .layers = 1, .heads = 2, .hidden = 9, .dropout = 0.1};

}  // namespace

TEST_CASE("gradient of the whole model: unequal counts, dropout, injection, recomputation, sum and mean") {
  const int tokens = Arithmetic{.modulus = 5}.vocabulary().size();
  using Model = LoopedTransformer<B>;
  for (const Normalisation over : {Normalisation::mean, Normalisation::sum})
    for (const LoopConfig& loop : {LoopConfig{}, LoopConfig{.inject = true, .signal = true, .normalise = true}})
      check(Model(small, loop, tokens, Seed{1}), Aligned{}, {.lambda = 0.7, .answer_weight = 0.3, .over_round = over},
            {}, Keep::everything);
  TransformerConfig two = small;
  two.layers = 2;
  check(Model(two, {.inject = true, .normalise = true}, tokens, Seed{2}), Aligned{}, {}, Key(4), Keep::inputs);
  check(Model(small, {.inject = true}, tokens, Seed{3}), EveryKthRound{2}, {}, Key(5), Keep::everything);
  check(Model(small, {}, tokens, Seed{4}), AnswerOnly{}, {}, Key(6), Keep::inputs);
}

TEST_CASE("gradient of a model with a block of one's own") {
  const int tokens = Arithmetic{.modulus = 5}.vocabulary().size();
  using Own = Residual<FeedForward<B>>;
  check(LoopedTransformer<B, Own>(Own(FeedForward<B>(6, 9, Key(1))), 6, {.normalise = true}, tokens, Seed{1}),
        Aligned{}, {}, {}, Keep::everything);
}

TEST_CASE("parameters have readable names; a seed decides them all") {
  const LoopedTransformer<B> model({.width = 4, .layers = 1, .heads = 1}, {}, 5, Seed{1}),
      same({.width = 4, .layers = 1, .heads = 1}, {}, 5, Seed{1}),
      other({.width = 4, .layers = 1, .heads = 1}, {}, 5, Seed{2});
  std::vector<std::string> names;
  int different = 0;
  for_each_parameter(
      [&](std::string_view name, const auto& a, const auto& b, const auto& c) {
        names.emplace_back(name);
        CHECK(B::download(a) == B::download(b));
        different += B::download(a) != B::download(c);
      },
      model, same, other);
  CHECK(names.front() == "embedding.weight");
  CHECK(std::count(names.begin(), names.end(), "loop.block.layers.0.attention.qkv.weight") == 1);
  CHECK(std::count(names.begin(), names.end(), "loop.norm.bias") == 1);
  CHECK(names.back() == "answer_head.bias");
  CHECK(different == static_cast<int>(names.size()) - 6);  // all but the scales and shifts of three norms
}
