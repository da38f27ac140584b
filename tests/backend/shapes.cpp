// backend/shapes.hpp: every layer needs, on Shapes, the memory that it needs on the CPU.
#include <relay/backend/shapes.hpp>

#include <relay/backend/backend.hpp>
#include <relay/backend/cpu.hpp>
#include <relay/core/parameters.hpp>
#include <relay/layer/chain.hpp>
#include <relay/layer/dropout.hpp>
#include <relay/layer/looped.hpp>
#include <relay/layer/residual.hpp>
#include <relay/layer/transformer_block.hpp>
#include <relay/model/generate.hpp>
#include <relay/model/looped_transformer.hpp>

#include <doctest/doctest.h>

using namespace relay;

static_assert(ComputeBackend<Shapes<float>> && ComputeBackend<Shapes<double>>);

namespace {

const std::vector<int> lengths{7, 3, 40};

/// What tensors need: of the layer, then with its trace after forward, then with the gradient and dx after backward.
template <class B>
std::vector<std::size_t> needs(auto&& make) {
  typename B::Memory memory;
  const typename B::Device device{&memory};
  std::vector<std::size_t> seen;
  {
    const auto layer = make(static_cast<B*>(nullptr), device);
    using L = std::remove_const_t<decltype(layer)>;
    seen.push_back(memory.used());
    const Ragged<B> batch(lengths, device);
    const Rows<B> rows(batch, Key(3));
    typename B::Tensor x(rows.count(), 16, device);
    B::fill(x, 0.5);
    typename L::Trace trace;
    const auto& y = layer.forward(x, rows, trace);
    seen.push_back(memory.used());
    L grad = zeros_like(layer);
    const auto dx = layer.backward(x, rows, trace, y, grad);
    CHECK((dx.rows() == x.rows() && dx.cols() == x.cols()));
    seen.push_back(memory.used());
  }
  CHECK(memory.used() == 0);
  return seen;
}

void same(auto&& make) {
  CHECK(needs<Shapes<float>>(make) == needs<Cpu<float>>(make));
  CHECK(needs<Shapes<double>>(make) == needs<Cpu<double>>(make));
  CHECK(needs<Shapes<float>>(make) != needs<Shapes<double>>(make));
}

constexpr TransformerConfig config{.width = 16, .layers = 2, .heads = 2, .dropout = 0.1, .distance_bias = 2};

}  // namespace

TEST_CASE("layers") {
  same([]<class B>(B*, auto device) { return Linear<B>(16, 7, Key(1), device); });
  same([]<class B>(B*, auto device) { return LayerNorm<B>(16, device); });
  same([]<class B>(B*, auto device) { return FeedForward<B>(16, 50, Key(1), device); });
  same([]<class B>(B*, auto device) { return Attention<B>({.width = 16, .heads = 2}, Key(1), device); });
  same([]<class B>(B*, auto device) {
    return chain(Residual(Linear<B>(16, 16, Key(1), device)), Dropout<B>(0.5), Linear<B>(16, 3, Key(2), device));
  });
  same([]<class B>(B*, auto device) { return transformer_stack<B>(config, Mask::causal, Key(1), device); });
}

TEST_CASE("loops") {
  for (const LoopConfig& loop : {LoopConfig{}, LoopConfig{.inject = true, .signal = true, .normalise = true, .window = 2}})
    same([&]<class B>(B*, auto device) {
      auto body = transformer_stack<B>(config, Mask::none, Key(1), device);
      return Looped<decltype(body), 3>(std::move(body), 16, loop, device);
    });
}

TEST_CASE("generation runs through, and counts its cache") {
  using B = Shapes<float>;
  const CausalTransformer<B> model(config, 10, Seed{1});
  const std::vector<std::vector<std::int32_t>> prompts{{1, 2, 3}, {4}};
  B::Memory memory;
  const auto texts = generate(model, std::span(prompts), {.new_tokens = 6, .stop = 9}, {&memory});
  CHECK(texts == std::vector<std::vector<std::int32_t>>(2, std::vector<std::int32_t>(6)));
  CHECK(memory.bytes() >= 2 * 2 * 2 * 9 * 16 * sizeof(float));  // slots, layers, keys and values, positions, width
}

TEST_CASE("what is read back are zeros, and tensors without a memory are counted nowhere") {
  using B = Shapes<double>;
  B::Tensor x(3, 5);
  B::upload(std::vector<double>(15, 2.0), x);
  CHECK(B::download(x) == std::vector<double>(15, 0.0));
  CHECK(B::sum_of_squares(x) == 0);
  std::vector<std::int32_t> best{1};
  std::vector<double> probability;
  B::argmax(x, best, probability);
  CHECK(best == std::vector<std::int32_t>(3, 0));
  CHECK(probability == std::vector<double>(3, 0.0));

  B::Memory memory;
  B::Tensor y(3, 5, {&memory});
  const std::size_t once = memory.used();
  CHECK(once == B::Memory::size_class(15 * sizeof(double)));
  const B::Tensor copy = y;
  CHECK(memory.used() == 2 * once);
  const B::Tensor moved = std::move(y);
  CHECK(memory.used() == 2 * once);
  CHECK(y.size() == 0);
  B::Tensor like;
  like.resize_like(moved, 1, 1);
  CHECK(like.device().memory == &memory);
  CHECK_THROWS_WITH_AS(B::Tensor(-1, 3), "a tensor cannot have -1 rows and 3 columns", Error);
}
