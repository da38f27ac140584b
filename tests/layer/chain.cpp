#include <relay/layer/chain.hpp>

#include <relay/layer/dropout.hpp>
#include <relay/layer/feed_forward.hpp>
#include <relay/layer/layer_norm.hpp>

#include "check.hpp"

using namespace relay;
using check::B;

TEST_CASE("a chain keeps a layer's promises") {
  check::promises(chain(Linear<B>(5, 3, Key(1))), 5);
  check::promises(chain(Linear<B>(5, 3, Key(1)), Linear<B>(3, 6, Key(2))), 5);
  check::promises(
      chain(LayerNorm<B>(5), Dropout<B>(0.3), FeedForward<B>(5, 6, Key(1)), Dropout<B>(0.3), Linear<B>(5, 2, Key(2))),
      5);
}

TEST_CASE("a chain is its layers one after another, and names them in order") {
  const Linear<B> a(4, 3, Key(1)), b(3, 5, Key(2)), c(5, 2, Key(3));
  const auto all = chain(a, b, c);
  const std::vector<int> lengths{3};
  const Ragged<B> batch(lengths);
  const check::Tensor x = check::random(3, 4, Key(4));
  Linear<B>::Trace ta, tb, tc;
  decltype(all)::Trace trace;
  const auto& y = c.forward(b.forward(a.forward(x, batch, ta), batch, tb), batch, tc);
  CHECK(check::difference(all.forward(x, batch, trace), y) == 0);

  std::vector<std::string> names;
  for_each_parameter([&](std::string_view name, const auto&) { names.emplace_back(name); }, all);
  CHECK(names == std::vector<std::string>{"first.weight", "first.bias", "rest.first.weight", "rest.first.bias",
                                          "rest.rest.last.weight", "rest.rest.last.bias"});
}

TEST_CASE("two dropouts of a chain drop different elements") {
  const auto both = chain(Dropout<B>(0.5), Dropout<B>(0.5));
  const std::vector<int> lengths{100};
  const Ragged<B> batch(lengths);
  check::Tensor x(100, 10);
  B::fill(x, 1);
  decltype(both)::Trace trace;
  int kept = 0;
  for (const double v : B::download(both.forward(x, Rows<B>(batch, Key(1)), trace))) kept += v != 0;
  CHECK(kept > 150);  // a quarter of 1000; half of them, were the masks the same
  CHECK(kept < 350);
}
