// Whole trainings and texts on a GPU, beside the CPU's.
#include "gpu/training.hpp"

#include <cmath>

#include <relay/backend/cuda.hpp>

#include <doctest/doctest.h>

using namespace relay;

TEST_CASE("Cuda<float> trains as Cpu<float> does") {
  const auto gpu = training::train<Cuda<float>>(), cpu = training::train_on_cpu();
  REQUIRE(gpu.losses.size() == 20);
  REQUIRE(cpu.losses.size() == 20);
  CHECK(cpu.losses.back() < 0.95 * cpu.losses.front());  // something is learned
  for (std::size_t i = 0; i < cpu.losses.size(); ++i) {
    CAPTURE(i);
    CHECK(std::abs(gpu.losses[i] - cpu.losses[i]) <= 1e-3 * cpu.losses[i]);
  }
}

TEST_CASE("training twice gives the same bits") {
  const auto first = training::train<Cuda<bf16>>(), second = training::train<Cuda<bf16>>();
  CHECK(first.losses == second.losses);
  CHECK(first.weights == second.weights);
  CHECK(first.losses.back() < 0.95 * first.losses.front());
}

TEST_CASE("Cuda<float> writes the texts of Cpu<float>") {
  const auto gpu = training::write<Cuda<float>>();
  REQUIRE(gpu.size() == 12);
  CHECK(gpu == training::write_on_cpu());
}
