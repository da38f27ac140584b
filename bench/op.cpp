// Operations of the CPU backend on one thread, at the shapes training has: rows of a lane, widths of the two models.
#include "measure.hpp"

using namespace relay;
using namespace bench;

namespace {

/// args: rows, inputs, outputs
void BM_Product(benchmark::State& state) {
  const int rows = static_cast<int>(state.range(0)), in = static_cast<int>(state.range(1)), out = static_cast<int>(state.range(2));
  const Tensor x = random(rows, in), w = random(out, in);
  Tensor y;
  for (auto _ : state) Backend::product(x, w, y);
  rate(state, "flops", 2.0 * rows * in * out);
}
BENCHMARK(BM_Product)->Args({160, 64, 192})->Args({160, 64, 256})->Args({160, 256, 64})->Args({640, 256, 768})->Args({640, 256, 1024})->Args({640, 1024, 256});
BENCHMARK(BM_Product)->Args({1, 256, 1024})->Args({4, 256, 1024})->Args({16, 256, 1024})->Args({64, 256, 1024});  // as in generation

void BM_LinearBackward(benchmark::State& state) {
  const int rows = static_cast<int>(state.range(0)), in = static_cast<int>(state.range(1)), out = static_cast<int>(state.range(2));
  const Tensor x = random(rows, in), w = random(out, in), dy = random(rows, out);
  Tensor dx, dw = random(out, in), db = random(1, out);
  for (auto _ : state) Backend::linear_backward(x, w, dy, dx, dw, db);
  rate(state, "flops", 4.0 * rows * in * out);
}
BENCHMARK(BM_LinearBackward)->Args({160, 64, 256})->Args({640, 256, 1024});

/// What weight gradients of many iterations in one product could save. args: rows of an iteration, iterations, inputs, outputs
template <class B>
void weight_gradients(benchmark::State& state, bool at_once) {
  const int rows = static_cast<int>(state.range(0)), times = static_cast<int>(state.range(1));
  const int in = static_cast<int>(state.range(2)), out = static_cast<int>(state.range(3));
  const int products = at_once ? 1 : times, depth = at_once ? rows * times : rows;
  std::vector<Tensor> x, dy;
  for (int i = 0; i < products; ++i) x.push_back(random(depth, in)), dy.push_back(random(depth, out));
  Tensor dw = random(out, in);
  for (auto _ : state)
    for (int i = 0; i < products; ++i) B::add_outer_product(dy[static_cast<std::size_t>(i)], x[static_cast<std::size_t>(i)], dw);
  rate(state, "flops", 2.0 * rows * times * in * out);
}
template <class B>
void BM_WeightGradientsByIteration(benchmark::State& state) { weight_gradients<B>(state, false); }
template <class B>
void BM_WeightGradientsAtOnce(benchmark::State& state) { weight_gradients<B>(state, true); }
void iterations(benchmark::internal::Benchmark* b) {
  b->Args({40, 6, 64, 256})->Args({160, 6, 64, 256});
  for (const int rows : {20, 40, 80, 160, 320, 640}) b->Args({rows, 15, 256, 1024});
}
BENCHMARK(BM_WeightGradientsByIteration<Cpu<float>>)->Apply(iterations);
BENCHMARK(BM_WeightGradientsAtOnce<Cpu<float>>)->Apply(iterations);
BENCHMARK(BM_WeightGradientsByIteration<Cpu<bf16>>)->Apply(iterations);
BENCHMARK(BM_WeightGradientsAtOnce<Cpu<bf16>>)->Apply(iterations);

/// With rotary positions, as layers have it. args: sequences, tokens in each, width; four heads
template <class B>
void attention(benchmark::State& state, Mask mask, bool backward) {
  const int sequences = static_cast<int>(state.range(0)), n = static_cast<int>(state.range(1)), width = static_cast<int>(state.range(2));
  constexpr int heads = 4;
  const std::vector<int> lengths(static_cast<std::size_t>(sequences), n);
  typename B::Memory memory;  // of a lane: what operations need for themselves they find there
  const typename B::Device device{&memory};
  const Ragged<B> batch(lengths, device);
  const Rows<B> rows(batch);
  const Rotary<B> rotary(width / heads, n, 10000, device);
  Tensor qkv = random(rows.count(), 3 * width, device), out, lse, dqkv;
  const Tensor dout = random(rows.count(), width, device);
  B::rotary_attention(qkv, rows, {heads, mask}, heads, rotary.table(), out, lse);
  for (auto _ : state)
    if (backward)
      B::rotary_attention_backward(qkv, out, lse, dout, rows, {heads, mask}, heads, rotary.table(), dqkv);
    else
      B::rotary_attention(qkv, rows, {heads, mask}, heads, rotary.table(), out, lse);
  rate(state, "flops", (backward ? 10.0 : 4.0) * sequences * n * n * width / (mask == Mask::causal ? 2 : 1));
}
template <class B>
void BM_Attention(benchmark::State& state) { attention<B>(state, Mask::none, false); }
template <class B>
void BM_AttentionBackward(benchmark::State& state) { attention<B>(state, Mask::none, true); }
template <class B>
void BM_CausalAttention(benchmark::State& state) { attention<B>(state, Mask::causal, false); }
template <class B>
void BM_CausalAttentionBackward(benchmark::State& state) { attention<B>(state, Mask::causal, true); }
void short_sequences(benchmark::internal::Benchmark* b) { b->Args({8, 20, 64})->Args({16, 42, 256}); }
void long_sequences(benchmark::internal::Benchmark* b) { b->Args({8, 70, 64})->Args({2, 350, 256}); }
BENCHMARK(BM_Attention<Cpu<float>>)->Apply(short_sequences);
BENCHMARK(BM_AttentionBackward<Cpu<float>>)->Apply(short_sequences);
BENCHMARK(BM_CausalAttention<Cpu<float>>)->Apply(long_sequences);
BENCHMARK(BM_CausalAttentionBackward<Cpu<float>>)->Apply(long_sequences);
BENCHMARK(BM_Attention<Cpu<bf16>>)->Apply(short_sequences);
BENCHMARK(BM_AttentionBackward<Cpu<bf16>>)->Apply(short_sequences);
BENCHMARK(BM_CausalAttention<Cpu<bf16>>)->Apply(long_sequences);
BENCHMARK(BM_CausalAttentionBackward<Cpu<bf16>>)->Apply(long_sequences);

/// args: rows, width
void BM_LayerNorm(benchmark::State& state) {
  const int width = static_cast<int>(state.range(1));
  const Tensor x = random(static_cast<int>(state.range(0)), width), scale = random(1, width), shift = random(1, width);
  Tensor y, statistics;
  for (auto _ : state) Backend::layer_norm(x, scale, shift, 1e-5, y, statistics);
  rate(state, "elements", static_cast<double>(x.size()));
}
BENCHMARK(BM_LayerNorm)->Args({160, 64})->Args({640, 256});

template <class B>
void BM_Gelu(benchmark::State& state) {
  const Tensor x = random(static_cast<int>(state.range(0)), static_cast<int>(state.range(1)));
  Tensor y;
  for (auto _ : state) B::gelu(x, y);
  rate(state, "elements", static_cast<double>(x.size()));
}
template <class B>
void BM_GeluBackward(benchmark::State& state) {
  const Tensor x = random(static_cast<int>(state.range(0)), static_cast<int>(state.range(1))), dy = x;
  Tensor dx, y;
  for (auto _ : state) B::gelu_backward(x, dy, dx, y);
  rate(state, "elements", static_cast<double>(x.size()));
}
BENCHMARK(BM_Gelu<Cpu<float>>)->Args({160, 256});
BENCHMARK(BM_GeluBackward<Cpu<float>>)->Args({160, 256});
BENCHMARK(BM_Gelu<Cpu<bf16>>)->Args({160, 256});
BENCHMARK(BM_GeluBackward<Cpu<bf16>>)->Args({160, 256});

/// A feed-forward layer as one operation of the backend, and as one after the other. args: rows, width, hidden
template <class B>
void feed_forward(benchmark::State& state, bool backward, auto operations) {
  using Operations = decltype(operations);
  const int rows = static_cast<int>(state.range(0)), width = static_cast<int>(state.range(1)), hidden = static_cast<int>(state.range(2));
  Linear<B> up(width, hidden, Key(1)), down(hidden, width, Key(2));
  relay::prepare(up), relay::prepare(down);
  typename B::Memory memory;  // of a lane: what operations need for themselves they find there
  const Tensor x = random(rows, width, {&memory}), dy = x;
  Tensor h, activated, y, dx;
  Linear<B> dup = up, ddown = down;
  Operations::feed_forward(x, up, down, false, h, activated, y);
  for (auto _ : state) {
    if (backward)
      Operations::feed_forward_backward(x, h, activated, up, down, dy, dx, dup, ddown);
    else
      Operations::feed_forward(x, up, down, false, h, activated, y);
  }
  rate(state, "flops", (backward ? 8.0 : 4.0) * rows * width * hidden);
}
template <class B>
void BM_FeedForward(benchmark::State& state) { feed_forward<B>(state, false, B()); }
template <class B>
void BM_FeedForwardOneByOne(benchmark::State& state) { feed_forward<B>(state, false, ComposedOps<B>()); }
template <class B>
void BM_FeedForwardBackward(benchmark::State& state) { feed_forward<B>(state, true, B()); }
template <class B>
void BM_FeedForwardBackwardOneByOne(benchmark::State& state) { feed_forward<B>(state, true, ComposedOps<B>()); }
void feed_forward_sizes(benchmark::internal::Benchmark* b) { b->Args({160, 64, 256})->Args({640, 256, 1024}); }
BENCHMARK(BM_FeedForward<Cpu<float>>)->Apply(feed_forward_sizes);
BENCHMARK(BM_FeedForwardOneByOne<Cpu<float>>)->Apply(feed_forward_sizes);
BENCHMARK(BM_FeedForwardBackward<Cpu<float>>)->Apply(feed_forward_sizes);
BENCHMARK(BM_FeedForwardBackwardOneByOne<Cpu<float>>)->Apply(feed_forward_sizes);
BENCHMARK(BM_FeedForward<Cpu<bf16>>)->Apply(feed_forward_sizes);
BENCHMARK(BM_FeedForwardOneByOne<Cpu<bf16>>)->Apply(feed_forward_sizes);
BENCHMARK(BM_FeedForwardBackward<Cpu<bf16>>)->Apply(feed_forward_sizes);
BENCHMARK(BM_FeedForwardBackwardOneByOne<Cpu<bf16>>)->Apply(feed_forward_sizes);

void BM_Dropout(benchmark::State& state) {
  const Tensor x = random(static_cast<int>(state.range(0)), static_cast<int>(state.range(1)));
  Tensor y;
  for (auto _ : state) Backend::dropout(x, 0.1, Key(1), y);
  rate(state, "elements", static_cast<double>(x.size()));
}
BENCHMARK(BM_Dropout)->Args({160, 64});

void BM_SoftmaxCrossEntropy(benchmark::State& state) {
  const int rows = static_cast<int>(state.range(0)), classes = static_cast<int>(state.range(1));
  const Tensor x = random(rows, classes);
  const std::vector<std::int32_t> targets(static_cast<std::size_t>(rows), 1);
  const std::vector<double> weights(static_cast<std::size_t>(rows), 1);
  Tensor logits, losses;
  for (auto _ : state) {
    Backend::copy(x, logits);
    Backend::softmax_cross_entropy(logits, targets, weights, losses);
  }
  rate(state, "elements", static_cast<double>(x.size()));
}
BENCHMARK(BM_SoftmaxCrossEntropy)->Args({1000, 16});

/// AdamW without laying out: of a model's tensors one by one, or of one flat buffer of as many elements.
void adamw(benchmark::State& state, const TransformerConfig& config, bool flat) {
  const CausalTransformer<Backend> model(config, 20, Seed{1});
  std::vector<std::array<Tensor, 4>> all;  // weight, gradient, moments
  const auto add = [&](int rows, int cols) {
    all.push_back({random(rows, cols), random(rows, cols), random(rows, cols), Tensor(rows, cols)});
    Backend::fill(all.back()[3], 1);
  };
  if (flat)
    add(1, static_cast<int>(count_parameters(model)));
  else
    for_each_parameter([&](const Tensor& t) { add(t.rows(), t.cols()); }, model);
  double sum = 0;
  for (auto _ : state)
    for (auto& [w, g, m, v] : all) {
      sum += Backend::sum_of_squares(g);
      Backend::adamw(w, g, m, v, {.rate = 1e-9, .beta1 = .9, .beta2 = .98, .epsilon = 1e-8, .decay = .01, .correction1 = .1, .correction2 = .02,
                                   .gradient_scale = 1});
    }
  benchmark::DoNotOptimize(sum);
  rate(state, "elements", static_cast<double>(count_parameters(model)));
}
void BM_AdamW(benchmark::State& state) { adamw(state, state.range(0) == 64 ? demo() : paper(), false); }
void BM_AdamWFlat(benchmark::State& state) { adamw(state, state.range(0) == 64 ? demo() : paper(), true); }
BENCHMARK(BM_AdamW)->Arg(64)->Arg(256);
BENCHMARK(BM_AdamWFlat)->Arg(64)->Arg(256);

}  // namespace
