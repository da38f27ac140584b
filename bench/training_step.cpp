// Training steps of the demo's and the paper's models, looped aligned and auto-regressive, on 1 and 2 threads.
//
// demo: arithmetic modulo 5, up to 6 operators, batch 32; paper: modulo 11, up to 15 operators, batch 64 / 16.
#include "measure.hpp"

using namespace relay;
using namespace bench;

namespace {

struct Job {
  TransformerConfig model;
  int longest, modulus, batch;
};
const Job demo_job{demo(), 6, 5, 32}, paper_looped{paper(), 15, 11, 64}, paper_ar{paper(), 15, 11, 16};

template <class Model, class Objective>
void run(benchmark::State& state, Model& model, const Objective& objective, const Job& job, auto&& tokens_of) {
  Threads threads(static_cast<int>(state.range(0)));
  Trainer trainer(model, objective, {.rate = 1e-4}, {.steps = 1 << 30}, Seed{1}, threads);
  const auto data = batches(50, job.batch, job.longest, 1, job.modulus);
  std::size_t i = 0;
  double tokens = 0;
  trainer.step(data.back());
  for (auto _ : state) {
    const auto& batch = data[i++ % data.size()];
    trainer.step(batch);
    for (const Example& e : batch) tokens += tokens_of(e);
  }
  state.counters["samples"] = benchmark::Counter(static_cast<double>(i) * job.batch, benchmark::Counter::kIsRate);
  state.counters["flops"] = benchmark::Counter(6 * macs_per_token(job.model) * tokens, benchmark::Counter::kIsRate);
}

void looped(benchmark::State& state, const Job& job) {
  const Arithmetic task{.modulus = job.modulus};
  const Vocabulary vocabulary = task.vocabulary();
  using Model = LoopedTransformer<Backend>;
  Model model(job.model, {.normalise = true}, vocabulary.size(), Seed{1});
  const Unroll<Model> objective(Aligned{}, {.answer_weight = 0.1, .over_round = Normalisation::sum}, {}, vocabulary.first_value());
  run(state, model, objective, job, [](const Example& e) { return static_cast<double>(e.columns()) * e.iterations; });
}

void causal(benchmark::State& state, const Job& job) {
  const Arithmetic task{.modulus = job.modulus};
  using Model = CausalTransformer<Backend>;
  Model model(job.model, task.vocabulary().size(), Seed{1});
  run(state, model, NextToken<Model, Arithmetic>(task), job,
      [&](const Example& e) { return static_cast<double>(e.problem.size() + task.text(e).size()); });
}

void BM_DemoLooped(benchmark::State& state) { looped(state, demo_job); }
void BM_DemoAr(benchmark::State& state) { causal(state, demo_job); }
void BM_PaperLooped(benchmark::State& state) { looped(state, paper_looped); }
void BM_PaperAr(benchmark::State& state) { causal(state, paper_ar); }
constexpr auto on_1_and_2_threads = [](benchmark::internal::Benchmark* b) {
  b->Arg(1)->Arg(2)->ArgName("threads")->UseRealTime()->Unit(benchmark::kMillisecond);
};
BENCHMARK(BM_DemoLooped)->Apply(on_1_and_2_threads);
BENCHMARK(BM_DemoAr)->Apply(on_1_and_2_threads);
BENCHMARK(BM_PaperLooped)->Apply(on_1_and_2_threads);
BENCHMARK(BM_PaperAr)->Apply(on_1_and_2_threads);

}  // namespace
