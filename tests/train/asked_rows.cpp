#include <relay/train/asked_rows.hpp>

#include <relay/backend/cpu.hpp>
#include <relay/core/parameters.hpp>

#include <doctest/doctest.h>

using namespace relay;
using B = Cpu<double>;

TEST_CASE("a target that the head does not have") {
  const Linear<B> head(3, 4, Key(1));
  Linear<B> grad = zeros_like(head);
  B::Tensor state(2, 3);
  B::fill(state, 1);
  for (const int target : {-1, 4}) {
    Questions questions;
    questions.start(1);
    questions.ask(1, 0, 3, 1);
    questions.ask(1, 1, target, 1);
    questions.finish();
    AskedRows<B> asked;
    asked.begin(questions, 1, {});
    asked.gather(1, state);
    CHECK_THROWS_WITH_AS(asked.learn(head, grad),
                         message("the model is to learn token ", target, ", and its head tells 4 apart: build the model with as many tokens ",
                                 "as the task has")
                             .c_str(),
                         Error);
  }
}

TEST_CASE("rows of two states through the head at once; losses in order; gradients back to where they came from") {
  const Linear<B> head(3, 4, Key(1));
  B::Tensor first(5, 3), second(2, 3);  // the second iteration has fewer rows
  initialise_normal<B>(first, 1, Key(2));
  initialise_normal<B>(second, 1, Key(3));
  Questions questions;
  AskedRows<B> asked;
  for (int again = 0; again < 2; ++again) {  // used again, it has forgotten what was asked before
    questions.start(3);
    questions.ask(2, 1, 3, 2);
    questions.ask(1, 4, 0, 4);
    questions.ask(1, 2, 1, 0);  // measured, not learnt from
    questions.finish();
    CHECK(questions.rows() == std::vector<std::int32_t>{4, 2, 1});
    CHECK(questions.firsts() == std::vector<int>{0, 2, 3, 3});
    asked.begin(questions, 4, {});
    asked.gather(1, first);
    asked.gather(2, second);
    asked.gather(3, second);
    Linear<B> grad = zeros_like(head);
    struct Seen {
      int target;
      double weight, loss;
      bool right;
    };
    std::vector<Seen> seen;
    asked.learn(head, grad);
    asked.read([&](int target, double weight, double loss, bool right) {
      seen.push_back({target, weight, loss, right});
    });
    B::Tensor d1(5, 3), d2(2, 3);
    B::fill(d1, 1);
    B::fill(d2, 0);
    asked.scatter(2, d2);
    asked.scatter(1, d1);
    asked.scatter(3, d2);

    // By hand: iterations in order, and the rows of each as they were asked.
    const struct {
      const B::Tensor* state;
      B::Tensor* d;
      int row, target;
      double weight;
    } wanted[] = {{&first, &d1, 4, 0, 1}, {&first, &d1, 2, 1, 0}, {&second, &d2, 1, 3, 0.5}};
    REQUIRE(seen.size() == 3);
    double bias0 = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      const auto& w = wanted[i];
      double logits[4], total = 0;
      int best = 0;
      for (int k = 0; k < 4; ++k) {
        logits[k] = head.bias.data()[k];
        for (int c = 0; c < 3; ++c) logits[k] += head.weight.row(k)[c] * w.state->row(w.row)[c];
        total += std::exp(logits[k]);
        if (logits[k] > logits[best]) best = k;
      }
      CHECK(seen[i].target == w.target);
      CHECK(seen[i].weight == w.weight);
      CHECK(seen[i].loss == doctest::Approx(std::log(total) - logits[w.target]).epsilon(1e-12));
      CHECK(seen[i].right == (best == w.target));
      for (int c = 0; c < 3; ++c) {
        double d = w.d == &d1 ? 1 : 0;
        for (int k = 0; k < 4; ++k)
          d += w.weight * (std::exp(logits[k]) / total - (k == w.target)) * head.weight.row(k)[c];
        CHECK(w.d->row(w.row)[c] == doctest::Approx(d).epsilon(1e-12));
      }
      bias0 += w.weight * (std::exp(logits[0]) / total - (w.target == 0));
    }
    CHECK(grad.bias.data()[0] == doctest::Approx(bias0).epsilon(1e-12));
    for (const int row : {0, 1, 3}) CHECK(d1.row(row)[0] == 1);  // not asked: as it was
    CHECK(d2.row(0)[0] == 0);
    B::Tensor alone;  // of the second, where nothing else has a gradient
    asked.spread(2, 2, alone);
    REQUIRE((alone.rows() == 2 && alone.cols() == 3));
    for (int c = 0; c < 3; ++c) {
      CHECK(alone.row(0)[c] == 0);
      CHECK(alone.row(1)[c] == d2.row(1)[c]);
    }
  }
}

TEST_CASE("nothing asked: nothing learnt") {
  const Linear<B> head(3, 4, Key(1));
  Questions questions;
  questions.start(2);
  questions.finish();
  AskedRows<B> asked;
  asked.begin(questions, 1, {});
  B::Tensor state(5, 3);
  B::fill(state, 0);
  asked.gather(1, state);
  Linear<B> grad = zeros_like(head);
  asked.learn(head, grad);
  asked.read([](auto...) { FAIL("nobody asked"); });
  asked.scatter(2, state);
  CHECK(B::sum_of_squares(grad.weight) == 0);
  CHECK(B::sum_of_squares(state) == 0);
  B::Tensor gradient;
  asked.spread(1, 5, gradient);
  CHECK((gradient.rows() == 5 && gradient.cols() == 3));
  CHECK(B::sum_of_squares(gradient) == 0);
}
