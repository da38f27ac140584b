// No step of training after the first asks for memory: neither tensors of the system nor lists of operator new, which this
// program replaces and counts, in every thread.
#include <relay/train/trainer.hpp>

#include <atomic>
#include <cstdlib>
#include <new>

#include <relay/backend/cpu.hpp>
#include <relay/task/arithmetic.hpp>
#include <relay/train/data.hpp>
#include <relay/train/next_token.hpp>
#include <relay/train/unroll.hpp>

#include <doctest/doctest.h>

namespace {

std::atomic<long> asked{0};

void* counted(std::size_t bytes, std::size_t alignment) {
  ++asked;
  return std::aligned_alloc(alignment, (bytes + alignment) / alignment * alignment);
}
void* counted_or_throw(std::size_t bytes, std::size_t alignment) {
  if (void* block = counted(bytes, alignment)) return block;
  throw std::bad_alloc();
}
// Not inlined: under -O1 g++ inlines operator delete and not operator new, and warns that what the one gave is freed.
[[gnu::noinline]] void give_back(void* block) { std::free(block); }
constexpr std::size_t plain = alignof(std::max_align_t);

}  // namespace

// The array forms call these.
void* operator new(std::size_t bytes) { return counted_or_throw(bytes, plain); }
void* operator new(std::size_t bytes, std::align_val_t a) { return counted_or_throw(bytes, static_cast<std::size_t>(a)); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return counted(bytes, plain); }
void* operator new(std::size_t bytes, std::align_val_t a, const std::nothrow_t&) noexcept {
  return counted(bytes, static_cast<std::size_t>(a));
}
void operator delete(void* block) noexcept { give_back(block); }
void operator delete(void* block, std::size_t) noexcept { give_back(block); }
void operator delete(void* block, std::align_val_t) noexcept { give_back(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { give_back(block); }

using namespace relay;

namespace {

using B = Cpu<float>;
using Model = LoopedTransformer<B>;
using Causal = CausalTransformer<B>;

const Arithmetic task{.modulus = 5};
constexpr int size = 12, steps = 20;
constexpr TransformerConfig config{.width = 16, .layers = 2, .heads = 2, .dropout = 0.1, .directional_heads = 1};

Model looped() {
  return Model(config, {.inject = true, .signal = true, .normalise = true, .window = 2}, task.vocabulary().size(), Seed{1});
}
Causal causal() { return Causal(config, task.vocabulary().size(), Seed{1}); }

const std::vector<std::vector<Example>>& batches() {
  static const auto all = [] {
    const WidenedStream stream(ExampleStream(task, {.shortest = 1, .longest = 5}, size, Key(3)), 4, Key(4));
    std::vector<std::vector<Example>> out;
    for (int i = 0; i < steps; ++i) out.push_back(stream(i));
    return out;
  }();
  return all;
}

/// How often memory is asked for in `steps` steps on batches that have been seen before.
template <class M, class Objective>
long asked_in_steps(M model, const Objective& objective, int threads = 2) {
  Threads pool(threads);
  Trainer trainer(model, objective, {}, {.steps = 1000}, Seed{5}, pool, 3);
  for (const auto& batch : batches()) trainer.step(batch);
  const long before = asked;
  for (const auto& batch : batches()) trainer.step(batch);
  return asked - before;
}
/// The same where each step is told the next batch.
template <class M, class Objective>
long asked_in_announced_steps(M model, const Objective& objective, int threads) {
  Threads pool(threads);
  Trainer trainer(model, objective, {}, {.steps = 1000}, Seed{5}, pool, 3);
  const auto all = [&] {
    for (std::size_t i = 0; i < batches().size(); ++i)
      trainer.step(batches()[i], [&] { return std::span<const Example>(batches()[(i + 1) % batches().size()]); });
  };
  all();
  trainer.step(batches().front());  // from now on the other half of what is kept twice
  trainer.step(batches().back(), [] { return std::span<const Example>(batches().front()); });
  all();
  const long before = asked;
  all();
  all();
  return asked - before;
}

/// A task that offers what a task must, and no more.
struct Bare {
  static constexpr std::string_view name = "bare";
  Vocabulary vocabulary() const { return task.vocabulary(); }
  Example generate(int length, Random& random) const { return task.generate(length, random); }
  Tokens text(const Example& e) const {
    Tokens out;
    out.reserve(task.text_size(e));
    for (const Token t : task.text(e)) out.push_back(t);
    return out;
  }
  Example read(const Example& e, const Tokens& text) const { return task.read(e, text); }
};

/// As FlushRight, but it has no list to fill, and asks for its own once a round.
struct BarePlacement {
  std::vector<Placed> place(const Example& e, int round) const {
    const Tokens& tokens = e.rounds[static_cast<std::size_t>(round - 1)];
    std::vector<Placed> placed(tokens.size());
    for (std::size_t i = 0; i < tokens.size(); ++i)
      placed[i] = {e.columns() - static_cast<int>(tokens.size()) + static_cast<int>(i), tokens[i]};
    return placed;
  }
  Tokens read(const Example& e, int round, std::span<const Token> row) const { return FlushRight{}.read(e, round, row); }
  std::vector<int> columns(const Example& e, int round) const { return FlushRight{}.columns(e, round); }
};

}  // namespace

TEST_CASE("the counter counts") {
  const long before = asked;
  auto* list = new std::vector<int>(100);
  list->push_back(static_cast<int>(list->size()));
  CHECK(list->back() == 100);
  delete list;
  std::vector<Example> copy = batches().front();
  CHECK(asked - before > 3);
  const long later = asked;
  const B::Tensor tensor(3, 3);
  CHECK(asked - later == 1);
}

TEST_CASE("a looped model, stored and recomputed") {
  const Model model = looped();
  for (const Keep keep : {Keep::everything, Keep::inputs})
    for (const int threads : {1, 2}) {
      CHECK(asked_in_steps(model, loop_objective(model, Aligned{}, {}, {}, task.vocabulary().first_value(), keep), threads) == 0);
      CHECK(asked_in_steps(model, loop_objective(model, AnswerOnly{}, {}, {}, 0, keep), threads) == 0);
      CHECK(asked_in_announced_steps(model, loop_objective(model, Aligned{}, {}, {}, 0, keep), threads) == 0);
    }
}

TEST_CASE("a causal model") {
  for (const int threads : {1, 2}) {
    CHECK(asked_in_steps(causal(), NextToken<Causal, Arithmetic>(task), threads) == 0);
    CHECK(asked_in_announced_steps(causal(), NextToken<Causal, Arithmetic>(task), threads) == 0);
  }
}

TEST_CASE("a policy that returns lists asks for them, and nothing else does") {
  long rounds = 0, examples = 0, texts = 0;
  for (const auto& batch : batches())
    for (const Example& e : batch) {
      rounds += e.iterations;
      ++examples;
      const long before = asked;
      const Tokens text = Bare{}.text(e);
      texts += asked - before;
    }
  CHECK(examples == size * steps);
  const Model model = looped();
  CHECK(asked_in_steps(model, loop_objective(model, Aligned{}, {}, BarePlacement{})) == rounds);
  CHECK(asked_in_steps(causal(), NextToken<Causal, Bare>(Bare{})) == 2 * texts);  // its size, and itself
}

TEST_CASE("after reserve, batches never seen: tensors ask for nothing, lists of the host a few times in all") {
  Example largest;
  largest.iterations = 5;
  largest.problem = Tokens(20, expression::equals);
  largest.width = 24;
  for (const std::size_t n : {16, 12, 8, 4, 1}) largest.rounds.push_back(Tokens(n, expression::equals));
  const auto check = [&](Model model, const auto& objective) {
    Threads pool(2);
    Trainer trainer(model, objective, {}, {.steps = 1000}, Seed{5}, pool, 3);
    trainer.reserve(largest, size);
    const long tensors = trainer.allocations();
    const auto steps_ask = [&] {
      const long before = asked;
      for (const auto& batch : batches()) trainer.step(batch);
      return asked - before;
    };
    CHECK(steps_ask() < 5 * steps);  // where an iteration is asked more than it ever was: 3 lanes, 5 iterations, 4 lists for each head
    CHECK(steps_ask() == 0);
    CHECK(trainer.allocations() == tensors);
  };
  const Model model = looped();
  check(model, loop_objective(model));
  TransformerConfig single = config;
  single.layers = 1;
  const Model small(single, {.inject = true}, task.vocabulary().size(), Seed{1});
  check(small, loop_objective(small, AnswerOnly{}));
}
