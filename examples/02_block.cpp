// A transformer block on a ragged batch: sequences of different lengths, no padding, and no sequence sees another.
#include <cmath>
#include <cstdio>

#include <relay/backend/cpu.hpp>
#include <relay/layer/transformer_block.hpp>
#include <relay/testing/gradcheck.hpp>

using namespace relay;
using Backend = Cpu<double>;
using Tensor = Backend::Tensor;

int main() {
  const int lengths[] = {4, 3, 2};
  const Ragged<Backend> batch(lengths);
  const Rows<Backend> rows(batch);
  Tensor x(rows.count(), 8);
  initialise_normal<Backend>(x, 1, Key(1));

  // Pre-norm attention and feed-forward, each with a residual. Mask::causal makes it the block of an auto-regressive model.
  TransformerBlock<Backend> block({.width = 8, .heads = 2, .hidden = 16}, Mask::none, Key(2));
  TransformerBlock<Backend>::Trace trace;
  const Tensor& y = block.forward(x, rows, trace);
  std::printf("%d sequences, %d rows of %d numbers, %ld parameters\n", rows.sequences(), y.rows(), y.cols(), count_parameters(block));

  // Each sequence alone gives what it gave in the batch.
  double apart = 0;
  for (int s = 0; s < batch.sequences(); ++s) {
    const int alone[] = {lengths[s]};
    const Ragged<Backend> single(alone);
    Tensor part(lengths[s], 8);
    std::copy(x.row(batch.begin(s)), x.row(batch.end(s)), part.data());
    TransformerBlock<Backend>::Trace own;
    const Tensor& z = block.forward(part, Rows<Backend>(single), own);
    for (int r = 0; r < z.rows(); ++r)
      for (int c = 0; c < z.cols(); ++c) apart = std::max(apart, std::abs(z.row(r)[c] - y.row(batch.begin(s) + r)[c]));
  }
  std::printf("in the batch and alone: differ by %.1e at most\n", apart);

  const GradientReport report = check_layer(block, x, rows, 10);
  std::printf("gradient, %s\n", report.text().c_str());
  return apart < 1e-12 && report.within(1e-6) ? 0 : 1;
}
