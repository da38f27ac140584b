// The loop: one block applied again and again, a different number of times to each sequence of one batch.
#include <cmath>
#include <cstdio>

#include <relay/backend/cpu.hpp>
#include <relay/core/parameters.hpp>
#include <relay/layer/looped.hpp>
#include <relay/layer/transformer_block.hpp>

using namespace relay;
using Backend = Cpu<double>;
using Tensor = Backend::Tensor;
using Loop = Looped<TransformerBlock<Backend>>;

int main() {
  // Sequences come sorted by their number of iterations, the longest first: those still looping are a prefix of the batch.
  const Ragged<Backend> batch(std::vector<int>{3, 4, 2});
  const Rows<Backend> rows(batch);
  const std::vector<int> counts{5, 3, 1};
  const int width = 8;
  Tensor h0(rows.count(), width);
  initialise_normal<Backend>(h0, 1, Key(1));
  const Loop loop(TransformerBlock<Backend>({.width = width, .heads = 2}, Mask::none, Key(2)), width, {.normalise = true});

  // Forward shows the state of every iteration, here how far the first sequence's first row moves.
  Loop::Trace trace;
  const double* before = h0.row(0);
  loop.forward(h0, rows, counts, trace, [&](int t, const Rows<Backend>& live, const Tensor& y) {
    double moved = 0;
    for (int c = 0; c < width; ++c) moved += std::pow(y.row(0)[c] - before[c], 2);
    before = y.row(0);
    std::printf("iteration %d: %d sequences (%d rows) still loop; row 0 moved by %.3f\n", t, live.sequences(), y.rows(), std::sqrt(moved));
  });

  // Backward walks the same traces from the last iteration to the first and asks for the gradient of each state. This one is of
  // the sum of squares / 2 of every iteration's state, so it is the state itself.
  Loop gradient = zeros_like(loop);
  loop.backward(h0, rows, trace, [&](int t, const Rows<Backend>&, Tensor& dy) { Backend::add(trace.state(t), dy); }, gradient);

  // To save memory, keep only each iteration's input and compute the rest again in backward: the same bits.
  std::vector<Tensor> states;
  for (int t = 1; t <= trace.iterations(); ++t) states.push_back(trace.state(t));
  Loop::Trace small;
  small.keep = Keep::inputs;
  loop.forward(h0, rows, counts, small, [](int, const auto&, const Tensor&) {});
  Loop again = zeros_like(loop);
  loop.backward(h0, rows, small, [&](int t, const Rows<Backend>&, Tensor& dy) { Backend::add(states[static_cast<std::size_t>(t - 1)], dy); },
                again);
  bool same = true;
  long numbers = 0;
  for_each_parameter(
      [&](std::string_view, const Tensor& a, const Tensor& b) {
        same = same && Backend::download(a) == Backend::download(b);
        numbers += a.size();
      },
      gradient, again);
  std::printf("stored or computed again: %ld derivatives, %s\n", numbers, same ? "the same bits" : "DIFFERENT");
  return same && trace.live(1) == 3 && trace.live(3) == 2 && trace.live(4) == 1 ? 0 : 1;
}
