#include <relay/layer/stack.hpp>

#include <relay/layer/dropout.hpp>
#include <relay/layer/feed_forward.hpp>

#include "check.hpp"

using namespace relay;
using check::B;

TEST_CASE("a stack keeps a layer's promises") {
  for (const int count : {1, 2, 4}) {
    std::vector<FeedForward<B>> layers;
    for (int i = 0; i < count; ++i) layers.emplace_back(5, 6, Key(static_cast<std::uint64_t>(i)));
    check::promises(Stack(std::move(layers)), 5);
  }
}

TEST_CASE("a forward-only pass has two traces, from which there is no way back") {
  const std::vector<int> lengths{2};
  const Ragged<B> batch(lengths);
  const Rows<B> rows(batch);
  const check::Tensor x = check::random(2, 5, Key(1));
  std::vector<FeedForward<B>> layers;
  for (int i = 0; i < 4; ++i) layers.emplace_back(5, 6, Key(static_cast<std::uint64_t>(i)));
  const std::string message = "this trace is of a pass that was forward only: run forward again, with rows that are not";
  for (const std::size_t count : {1, 2, 3, 4}) {
    const Stack stack(std::vector(layers.begin(), layers.begin() + static_cast<long>(count)));
    auto gradient = zeros_like(stack);
    Stack<FeedForward<B>>::Trace trace;
    stack.forward(x, rows.forward_only(), trace);
    CHECK(trace.layers.size() == std::min<std::size_t>(count, 2));
    CHECK_THROWS_WITH_AS(stack.backward(x, rows, trace, x, gradient), message.c_str(), Error);
  }
}

TEST_CASE("a stack numbers its layers, gives each its own random numbers, and is not empty") {
  const Stack stack(std::vector{Linear<B>(2, 2, Key(1)), Linear<B>(2, 2, Key(2))});
  std::vector<std::string> names;
  for_each_parameter([&](std::string_view name, const auto&) { names.emplace_back(name); }, stack);
  CHECK(names == std::vector<std::string>{"layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias"});

  const Stack both(std::vector{Dropout<B>(0.5), Dropout<B>(0.5)});
  const std::vector<int> lengths{100};
  const Ragged<B> batch(lengths);
  check::Tensor x(100, 10);
  B::fill(x, 1);
  Stack<Dropout<B>>::Trace trace;
  int kept = 0;
  for (const double v : B::download(both.forward(x, Rows<B>(batch, Key(1)), trace))) kept += v != 0;
  CHECK(kept > 150);
  CHECK(kept < 350);

  CHECK_THROWS_WITH_AS(Stack(std::vector<Dropout<B>>{}), "a stack needs at least one layer", Error);
}
