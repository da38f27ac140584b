#include <relay/layer/looped.hpp>

#include <relay/layer/chain.hpp>
#include <relay/layer/dropout.hpp>
#include <relay/layer/residual.hpp>
#include <relay/layer/transformer_block.hpp>

#include "check.hpp"
#include "written_out.hpp"

using namespace relay;
using check::B;
using check::Tensor;

namespace {

using Blocks = Stack<TransformerBlock<B>>;
constexpr int width = 4;

template <class Backend = B>
Stack<TransformerBlock<Backend>> blocks(double dropout = 0, int layers = 1) {
  auto stack = transformer_stack<Backend>({.width = width, .layers = layers, .heads = 2, .hidden = 5, .dropout = dropout},
                                          Mask::none, Key(1));
  check::perturb(stack);
  return stack;
}

Looped<Blocks> loop_of(LoopConfig config, double dropout = 0) {
  Looped<Blocks> loop(blocks(dropout), width, config);
  check::perturb(loop.norm);
  return loop;
}

const LoopConfig configs[] = {
    {}, {.inject = true}, {.signal = true}, {.normalise = true}, {.inject = true, .signal = true, .normalise = true}};

/// The caller's gradient of y_t.
template <class T>
T wanted(int t, const T& like) {
  T dy(like.rows(), like.cols());
  Random random(Key(500).fold(static_cast<std::uint64_t>(t)));
  for (long i = 0; i < dy.size(); ++i) dy.data()[i] = static_cast<typename T::Scalar>(random.normal());
  return dy;
}

/// What the loop itself says.
template <class Loop, class T>
struct Run {
  double value = 0;
  std::vector<T> states;
  T dh0;
  Loop gradient;
};

template <class Loop, class T, class R>
Run<Loop, T> run(const Loop& loop, const T& h0, const R& rows, const std::vector<int>& counts,
                 Keep keep = Keep::everything) {
  Run<Loop, T> out{0, {}, {}, zeros_like(loop)};
  typename Loop::Trace trace;
  trace.keep = keep;
  loop.forward(h0, rows, counts, trace, [&](int t, const auto& live, const T& y) {
    REQUIRE(t == static_cast<int>(out.states.size()) + 1);
    REQUIRE(y.rows() == live.count());
    const T dy = wanted(t, y);
    for (long i = 0; i < y.size(); ++i)
      out.value += static_cast<double>(dy.data()[i]) * static_cast<double>(y.data()[i]);
    out.states.push_back(y);
  });
  if (keep == Keep::nothing) return out;
  out.dh0 = loop.backward(
      h0, rows, trace,
      [](int t, const auto& live, T& d) {
        REQUIRE(d.rows() == live.count());
        typename Loop::Backend{}.add(wanted(t, d), d);
      },
      out.gradient);
  return out;
}

/// Gradient of the parameters and of h_0 against differences of the loop written out.
void check_loop(LoopConfig config, double dropout, Keep keep) {
  const std::vector<int> lengths{3, 2, 1, 4}, counts{5, 3, 3, 1};
  const Ragged<B> batch(lengths);
  const Rows<B> rows(batch, dropout > 0 ? std::optional(Key(8)) : std::nullopt);
  auto loop = loop_of(config, dropout);
  Tensor h0 = check::random(batch.rows(), width, Key(2));
  const auto ours = run(loop, h0, rows, counts, keep);
  check::WrittenOut written(config, counts);
  const auto loss = [&] {  // the sum over t of dy_t * y_t
    double sum = 0;
    written(loop, h0, rows, [&](int t, const Tensor& y) {
      const Tensor dy = wanted(t, y);
      for (long i = 0; i < y.size(); ++i) sum += dy.data()[i] * y.data()[i];
    });
    return sum;
  };
  CHECK(ours.value == doctest::Approx(loss()).epsilon(1e-12));

  const auto report = check_gradient<B>(loop, ours.gradient, loss, 12);
  CHECK_MESSAGE(report.within(1e-6), report.text());
  GradientReport input;
  Random random(Key(1));
  detail::check_tensor<B>("h_0", h0, B::download(ours.dh0), loss, 50, random, input);
  CHECK_MESSAGE(input.within(1e-6), input.text());
}

}  // namespace

TEST_CASE("the gradient through five iterations, unequal counts in one batch") {
  for (const auto& config : configs) {
    CAPTURE(config.inject);
    CAPTURE(config.signal);
    CAPTURE(config.normalise);
    for (const double dropout : {0.0, 0.2})
      for (const Keep keep : {Keep::everything, Keep::inputs}) check_loop(config, dropout, keep);
  }
}

TEST_CASE("a truncated gradient is that of starting again from the frozen states") {
  for (LoopConfig config : {configs[0], configs[1], configs[3], configs[4]})
    for (const int window : {1, 2, 3, 7})
      for (const Keep keep : {Keep::everything, Keep::inputs}) {
        CAPTURE(window);
        config.window = window;
        check_loop(config, 0.2, keep);
      }
}

TEST_CASE("a window as long as the loop, and none, are the same; a shorter one is not") {
  const std::vector<int> lengths{3, 2}, counts{4, 2};
  const Ragged<B> batch(lengths);
  const Tensor h0 = check::random(5, width, Key(1));
  const auto all = run(loop_of({}), h0, Rows<B>(batch), counts),
             same = run(loop_of({.window = 4}), h0, Rows<B>(batch), counts),
             cut = run(loop_of({.window = 2}), h0, Rows<B>(batch), counts);
  CHECK(check::difference(all.dh0, same.dh0) == 0);
  CHECK(check::parameter_difference(all.gradient, same.gradient) == 0);
  CHECK(all.value == cut.value);
  CHECK(check::parameter_difference(all.gradient, cut.gradient) > 1e-3);
  // The second sequence runs two iterations, one window: its gradient is whole.
  CHECK(check::difference(check::slice(all.dh0, 3, 5), check::slice(cut.dh0, 3, 5)) == 0);
}

TEST_CASE("one iteration is the block and the norm") {
  for (const auto& config : configs) {
    if (config.signal) continue;
    const auto loop = loop_of(config, 0.3);
    const std::vector<int> lengths{3, 2};
    const Ragged<B> batch(lengths);
    const Rows<B> rows(batch, Key(5));
    const Tensor h0 = check::random(5, width, Key(1));
    Blocks::Trace trace;
    LayerNorm<B>::Trace normal;
    const Rows<B> first = rows.fold(1);
    const Tensor& y = loop.norm.forward(loop.block.forward(h0, first, trace), first, normal);
    const auto ours = run(loop, h0, rows, {1, 1});
    REQUIRE(ours.states.size() == 1);
    CHECK(check::difference(ours.states[0], y) == 0);
    auto gradient = zeros_like(loop);
    const Tensor d = loop.norm.backward(Blocks::output(trace), first, normal, wanted(1, y), gradient.norm);
    CHECK(check::difference(loop.block.backward(h0, first, trace, d, gradient.block), ours.dh0) == 0);
    CHECK(check::parameter_difference(gradient, ours.gradient) == 0);
  }
}

TEST_CASE("sequences with different counts in one batch: each as if it were alone") {
  const std::vector<int> lengths{3, 33, 1, 4}, counts{6, 4, 4, 1};
  const Ragged<B> batch(lengths);
  const Tensor h0 = check::random(batch.rows(), width, Key(1));
  for (LoopConfig config : configs)
    for (const int window : {0, 2}) {
      config.window = window;
      const auto loop = loop_of(config);
      std::vector<Tensor> states;
      auto gradient = zeros_like(loop), sum = zeros_like(loop);
      Looped<Blocks>::Trace trace;
      loop.forward(h0, batch, counts, trace, [&](int, const auto&, const Tensor& y) { states.push_back(y); });
      const Tensor dh0 = loop.backward(
          h0, batch, trace, [](int, const auto&, Tensor& d) { B::fill(d, 1); }, gradient);
      for (int s = 0; s < 4; ++s) {
        const auto i = static_cast<std::size_t>(s);
        const std::vector<int> length{lengths[i]}, count{counts[i]};
        const Ragged<B> alone(length);
        const Tensor own_h0 = check::slice(h0, batch.begin(s), batch.end(s));
        Looped<Blocks>::Trace own;
        int iterations = 0;
        loop.forward(own_h0, alone, count, own, [&](int t, const auto&, const Tensor& y) {
          CHECK(check::difference(
                    y, check::slice(states[static_cast<std::size_t>(t - 1)], batch.begin(s), batch.end(s))) < 1e-12);
          iterations = t;
        });
        CHECK(iterations == counts[i]);
        const Tensor own_dh0 = loop.backward(
            own_h0, alone, own, [](int, const auto&, Tensor& d) { B::fill(d, 1); }, sum);
        CHECK(check::difference(own_dh0, check::slice(dh0, batch.begin(s), batch.end(s))) < 1e-12);
      }
      CHECK(check::parameter_difference(gradient, sum) < 1e-11);
    }
}

TEST_CASE("recomputed is stored, bit for bit, in float with dropout; inference sees the same states") {
  using F = Cpu<float>;
  const std::vector<int> lengths{7, 34, 5}, counts{5, 4, 2};
  const Ragged<F> batch(lengths);
  const Rows<F> rows(batch, Key(8));
  const auto h0 = check::random<F>(batch.rows(), width, Key(2));
  for (const auto& config : configs) {
    const Looped loop(blocks<F>(0.2, 3), width, config);
    const auto stored = run(loop, h0, rows, counts), recomputed = run(loop, h0, rows, counts, Keep::inputs),
               inference = run(loop, h0, rows, counts, Keep::nothing);
    CHECK(check::difference(stored.dh0, recomputed.dh0) == 0);
    CHECK(check::parameter_difference(stored.gradient, recomputed.gradient) == 0);
    for (std::size_t t = 0; t < 5; ++t) {
      CHECK(check::difference(stored.states[t], recomputed.states[t]) == 0);
      CHECK(check::difference(stored.states[t], inference.states[t]) == 0);
    }
  }
}

TEST_CASE("recomputed in the place where forward left its last iteration: the same bits") {
  const std::vector<int> lengths{7, 34, 5}, counts{5, 4, 2};
  const Ragged<B> batch(lengths);
  const Rows<B> rows(batch, Key(8));
  const Tensor h0 = check::random(batch.rows(), width, Key(2));
  const Looped loop(blocks(0.2, 3), width, {.inject = true, .normalise = true});
  const auto none = [](int, const auto&, const Tensor&) {};
  const auto give = [](int, const auto&, Tensor& d) { B::fill(d, 0.5); };
  for (const Keep keep : {Keep::everything, Keep::inputs}) {
    auto one = zeros_like(loop), other = one;
    Looped<Blocks>::Trace trace;
    trace.keep = keep;
    loop.forward(h0, rows, counts, trace, none);
    const Tensor dh0 = loop.backward(h0, rows, trace, give, one);
    CHECK(check::difference(dh0, loop.backward(h0, rows, trace, give, other, trace.applications.front())) == 0);
    CHECK(check::parameter_difference(one, other) == 0);
  }
}

TEST_CASE("what a trace keeps: everything, the inputs, or the memory of two states") {
  const std::vector<int> lengths{3}, counts{6};
  const Ragged<B> batch(lengths);
  const Tensor h0 = check::random(3, width, Key(2));
  auto loop = loop_of({});
  const auto none = [](int, const auto&, const Tensor&) {};
  Looped<Blocks>::Trace everything, inputs, nothing;
  inputs.keep = Keep::inputs;
  nothing.keep = Keep::nothing;
  std::vector<Tensor> states;
  loop.forward(h0, batch, counts, everything, [&](int, const auto&, const Tensor& y) { states.push_back(y); });
  loop.forward(h0, batch, counts, inputs, none);
  loop.forward(h0, batch, counts, nothing, none);
  CHECK((everything.inputs.size() == 6 && everything.applications.size() == 6));
  CHECK((inputs.inputs.size() == 6 && inputs.applications.size() == 1));
  CHECK((nothing.inputs.size() == 1 && nothing.applications.size() == 1));
  for (int t = 1; t <= 6; ++t)
    CHECK(check::difference(everything.state(t), states[static_cast<std::size_t>(t - 1)]) == 0);
  CHECK(check::difference(nothing.state(6), states.back()) == 0);
  CHECK(check::difference(Looped<Blocks>::output(inputs), states.back()) == 0);

  auto gradient = zeros_like(loop);
  CHECK_THROWS_WITH_AS(loop.backward(h0, batch, nothing, none, gradient),
                       "this trace of a loop kept nothing: run forward with Keep::everything or Keep::inputs", Error);
}

TEST_CASE("only the sequences still looping are computed: the first rows") {
  const std::vector<int> lengths{3, 2, 5}, counts{4, 2, 1};
  const Ragged<B> batch(lengths);
  std::vector<int> rows;
  Looped<Blocks>::Trace trace;
  loop_of({}).forward(
      check::random(10, width, Key(2)), batch, counts, trace,
      [&](int, const auto& live, const Tensor& y) { rows.push_back(y.rows() == live.count() ? y.rows() : -1); });
  CHECK(rows == std::vector<int>{10, 5, 3, 3});
  CHECK((trace.iterations() == 4 && trace.live(1) == 3 && trace.live(2) == 2 && trace.live(4) == 1 &&
         trace.live(5) == 0));
}

TEST_CASE("a static count is the dynamic one, and makes the loop a block") {
  const std::vector<int> lengths{3, 2};
  const Ragged<B> batch(lengths);
  const Rows<B> rows(batch, Key(4));
  const Tensor h0 = check::random(5, width, Key(2));
  for (const auto& config : configs) {
    const Looped<Blocks, 3> fixed(blocks(0.2), width, config);
    const Looped<Blocks> dynamic(blocks(0.2), width, config);
    static_assert(Block<Looped<Blocks, 3>> && !Layer<Looped<Blocks>>);
    Looped<Blocks, 3>::Trace a;
    Looped<Blocks>::Trace b;
    dynamic.forward(h0, rows, std::vector<int>{3, 3}, b, [](int, const auto&, const Tensor&) {});
    CHECK(check::difference(fixed.forward(h0, rows, a), b.state(3)) == 0);
    const Tensor dy = check::random(5, width, Key(3));
    auto ga = zeros_like(fixed);
    auto gb = zeros_like(dynamic);
    const Tensor da = fixed.backward(h0, rows, a, dy, ga);
    const Tensor db = dynamic.backward(
        h0, rows, b,
        [&](int t, const auto&, Tensor& d) {
          if (t == 3) B::add(dy, d);
        },
        gb);
    CHECK(check::difference(da, db) == 0);
    CHECK(check::parameter_difference(ga.block, gb.block) == 0);
  }
}

TEST_CASE("any block loops: a chain, a residual, a feed-forward layer, a loop") {
  const auto residual = Residual(chain(Linear<B>(width, 7, Key(1)), Linear<B>(7, width, Key(2)), Dropout<B>(0.2)));
  check::promises(Looped<std::remove_const_t<decltype(residual)>, 3>(residual, width), width);
  check::promises(Looped<Linear<B>, 4>(Linear<B>(3, 3, Key(1)), 3, {.inject = true, .signal = true}), 3);
  check::promises(Looped<FeedForward<B>, 2>(FeedForward<B>(5, 6, Key(1)), 5, {.normalise = true}), 5);
  using Inner = Looped<Blocks, 2>;
  const auto wide =
      transformer_stack<B>({.width = 8, .layers = 1, .heads = 2, .hidden = 5, .dropout = 0.1}, Mask::none, Key(1));
  check::promises(Looped<Inner, 3>(Inner(wide, 8, {.inject = true}), 8, {.normalise = true}), 8);
}

TEST_CASE("a nested loop is its block applied that often") {
  using Inner = Looped<Linear<B>, 2>;
  const Linear<B> linear(width, width, Key(1));
  const Looped<Inner> nested(Inner(linear, width), width);
  const std::vector<int> lengths{3};
  const Ragged<B> batch(lengths);
  const Tensor h0 = check::random(3, width, Key(2));
  Looped<Inner>::Trace trace;
  nested.forward(h0, batch, std::vector<int>{2}, trace, [](int, const auto&, const Tensor&) {});
  Linear<B>::Trace t1, t2, t3, t4;
  LayerNorm<B>::Trace n1, n2, n3;
  const LayerNorm<B> norm(width);
  const auto& one = norm.forward(linear.forward(linear.forward(h0, batch, t1), batch, t2), batch, n1);
  const auto& two = norm.forward(linear.forward(linear.forward(one, batch, t3), batch, t4), batch, n2);
  CHECK(check::difference(trace.state(2), norm.forward(two, batch, n3)) == 0);
}

TEST_CASE("counts that make no sense are refused in a sentence") {
  const auto loop = loop_of({});
  const std::vector<int> lengths{3, 2};
  const Ragged<B> batch(lengths);
  const Tensor h0 = check::random(5, width, Key(2));
  Looped<Blocks>::Trace trace;
  const auto with = [&](std::vector<int> counts) {
    loop.forward(h0, batch, counts, trace, [](int, const auto&, const Tensor&) {});
  };
  CHECK_THROWS_WITH_AS(with({1}), "the loop was given 1 iteration counts for 2 sequences: give one each", Error);
  CHECK_THROWS_WITH_AS(with({1, 2}), "sequences must come sorted by their number of iterations, the longest first",
                       Error);
  CHECK_THROWS_WITH_AS(with({1, 0}), "every sequence needs at least one iteration, not 0", Error);
  const Looped<Blocks, 3> fixed(blocks(), width);
  Looped<Blocks, 3>::Trace own;
  const auto fixed_with = [&](std::vector<int> counts) {
    fixed.forward(h0, batch, counts, own, [](int, const auto&, const Tensor&) {});
  };
  CHECK_NOTHROW(fixed_with({3, 3}));
  for (const std::vector<int>& counts : {std::vector<int>{3, 2}, std::vector<int>{2, 2}})
    CHECK_THROWS_WITH_AS(fixed_with(counts),
                         "this loop runs 3 iterations, which is part of its type, but a sequence was given 2: give 3 to each, "
                         "or leave the number out of the type",
                         Error);
  CHECK_THROWS_AS(fixed_with({4, 3}), Error);
  CHECK_THROWS_WITH_AS(loop_of({.window = -1}), "a window of -1 iterations: give a positive number, or 0 for all",
                       Error);
}
