// What PyTorch says of two small models: states or logits, every gradient, ten losses of training, for any backend. See
// golden/make_golden.py.
#pragma once

#include <relay/core/file.hpp>
#include <relay/core/json_parser.hpp>
#include <relay/train/next_token.hpp>
#include <relay/train/trainer.hpp>
#include <relay/train/unroll.hpp>

#include <doctest/doctest.h>

namespace golden {

using namespace relay;

// Tolerances, of each tensor relative to its largest element. The files hold nine digits and PyTorch computed in double,
// so double has to agree to the digits. In float a state passes up to 8 layers and a gradient twice that, each rounding at
// 6e-8: 1e-5 and 1e-4. Losses are means of tens of tokens, but after ten steps of Adam, which divides by the root of the second moment,
// a small gradient's rounding has become a step of full size: 1e-3. In double, PyTorch's clipping differs from ours by
// 1e-6 / norm, which the second step's loss is the first to feel: 1e-6. bf16 rounds the operands of every product, of attention's too, at 2e-3: states
// are off by 1.1e-2 in the median on a CPU, and by 2.3e-2 at most (with attention in float32 by 0.9e-2 and 1.4e-2);
// small late gradients are then of about the right size only.
struct Tolerance {
  double state, gradient, loss, training, norm;  // norm: of the gradient in later steps
};
/// Of a backend, float32's unless a test says another.
template <class B>
inline constexpr Tolerance tolerance{1e-5, 1e-4, 1e-6, 1e-3, 1e-2};
inline constexpr Tolerance in_double{1e-8, 1e-8, 1e-12, 1e-6, 1e-5};
inline constexpr Tolerance in_bf16{3e-2, 1e-1, 2e-3, 2e-2, 1};

inline Json file_of(const std::string& name) {
  const std::string path = std::string(RELAY_TESTS) + "/golden/" + name;
  return parse_json(read_file(path), path);
}

inline std::vector<double> numbers(const Json& list) {
  std::vector<double> values;
  for (const Json& v : list.as_array()) values.push_back(v.as_number());
  return values;
}
inline Tokens tokens(const Json& list) {
  Tokens values;
  for (const Json& v : list.as_array()) values.push_back(static_cast<Token>(v.as_integer()));
  return values;
}
inline int integer(const Json& object, std::string_view key) { return static_cast<int>(object.at(key).as_integer()); }
inline double number(const Json& object, std::string_view key) { return object.at(key).as_number(); }

inline std::vector<Example> examples(const Json& file) {
  std::vector<Example> list;
  for (const Json& e : file.at("examples").as_array()) {
    Example example;
    example.problem = tokens(e.at("problem"));
    for (const Json& round : e.at("rounds").as_array()) example.rounds.push_back(tokens(round));
    example.iterations = example.length = static_cast<int>(example.rounds.size());
    example.answer = static_cast<Token>(e.at("answer").as_integer());
    list.push_back(std::move(example));
  }
  return list;
}

inline TransformerConfig transformer(const Json& file) {
  const Json& c = file.at("config");
  return {.width = integer(c, "width"),
          .layers = integer(c, "layers"),
          .heads = integer(c, "heads"),
          .hidden = integer(c, "hidden"),
          .positions = integer(c, "positions")};
}
inline AdamWConfig adamw(const Json& file) {
  const Json& c = file.at("adamw");
  return {.rate = number(c, "rate"),
          .beta1 = number(c, "beta1"),
          .beta2 = number(c, "beta2"),
          .epsilon = number(c, "epsilon"),
          .decay = number(c, "decay"),
          .clip = number(c, "clip")};
}
inline LinearSchedule schedule(const Json& file) {
  const Json& c = file.at("schedule");
  return {.steps = integer(c, "steps"), .warm_up = number(c, "warm_up"), .final = number(c, "final")};
}

/// The largest difference, relative to the largest element.
template <class Values>
double difference(const Values& actual, const std::vector<double>& expected) {
  REQUIRE(actual.size() == expected.size());
  double worst = 0, largest = 1e-12;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    worst = std::max(worst, std::abs(static_cast<double>(actual[i]) - expected[i]));
    largest = std::max(largest, std::abs(expected[i]));
    REQUIRE_FALSE(std::isnan(static_cast<double>(actual[i])));
  }
  return worst / largest;
}

template <class B>
void load(auto& model, const Json& weights) {
  std::size_t count = 0;
  for_each_parameter(
      [&](std::string_view name, auto& tensor) {
        std::vector<typename B::Scalar> values;
        for (const double v : numbers(weights.at(name))) values.push_back(static_cast<typename B::Scalar>(v));
        REQUIRE(static_cast<long>(values.size()) == tensor.size());
        B::upload(values, tensor);
        ++count;
      },
      model);
  CHECK(count == weights.as_object().size());
}

template <class B>
void compare_gradient(const auto& gradient, const Json& expected) {
  for_each_parameter(
      [&](std::string_view name, const auto& tensor) {
        CAPTURE(std::string(name));
        CHECK(difference(B::download(tensor), numbers(expected.at(name))) < tolerance<B>.gradient);
      },
      gradient);
}

/// Ten steps, after which the losses and the norms of the gradients are PyTorch's. Two lanes: their gradients must add up.
template <class B>
void compare_training(auto model, const auto& objective, const Json& file, const Json& expected) {
  Threads threads(1);
  Trainer trainer(model, objective, adamw(file), schedule(file), Seed{1}, threads, 2);
  const auto batch = examples(file);
  const auto losses = numbers(expected.at("losses")), norms = numbers(expected.at("gradient_norms"));
  for (std::size_t i = 0; i < losses.size(); ++i) {
    CAPTURE(i);
    const StepReport report = trainer.step(batch);
    const auto t = tolerance<B>;
    CHECK(report.losses.objective == doctest::Approx(losses[i]).epsilon(i == 0 ? t.loss : t.training));
    CHECK(report.gradient_norm == doctest::Approx(norms[i]).epsilon(i == 0 ? t.gradient : t.norm));
  }
}

inline std::vector<const Example*> pointers(const std::vector<Example>& list) {
  std::vector<const Example*> out;
  for (const Example& e : list) out.push_back(&e);
  return out;
}

/// What is written after a problem here: the rounds and <eos>.
struct Written {
  static constexpr std::string_view name = "written";
  Vocabulary vocabulary() const { return Vocabulary({"+", "-", "*", "/", "="}, {"0", "1", "2", "3", "4"}); }
  Example generate(int, Random&) const { fail("examples come from the golden file"); }
  Tokens text(const Example& e) const {
    Tokens text;
    for (const Tokens& round : e.rounds) text.insert(text.end(), round.begin(), round.end());
    text.push_back(Vocabulary::eos);
    return text;
  }
  Example read(const Example& problem, const Tokens&) const { return problem; }
};

template <class B>
void looped() {
  using Model = LoopedTransformer<B>;
  const Json file = file_of("looped.json");
  const auto batch = examples(file);
  for (const Json& variant : file.at("variants").as_array()) {
    const bool inject = variant.at("inject").as_bool();
    CAPTURE(inject);
    Model model(transformer(file), {.inject = inject, .normalise = true}, integer(file, "vocabulary"), Seed{1});
    load<B>(model, file.at("weights"));

    // States of every iteration, all examples in one batch.
    std::vector<int> lengths, counts;
    Tokens x;
    for (const Example& e : batch) {
      lengths.push_back(static_cast<int>(e.problem.size()));
      counts.push_back(e.iterations);
      x.insert(x.end(), e.problem.begin(), e.problem.end());
    }
    const Ragged<B> ragged(lengths);
    typename Embedding<B>::Trace embedded;
    typename Model::Loop::Trace trace;
    model.loop.forward(model.embedding.forward(B::indices(x, {}), ragged, embedded), ragged, counts, trace,
                       [&](int t, const Rows<B>& live, const auto& y) {
                         const auto values = B::download(y);
                         for (int s = 0; s < live.sequences(); ++s) {
                           CAPTURE(t);
                           CAPTURE(s);
                           const auto expected = numbers(variant.at("states")
                                                             .as_array()[static_cast<std::size_t>(s)]
                                                             .as_array()[static_cast<std::size_t>(t - 1)]);
                           const std::vector<typename B::Scalar> rows(values.begin() + live.begin(s) * y.cols(),
                                                     values.begin() + live.end(s) * y.cols());
                           CHECK(difference(rows, expected) < tolerance<B>.state);
                         }
                       });

    const Json& l = variant.at("loss");
    const AlignmentLoss loss{
        .lambda = number(l, "lambda"),
        .answer_weight = number(l, "answer_weight"),
        .over_round = l.at("over_round").as_string() == "sum" ? Normalisation::sum : Normalisation::mean};
    for (const Keep keep : {Keep::everything, Keep::inputs}) {
      const Unroll<Model> objective({}, loss, {}, integer(file, "first_value"), keep);
      typename Unroll<Model>::Workspace workspace{{}};
      Model gradient = zeros_like(model);
      const auto all = pointers(batch);
      objective(model, all, 3, {}, workspace, gradient);
      compare_gradient<B>(gradient, variant.at("gradient"));
      compare_training<B>(model, objective, file, variant.at("training"));
    }
  }
}

template <class B>
void causal() {
  using Model = CausalTransformer<B>;
  const Json file = file_of("causal.json");
  const auto batch = examples(file);
  Model model(transformer(file), integer(file, "vocabulary"), Seed{1});
  load<B>(model, file.at("weights"));
  for (std::size_t i = 0; i < batch.size(); ++i) {
    const std::vector<int> lengths{static_cast<int>(batch[i].problem.size())};
    const Ragged<B> ragged(lengths);
    typename Model::Trace trace;
    typename B::Tensor logits;
    B::logits(model.forward(B::indices(batch[i].problem, {}), ragged, trace), model.head.weight, model.head.bias,
              logits);
    CHECK(difference(B::download(logits), numbers(file.at("logits").as_array()[i])) < tolerance<B>.state);
  }
  const NextToken<Model, Written> objective{Written()};
  typename NextToken<Model, Written>::Workspace workspace{{}};
  Model gradient = zeros_like(model);
  double total = 0;
  for (const Example& e : batch) total += objective.size(e);
  objective(model, pointers(batch), total, {}, workspace, gradient);
  compare_gradient<B>(gradient, file.at("gradient"));
  compare_training<B>(model, objective, file, file.at("training"));
}

}  // namespace golden
