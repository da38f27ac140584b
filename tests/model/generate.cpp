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
  while (static_cast<int>(written.size()) < config.new_tokens && static_cast<int>(text.size()) < model.positions()) {
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
  const std::vector<Text> unknown{{1}, {2, 17}};
  CHECK_THROWS_WITH_AS(generate(model, std::span<const Text>(unknown)),
                       "prompt 1: token 17 at place 1 is not one of the 17 (from 0) that this model was built for: build it with as many as the task has",
                       Error);
  CHECK_THROWS_AS(generate(model, std::span<const Text>(fine), {.batch = 0}), Error);
  CHECK_THROWS_AS(generate(model, std::span<const Text>(fine), {.new_tokens = 0}), Error);
  const std::vector<Text> filled{{1}, Text(128, 1)}, beyond{{1}, Text(300, 1)};
  CHECK_THROWS_WITH_AS(generate(model, std::span<const Text>(filled)),
                       "prompt 1 of 128 tokens leaves the model no room: its limit is 128 tokens, prompt and text together: "
                       "shorten the prompt, or build the model with more positions",
                       Error);
  CHECK_THROWS_AS(generate(model, std::span<const Text>(beyond), {.new_tokens = 1}), Error);
}

TEST_CASE("at the model's limit of positions each text ends by itself, whatever its neighbours are") {
  const Model model = model_of(Seed{7});
  auto prompts = prompts_of(5);
  prompts.push_back(Text(127, 3));
  const GenerateConfig config{.batch = 4, .new_tokens = 1 << 30, .stop = -1};
  std::vector<bool> stopped;
  const auto written = generate(model, std::span<const Text>(prompts), config, {}, &stopped);
  CHECK(stopped == std::vector<bool>(prompts.size(), false));
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    CHECK(prompts[i].size() + written[i].size() == 128);
    CHECK(written[i] == uncached(model, prompts[i], config));
    CHECK(generate(model, std::span<const Text>(&prompts[i], 1), config).front() == written[i]);
  }
}

TEST_CASE("it says whether a text stopped; the last position may still be read for it") {
  const Model model = model_of(Seed{7});
  const std::vector<Text> prompts{{4, 2}};
  const GenerateConfig free{.new_tokens = 1 << 30, .stop = -1};
  const Text text = generate(model, std::span<const Text>(prompts), free).front();
  const auto length = [&](std::size_t prompt, std::int32_t stop, int new_tokens, bool& stops) {
    // The prompt is the beginning of that text, so what follows is the rest of it.
    Text begun = prompts[0];
    begun.insert(begun.end(), text.begin(), text.begin() + static_cast<std::ptrdiff_t>(prompt - 2));
    std::vector<bool> stopped;
    const auto rest = generate(model, std::span<const Text>(&begun, 1), {.new_tokens = new_tokens, .stop = stop}, {}, &stopped);
    stops = stopped.front();
    return rest.front().size();
  };
  bool stops = false;
  CHECK(length(100, text[98], 9, stops) == 0);  // the very next token
  CHECK(stops);
  CHECK(length(100, -1, 9, stops) == 9);
  CHECK_FALSE(stops);
  CHECK(length(127, -1, 9, stops) == 1);
  CHECK_FALSE(stops);

  // All 128 positions are read; what would stand at the next one is known, and may be the stop.
  Text whole = prompts[0];
  whole.insert(whole.end(), text.begin(), text.end());
  REQUIRE(whole.size() == 128);
  const std::vector<int> lengths{128};
  const Ragged<B> batch(lengths);
  Model::Trace trace;
  const auto& states = model.forward(whole, batch, trace);
  B::Tensor last, logits;
  last.resize_like(states, 1, states.cols());
  B::gather_rows(states, {127}, 0, last);
  B::linear(last, model.head.weight, model.head.bias, logits);
  std::vector<std::int32_t> next;
  std::vector<double> probability;
  B::argmax(logits, next, probability);
  REQUIRE(text.back() != next[0]);
  CHECK(length(127, next[0], 9, stops) == 1);
  CHECK(stops);
}

TEST_CASE("the probability of each written token, and of the stop") {
  const Model model = model_of(Seed{2});
  const auto prompts = prompts_of(8);
  const Text free = uncached(model, prompts[0], {.new_tokens = 30, .stop = -1});
  for (const GenerateConfig& config : {GenerateConfig{.batch = 3, .new_tokens = 30, .stop = free[5]}, GenerateConfig{.new_tokens = 200, .stop = -1}}) {
    std::vector<bool> stopped;
    std::vector<std::vector<double>> probabilities;
    const auto written = generate(model, std::span<const Text>(prompts), config, {}, &stopped, &probabilities);
    REQUIRE(probabilities.size() == prompts.size());
    int stops = 0;
    for (std::size_t i = 0; i < prompts.size(); ++i) {
      Text text = prompts[i];
      text.insert(text.end(), written[i].begin(), written[i].end());
      if (stopped[i]) text.push_back(config.stop), ++stops;
      const std::vector<int> lengths{static_cast<int>(text.size())};
      const Ragged<B> batch(lengths);
      Model::Trace trace;
      B::Tensor logits;
      REQUIRE(probabilities[i].size() == text.size() - prompts[i].size());
      if (lengths[0] <= model.positions()) {
        B::linear(model.forward(text, batch, trace), model.head.weight, model.head.bias, logits);
      } else {  // stopped at the limit: all but the last token are read
        Text read(text.begin(), text.end() - 1);
        const std::vector<int> shorter{static_cast<int>(read.size())};
        const Ragged<B> limit(shorter);
        B::linear(model.forward(read, limit, trace), model.head.weight, model.head.bias, logits);
      }
      for (std::size_t at = prompts[i].size(); at < text.size(); ++at) {
        const float* row = logits.row(static_cast<int>(at) - 1);
        double sum = 0;
        for (int k = 0; k < vocabulary; ++k) sum += std::exp(static_cast<double>(row[k]) - static_cast<double>(row[text[at]]));
        CAPTURE(i);
        CHECK(probabilities[i][at - prompts[i].size()] == doctest::Approx(1 / sum).epsilon(1e-4));
      }
    }
    if (config.stop >= 0) CHECK(stops > 0);
  }
  std::vector<std::vector<double>> none{{0.5}};
  generate(model, std::span<const Text>(), {}, {}, nullptr, &none);
  CHECK(none.empty());
}

TEST_CASE("what the first block makes of a token, looked up: the same states, bit for bit") {
  const Model model = model_of(Seed{1});
  KvCache<B> plain(model, 2, 10), looking(model, 2, 10);
  KvCache<B>::Workspace a, b;
  const Ragged<B> none;
  b.look_up(model, none);
  int position = 0;
  for (const Text& tokens : {Text{3, 4, 3, 16}, Text{0, 5}}) {  // two sequences, a prompt of two each, then one
    const int each = static_cast<int>(tokens.size()) / 2;
    const std::vector<int> lengths{each, each};
    const Ragged<B> batch(lengths);
    const Text slots{1, 0}, starts{position, position};
    const auto x = plain.extend(model, tokens, Rows<B>(batch).forward_only(), slots, starts, a),
               y = looking.extend(model, tokens, Rows<B>(batch).forward_only(), slots, starts, b);
    REQUIRE((x.rows() == 2 * each && y.rows() == 2 * each));
    CHECK(std::equal(x.data(), x.data() + x.size(), y.data()));  // bit for bit: no text depends on whether it was worth while
    position += each;
  }
}

TEST_CASE("no text depends on how many are written at once, nor on layouts, at a width whose products a matrix unit may do") {
  const auto probabilities = []<class Backend>(Backend*, bool prepared, int batch) {
    CausalTransformer<Backend> model({.width = 128, .layers = 2, .heads = 2, .positions = 64}, vocabulary, Seed{9});
    if (prepared) prepare(model);
    std::vector<std::vector<double>> found;
    generate(model, std::span<const Text>(prompts_of(5)).first(5), {.batch = batch, .new_tokens = 9, .stop = -1}, {}, nullptr, &found);
    return found;
  };
  const auto expected = probabilities(static_cast<B*>(nullptr), true, 1);
  REQUIRE(expected.size() == 5);
  for (const bool prepared : {false, true})
    for (const int batch : {1, 3, 5}) CHECK(probabilities(static_cast<B*>(nullptr), prepared, batch) == expected);
  const auto floats = probabilities(static_cast<Cpu<float, cpu::Level::avx512>*>(nullptr), true, 1);
  for (std::size_t text = 0; text < expected.size(); ++text) {
    REQUIRE(expected[text].size() == floats[text].size());
    for (std::size_t i = 0; i < floats[text].size(); ++i) CHECK(expected[text][i] == doctest::Approx(floats[text][i]).epsilon(1e-5));
  }
}
