#include <relay/model/generate.hpp>

#include <relay/backend/cpu.hpp>
#include <relay/core/parameters.hpp>

#include <doctest/doctest.h>

using namespace relay;
using B = Cpu<float>;
using Model = CausalTransformer<B>;
using Text = std::vector<std::int32_t>;

namespace {

constexpr int vocabulary = 17;

/// A model whose greedy text does not soon repeat itself.
Model model_of(Seed seed) {
  Model model({.width = 24, .layers = 2, .heads = 2, .positions = 128}, vocabulary, seed);
  std::uint64_t number = 0;
  for_each_parameter(
      [&](std::string_view, auto& weight) {
        Random random(Key(seed).fold(1000 + number++));
        for (long i = 0; i < weight.size(); ++i) weight.data()[i] += static_cast<float>(0.3 * random.normal());
      },
      model);
  return model;
}

/// The obvious way: the whole text through the model for every token.
Text uncached(const Model& model, const Text& prompt, const GenerateConfig& config) {
  Text text = prompt, written;
  while (static_cast<int>(written.size()) < config.new_tokens) {
    const std::vector<int> lengths{static_cast<int>(text.size())};
    const Ragged<B> batch(lengths);
    Model::Trace trace;
    const auto& states = model.forward(text, batch, trace);
    const float* last = states.row(states.rows() - 1);
    std::int32_t best = 0;
    std::vector<double> logits;
    for (int token = 0; token < vocabulary; ++token) {
      double sum = model.head.bias.data()[token];
      for (int c = 0; c < states.cols(); ++c)
        sum += static_cast<double>(model.head.weight.row(token)[c]) * static_cast<double>(last[c]);
      logits.push_back(sum);
      if (sum > logits[static_cast<std::size_t>(best)]) best = token;
    }
    if (best == config.stop) break;
    written.push_back(best);
    text.push_back(best);
  }
  return written;
}

std::vector<Text> prompts_of(int count) {
  Random random(Key(4));
  std::vector<Text> prompts;
  for (int i = 0; i < count; ++i) {
    Text prompt;
    const int length = i == 1 ? 1 : i == 2 ? 45 : 1 + random.below(12);
    for (int j = 0; j < length; ++j) prompt.push_back(random.below(vocabulary));
    prompts.push_back(prompt);
  }
  return prompts;
}

}  // namespace

TEST_CASE("with the cache, the tokens are those without it: any batch, slots fewer than prompts, stop and limit") {
  for (const std::uint64_t seed : {1u, 2u, 3u}) {
    const Model model = model_of(Seed{seed});
    const auto prompts = prompts_of(11);
    // A token that ends some texts early.
    const Text free = uncached(model, prompts[0], {.new_tokens = 30, .stop = -1});
    const std::int32_t stop = free[5];
    std::vector<Text> expected;
    int stopped = 0;
    for (const Text& prompt : prompts) {
      expected.push_back(uncached(model, prompt, {.new_tokens = 30, .stop = stop}));
      stopped += expected.back().size() < 30;
    }
    CHECK(stopped >= 1);
    for (const int batch : {1, 3, 64}) {
      CAPTURE(batch);
      CHECK(generate(model, std::span<const Text>(prompts), {.batch = batch, .new_tokens = 30, .stop = stop}) ==
            expected);
    }
    for (Text& text : expected) text.resize(std::min<std::size_t>(text.size(), 2));
    CHECK(generate(model, std::span<const Text>(prompts), {.batch = 4, .new_tokens = 2, .stop = stop}) == expected);
  }
}

TEST_CASE("never stopped: every text has the full length") {
  const Model model = model_of(Seed{5});
  const auto prompts = prompts_of(5);
  const auto written = generate(model, std::span<const Text>(prompts), {.batch = 2, .new_tokens = 60, .stop = -1});
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    CHECK(written[i].size() == 60);
    CHECK(written[i] == uncached(model, prompts[i], {.new_tokens = 60, .stop = -1}));
  }
}

TEST_CASE("with memory of its own, which it gives back") {
  cpu::Memory memory;
  const Model model = model_of(Seed{6});
  const auto prompts = prompts_of(6);
  const GenerateConfig config{.batch = 3, .new_tokens = 10, .stop = 0};
  const auto first = generate(model, std::span<const Text>(prompts), config, {&memory});
  const long allocations = memory.allocations();
  CHECK(generate(model, std::span<const Text>(prompts), config, {&memory}) == first);
  CHECK(memory.allocations() == allocations);
  CHECK(generate(model, std::span<const Text>(prompts), config) == first);
}

TEST_CASE("no prompts, and prompts that cannot be continued") {
  const Model model = model_of(Seed{1});
  CHECK(generate(model, std::span<const Text>()).empty());
  const std::vector<Text> empty{{1}, {}}, fine{{1}};
  CHECK_THROWS_WITH_AS(generate(model, std::span<const Text>(empty), {.new_tokens = 4}),
                       "prompt 1 is empty: generation continues at least one token", Error);
  CHECK_THROWS_AS(generate(model, std::span<const Text>(fine), {.batch = 0}), Error);
  CHECK_THROWS_AS(generate(model, std::span<const Text>(fine), {.new_tokens = 0}), Error);
  CHECK_THROWS_AS(generate(model, std::span<const Text>(fine), {.new_tokens = 128}),
                  Error);  // beyond the model's positions
}
