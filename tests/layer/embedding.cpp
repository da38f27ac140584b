#include <relay/layer/embedding.hpp>

#include "check.hpp"

using namespace relay;
using check::B;

// Tokens have no gradient, so an embedding is no Layer and cannot stand in a chain or a loop.
static_assert(!Layer<Embedding<B>>);

TEST_CASE("embedding: row i is the table's row of token i, and the gradient goes back there, added") {
  Embedding<B> embedding(6, 5, Key(1));
  const B::Indices tokens{4, 0, 4, 5, 4};
  const std::vector<int> lengths{3, 2};
  const Ragged<B> batch(lengths);
  Embedding<B>::Trace trace;
  const check::Tensor y = embedding.forward(tokens, batch, trace);
  for (int i = 0; i < 5; ++i)
    for (int c = 0; c < 5; ++c) CHECK(y.row(i)[c] == embedding.weight.row(tokens[static_cast<std::size_t>(i)])[c]);

  for (const int unknown : {-1, 6})
    CHECK_THROWS_WITH_AS(embedding.forward(B::Indices{4, 0, unknown, 5, 4}, batch, trace),
                         message("token ", unknown, " at place 2 is not one of the 6 (from 0) that this model was built for: build it with as many ",
                                 "as the task has")
                             .c_str(),
                         Error);

  const check::Tensor dy = check::random(5, 5, Key(2));
  Embedding<B> grad = embedding;
  B::fill(grad.weight, 0.5);
  embedding.backward(tokens, batch, trace, dy, grad);
  embedding.backward(tokens, batch, trace, dy, grad);
  for (int token = 0; token < 6; ++token)
    for (int c = 0; c < 5; ++c) {
      double expected = 0.5;
      for (int i = 0; i < 5; ++i)
        if (tokens[static_cast<std::size_t>(i)] == token) expected += 2 * dy.row(i)[c];
      CHECK(grad.weight.row(token)[c] == doctest::Approx(expected).epsilon(1e-12));
    }

  Embedding<B> zero = zeros_like(embedding);
  embedding.backward(tokens, batch, trace, dy, zero);
  const auto loss = [&] {
    Embedding<B>::Trace scratch;
    const auto& out = embedding.forward(tokens, batch, scratch);
    double sum = 0;
    for (long i = 0; i < out.size(); ++i) sum += out.data()[i] * dy.data()[i];
    return sum;
  };
  const auto report = check_gradient<B>(embedding, zero, loss, 30);
  CHECK_MESSAGE(report.within(1e-6), report.text());
}
