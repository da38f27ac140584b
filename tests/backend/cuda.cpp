// The CUDA backend on the host: its kernels, run by a stand-in for the CUDA runtime (cuda_on_host.hpp).
#include <relay/backend/cuda.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>

#include "conformance.hpp"

using namespace relay;
using cuda_on_host::Order;

namespace {

/// Threads of a block in the other order: another result shows a barrier that is missing.
struct Backwards {
  explicit Backwards(bool backwards) { cuda_on_host::thread_order = backwards ? Order::backwards : Order::forwards; }
  ~Backwards() { cuda_on_host::thread_order = Order::forwards; }
};

}  // namespace

TEST_CASE("Cuda<float> conforms") {
  for (const bool backwards : {false, true}) {
    const Backwards order(backwards);
    Conformance<Cuda<float>>({}, 1e-6).run();
  }
}
TEST_CASE("and with its own memory") {
  cuda::Memory memory;
  Conformance<Cuda<float>>({&memory}, 1e-6).run();
}
// What lies between products keeps 8 bits.
TEST_CASE("Cuda<bf16> conforms") { Conformance<Cuda<bf16>>({}, 1e-2).run(); }
TEST_CASE("Cuda<bf16> conforms with many rows") {
  const long products = cuda_on_host::products;
  Conformance<Cuda<bf16>>({}, 1e-2).run_many_rows(200);
  const long with_few = cuda_on_host::products;
  Conformance<Cuda<bf16>>({}, 1e-2).run_many_rows(15);
  CHECK(cuda_on_host::products - with_few == with_few - products + 2 * 3 + 2);  // GELU, forward twice and backward, and norms go along with products of our own
}

TEST_CASE("and where cuBLASLt has no such epilogue, or will not multiply, before or when it is to do it") {
  using cuda_on_host::Refuses;
  for (Refuses* when : {&cuda_on_host::refuses, &cuda_on_host::fails})
    for (const Refuses what : {Refuses::gelu, Refuses::any_epilogue, Refuses::everything}) {
      cuda::Products::instance().forget();
      *when = what;
      Conformance<Cuda<bf16>>({}, 1e-2).run();
      Conformance<Cuda<float>>({}, 1e-6).run();
      *when = Refuses::nothing;
    }
  cuda::Products::instance().forget();
}

TEST_CASE_TEMPLATE("rows of a long list that come again and again: in parts, or one piece after another", B, Cuda<float>, Cuda<bf16>) {
  for (const auto& [rows, cols, count] : {std::tuple{5, 9, 5000}, {3, 300, 4100}, {1100, 9, 4500}, {2, 4, 2048}, {2, 4, 2049}}) {  // more than 1024: not in parts
    CAPTURE(rows);
    CAPTURE(count);
    std::vector<std::int32_t> list;
    std::vector<float> values;
    Random random(Key(3));
    std::vector<float> expected(static_cast<std::size_t>(rows * cols), 1.0f);
    for (int i = 0; i < count; ++i) {
      list.push_back(random.below(rows));
      for (int c = 0; c < cols; ++c) {
        values.push_back(static_cast<float>(random.below(64)) / 8);  // sums of them are exact
        expected[static_cast<std::size_t>(list.back() * cols + c)] += values.back();
      }
    }
    typename B::Tensor x(rows, cols), y(count, cols);
    B::fill(x, 1);
    B::upload(values, y);
    B::scatter_rows(y, 0, B::indices(list, {}), x);
    CHECK(B::download(x) == expected);
  }
}

namespace {
struct Many {
  using Backend = Cuda<bf16>;
  std::vector<cuda::Tensor> all;
  static void each(auto&& visit, auto&... layer) {
    for (std::size_t i = 0; i < 70; ++i) visit("x", layer.all[i]...);
  }
};
}  // namespace

TEST_CASE("a gradient becomes zeros in one launch, or few") {
  using B = Cuda<bf16>;
  Many many;
  for (int i = 0; i < 70; ++i) {
    many.all.emplace_back(i == 3 ? 300 : i % 5, i == 3 ? 301 : i % 7 + 1);
    B::fill(many.all.back(), 3);
  }
  const long before = cuda_on_host::launches;
  clear(many);
  CHECK(cuda_on_host::launches == before + 2);
  for (const cuda::Tensor& x : many.all)
    for (const float value : B::download(x)) REQUIRE(value == 0);
}

TEST_CASE("what a head is asked about stays bf16 on the way to it and back") {
  using N = Cuda<bf16>;
  cuda::Tensor wide(5, 8), one(1, 8), zero(1, 8), state, statistics, asked, spread;
  std::vector<float> values(40);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 7);
  N::upload(values, wide);
  N::fill(one, 1);
  N::fill(zero, 0);
  N::layer_norm(wide, one, zero, 1e-5, state, statistics);  // of bf16
  REQUIRE(state.type() == cuda::Type::bfloat16);
  const auto all = N::download(state);
  const auto row = [](const std::vector<float>& of, std::ptrdiff_t r) { return std::vector<float>(of.begin() + 8 * r, of.begin() + 8 * r + 8); };
  N::make_room(state, 3, asked);
  N::gather_rows(state, N::indices(std::vector<std::int32_t>{4, 0, 2}, {}), 0, asked);
  CHECK(asked.type() == cuda::Type::bfloat16);
  const auto gathered = N::download(asked);
  CHECK(row(gathered, 0) == row(all, 4));
  CHECK(row(gathered, 1) == row(all, 0));
  CHECK(row(gathered, 2) == row(all, 2));
  N::spread_rows(asked, 1, N::indices(std::vector<std::int32_t>{1, 6}, {}), 7, spread);
  CHECK(spread.type() == cuda::Type::bfloat16);
  const auto back = N::download(spread);
  REQUIRE(back.size() == 56);
  for (const std::ptrdiff_t r : {0, 2, 3, 4, 5}) CHECK(row(back, r) == std::vector<float>(8, 0.0f));
  CHECK(row(back, 1) == row(all, 0));
  CHECK(row(back, 6) == row(all, 2));
}

TEST_CASE("logits of an odd number of tokens lie in rows that tensor cores want, from the product to the products back") {
  using N = Cuda<bf16>;
  constexpr int rows = 5, width = 16, tokens = 13;
  cuda::Memory memory;
  const auto filled = [&](int r, int c) {
    std::vector<float> values(static_cast<std::size_t>(r) * static_cast<std::size_t>(c));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(static_cast<int>(i * 37 % 23) - 11) / 16;
    cuda::Tensor t(r, c, {&memory});
    N::upload(values, t);
    return t;
  };
  const cuda::Tensor x = filled(rows, width), bias = filled(1, tokens);
  cuda::Tensor weight = filled(tokens, width), y(0, 0, {&memory}), losses(0, 0, {&memory});
  N::prepare(weight);
  REQUIRE(weight.converted(16, width) != nullptr);
  for (int i = 0; i < 3 * width; ++i) CHECK(weight.converted(16, width)[tokens * width + i].bits == 0);

  const long before = cuda_on_host::launches;
  N::logits(x, weight, bias, y);
  CHECK(cuda_on_host::launches == before + 1);  // x as bf16: the weight is ready
  CHECK(y.apart() == 16);
  std::vector<std::int32_t> best;
  std::vector<double> probability;
  N::argmax(y, best, probability);
  CHECK(y.apart() == 16);
  const std::vector<float> close = N::download(y);  // whoever does not know finds them side by side
  CHECK(y.apart() == tokens);
  REQUIRE(close.size() == rows * tokens);
  for (int r = 0; r < rows; ++r) {
    const auto first = close.begin() + r * tokens;
    CHECK(best[static_cast<std::size_t>(r)] == std::max_element(first, first + tokens) - first);
  }

  const auto targets = N::indices(std::vector<std::int32_t>{0, 3, 12, 7, 1}, {&memory});
  const std::vector<double> weights(rows, 0.5);
  const auto backward = [&](bool spread) {
    N::logits(x, weight, bias, y);
    if (!spread) (void)N::download(y);
    N::softmax_cross_entropy(y, targets, weights, losses);
    CHECK((y.converted(rows, 16) != nullptr) == spread);
    cuda::Tensor dx(0, 0, {&memory}), dweight(tokens, width, {&memory}), dbias(1, tokens, {&memory});
    N::fill(dweight, 1);
    N::fill(dbias, 2);
    N::logits_backward(x, weight, y, dx, dweight, dbias);
    CHECK(y.apart() == (spread ? 16 : tokens));
    return std::array{N::download(losses), N::download(y), N::download(dx), N::download(dweight), N::download(dbias)};
  };
  const auto spread = backward(true), dense = backward(false);
  for (std::size_t i = 0; i < 4; ++i) CHECK(spread[i] == dense[i]);
  for (std::size_t c = 0; c < tokens; ++c) CHECK(spread[4][c] == doctest::Approx(dense[4][c]));  // added in another order
}
