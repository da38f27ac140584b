// Whole jobs of the demo's and the paper's models: training steps, generation, looped inference; and the machine's limit.
//
//   MODEL/JOB/SCALARS/threads:N     jobs --benchmark_filter='paper/.*/float32/threads:2'
//
// "samples", "tokens" (new ones) or "problems" a second; "flops": multiplications and additions of the linear layers'
// products and of attention's own, each as often as the mathematics needs it: backward twice, nothing made again; without
// embeddings, heads, and products of positions that do not see each other. machine_limit is the most that registers give.
//
// bench/compare.py runs these jobs against PyTorch. `jobs --describe` prints as JSON what it takes to do the same work
// elsewhere: the models, and each job's problems.
#include "machine_limit.hpp"
#include "measure.hpp"

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

using namespace relay;

namespace {

/// A model, and what it is trained on.
struct Setting {
  std::string name;
  TransformerConfig model;
  int modulus, longest;            // operators
  int looped_batch, causal_batch;  // of training
  int lanes;                       // of training: two where more of them would have too few rows to be worth it
  int new_tokens;                  // written after each prompt in generation

  Arithmetic task() const { return {.modulus = modulus}; }
};

const Setting settings[] = {{"demo", bench::demo(), 5, 6, 32, 32, 2, 50}, {"paper", bench::paper(), 11, 15, 64, 16, 4, 300}};

enum class Work { looped_training, causal_training, generation, looped_inference };

/// `equal`: the longest problems, all of one number of columns: nothing is ragged, so another library need not pad.
/// `mixture`: lengths, and with them iterations, as in training.
enum class Draw { equal, mixture };

struct Job {
  const Setting* setting;
  std::string name;
  Work work;
  Draw draw;
  int batch;

  /// A mixture is a cycle of batches, and one repetition of the job is the whole cycle: every repetition is the same work.
  int batches() const { return draw == Draw::mixture ? 8 : 1; }
  bool looped() const { return work == Work::looped_training || work == Work::looped_inference; }
};

std::vector<Job> jobs() {
  std::vector<Job> all;
  for (const Setting& s : settings) {
    const auto add = [&](const std::string& name, Work work, Draw draw, int batch) {
      all.push_back({&s, s.name + "/" + name, work, draw, batch});
    };
    add("looped_training_equal", Work::looped_training, Draw::equal, s.looped_batch);
    add("looped_training_mixture", Work::looped_training, Draw::mixture, s.looped_batch);
    add("ar_training_mixture", Work::causal_training, Draw::mixture, s.causal_batch);
    for (const int batch : {1, 64, 512}) add("generation_" + std::to_string(batch), Work::generation, Draw::equal, batch);
    for (const int batch : {1, 64}) add("looped_inference_" + std::to_string(batch), Work::looped_inference, Draw::equal, batch);
  }
  return all;
}

/// Problems of the greatest length with the number of columns that is the median among them.
std::vector<Example> equal_problems(const Setting& s, int count) {
  const auto draw_one = [&](int i) {
    Random random(Key(7).fold(static_cast<std::uint64_t>(i)));
    return s.task().generate(s.longest, random);
  };
  constexpr int looked_at = 1001;
  std::vector<int> columns;
  for (int i = 0; i < looked_at; ++i) columns.push_back(draw_one(i).columns());
  std::nth_element(columns.begin(), columns.begin() + looked_at / 2, columns.end());
  const int median = columns[looked_at / 2];
  std::vector<Example> problems;
  for (int i = 0; static_cast<int>(problems.size()) < count; ++i)
    if (Example e = draw_one(i); e.columns() == median) problems.push_back(std::move(e));
  return problems;
}

/// As many lengths as batches, at the quantiles of P ~ length, and of each as many problems as a batch has. The batches are
/// dealt from all of them, so each has every length; a library that needs one length in a batch can deal the same problems so.
std::vector<Example> mixture(const Setting& s, int batches, int batch) {
  std::vector<Example> problems;
  const double all = s.longest * (s.longest + 1) / 2.0;
  for (int b = 0; b < batches; ++b) {
    int length = 1;
    while (length * (length + 1) / 2.0 < all * (b + 0.5) / batches) ++length;
    for (Example& e : examples_of_length(s.task(), length, batch, Key(7).fold(static_cast<std::uint64_t>(b)), Split::train))
      problems.push_back(std::move(e));
  }
  return problems;
}

/// All problems of one repetition.
std::vector<Example> problems_of(const Job& job) {
  return job.draw == Draw::equal ? equal_problems(*job.setting, job.batch) : mixture(*job.setting, job.batches(), job.batch);
}

/// What one repetition computes.
struct Cost {
  double units = 0;   // samples, new tokens or problems
  double tokens = 0;  // that went through all layers: an iteration's columns, a causal model's positions
  double flops = 0;
};

const char* unit(const Job& job) {
  return job.work == Work::generation ? "tokens" : job.work == Work::looped_inference ? "problems" : "samples";
}

/// One forward pass of `tokens` tokens of one sequence.
double forward_flops(const TransformerConfig& c, Mask mask, double tokens) {
  const double hidden = c.hidden > 0 ? c.hidden : 4 * c.width;
  const double linear = tokens * (4.0 * c.width * c.width + 2 * c.width * hidden);
  double pairs = 0;  // of positions that see each other, over all heads
  const Heads heads{c.heads, mask, c.directional_heads};
  for (int h = 0; h < heads.count; ++h) pairs += heads(h) == Mask::none ? tokens * tokens : tokens * (tokens + 1) / 2;
  return 2 * c.layers * (linear + 2 * pairs * c.width / c.heads);
}

Cost cost_of(const Job& job, const std::vector<Example>& problems) {
  Cost cost;
  const Setting& s = *job.setting;
  for (const Example& e : problems) {
    const auto columns = static_cast<double>(e.columns());
    switch (job.work) {
      case Work::looped_training:
      case Work::looped_inference:
        cost.units += 1;
        cost.tokens += e.iterations * columns;
        cost.flops += e.iterations * forward_flops(s.model, Mask::none, columns);
        break;
      case Work::causal_training: {
        const double tokens = columns + static_cast<double>(s.task().text(e).size()) - 1;  // <eos> is not read
        cost.units += 1;
        cost.tokens += tokens;
        cost.flops += forward_flops(s.model, Mask::causal, tokens);
        break;
      }
      case Work::generation: {
        const double tokens = columns + s.new_tokens - 1;  // nor is the last token
        cost.units += s.new_tokens;
        cost.tokens += tokens;
        cost.flops += forward_flops(s.model, Mask::causal, tokens);
      }
    }
  }
  if (job.work == Work::looped_training || job.work == Work::causal_training) cost.flops *= 3;
  return cost;
}

template <class B>
LoopedTransformer<B> looped_model(const Setting& s) {
  return {s.model, {.normalise = true}, s.task().vocabulary().size(), Seed{1}};
}
template <class B>
CausalTransformer<B> causal_model(const Setting& s) {
  return {s.model, s.task().vocabulary().size(), Seed{1}};
}

template <class Model>
void train(benchmark::State& state, Model model, const auto& objective, const Job& job, const std::vector<Example>& problems,
           Threads& threads) {
  std::vector<std::vector<Example>> batches(static_cast<std::size_t>(job.batches()));
  for (std::size_t i = 0; i < problems.size(); ++i) batches[i % batches.size()].push_back(problems[i]);
  Trainer trainer(model, objective, {.rate = 1e-4}, {.steps = 1 << 30}, Seed{1}, threads, job.setting->lanes);
  trainer.step(batches.back());
  for (auto _ : state)
    for (const auto& batch : batches) trainer.step(batch);
}

/// The prompts are cut over the threads; a single prompt has all threads to itself.
template <class B>
void write(benchmark::State& state, const Job& job, const std::vector<Example>& problems, Threads& threads) {
  auto model = causal_model<B>(*job.setting);
  prepare(model);
  std::vector<Tokens> prompts;
  for (const Example& e : problems) prompts.push_back(e.problem);
  const int parts = std::min(job.batch, threads.count());
  std::vector<typename B::Memory> memory(static_cast<std::size_t>(parts));
  const int new_tokens = job.setting->new_tokens;
  const auto part_of = [&](auto&& f) {  // f(its prompts, its device) on each thread
    threads.run(parts, [&](int part) {
      const auto begin = static_cast<std::size_t>(job.batch * part / parts), end = static_cast<std::size_t>(job.batch * (part + 1) / parts);
      f(std::span<const Tokens>(prompts).subspan(begin, end - begin),
        typename B::Device{&memory[static_cast<std::size_t>(part)], parts == 1 ? &threads : nullptr});
    });
  };
  part_of([&](auto own, auto device) {  // the cache's memory is asked for once, and not in the time measured
    KvCache<B>(model, static_cast<int>(own.size()), static_cast<int>(own.front().size()) + new_tokens, device);
  });
  for (auto _ : state)
    part_of([&](auto own, auto device) {
      benchmark::DoNotOptimize(generate(model, own, {.new_tokens = new_tokens, .stop = -1}, device));
    });
}

template <class B>
void run(benchmark::State& state, const Job& job, int thread_count) {
  const std::vector<Example> problems = problems_of(job);
  Threads threads(thread_count);
  switch (job.work) {
    case Work::looped_training: {
      const auto model = looped_model<B>(*job.setting);
      const auto objective = loop_objective(model, Aligned{}, {.answer_weight = 0.1, .over_round = Normalisation::sum});
      train(state, model, objective, job, problems, threads);
      break;
    }
    case Work::causal_training:
      train(state, causal_model<B>(*job.setting), NextToken<CausalTransformer<B>, Arithmetic>(job.setting->task()), job,
            problems, threads);
      break;
    case Work::generation:
      write<B>(state, job, problems, threads);
      break;
    case Work::looped_inference: {
      auto model = looped_model<B>(*job.setting);
      prepare(model);
      for (auto _ : state) benchmark::DoNotOptimize(solve_looped(model, std::span<const Example>(problems), threads));
    }
  }
  const Cost cost = cost_of(job, problems);
  bench::rate(state, unit(job), cost.units);
  bench::rate(state, "flops", cost.flops);
}

template <class B>
void register_jobs(const std::string& scalars, const std::vector<Job>& all) {
  for (const Job& job : all)
    for (const int threads : {1, 2})
      benchmark::RegisterBenchmark((job.name + "/" + scalars + "/threads:" + std::to_string(threads)).c_str(),
                                   [job, threads](benchmark::State& state) { run<B>(state, job, threads); })
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
}

// --- The machine's limit ---

void register_limit(const std::string& scalars, double (*products)()) {
  for (const int count : {1, 2})
    benchmark::RegisterBenchmark(("machine_limit/" + scalars + "/threads:" + std::to_string(count)).c_str(),
                                 [count, products](benchmark::State& state) {
                                   Threads threads(count);
                                   std::vector<double> flops(static_cast<std::size_t>(count));
                                   for (auto _ : state)
                                     threads.run(count, [&](int i) { flops[static_cast<std::size_t>(i)] = products(); });
                                   bench::rate(state, "flops", count * flops[0]);
                                 })
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
}

// --- jobs --describe ---

constexpr const char* work_names[] = {"looped_training", "causal_training", "generation", "looped_inference"};

Json description(const TransformerConfig& c, int vocabulary) {
  return Json::object()
      .set("width", c.width)
      .set("layers", c.layers)
      .set("heads", c.heads)
      .set("hidden", c.hidden > 0 ? c.hidden : 4 * c.width)
      .set("rotary_base", c.rotary_base)
      .set("directional_heads", c.directional_heads)
      .set("positions", c.positions)
      .set("vocabulary", vocabulary);
}

Json description(const Job& job) {
  const Setting& s = *job.setting;
  const std::vector<Example> problems = problems_of(job);
  const Cost cost = cost_of(job, problems);
  Json examples = Json::array();
  for (const Example& e : problems) {
    Json round_list = Json::array();
    for (const Tokens& round : e.rounds) round_list.push(Json::array(round));
    examples.push(Json::object().set("problem", Json::array(e.problem)).set("rounds", round_list).set("answer", e.answer));
  }
  return Json::object()
      .set("name", job.name)
      .set("work", work_names[static_cast<int>(job.work)])
      .set("unit", unit(job))
      .set("batch", job.batch)
      .set("batches", job.batches())
      .set("new_tokens", job.work == Work::generation ? s.new_tokens : 0)
      .set("model", description(s.model, s.task().vocabulary().size()))
      .set("parameters", job.looped() ? count_parameters(looped_model<Cpu<float>>(s)) : count_parameters(causal_model<Cpu<float>>(s)))
      .set("units", cost.units)
      .set("tokens", cost.tokens)
      .set("flops", cost.flops)
      .set("problems", examples);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<Job> all = jobs();
  if (argc == 2 && std::strcmp(argv[1], "--describe") == 0) {
    Json described = Json::array();
    for (const Job& job : all) described.push(description(job));
    std::puts(Json::object().set("compiler", __VERSION__).set("vector_bytes", cpu::machine_level() >= cpu::Level::avx512 ? 64 : cpu::machine_level() == cpu::Level::avx2 ? 32 : 16).set("jobs", described).dump().c_str());
    return 0;
  }
  register_jobs<Cpu<float>>("float32", all);
  register_jobs<Cpu<bf16>>("bf16", all);
  const cpu::Level level = cpu::machine_level();
  register_limit("float32", level >= cpu::Level::avx512 ? bench::float32_products<cpu::Level::avx512>
                            : level >= cpu::Level::avx2 && cpu::lowest <= cpu::Level::avx2 ? bench::float32_products<cpu::Level::avx2>
                                                                                            : bench::float32_products<cpu::lowest>);
  if (level == cpu::Level::avx512_bf16) register_limit("bf16", bench::bf16_products<cpu::Level::avx512_bf16>);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
