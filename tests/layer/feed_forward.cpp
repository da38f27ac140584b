#include <relay/layer/feed_forward.hpp>

#include "check.hpp"

using namespace relay;
using check::B;

namespace {

/// What the layer gives, and its gradients, one after the other.
std::vector<float> passes(bool prepared) {
  using F = Cpu<float>;
  FeedForward<F> layer(16, 128, Key(1));
  if (prepared) prepare(layer);
  const Ragged<F> batch(std::vector<int>{20, 13, 1});
  const Rows<F> rows(batch);
  F::Tensor x(rows.count(), 16);
  initialise_normal<F>(x, 1, Key(2));
  FeedForward<F>::Trace trace;
  FeedForward<F> grad = zeros_like(layer);
  std::vector<float> all = F::download(layer.forward(x, rows, trace));
  const auto keep = [&](const F::Tensor& t) { all.insert(all.end(), t.data(), t.data() + t.size()); };
  keep(layer.backward(x, rows, trace, x, grad));
  for (const Linear<F>* linear : {&grad.up, &grad.down}) keep(linear->weight), keep(linear->bias);
  return all;
}

}  // namespace

TEST_CASE("feed-forward has the same bits with weights that are laid out for products, where it is one operation") {
  CHECK(passes(true) == passes(false));
}

TEST_CASE("feed-forward keeps a layer's promises") {
  check::promises(FeedForward<B>(5, 11, Key(1)), 5);
  check::promises(FeedForward<B>(8, 32, Key(2)), 8);
}
