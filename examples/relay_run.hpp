// A run of the relay program on whatever backend: relay.cpp has the CPU's, relay_cuda.cpp, which nvcc compiles, the GPU's.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <relay/pipeline/pipeline.hpp>

/// What the program asks of relay::Pipeline.
struct Run {
  using Solver = std::function<std::vector<relay::Solution>(std::span<const relay::Example>)>;

  virtual ~Run() = default;
  virtual std::vector<relay::ResultRow> run() = 0;
  virtual const relay::Mixture& mixture() const = 0;
  virtual std::vector<std::string> models() const = 0;
  virtual Solver solver(std::string_view name) const = 0;
  virtual std::vector<relay::Example> test_examples(int task, int length, int count, relay::Key key) const = 0;
};

template <class Backend>
class RunOn : public Run {
 public:
  explicit RunOn(auto&&... arguments) : pipeline_(std::forward<decltype(arguments)>(arguments)...) {}

  std::vector<relay::ResultRow> run() override { return pipeline_.run(); }
  const relay::Mixture& mixture() const override { return pipeline_.mixture(); }
  std::vector<std::string> models() const override { return pipeline_.models(); }
  Solver solver(std::string_view name) const override { return pipeline_.solver(name); }
  std::vector<relay::Example> test_examples(int task, int length, int count, relay::Key key) const override {
    return pipeline_.test_examples(task, length, count, key);
  }

 private:
  relay::Pipeline<Backend> pipeline_;
};

/// The run in the precision that its configuration asks for.
template <class Float32, class Bf16>
std::unique_ptr<Run> run_on(const relay::RunDirectory& directory, const relay::PipelineConfig& config, relay::Threads& threads,
                            const relay::Observer& observer) {
  if (config.precision == relay::Precision::bf16) return std::make_unique<RunOn<Bf16>>(directory, config, threads, observer);
  return std::make_unique<RunOn<Float32>>(directory, config, threads, observer);
}

/// Why there is no GPU to run on, in words for a person; empty where there is one.
std::string why_no_gpu();
std::unique_ptr<Run> run_on_gpu(const relay::RunDirectory& directory, const relay::PipelineConfig& config, relay::Threads& threads,
                                const relay::Observer& observer);
