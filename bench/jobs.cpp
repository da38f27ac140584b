// Whole jobs of the demo's and the paper's models: training steps, generation, looped inference; and the machine's limit.
//
//   MODEL/JOB/SCALARS/threads:N     jobs --benchmark_filter='paper/.*/float32/threads:2'
//
// What is measured: jobs.hpp. machine_limit is the most that registers give, and that can be read of what lies in the last cache.
//
// bench/compare.py runs these jobs against PyTorch. `jobs --describe` prints as JSON what it takes to do the same work
// elsewhere: the models, and each job's problems.
#include "jobs.hpp"
#include "machine_limit.hpp"

#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

namespace bench {
namespace {

Setting setting(const std::string& name, const TransformerConfig& model, int modulus, int longest, int looped_batch, int causal_batch,
                int lanes, int slices, int new_tokens) {
  return {.name = name,
          .model = model,
          .loop = {.normalise = true},
          .loss = {.answer_weight = 0.1, .over_round = Normalisation::sum},
          .tasks = Mixture({AnyTask(Arithmetic{.modulus = modulus})}),
          .lengths = {{.longest = longest}},
          .looped_batch = looped_batch,
          .causal_batch = causal_batch,
          .lanes = lanes,
          .slices = slices,
          .new_tokens = new_tokens};
}

const Setting settings[] = {setting("demo", demo(), 5, 6, 32, 32, 2, 4, 50), setting("paper", paper(), 11, 15, 64, 16, 4, 1, 300)};

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

template <class B>
void register_jobs(const std::string& scalars, const std::vector<Job>& all) {
  for (const Job& job : all)
    for (const int threads : {1, 2})
      benchmark::RegisterBenchmark((job.name + "/" + scalars + "/threads:" + std::to_string(threads)).c_str(),
                                   [job, threads](benchmark::State& state) { run<B>(state, job, {.threads = threads, .slices = job.setting->slices}); })
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
                                   rate(state, "flops", count * flops[0]);
                                 })
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
}

/// What threads read together, again and again, of as many bytes as the paper's weights have: the limit of generating one text.
void register_reading(void (*read)(const float*, long)) {
  for (const int count : {1, 2})
    benchmark::RegisterBenchmark(("machine_limit/reading/threads:" + std::to_string(count)).c_str(), [count, read](benchmark::State& state) {
      const long floats = 2'375'680 / count;
      Threads threads(count);
      std::vector<cpu::Tensor<float>> parts(static_cast<std::size_t>(count), cpu::Tensor<float>(1, static_cast<int>(floats)));
      for (auto& part : parts) std::fill_n(part.data(), floats, 0.0f);  // whose pages are there then
      for (auto _ : state) threads.run(count, [&](int i) { read(std::as_const(parts[static_cast<std::size_t>(i)]).data(), floats); });
      rate(state, "bytes", static_cast<double>(count * floats) * sizeof(float));
    })
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
}

int main_of_jobs(int argc, char** argv) {
  const std::vector<Job> all = jobs();
  if (argc == 2 && std::strcmp(argv[1], "--describe") == 0) {
    const cpu::Level level = cpu::machine_level();
    const int vector_bytes = level >= cpu::Level::avx512 ? 64 : level == cpu::Level::avx2 ? 32 : 16;
    std::puts(Json::object().set("compiler", __VERSION__).set("vector_bytes", vector_bytes).set("jobs", descriptions(all)).dump().c_str());
    return 0;
  }
  register_jobs<Cpu<float>>("float32", all);
  register_jobs<Cpu<bf16>>("bf16", all);
  const cpu::Level level = cpu::machine_level();
  register_reading(level >= cpu::Level::avx512 ? read_all<cpu::Level::avx512>
                   : level >= cpu::Level::avx2 && cpu::lowest <= cpu::Level::avx2 ? read_all<cpu::Level::avx2>
                                                                                   : read_all<cpu::lowest>);
  // (With AMX, floats as digits are six products of int8, of which there are twice as many at once as of bf16.)
  if (level == cpu::Level::amx_bf16)
    register_limit("float32", [] { return bf16_products<cpu::Level::amx_bf16>() / 3; });
  else
    register_limit("float32", level >= cpu::Level::avx512 ? float32_products<cpu::Level::avx512>
                            : level >= cpu::Level::avx2 && cpu::lowest <= cpu::Level::avx2 ? float32_products<cpu::Level::avx2>
                                                                                            : float32_products<cpu::lowest>);
  if (level >= cpu::Level::avx512_bf16)
    register_limit("bf16", level == cpu::Level::amx_bf16 ? bf16_products<cpu::Level::amx_bf16> : bf16_products<cpu::Level::avx512_bf16>);
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) { return bench::main_of_jobs(argc, argv); }
