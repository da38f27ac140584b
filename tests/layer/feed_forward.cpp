#include <relay/layer/feed_forward.hpp>

#include "check.hpp"

using namespace relay;
using check::B;

TEST_CASE("feed-forward keeps a layer's promises") {
  check::promises(FeedForward<B>(5, 11, Key(1)), 5);
  check::promises(FeedForward<B>(8, 32, Key(2)), 8);
}
