#include <relay/layer/transformer_block.hpp>

#include <relay/layer/chain.hpp>
#include <relay/layer/dropout.hpp>
#include <relay/layer/residual.hpp>

#include "check.hpp"

using namespace relay;
using check::B;

TEST_CASE("a transformer block keeps a layer's promises, with dropout and without") {
  for (const Mask mask : {Mask::none, Mask::causal}) {
    check::promises(TransformerBlock<B>({.width = 8, .heads = 2, .hidden = 9}, mask, Key(1)), 8);
    check::promises(TransformerBlock<B>({.width = 4, .heads = 2, .dropout = 0.3}, mask, Key(2)), 4);
  }
}

TEST_CASE("the block is what its parts composed one by one give") {
  const TransformerBlock<B> block({.width = 8, .heads = 2}, Mask::none, Key(1));
  const auto composed =
      chain(Residual(chain(block.norm1, block.attention)), Residual(chain(block.norm2, block.feed_forward)));
  const std::vector<int> lengths{5, 2};
  const Ragged<B> batch(lengths);
  const check::Tensor x = check::random(7, 8, Key(2)), dy = check::random(7, 8, Key(3));
  TransformerBlock<B>::Trace a;
  decltype(composed)::Trace b;
  CHECK(check::difference(block.forward(x, batch, a), composed.forward(x, batch, b)) < 1e-13);
  auto g = zeros_like(block);
  auto h = zeros_like(composed);
  CHECK(check::difference(block.backward(x, batch, a, dy, g), composed.backward(x, batch, b, dy, h)) < 1e-12);
  CHECK(check::parameter_difference(g.attention, h.first.inner.rest.last) < 1e-12);
  CHECK(check::parameter_difference(g.norm2, h.rest.last.inner.first) < 1e-12);
}

TEST_CASE("a causal block ignores later positions") {
  const TransformerBlock<B> block({.width = 8, .heads = 2}, Mask::causal, Key(1));
  const std::vector<int> lengths{9};
  const Ragged<B> batch(lengths);
  const check::Tensor x = check::random(9, 8, Key(2));
  check::Tensor other = x;
  for (int c = 0; c < 8; ++c) other.row(6)[c] += 1;
  TransformerBlock<B>::Trace a, b;
  const auto& y = block.forward(x, batch, a);
  const auto& z = block.forward(other, batch, b);
  CHECK(check::difference(check::slice(y, 0, 6), check::slice(z, 0, 6)) == 0);
  CHECK(check::difference(check::slice(y, 6, 7), check::slice(z, 6, 7)) > 0.1);
}

TEST_CASE("a stack of blocks: hidden defaults to four widths, layers differ, and there is at least one") {
  const auto stack = transformer_stack<B>({.width = 8, .layers = 3, .heads = 2}, Mask::none, Key(1));
  CHECK(stack.layers.size() == 3);
  CHECK(stack.layers[0].feed_forward.up.outputs() == 32);
  CHECK(check::difference(stack.layers[0].attention.qkv.weight, stack.layers[1].attention.qkv.weight) > 0);
  check::promises(
      transformer_stack<B>({.width = 4, .layers = 2, .heads = 1, .hidden = 5, .dropout = 0.1}, Mask::none, Key(2)), 4);
  CHECK_THROWS_WITH_AS(transformer_stack<B>({.layers = 0}, Mask::none, Key(1)),
                       "a transformer needs at least one layer, not 0", Error);
  CHECK_THROWS_AS(TransformerBlock<B>({.dropout = 1}, Mask::none, Key(1)), Error);
}
