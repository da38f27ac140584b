// The relay program's runs on a GPU. A file of its own: nvcc need not read the command line, and reads nothing of the CPU's backend.
#include <relay/backend/cuda.hpp>

#include "relay_run.hpp"

std::string why_no_gpu() { return relay::cuda::no_device(); }

std::unique_ptr<Run> run_on_gpu(const relay::RunDirectory& directory, const relay::PipelineConfig& config, relay::Threads& threads,
                                const relay::Observer& observer) {
  return run_on<relay::Cuda<float>, relay::Cuda<relay::bf16>>(directory, config, threads, observer);
}
