// Threads of a device, which share the work of one operation, change no bit of what it computes.
#include <relay/backend/cpu.hpp>
#include <relay/layer/initialise.hpp>
#include <relay/layer/rotary.hpp>

#include <atomic>
#include <thread>
#include <vector>

#include <doctest/doctest.h>

using namespace relay;

namespace {

/// Everything that operations make of sequences of these lengths, one operation after another.
template <class B>
std::vector<typename B::Scalar> computed(const std::vector<int>& lengths, typename B::Device device) {
  using Tensor = typename B::Tensor;
  const int width = 96, heads = 6, hidden = 200, classes = 21, size = width / heads;
  std::vector<typename B::Scalar> all;
  const auto keep = [&](const Tensor& x) {
    const auto values = B::download(x);
    all.insert(all.end(), values.begin(), values.end());
  };
  const auto same = [](const Tensor& a, const Tensor& b) { CHECK(B::download(a) == B::download(b)); };
  std::uint64_t number = 0;
  const auto normal = [&](int rows, int cols) {
    Tensor x(rows, cols, device);
    initialise_normal<B>(x, 1, Key(9).fold(number++));
    return x;
  };
  const Ragged<B> batch(lengths, device);
  const Rows<B> rows(batch);
  const int count = rows.count();
  const Tensor x = normal(count, width), scale = normal(1, width), shift = normal(1, width);
  Tensor y, statistics, branch, up, activated;

  B::layer_norm(x, scale, shift, 1e-5, y, statistics);
  keep(y), keep(statistics);
  B::residual(x, y, 0, std::nullopt, branch);
  keep(branch);
  Tensor weight = normal(hidden, width);
  const Tensor bias = normal(1, hidden);
  for (const bool prepared : {false, true}) {
    if (prepared) B::prepare(weight);
    B::linear(x, weight, bias, up);
    keep(up);
    B::product_backward(up, weight, y);
    keep(y);
  }
  B::gelu(up, activated);
  keep(activated);
  B::residual_norm(x, branch, 0, std::nullopt, scale, shift, 1e-5, y, activated, statistics);
  keep(y), keep(activated), keep(statistics);
  B::gelu(up, activated);
  Tensor gradient = normal(hidden, width);
  B::add_outer_product(activated, x, gradient);
  keep(gradient);
  B::copy_first(up, count / 2, y);
  keep(y);

  relay::detail::Affine<B> wide{normal(192, width), normal(1, 192)}, narrow{normal(width, 192), normal(1, width)};
  for (auto* linear : {&wide, &narrow}) B::prepare(linear->weight);
  auto dwide = wide, dnarrow = narrow;
  for (const bool forward_only : {true, false}) {
    B::feed_forward(x, wide, narrow, forward_only, up, activated, y);
    keep(y);
  }
  B::feed_forward_backward(x, up, activated, wide, narrow, branch, y, dwide, dnarrow);
  keep(y), keep(dwide.weight), keep(dwide.bias), keep(dnarrow.weight), keep(dnarrow.bias);

  Tensor qkv = normal(count, 3 * width), out, lse, keys, values;
  const Rotary<B> rotary(size, 400, 100);
  std::vector<std::int32_t> slots, starts;
  for (int s = 0; s < rows.sequences(); ++s) {
    slots.push_back(rows.sequences() - 1 - s);
    starts.push_back(0);
  }
  const Tensor straight = qkv, dout = normal(count, width);
  B::rotate(qkv, rows, heads, heads - 1, rotary.table(), +1);
  keep(qkv);
  for (const Heads& kind : {Heads{heads}, Heads{heads, Mask::causal}, Heads{heads, Mask::none, 3}}) {
    B::attention(qkv, rows, kind, out, lse);
    keep(out), keep(lse);
    // Turned on the way, the same.
    Tensor turning = straight, own_out, own_lse, dqkv, own_dqkv;
    B::rotary_attention(turning, rows, kind, heads - 1, rotary.table(), own_out, own_lse);
    same(turning, qkv), same(own_out, out), same(own_lse, lse);
    ComposedOps<B>::rotary_attention_backward(qkv, out, lse, dout, rows, kind, heads - 1, rotary.table(), dqkv);
    B::rotary_attention_backward(turning, own_out, own_lse, dout, rows, kind, heads - 1, rotary.table(), own_dqkv);
    same(own_dqkv, dqkv);
    keep(dqkv);
  }
  B::make_cache(rows.sequences(), 400, width, heads, device, keys, values);
  B::attention_cached(qkv, rows, B::indices(slots, device), B::indices(starts, device), heads, keys, values, out);
  keep(out);
  for (int s = 0; s < rows.sequences(); ++s) starts[static_cast<std::size_t>(s)] = lengths[static_cast<std::size_t>(s)];
  B::rotate(qkv, rows, heads, heads, rotary.table(), +1, B::indices(starts, device));
  B::attention_cached(qkv, rows, B::indices(slots, device), B::indices(starts, device), heads, keys, values, out);
  keep(out);
  // A token more for each, as when text is generated: few rows, which see much where the sequences are long.
  const Ragged<B> tokens(std::vector<int>(lengths.size(), 1), device);
  for (int& start : starts) start *= 2;
  B::attention_cached(normal(rows.sequences(), 3 * width), Rows<B>(tokens), B::indices(slots, device), B::indices(starts, device), heads, keys, values, out);
  keep(out);

  const Tensor logits = normal(count, classes);
  std::vector<std::int32_t> best;
  std::vector<double> probability;
  B::argmax(logits, best, probability);
  for (std::size_t i = 0; i < best.size(); ++i) {
    all.push_back(static_cast<typename B::Scalar>(best[i]));
    all.push_back(static_cast<typename B::Scalar>(probability[i]));
  }
  return all;
}

}  // namespace

TEST_CASE_TEMPLATE("threads that share an operation change no bit", B, Cpu<float>, Cpu<bf16>, Cpu<double>) {
  // One row, too few rows to be shared, and more; one sequence, sequences that parts cut in two, sequences of one row.
  for (const auto& lengths : {std::vector<int>{1}, {7}, {16}, {57}, {180}, {20, 1, 33}, {1, 1, 1, 100, 2}, std::vector<int>(40, 1)}) {
    cpu::Memory memory;
    const auto alone = computed<B>(lengths, {&memory});
    for (const int count : {2, 3, 5}) {
      Threads threads(count);
      CHECK(computed<B>(lengths, {&memory, &threads}) == alone);
      CHECK(computed<B>(lengths, {nullptr, &threads}) == alone);
    }
  }
}

TEST_CASE("rows are shared where there are enough, each by one thread") {
  Threads threads(2);
  const cpu::Device device{nullptr, &threads};
  CHECK(cpu::row_parts({}, 1000) == 1);
  CHECK(cpu::row_parts(device, 15) == 1);
  CHECK(cpu::row_parts(device, 16) == 2);
  std::vector<int> owners(17);
  std::atomic<int> here = 0;
  cpu::over_rows(device, 17, [&](int first, int last) {
    for (int r = first; r < last; ++r) ++owners[static_cast<std::size_t>(r)];
    ++here;
    while (here < 2) std::this_thread::yield();  // two parts that wait for each other
  });
  CHECK(owners == std::vector<int>(17, 1));
}

TEST_CASE("sequences at once: what the cache holds, and at least what rows can be shared") {
  Threads threads(4);
  using B = Cpu<float>;
  CHECK(B::rows_at_once(256, {}) == 170);
  CHECK(B::rows_at_once(1 << 20, {}) == 1);
  CHECK(B::sequences_at_once(1, {}) == 64);
  const long share = cpu::cache_of_a_core();
  CHECK(share >= 4 << 20);
  CHECK(share <= 64 << 20);
  const int held = static_cast<int>(share >> 20);          // of a MiB each
  CHECK(B::sequences_at_once(1 << 18, {}) == std::min(64, held));
  CHECK(B::sequences_at_once(1L << 40, {}) == 4);
  CHECK(B::sequences_at_once(1L << 40, {nullptr, &threads}) == 32);
  CHECK(B::sequences_at_once(1 << 16, {nullptr, &threads}) == 64);
  CHECK(Cpu<bf16>::sequences_at_once(1 << 18, {}) == std::min(64, 2 * held));
}

TEST_CASE("a tensor keeps its threads as it keeps its memory") {
  cpu::Memory memory;
  Threads threads(2);
  const cpu::Tensor<float> x(3, 4, {&memory, &threads});
  cpu::Tensor<float> y;
  y.resize_like(x, 5, 6);
  const cpu::Tensor<float> copy = y;
  CHECK(y.device().threads == &threads);
  CHECK(copy.device().threads == &threads);
  y.resize(5, 6, {&memory});
  CHECK(y.device().threads == nullptr);
}
