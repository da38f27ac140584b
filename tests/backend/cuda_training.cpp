// Training and generation on the CUDA backend's kernels, run on the host: as on the CPU, and the same bits again.
#include <relay/backend/cpu.hpp>
#include <relay/backend/cuda.hpp>
#include <relay/model/generate.hpp>
#include <relay/task/arithmetic.hpp>
#include <relay/train/memory_plan.hpp>
#include <relay/train/next_token.hpp>
#include <relay/train/trainer.hpp>
#include <relay/train/unroll.hpp>

#include <cmath>

#include <doctest/doctest.h>

using namespace relay;
using cuda_on_host::Order;

namespace {

const Arithmetic task{.modulus = 5};
const TransformerConfig small{.width = 32, .layers = 2, .heads = 4, .dropout = 0.1, .rotary_base = 100, .directional_heads = 2, .positions = 64};

std::vector<Example> batch_of(int step) {
  std::vector<Example> batch;
  for (int i = 0; i < 6; ++i) {
    Random random(Key(static_cast<std::uint64_t>(step)).fold(static_cast<std::uint64_t>(i)));
    batch.push_back(task.generate(1 + i % 3, random));
  }
  return batch;
}

/// Adds the values of all parameters.
template <class Layer>
void append(const Layer& layer, std::vector<float>& all) {
  for_each_parameter(
      [&](const auto& tensor) {
        for (const auto v : Layer::Backend::download(tensor)) all.push_back(static_cast<float>(v));
      },
      layer);
}

/// The CPU, as a GPU does it: no row of a loop is left out, so that the same is dropped.
struct CpuOfAllRows : cpu::Functions<CpuOfAllRows, float, float, cpu::Level::avx512_bf16> {
  static constexpr bool loops_give_needed_rows = false;
};

struct Trained {
  std::vector<double> losses;
  std::vector<float> parameters;
};

/// Three steps, and all parameters after them.
template <class B>
Trained train_looped(int lanes = 1) {
  Threads threads(1);
  LoopedTransformer<B> model(small, {.inject = true, .normalise = true, .reembed = true}, task.vocabulary().size(), Seed{3});
  const auto objective = loop_objective(model, Aligned{}, {.answer_weight = 0.5});
  Trainer trainer(model, objective, {.rate = 1e-2}, {.steps = 100}, Seed{1}, threads, lanes);
  Trained result;
  for (int step = 0; step < 3; ++step) result.losses.push_back(trainer.step(batch_of(step)).losses.objective);
  append(model, result.parameters);
  return result;
}

template <class B>
typename B::Tensor normal(int rows, int cols, Key key) {
  typename B::Tensor x(rows, cols);
  initialise_normal<B>(x, 1, key);
  return x;
}

double difference(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double one = std::abs(a[i] - b[i]);
    if (!(one <= worst)) worst = std::isnan(one) ? INFINITY : one;  // new memory is NaNs (cuda_on_host.hpp), which are not to go unseen
  }
  return worst;
}

float largest(const std::vector<float>& values) {
  float most = 0;
  for (const float v : values) most = std::max(most, std::abs(v));
  return most;
}

constexpr TransformerConfig wide{.width = 128, .layers = 1, .heads = 2, .hidden = 128, .rotary_base = 100, .positions = 64};

template <class B>
Stack<TransformerBlock<B>> wide_block(double dropout) {
  TransformerConfig config = wide;
  config.dropout = dropout;
  return transformer_stack<B>(config, Mask::none, Key(3));
}

/// A block twice in one iteration: one after the other, or side by side on the same input.
template <class Inner>
struct Twice {
  using Backend = typename Inner::Backend;
  using Tensor = typename Backend::Tensor;
  using Input = Tensor;
  using Output = Tensor;
  struct Trace {
    typename Inner::Trace first, second;
    Tensor y;
  };

  Inner inner;
  bool beside;

  static const Tensor& output(const Trace& trace) { return trace.y; }
  static void each(auto&& visit, auto&... layer) { visit("inner", layer.inner...); }

  const Tensor& forward(const Tensor& x, const Rows<Backend>& rows, Trace& trace) const {
    const Tensor& first = inner.forward(x, rows.fold(0), trace.first);
    Backend::copy(inner.forward(beside ? x : first, rows.fold(1), trace.second), trace.y);
    if (beside) Backend::add(first, trace.y);
    return trace.y;
  }
  Tensor backward(const Tensor& x, const Rows<Backend>& rows, const Trace& trace, const Tensor& dy, Twice& grad) const {
    Tensor d = inner.backward(beside ? x : Inner::output(trace.first), rows.fold(1), trace.second, dy, grad.inner);
    Tensor dx = inner.backward(x, rows.fold(0), trace.first, beside ? dy : d, grad.inner);
    if (beside) Backend::add(d, dx);
    return dx;
  }
  Dropping dropping(const Rows<Backend>& rows) const { return inner.dropping(rows.fold(1)); }
};

/// A block that adds what an inner one makes of the first sequence alone.
template <class Inner>
struct FirstSequence {
  using Backend = typename Inner::Backend;
  using Tensor = typename Backend::Tensor;
  using Input = Tensor;
  using Output = Tensor;
  struct Trace {
    Tensor x, y;
    typename Inner::Trace inner;
  };

  Inner inner;

  static const Tensor& output(const Trace& trace) { return trace.y; }
  static void each(auto&& visit, auto&... layer) { visit("inner", layer.inner...); }

  const Tensor& forward(const Tensor& x, const Rows<Backend>& rows, Trace& trace) const {
    const auto first = rows.first(1);
    Backend::copy_first(x, first.count(), trace.x);
    Backend::copy(x, trace.y);
    Backend::add(inner.forward(trace.x, first, trace.inner), trace.y);
    return trace.y;
  }
  Tensor backward(const Tensor&, const Rows<Backend>& rows, const Trace& trace, const Tensor& dy, FirstSequence& grad) const {
    const auto first = rows.first(1);
    Tensor d, dx;
    Backend::copy_first(dy, first.count(), d);
    Backend::copy(dy, dx);
    Backend::add(inner.backward(trace.x, first, trace.inner, d, grad.inner), dx);
    return dx;
  }
};

/// The gradient of a loop's parameters, and of h_0, from two passes, the second of which adds to the first, with other numbers of rows.
template <class Block>
std::vector<float> loop_gradient(Block block, const LoopConfig& config, Keep keep) {
  using B = typename Block::Backend;
  const Looped<Block> loop(std::move(block), wide.width, config);
  auto grad = zeros_like(loop);
  typename Looped<Block>::Trace trace;
  std::vector<float> all;
  for (const int more : {0, 3}) {
    trace.keep = keep;
    const std::vector<int> lengths{5 + more, 3, 6 - more}, counts{5, 3, 1 + more / 3};
    const Ragged<B> batch(lengths);
    const Rows<B> rows(batch, Key(8));
    const auto h0 = normal<B>(batch.rows(), wide.width, Key(1));
    loop.forward(h0, rows, counts, trace, [](int, const auto&, const auto&) {});
    const auto give = [](int t, const auto&, auto& dy) {
      B::add(normal<B>(dy.rows(), dy.cols(), Key(2).fold(static_cast<std::uint64_t>(t))), dy);
    };
    for (const auto v : B::download(loop.backward(h0, rows, trace, give, grad))) all.push_back(static_cast<float>(v));
  }
  append(grad, all);
  return all;
}

/// gradient(backend, what is kept) on the GPU, where all iterations' come at once or each by itself, against the CPU's.
void check_gradient_of(auto&& gradient) {
  const std::type_identity<Cuda<bf16>> half;
  const auto cpu = gradient(std::type_identity<Cpu<float>>(), Keep::everything), gpu = gradient(std::type_identity<Cuda<float>>(), Keep::everything);
  CHECK(difference(cpu, gpu) < 1e-5 * largest(cpu));
  const auto narrow = gradient(half, Keep::everything);
  CHECK(difference(cpu, narrow) < 2e-2 * largest(cpu));
  CHECK(difference(narrow, gradient(half, Keep::inputs)) < 1e-3 * largest(cpu));  // nearly the same numbers, added in another order
}
/// make(backend) gives the block.
void check_loop(auto&& make, const LoopConfig& config) {
  check_gradient_of([&]<class B>(std::type_identity<B> backend, Keep keep) { return loop_gradient(make(backend), config, keep); });
}

}  // namespace

TEST_CASE("a looped model learns as on the CPU, dropout and all") {
  const Trained cpu = train_looped<CpuOfAllRows>(), gpu = train_looped<Cuda<float>>();
  for (std::size_t i = 0; i < 3; ++i) CHECK(gpu.losses[i] == doctest::Approx(cpu.losses[i]).epsilon(1e-4));
  const Trained narrow = train_looped<Cuda<bf16>>();
  for (std::size_t i = 0; i < 3; ++i) CHECK(narrow.losses[i] == doctest::Approx(cpu.losses[i]).epsilon(3e-2));
}

TEST_CASE("the same bits again, in whatever order a block's threads run") {
  const Trained once = train_looped<Cuda<bf16>>(2), again = train_looped<Cuda<bf16>>(2);
  CHECK(once.parameters == again.parameters);
  cuda_on_host::thread_order = Order::backwards;
  const Trained backwards = train_looped<Cuda<bf16>>(2);
  cuda_on_host::thread_order = Order::forwards;
  CHECK(once.parameters == backwards.parameters);
  CHECK(difference(once.parameters, train_looped<Cuda<bf16>>(1).parameters) > 0);  // bits can differ
}

TEST_CASE("a causal model writes as on the CPU") {
  for (const int layers : {1, 2, 3, 4}) {
    CAPTURE(layers);
    const auto write = [&]<class B>(std::vector<std::vector<double>>& probabilities) {
      const TransformerConfig config{.width = 32, .layers = layers, .heads = 2, .rotary_base = 100, .positions = 64};
      const CausalTransformer<B> model(config, task.vocabulary().size(), Seed{5});
      std::vector<Tokens> prompts;
      for (const Example& e : batch_of(7)) prompts.push_back(e.problem);
      return generate<B>(model, prompts, {.batch = 4, .new_tokens = 12, .stop = -1}, {}, nullptr, &probabilities);
    };
    std::vector<std::vector<double>> cpu, gpu, narrow;
    CHECK(write.operator()<Cuda<float>>(gpu) == write.operator()<Cpu<float>>(cpu));
    for (std::size_t i = 0; i < cpu.size(); ++i)
      for (std::size_t k = 0; k < cpu[i].size(); ++k) CHECK(gpu[i][k] == doctest::Approx(cpu[i][k]).epsilon(1e-4));
    write.operator()<Cuda<bf16>>(narrow);
    CHECK(narrow[0][0] == doctest::Approx(cpu[0][0]).epsilon(5e-2));
  }
}

// Steps of generation are recorded and replayed; with few slots, prompts that wait take the places of what has ended.
TEST_CASE("a replayed step writes what a launched one does") {
  using B = Cuda<bf16>;
  const TransformerConfig config{.width = 32, .layers = 2, .heads = 2, .rotary_base = 100, .positions = 64};
  CausalTransformer<B> model(config, task.vocabulary().size(), Seed{5});
  prepare(model);
  std::vector<Tokens> prompts;
  for (int i = 0; i < 5; ++i)
    for (const Example& e : batch_of(i)) prompts.push_back(e.problem);
  for (const int slots : {3, 9, 30})
    for (const int stop : {-1, 3, 10}) {  // at 10 some end at once, so that there are fewer for a step, and then more again
      CAPTURE(slots);
      CAPTURE(stop);
      const auto write = [&](std::vector<std::vector<double>>& probabilities) {
        return generate<B>(model, prompts, {.batch = slots, .new_tokens = 15, .stop = stop}, {}, nullptr, &probabilities);
      };
      std::vector<std::vector<double>> launched, replayed;
      cuda_on_host::refuses_graphs = true;
      const long none = cuda_on_host::replays;
      const auto expected = write(launched);
      CHECK(cuda_on_host::replays == none);
      cuda_on_host::refuses_graphs = false;
      CHECK(write(replayed) == expected);
      CHECK(cuda_on_host::replays > none);
      CHECK(replayed == launched);
    }
}

// The device is a step or two ahead of what the host knows: of who stops, or has written enough, or fills the model.
TEST_CASE("whatever ends a text, it is the one that the CPU writes") {
  std::vector<Tokens> prompts;
  for (int i = 0; i < 5; ++i)
    for (const Example& e : batch_of(i)) prompts.push_back(e.problem);
  std::size_t longest = 0;
  for (const Tokens& prompt : prompts) longest = std::max(longest, prompt.size());
  const TransformerConfig config{.width = 32, .layers = 1, .heads = 2, .rotary_base = 100, .positions = static_cast<int>(longest) + 6};
  const int vocabulary = task.vocabulary().size();
  int by_stop = 0, full = 0, enough = 0;
  for (const int new_tokens : {1, 2, 9, 100})
    for (const int slots : {1, 4, 30})
      for (int stop = -1; stop < vocabulary; stop += 5) {
        CAPTURE(new_tokens);
        CAPTURE(slots);
        CAPTURE(stop);
        const auto write = [&]<class B>(std::vector<bool>& stopped, std::vector<std::vector<double>>& probabilities) {
          const CausalTransformer<B> model(config, vocabulary, Seed{5});
          return generate<B>(model, prompts, {.batch = slots, .new_tokens = new_tokens, .stop = stop}, {}, &stopped, &probabilities);
        };
        std::vector<bool> stopped, stopped_there;
        std::vector<std::vector<double>> cpu, gpu;
        const auto expected = write.operator()<Cpu<float>>(stopped, cpu);
        CHECK(write.operator()<Cuda<float>>(stopped_there, gpu) == expected);
        CHECK(stopped_there == stopped);
        for (std::size_t i = 0; i < cpu.size(); ++i) {
          REQUIRE(gpu[i].size() == cpu[i].size());
          const int length = static_cast<int>(prompts[i].size() + expected[i].size());
          (stopped[i] ? by_stop : length == config.positions ? full : enough) += 1;
        }
      }
  CHECK(by_stop > 10);
  CHECK(full > 10);
  CHECK(enough > 10);
}

// The device goes on with a text that has ended, as there are no fewer sequences for it, but not out of the text's place in the cache.
TEST_CASE("a long text that ends beside short ones leaves them as they are") {
  constexpr int longest = 12, others = 17;  // with one sequence less a step takes no less time
  REQUIRE(Cuda<float>::repeated_size(others) == others + 1);
  const TransformerConfig config{.width = 32, .layers = 1, .heads = 2, .rotary_base = 100, .positions = longest + 4};
  const int vocabulary = task.vocabulary().size();
  int tried = 0;
  for (std::uint64_t seed = 1; seed < 40; ++seed) {
    const CausalTransformer<Cpu<float>> model(config, vocabulary, Seed{seed});
    std::vector<Tokens> prompts(1 + others, Tokens{3});
    prompts[0].assign(longest, 5);
    const auto texts = generate<Cpu<float>>(model, prompts, {.batch = 1 + others, .new_tokens = 100, .stop = -1});
    const Token stop = texts[0][1];  // behind the first, which comes with the prompt
    if (texts[0][0] == stop || std::find(texts[1].begin(), texts[1].end(), stop) != texts[1].end()) continue;
    ++tried;
    CAPTURE(seed);
    const auto write = [&]<class B>(std::vector<std::vector<double>>& probabilities) {
      const CausalTransformer<B> same(config, vocabulary, Seed{seed});
      return generate<B>(same, prompts, {.batch = 1 + others, .new_tokens = 100, .stop = stop}, {}, nullptr, &probabilities);
    };
    std::vector<std::vector<double>> cpu, gpu;
    CHECK(write.operator()<Cuda<float>>(gpu) == write.operator()<Cpu<float>>(cpu));
    for (std::size_t i = 0; i < cpu.size(); ++i)
      for (std::size_t k = 0; k < cpu[i].size(); ++k) CHECK(gpu[i][k] == doctest::Approx(cpu[i][k]).epsilon(1e-4));
  }
  CHECK(tried > 3);
}

TEST_CASE("while the same sequences run, the host uploads nothing") {
  using B = Cuda<bf16>;
  CausalTransformer<B> model({.width = 32, .layers = 1, .heads = 2, .positions = 64}, task.vocabulary().size(), Seed{5});
  prepare(model);
  const std::vector<Tokens> prompts(3, Tokens{1, 2, 3});
  const auto uploads = [&](int new_tokens) {
    const long before = cuda_on_host::uploads;
    for (const Tokens& text : generate<B>(model, prompts, {.new_tokens = new_tokens, .stop = -1})) CHECK(text.size() == static_cast<std::size_t>(new_tokens));
    return cuda_on_host::uploads - before;
  };
  CHECK(uploads(40) == uploads(4));
}

// What a GPU is asked for in one more iteration of the paper's block: each launch takes as long as a small product.
TEST_CASE("an iteration's launches, forward and backward") {
  using B = Cuda<bf16>;
  for (const int width : {64, 128}) {
    CAPTURE(width);
    const TransformerConfig config{.width = width, .layers = 3, .heads = 4, .dropout = 0.1, .positions = 64};
    LoopedTransformer<B> model(config, {.normalise = true}, 20, Seed{3});
    auto grad = zeros_like(model);
    prepare(model);
    const std::vector<int> lengths{9, 5};
    const Ragged<B> batch(lengths);
    const Rows<B> rows(batch, Key(1));
    const auto x = B::indices(std::vector<std::int32_t>(14, 3), {});
    Embedding<B>::Trace embedded;
    const auto& h0 = model.embedding.forward(x, rows, embedded);
    const auto count = [&](int iterations) {
      LoopedTransformer<B>::Loop::Trace trace;
      const long kernels = cuda_on_host::launches, products = cuda_on_host::products;
      const std::vector<int> counts(2, iterations);
      model.loop.forward(h0, rows, counts, trace, [](int, const auto&, const auto&) {});
      model.loop.backward(h0, rows, trace, [](int, const auto&, auto&) {}, grad.loop);
      return std::pair{cuda_on_host::launches - kernels, cuda_on_host::products - products};
    };
    const auto [kernels3, products3] = count(3);
    const auto [kernels2, products2] = count(2);
    // With rows that are wide enough, weights' gradients are of all iterations at once.
    CHECK(products3 - products2 == 3 * (width == 128 ? 8 : 12));
    CHECK(kernels3 - kernels2 == (width == 128 ? 25 : 40));
  }
}

TEST_CASE("a batch that is made ready a step before: the same bits") {
  const auto check = [](auto model, const auto& objective) {
    using Model = decltype(model);
    Threads threads(1);
    auto other = model;
    Trainer ready(model, objective, {.rate = 1e-2}, {.steps = 100}, Seed{1}, threads, 2);
    Trainer plain(other, objective, {.rate = 1e-2}, {.steps = 100}, Seed{1}, threads, 2);
    std::vector<std::vector<Example>> batches;
    for (int i = 0; i < 4; ++i) batches.push_back(batch_of(i));
    for (std::size_t i = 0; i < 4; ++i) {
      const std::span<const Example> next = batches[i == 1 ? 0 : (i + 1) % 4];  // once another than it will be
      CHECK(ready.step(batches[i], [&] { return next; }).losses.objective == plain.step(batches[i]).losses.objective);
    }
    for_each_parameter([](const auto& a, const auto& b) { CHECK(Model::Backend::download(a) == Model::Backend::download(b)); }, model, other);
  };
  using B = Cuda<bf16>;
  const int vocabulary = task.vocabulary().size();
  const LoopedTransformer<B> looped(small, {.normalise = true}, vocabulary, Seed{3});
  check(looped, loop_objective(looped, Aligned{}, {.answer_weight = 0.5}));
  TransformerConfig causal = small;
  causal.directional_heads = 0;
  check(CausalTransformer<B>(causal, vocabulary, Seed{3}), NextToken<CausalTransformer<B>, Arithmetic>(task));
}

TEST_CASE("a gradient that is not finite stops the training on the GPU, and nothing has changed") {
  const auto check = [&]<class B>() {
    for (const int before_that : {0, 2}) {
      Linear<B> layer(70, 90, Key(1)), gradient(70, 90, Key(2));
      AdamW optimiser(layer, {.rate = 0.1});
      for (int step = 0; step < before_that; ++step) optimiser.step(layer, gradient, 1);
      const Linear<B> weights = layer, first = optimiser.first, second = optimiser.second, good = gradient;
      const auto same = [](const Linear<B>& a, const Linear<B>& b) {
        return B::download(a.weight) == B::download(b.weight) && B::download(a.bias) == B::download(b.bias);
      };
      auto values = B::download(gradient.bias);
      for (const float bad : {NAN, INFINITY, 1e30f}) {  // the last: its square is not finite
        values[33] = bad;
        B::upload(values, gradient.bias);
        CHECK_THROWS_WITH_AS(optimiser.step(layer, gradient, 1),
                             message("the gradient is not finite at step ", before_that + 1,
                                     ": lower the learning rate, or look for bad values in the data")
                                 .c_str(),
                             Error);
        CHECK(same(layer, weights));
        CHECK(same(optimiser.first, first));
        CHECK(same(optimiser.second, second));
        CHECK(optimiser.steps == before_that);
      }
      // What products read is the weights, though they have been laid out first in a step that was none.
      typename B::Tensor x(3, 70), y, again;
      initialise_normal<B>(x, 1, Key(4));
      B::linear(x, layer.weight, layer.bias, y);
      B::linear(x, typename B::Tensor(layer.weight), layer.bias, again);
      CHECK(B::download(y) == B::download(again));
      CHECK(std::isfinite(optimiser.step(layer, good, 1)));
      CHECK(optimiser.steps == before_that + 1);
      CHECK_FALSE(same(layer, weights));
    }
  };
  check.operator()<Cuda<float>>();
  check.operator()<Cuda<bf16>>();
}

TEST_CASE("the optimiser's list goes to the GPU once, and again where a parameter moves") {
  using B = Cuda<bf16>;
  Linear<B> layer(70, 90, Key(1)), gradient(70, 90, Key(2)), elsewhere = gradient, other = layer;
  AdamW optimiser(layer, {}), twin(other, {});
  const auto uploads = [&](const Linear<B>& from) {
    const long before = cuda_on_host::uploads;
    optimiser.step(layer, from, 1);
    return cuda_on_host::uploads - before;
  };
  CHECK(uploads(gradient) == 1);
  CHECK(uploads(gradient) == 0);
  CHECK(uploads(elsewhere) == 1);
  CHECK(uploads(elsewhere) == 0);
  for (int step = 0; step < 4; ++step) twin.step(other, gradient, 1);
  CHECK(B::download(layer.weight) == B::download(other.weight));
}

TEST_CASE("after a step that could not be asked for, products read the weights and not the copies of older ones") {
  using B = Cuda<bf16>;
  Linear<B> layer(70, 90, Key(1)), gradient(70, 90, Key(2)), elsewhere = gradient;
  AdamW optimiser(layer, {.rate = 0.1});
  optimiser.step(layer, gradient, 1);  // now there are copies
  initialise_normal<B>(layer.weight, 1, Key(3));
  cuda_on_host::refuses_uploads = true;
  CHECK_THROWS_AS(optimiser.step(layer, elsewhere, 1), Error);  // its list has changed
  cuda_on_host::refuses_uploads = false;
  B::Tensor x(3, 70), y, expected;
  initialise_normal<B>(x, 1, Key(4));
  B::linear(x, layer.weight, layer.bias, y);
  B::linear(x, B::Tensor(layer.weight), layer.bias, expected);
  CHECK(B::download(y) == B::download(expected));
}

TEST_CASE("a step asks for no memory once it is warm, and waits for the host three times") {
  Threads threads(1);
  LoopedTransformer<Cuda<bf16>> model(small, {.normalise = true}, task.vocabulary().size(), Seed{3});
  const auto objective = loop_objective(model, Aligned{}, {.answer_weight = 0.5});
  Trainer trainer(model, objective, {.rate = 1e-2}, {.steps = 100}, Seed{1}, threads, 1);
  const auto batch = batch_of(0);
  trainer.step(batch);
  const long before = trainer.allocations();
  trainer.step(batch);
  CHECK(trainer.allocations() == before);
}

// A loop's weight gradients are one product over all iterations, where rows are wide enough; a causal model's of the same widths are not.
TEST_CASE("weight gradients of all iterations at once") {
  const TransformerConfig deep{.width = 128, .layers = 2, .heads = 4, .hidden = 256, .dropout = 0.1, .rotary_base = 100, .positions = 64};
  const auto gradient = [&]<class B>(std::type_identity<B>, const TransformerConfig& config, const LoopConfig& loop, Keep keep) {
    const LoopedTransformer<B> model(config, loop, task.vocabulary().size(), Seed{3});
    const auto objective = loop_objective(model, Aligned{}, {}, {}, 0, keep);
    LoopedTransformer<B> grad = zeros_like(model);
    typename decltype(objective)::Workspace workspace(typename B::Device{});
    std::vector<float> all;
    for (int step = 0; step < 2; ++step) {  // the second adds to the first, with other numbers of rows
      const std::vector<Example> batch = batch_of(step);
      std::vector<const Example*> examples;
      for (std::size_t i = step; i < batch.size(); ++i) examples.push_back(&batch[i]);
      objective.stage_all_rows(examples, workspace.staged);
      objective(model, workspace.staged, 6, Key(7), workspace, grad);
    }
    append(grad, all);
    return all;
  };
  const auto check = [&](const TransformerConfig& config, const LoopConfig& loop) {
    check_gradient_of([&](auto backend, Keep keep) { return gradient(backend, config, loop, keep); });
  };
  TransformerConfig whole = deep;
  whole.dropout = 0;
  check(whole, {});
  check(deep, {});
  check(wide, {.inject = true, .reembed = true, .window = 2});

  const std::type_identity<Cuda<bf16>> half;
  CHECK(gradient(half, wide, {}, Keep::everything) == gradient(half, wide, {}, Keep::everything));
  const long before = cuda_on_host::products;
  gradient(half, deep, {}, Keep::everything);
  const long together = cuda_on_host::products - before;
  gradient(half, deep, {}, Keep::inputs);
  CHECK(together < cuda_on_host::products - before - together);  // (which also applies every iteration again)
}

TEST_CASE("the gradient of a loop that is cut, feeds back, or is inside another") {
  for (const LoopConfig& config :
       {LoopConfig{.window = 2}, LoopConfig{.inject = true, .signal = true}, LoopConfig{.inject = true, .normalise = true, .window = 2}}) {
    CAPTURE(config.inject);
    CAPTURE(config.window);
    check_loop([]<class B>(std::type_identity<B>) { return wide_block<B>(0.1); }, config);
  }
  for (const bool normalise : {false, true})
    check_loop(
        [&]<class B>(std::type_identity<B>) {
          return Looped<Stack<TransformerBlock<B>>, 2>(wide_block<B>(0.1), wide.width, {.normalise = normalise});
        },
        {.normalise = normalise});
}

TEST_CASE("a pass after one that had no backward pass, or that an exception ended, is as any other") {
  using B = Cuda<bf16>;
  using Loop = Looped<Stack<TransformerBlock<B>>>;
  const Loop loop(wide_block<B>(0.1), wide.width, {.normalise = true});
  const std::vector<int> lengths{4, 3}, counts{4, 2};
  const Ragged<B> batch(lengths);
  const Rows<B> rows(batch, Key(8));
  const auto h0 = normal<B>(batch.rows(), wide.width, Key(1));
  // Throws when it comes to an iteration, forward or backward; there is none of number 0.
  const auto back = [&](const Loop::Trace& trace, int backward_until = 0) {
    Loop grad = zeros_like(loop);
    const auto give = [&](int t, const auto&, auto& dy) {
      require(t != backward_until, "that is all");
      B::add(normal<B>(dy.rows(), dy.cols(), Key(2).fold(static_cast<std::uint64_t>(t))), dy);
    };
    std::vector<float> all = B::download(loop.backward(h0, rows, trace, give, grad));
    append(grad, all);
    return all;
  };
  const auto pass = [&](Loop::Trace& trace, int forward_until = 0, int backward_until = 0) {
    loop.forward(h0, rows, counts, trace, [&](int t, const auto&, const auto&) { require(t != forward_until, "that is all"); });
    return back(trace, backward_until);
  };
  Loop::Trace fresh, trace;
  const auto expected = pass(fresh);
  CHECK(pass(fresh) == expected);
  CHECK(back(fresh) == expected);
  loop.forward(h0, rows, counts, trace, [](int, const auto&, const auto&) {});
  CHECK(pass(trace) == expected);
  for (const int t : {1, 3}) {
    CHECK_THROWS_AS(pass(trace, t), Error);
    CHECK(cuda::applications == nullptr);
    CHECK(pass(trace) == expected);
    CHECK_THROWS_AS(pass(trace, 0, t), Error);
    CHECK(cuda::applications == nullptr);
    CHECK(back(trace) == expected);
    CHECK(pass(trace) == expected);
  }
  // A larger batch leaves places for more rows.
  const std::vector<int> longer{6, 5};
  const Ragged<B> more(longer);
  loop.forward(normal<B>(more.rows(), wide.width, Key(3)), more, counts, trace, [](int, const auto&, const auto&) {});
  CHECK(pass(trace) == expected);
}

TEST_CASE("a block that is applied twice in one iteration: the second application is not among those of all iterations") {
  for (const bool beside : {false, true})
    for (const double dropout : {0.0, 0.1}) {
      CAPTURE(beside);
      CAPTURE(dropout);
      check_loop([&]<class B>(std::type_identity<B>) { return Twice<Stack<TransformerBlock<B>>>{wide_block<B>(dropout), beside}; }, {});
    }
}

TEST_CASE("a block whose layers are applied to some of the rows: the gradients are of those") {
  check_loop([]<class B>(std::type_identity<B>) { return FirstSequence<Stack<TransformerBlock<B>>>{wide_block<B>(0.1)}; }, {});
}

TEST_CASE("the plan of a loop's memory on a GPU, weight gradients of all iterations and all") {
  TransformerConfig config = wide;
  config.layers = 2;
  config.dropout = 0.1;
  Random random(Key(5));
  const Example largest = task.generate(3, random);
  constexpr int batch = 6;
  const auto check = [&]<class B>(std::type_identity<B>, Keep keep) {
    using Planned = Shapes<float, keeping_of<B>()>;
    const auto make = [&]<class On>(std::type_identity<On>, typename On::Device device) {
      return LoopedTransformer<On>(config, {.normalise = true}, task.vocabulary().size(), Seed{1}, device);
    };
    const auto objective_of = [&](const auto& model) { return loop_objective(model, Aligned{}, {}, {}, 0, keep); };
    const auto planned = [&](auto on) {
      using On = typename decltype(on)::type;
      return plan_memory([&](typename On::Device device) { return make(on, device); }, objective_of(make(on, {})), largest, batch, 1);
    };
    const MemoryPlan plan = planned(std::type_identity<Planned>());
    auto model = make(std::type_identity<B>(), {});
    const auto objective = objective_of(model);
    Threads threads(1);
    Trainer trainer(model, objective, {}, {.steps = 100}, Seed{5}, threads, 1);
    trainer.reserve(largest, batch);
    const double bytes = static_cast<double>(plan.activations), taken = static_cast<double>(trainer.bytes());
    CAPTURE(bytes);
    CAPTURE(taken);
    CHECK(std::abs(taken - bytes) <= 0.01 * taken + 65536);
    trainer.step(std::vector<Example>(batch, largest));
    CHECK(static_cast<double>(trainer.bytes()) == taken);
    if (keep == Keep::everything) {
      const double on_cpu = static_cast<double>(planned(std::type_identity<Shapes<float>>()).activations);
      CHECK(on_cpu < taken - 2 * 65536);  // more than could be overlooked
    }
  };
  for (const Keep keep : {Keep::everything, Keep::inputs}) {
    check(std::type_identity<Cuda<bf16>>(), keep);
    check(std::type_identity<Cuda<float>>(), keep);
  }
}
