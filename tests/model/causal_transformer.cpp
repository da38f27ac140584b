#include <relay/model/causal_transformer.hpp>

#include <relay/backend/cpu.hpp>
#include <relay/task/arithmetic.hpp>
#include <relay/testing/gradcheck.hpp>
#include <relay/train/next_token.hpp>

#include <doctest/doctest.h>

using namespace relay;
using B = Cpu<double>;
using Model = CausalTransformer<B>;

TEST_CASE("gradient of the whole model, with dropout and without") {
  const Arithmetic task{.modulus = 5};
  Random random(Key(7));
  const std::vector<Example> batch{task.generate(2, random), task.generate(1, random), task.generate(3, random)};
  const std::vector<const Example*> examples{&batch[0], &batch[1], &batch[2]};
  const NextToken<Model, Arithmetic> objective(task);
  double total = 0;
  for (const Example& e : batch) total += objective.size(e);
  for (const std::optional<Key>& dropout : {std::optional<Key>{}, std::optional<Key>{Key(3)}}) {
    Model model({.width = 8, .layers = 2, .heads = 2, .hidden = 9, .dropout = 0.1}, task.vocabulary().size(), Seed{1});
    NextToken<Model, Arithmetic>::Workspace workspace{{}};
    Model gradient = zeros_like(model), scratch = gradient;
    objective(model, examples, total, dropout, workspace, gradient);
    const auto loss = [&] { return objective(model, examples, total, dropout, workspace, scratch).objective; };
    const auto report = check_gradient<B>(model, gradient, loss, 8);
    CHECK_MESSAGE(report.within(1e-6), report.text());
  }
}

TEST_CASE("a vocabulary as large as the batch is not looked up: the same states and gradients of the tokens that are there") {
  const TransformerConfig config{.width = 8, .layers = 2, .heads = 2};
  const Model small(config, 6, Seed{1});
  Model large(config, 7, Seed{1});
  large.body = small.body;
  large.norm = small.norm;
  std::copy_n(small.embedding.weight.data(), small.embedding.weight.size(), large.embedding.weight.data());
  const std::vector<int> lengths{4, 3};
  const Ragged<B> batch(lengths);
  CHECK(small.looks_up(batch));
  CHECK(!large.looks_up(batch));
  const std::vector<std::int32_t> tokens{1, 2, 3, 2, 5, 2, 1};
  Model::Trace a, b;
  Model da = zeros_like(small), db = zeros_like(large);
  const auto x = small.forward(tokens, batch, a), y = large.forward(tokens, batch, b);
  B::Tensor dy(7, 8);
  initialise_normal<B>(dy, 1, Key(3));
  small.backward(tokens, batch, a, dy, da);
  large.backward(tokens, batch, b, dy, db);
  const auto difference = [](const auto& one, const auto& other) {
    double worst = 0;
    for (long i = 0; i < one.size(); ++i) worst = std::max(worst, std::abs(one.data()[i] - other.data()[i]));
    return worst;
  };
  CHECK(difference(x, y) < 1e-13);
  CHECK(difference(da.embedding.weight, db.embedding.weight) < 1e-13);
  for_each_parameter([&](std::string_view, const auto& one, const auto& other) { CHECK(difference(one, other) < 1e-12); }, da.body, db.body);
  CHECK(B::sum_of_squares(da.embedding.weight) > 1);
}

TEST_CASE("a state ignores later tokens, and other sequences") {
  const Model model({.width = 8, .layers = 2, .heads = 2}, 7, Seed{1});
  const std::vector<int> lengths{6, 3}, one{3};
  const Ragged<B> batch(lengths), alone(one);
  Model::Trace a, b, c;
  const auto x = model.forward({1, 2, 3, 4, 5, 6, 3, 2, 1}, batch, a);
  const auto y = model.forward({1, 2, 3, 4, 6, 6, 3, 2, 1}, batch, b);
  const auto z = model.forward({3, 2, 1}, alone, c);
  for (int i = 0; i < 9 * 8; ++i) {
    const bool changed = i / 8 == 4 || i / 8 == 5;
    if (!changed) CHECK(x.data()[i] == y.data()[i]);
  }
  CHECK(x.row(4)[0] != y.row(4)[0]);
  CHECK(x.row(5)[0] != y.row(5)[0]);
  for (int i = 0; i < 3 * 8; ++i) CHECK(z.data()[i] == doctest::Approx(x.row(6)[i]).epsilon(1e-12));
}

TEST_CASE("parameters have readable names") {
  const Model model({.width = 4, .layers = 2, .heads = 1}, 5, Seed{1});
  std::vector<std::string> names;
  for_each_parameter([&](std::string_view name, const auto&) { names.emplace_back(name); }, model);
  CHECK(names.front() == "embedding.weight");
  CHECK(std::count(names.begin(), names.end(), "body.layers.1.feed_forward.down.bias") == 1);
  CHECK(names.back() == "head.bias");
}
