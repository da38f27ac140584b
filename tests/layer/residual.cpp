#include <relay/layer/residual.hpp>

#include <relay/layer/feed_forward.hpp>

#include "check.hpp"

using namespace relay;
using check::B;

TEST_CASE("residual keeps a layer's promises") {
  check::promises(Residual(Linear<B>(5, 5, Key(1))), 5);
  check::promises(Residual(Residual(FeedForward<B>(4, 7, Key(2)))), 4);
}

TEST_CASE("residual of a layer that gives zero is the identity") {
  const Residual layer(zeros_like(Linear<B>(3, 3, Key(1))));
  const std::vector<int> lengths{2};
  const Ragged<B> batch(lengths);
  const check::Tensor x = check::random(2, 3, Key(1));
  Residual<Linear<B>>::Trace trace;
  CHECK(check::difference(layer.forward(x, batch, trace), x) == 0);
}
