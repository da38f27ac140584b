// The golden values (train/golden.hpp) on a GPU.
#include <relay/backend/cuda.hpp>

#include "train/golden.hpp"

using namespace relay;

// As in backend/cuda_golden.cpp: what lies between the products is bf16, too.
template <>
constexpr golden::Tolerance golden::tolerance<Cuda<bf16>>{4e-2, 1e-1, 2e-3, 2e-2, 1};

TEST_CASE("the looped transformer is PyTorch's, in float") { golden::looped<Cuda<float>>(); }
TEST_CASE("the causal transformer is PyTorch's, in float") { golden::causal<Cuda<float>>(); }
TEST_CASE("the looped transformer is PyTorch's, in bf16") { golden::looped<Cuda<bf16>>(); }
TEST_CASE("the causal transformer is PyTorch's, in bf16") { golden::causal<Cuda<bf16>>(); }
