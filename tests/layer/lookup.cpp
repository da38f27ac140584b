#include <relay/layer/lookup.hpp>

#include <relay/layer/embedding.hpp>
#include <relay/layer/transformer_block.hpp>

#include "check.hpp"

using namespace relay;
using check::B;
using check::Tensor;

namespace {

constexpr int width = 8;
const std::vector<int> lengths{5, 3, 4};
const B::Indices which{3, 0, 3, 1, 3, 0, 0, 4, 1, 3, 4, 4};  // row 2 of the table is nowhere
const B::Indices needed{0, 1, 4, 6, 10, 11};

/// What a block makes of x is what it makes of it when it looks up what comes before attention; and so are the gradients, of the table as a sum.
void looks_up_the_same(const auto& block, const Rows<B>& rows) {
  using L = std::remove_cvref_t<decltype(block)>;
  const Tensor table = check::random(5, width, Key(3));
  const Lookup<B> of{&table, &which};
  Tensor x;
  of.find(table, 12, x);
  LayerNorm<B> norm(width);
  typename LayerNorm<B>::Trace whole_normal, normal;
  typename L::Trace whole, part;
  const Tensor y = block.forward(x, rows, whole, NextNorm<B>{&norm, &whole_normal});
  const auto forward = [&] {
    if constexpr (!std::is_same_v<L, TransformerBlock<B>>)
      return block.forward(x, rows, part, NextNorm<B>{&norm, &normal}, &of);
    else
      return block.forward(x, of, rows, part, NextNorm<B>{&norm, &normal});
  };
  CHECK(check::difference(forward(), y) < 1e-14);
  CHECK(check::difference(normal.y, whole_normal.y) < 1e-13);
  CHECK(check::difference(forward(), y) < 1e-14);  // again, in the same trace

  const Tensor dy = check::random(y.rows(), width, Key(4));
  L dwhole = zeros_like(block), dpart = dwhole;
  Tensor expected(5, width), dtable(5, width);
  B::fill(expected, 1);  // it adds
  B::fill(dtable, 1);
  B::scatter_rows(block.backward(x, rows, whole, dy, dwhole), 0, which, expected);
  B::scatter_rows(block.backward(of, rows, part, dy, dpart, dtable), 0, which, dtable);
  CHECK(check::difference(dtable, expected) < 1e-13);
  CHECK(check::parameter_difference(dwhole, dpart) < 1e-12);
  for (int c = 0; c < width; ++c) CHECK(dtable.row(2)[c] == 1);
  double size = 0;
  for_each_parameter([&](std::string_view, const Tensor& d) { size += B::sum_of_squares(d); }, dpart);
  CHECK(size > 1);
}

}  // namespace

TEST_CASE("a block and a stack look up what comes before attention: the same values and gradients") {
  for (const double dropout : {0.0, 0.2})
    for (const Mask mask : {Mask::none, Mask::causal})
      for (const int layers : {1, 3}) {
        const TransformerConfig config{.width = width, .layers = layers, .heads = 2, .hidden = 16, .dropout = dropout};
        const Ragged<B> batch(lengths);
        const Rows<B> rows(batch, dropout > 0 ? std::optional(Key(5)) : std::nullopt);
        TransformerBlock<B> block(config, mask, Key(1));
        auto stack = transformer_stack<B>(config, mask, Key(1));
        check::perturb(block);
        check::perturb(stack);
        looks_up_the_same(block, rows);
        looks_up_the_same(stack, rows);
        looks_up_the_same(block, rows.needing(needed, 6));
        looks_up_the_same(stack, rows.needing(needed, 6));
      }
}

TEST_CASE("an embedding's table, copied") {
  const Embedding<B> embedding(5, 3, Key(1));
  Tensor table;
  for (int again = 0; again < 2; ++again) {
    embedding.copy_table({}, table);
    CHECK(check::difference(table, embedding.weight) == 0);
  }
}
