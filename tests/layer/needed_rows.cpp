#include <relay/layer/needed_rows.hpp>

#include <relay/layer/feed_forward.hpp>
#include <relay/layer/looped.hpp>
#include <relay/layer/transformer_block.hpp>

#include "check.hpp"

using namespace relay;
using check::B;
using check::Tensor;

namespace {

const std::vector<int> lengths{5, 3, 4};
const B::Indices needed{0, 1, 4, 6, 10, 11};

Tensor picked(const Tensor& x) {
  Tensor some(static_cast<int>(needed.size()), x.cols());
  B::gather_rows(x, needed, 0, some);
  return some;
}
Tensor spread(const Tensor& d, int rows) {
  Tensor all(rows, d.cols());
  B::fill(all, 0);
  B::scatter_rows(d, 0, needed, all);
  return all;
}

/// What it gives of some rows is what it gives of all, and its gradient that of a dy that is zero elsewhere.
template <GivesNeededRows L>
void gives_the_same(const L& layer) {
  const Ragged<B> batch(lengths);
  const Rows<B> all(batch), some = all.needing(needed, static_cast<int>(needed.size()));
  CHECK(some.count() == 12);
  CHECK(some.outputs() == 6);
  CHECK(some.needing_all().outputs() == 12);
  const Tensor x = check::random(12, 8, Key(3)), dy = check::random(6, 8, Key(4));
  typename L::Trace whole, part;
  const Tensor y = picked(layer.forward(x, all, whole));
  CHECK(check::difference(layer.forward(x, some, part), y) < 1e-14);
  CHECK(check::difference(layer.forward(x, some.forward_only(), part), y) < 1e-14);
  layer.forward(x, some, part);
  L dwhole = zeros_like(layer), dpart = dwhole;
  const Tensor dx = layer.backward(x, all, whole, spread(dy, 12), dwhole);
  CHECK(check::difference(layer.backward(x, some, part, dy, dpart), dx) < 1e-13);
  CHECK(check::parameter_difference(dwhole, dpart) < 1e-12);
  double size = 0;
  for_each_parameter([&](std::string_view, const Tensor& d) { size += B::sum_of_squares(d); }, dpart);
  CHECK(size > 1);
}

}  // namespace

TEST_CASE("attention, a transformer block and a stack give the rows that are needed, and the gradient of all") {
  const TransformerConfig config{.width = 8, .layers = 3, .heads = 2, .hidden = 16};
  for (const Mask mask : {Mask::none, Mask::causal}) {
    Attention<B> attention({.width = 8, .heads = 2, .mask = mask}, Key(1));
    TransformerBlock<B> block(config, mask, Key(1));
    auto stack = transformer_stack<B>(config, mask, Key(1));
    check::perturb(attention);
    check::perturb(block);
    check::perturb(stack);
    gives_the_same(attention);
    gives_the_same(block);
    gives_the_same(stack);
  }
}

TEST_CASE("a layer that does not say so does not") {
  CHECK(!GivesNeededRows<FeedForward<B>>);
  CHECK(!GivesNeededRows<Stack<FeedForward<B>>>);
  CHECK(!Looped<FeedForward<B>>::gives_needed_rows_at_end);
  CHECK(Looped<Stack<TransformerBlock<B>>>::gives_needed_rows_at_end);
  CHECK(!GivesNeededRows<Looped<Stack<TransformerBlock<B>>, 2>>);
}

TEST_CASE("backward of a loop wants to be told what forward was") {
  const Looped<Stack<TransformerBlock<B>>> loop(transformer_stack<B>({.width = 8, .layers = 1, .heads = 2}, Mask::none, Key(1)), 8);
  const Ragged<B> batch(lengths);
  const std::vector<int> counts{1, 1, 1};
  const Tensor h0 = check::random(12, 8, Key(3));
  decltype(loop)::Trace trace;
  loop.forward(h0, batch, counts, trace, [](int, const auto&, const Tensor&) {}, NoFeedback{}, [](int, const Rows<B>& rows) { return rows.needing(needed, 6); });
  CHECK(trace.state(1).rows() == 6);
  auto gradient = zeros_like(loop);
  CHECK_THROWS_WITH_AS(loop.backward(h0, batch, trace, [](int, const auto&, Tensor&) {}, gradient),
                       "iteration 1 of the loop gave 6 rows, but backward is told that 12 were needed: give it what forward was given", Error);
}

TEST_CASE("a loop whose block gives all rows refuses to be told which are needed") {
  const Looped<FeedForward<B>> loop(FeedForward<B>(8, 8, Key(1)), 8);
  const Ragged<B> batch(lengths);
  const std::vector<int> counts{1, 1, 1};
  decltype(loop)::Trace trace;
  CHECK_THROWS_WITH_AS(loop.forward(
                           check::random(12, 8, Key(3)), batch, counts, trace, [](int, const auto&, const Tensor&) {}, NoFeedback{},
                           [](int, const Rows<B>& rows) { return rows.needing(needed, 6); }),
                       "the block of this loop gives all rows: say of none that it is needed", Error);
}
