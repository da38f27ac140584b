// The CUDA backend on a GPU: conformance, and whole trainings and texts beside the CPU's and, with golden values, PyTorch's. One file: what
// takes nvcc its time is the backend's kernels, and every file that names the backend has all of them.
#include "gpu/main.hpp"
#include "gpu/training.hpp"

#include <cmath>

#include <relay/relay.hpp>

#include <doctest/doctest.h>

#include "backend/conformance.hpp"
#include "backend/fused_product.hpp"
#include "train/golden.hpp"

using namespace relay;

TEST_CASE("Cuda<float> conforms") { Conformance<Cuda<float>>({}, 1e-5).run(); }
TEST_CASE("Cuda<bf16> conforms: what lies between products keeps 8 bits") { Conformance<Cuda<bf16>>({}, 2e-2).run(); }
TEST_CASE("Cuda<bf16> conforms with many rows") { Conformance<Cuda<bf16>>({}, 2e-2).run_many_rows(3100); }
// Enough rows for several tiles of 64 in each block of a large GPU, one more in some, and in the first pair of warpgroups.
TEST_CASE("Cuda<bf16> conforms where GELU goes along with products of its own") {
  if (!cuda::FusedProduct<cuda::WithGelu>(10000, 256, 1024)) {
    WARN_MESSAGE(false, "this GPU, or what this was compiled for, has no such products: they are for compute capability 9.0, and compiled for 90a");
    return;
  }
  for (const fused_product::Size& s : {fused_product::Size{3100, 64, 256}, {9000, 128, 512}, {24811, 256, 1024}}) {
    CAPTURE(s.rows);
    fused_product::check_gelu(s, [](auto&& f) { f(); });
    fused_product::check_slope(s, [](auto&& f) { f(); });
    fused_product::check_residual_norm(s.rows, s.depth, [](auto&& f) { f(); });
  }
}
TEST_CASE("and with its own memory") {
  cuda::Memory memory;
  Conformance<Cuda<float>>({&memory}, 1e-5).run();
  Conformance<Cuda<bf16>>({&memory}, 2e-2).run();
}

// As in backend/cuda_golden.cpp: what lies between the products is bf16, too.
template <>
constexpr golden::Tolerance golden::tolerance<Cuda<bf16>>{4e-2, 1e-1, 2e-3, 2e-2, 1};

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

TEST_CASE("the looped transformer is PyTorch's, in float") { golden::looped<Cuda<float>>(); }
TEST_CASE("the causal transformer is PyTorch's, in float") { golden::causal<Cuda<float>>(); }
TEST_CASE("the looped transformer is PyTorch's, in bf16") { golden::looped<Cuda<bf16>>(); }
TEST_CASE("the causal transformer is PyTorch's, in bf16") { golden::causal<Cuda<bf16>>(); }
