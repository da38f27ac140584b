// Whole jobs of the paper's model on a GPU: training steps on the paper's three tasks, generation, looped inference; and the rates
// that the machine has, of products and of copies.
//
//   JOB/SCALARS[/slices:N]     gpu_jobs --benchmark_filter='paper/looped_training/bf16'
//   gpu_jobs --describe        what it takes to do the same work elsewhere, as JSON; on any machine
//   gpu_jobs --once NAME       that job once to warm up, and once between cudaProfilerStart and cudaProfilerStop (a training: one step)
//
// What is measured: jobs.hpp. bench/compare_gpu.py runs these jobs against PyTorch. Without a GPU: one line, and exit code 77.
#include <relay/backend/cuda.hpp>

#include "jobs.hpp"

#include <cuda_profiler_api.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace bench {
namespace {

/// examples/presets/paper.preset
Setting paper_setting() {
  return {.name = "paper",
          .model = {.width = 256, .layers = 3, .heads = 4, .hidden = 1024, .dropout = 0.1, .positions = 1808},
          .loop = {},
          .loss = {.answer_weight = 1, .over_round = Normalisation::mean},
          .tasks = Mixture({AnyTask(Arithmetic{.modulus = 11}), AnyTask(EditDistance{.longest = 40}),
                            AnyTask(LongestIncreasingSubsequence{.longest = 120})}),
          .lengths = {{1, 15}, {1, 30}, {10, 100}},
          .looped_batch = 512,
          .causal_batch = 512,
          .lanes = 1,
          .new_tokens = 300,
          .lengths_of_mixture = 4};
}

std::vector<Job> jobs(const Setting& paper) {
  return {{&paper, "paper/looped_training", Work::looped_training, Draw::mixture, paper.looped_batch},
          {&paper, "paper/ar_training", Work::causal_training, Draw::mixture, paper.causal_batch},
          {&paper, "paper/generation_512", Work::generation, Draw::equal, 512},
          {&paper, "paper/looped_inference_512", Work::looped_inference, Draw::equal, 512}};
}

template <class B>
void register_jobs(const std::string& scalars, const std::vector<Job>& all, std::map<std::string, std::function<void()>>& once) {
  for (const Job& job : all) {
    const bool training = job.work == Work::looped_training || job.work == Work::causal_training;
    for (const int slices : training ? std::vector{1, 4, 8, 16} : std::vector{1}) {  // smaller ones may stay in the L2 cache
      const std::string name = job.name + "/" + scalars + (training ? "/slices:" + std::to_string(slices) : "");
      benchmark::RegisterBenchmark(name.c_str(), [job, slices](benchmark::State& state) {
        try {
          run<B>(state, job, {.slices = slices});
        } catch (const Error& error) {  // out of memory, say: the other variants go on
          state.SkipWithError(error.what());
        }
      })
          ->UseRealTime()
          ->Unit(benchmark::kMillisecond);
      once[name] = [job, slices] {
        with<B>(job, problems_of(job), {.slices = slices, .steps = 1}, [](auto&& repeat) {
          cuda::check(cudaProfilerStart(), "start a profiler");
          repeat();
          cuda::check(cudaProfilerStop(), "stop a profiler");
        });
      };
    }
  }
}

// --- The machine's rates ---

/// Normal numbers, not zeros, with which a GPU is faster: some of them, again and again.
template <class B>
typename B::Tensor numbers(int rows, int cols) {
  typename B::Tensor x(rows, cols, {});
  const long pattern = std::min(1L << 20, x.size());
  std::vector<float> values;
  Random random(Key(1).fold(static_cast<std::uint64_t>(rows)).fold(static_cast<std::uint64_t>(cols)));
  for (long i = 0; i < pattern; ++i) values.push_back(static_cast<float>(random.normal()));
  float* const to = x.template as<float>();
  for (long at = 0; at < x.size(); at += pattern)
    cuda::Staging::copy(values.data(), to + at, static_cast<std::size_t>(std::min(pattern, x.size() - at)) * sizeof(float));
  B::prepare(x);
  return x;
}

/// A product as the library computes it, x [rows, in] w^T: what tensor cores give, and what they give at the model's size.
template <class B>
void register_matrix_rate(const std::string& scalars) {
  for (const auto& [rows, in, out] : {std::array{8192, 8192, 8192}, std::array{36000, 256, 1024}})
    benchmark::RegisterBenchmark(message("matrix_rate/", scalars, "/", rows, "x", in, "x", out).c_str(),
                                 [rows, in, out](benchmark::State& state) {
                                   constexpr int at_a_time = 20;
                                   const auto x = numbers<B>(rows, in), w = numbers<B>(out, in);
                                   typename B::Tensor y;
                                   const auto products = [&] {
                                     for (int i = 0; i < at_a_time; ++i) B::product(x, w, y);
                                     finish();
                                   };
                                   products();
                                   for (auto _ : state) products();
                                   rate(state, "flops", at_a_time * 2.0 * rows * in * out);
                                 })
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
}

/// A copy on the device; "bytes": read and written.
void register_memory_rate() {
  benchmark::RegisterBenchmark("memory_rate", [](benchmark::State& state) {
    constexpr int at_a_time = 10;
    const auto x = numbers<Cuda<float>>(1 << 16, 1 << 12);  // 1 GiB
    Cuda<float>::Tensor y;
    const auto copies = [&] {
      for (int i = 0; i < at_a_time; ++i) Cuda<float>::copy(x, y);
      finish();
    };
    copies();
    for (auto _ : state) copies();
    rate(state, "bytes", at_a_time * 2.0 * static_cast<double>(x.bytes()));
  })
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

int main_of_jobs(int argc, char** argv) {
  const Setting paper = paper_setting();
  const std::vector<Job> all = jobs(paper);
  if (argc == 2 && std::strcmp(argv[1], "--describe") == 0) {
    const std::string compiler = message("nvcc ", __CUDACC_VER_MAJOR__, ".", __CUDACC_VER_MINOR__, ", host ", __VERSION__);
    std::puts(Json::object().set("compiler", compiler).set("jobs", descriptions(all)).dump().c_str());
    return 0;
  }
  if (const std::string why = cuda::no_device(); !why.empty()) {
    std::fprintf(stderr, "gpu_jobs: %s\n", why.c_str());
    return 77;
  }
  std::map<std::string, std::function<void()>> once;
  register_matrix_rate<Cuda<bf16>>("bf16");
  register_matrix_rate<Cuda<float>>("float32");
  register_memory_rate();
  register_jobs<Cuda<bf16>>("bf16", all, once);
  register_jobs<Cuda<float>>("float32", all, once);
  if (argc == 3 && std::strcmp(argv[1], "--once") == 0) {
    const auto found = once.find(argv[2]);
    if (found == once.end()) {
      std::fprintf(stderr, "gpu_jobs: no job '%s': gpu_jobs --benchmark_list_tests names them (without /real_time)\n", argv[2]);
      return 1;
    }
    found->second();
    return 0;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace
}  // namespace bench

int main(int argc, char** argv) {
  try {
    return bench::main_of_jobs(argc, argv);
  } catch (const relay::Error& error) {
    std::fprintf(stderr, "gpu_jobs: %s\n", error.what());
    return 1;
  }
}
