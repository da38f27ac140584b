// The golden values (golden.hpp) on the CPU.
#include <relay/backend/cpu.hpp>

#include "golden.hpp"

using namespace relay;

template <>
constexpr golden::Tolerance golden::tolerance<Cpu<double>> = golden::in_double;
template <>
constexpr golden::Tolerance golden::tolerance<Cpu<bf16>> = golden::in_bf16;

TEST_CASE("the looped transformer is PyTorch's, in double") { golden::looped<Cpu<double>>(); }
TEST_CASE("the looped transformer is PyTorch's, in float") { golden::looped<Cpu<float>>(); }
TEST_CASE("the causal transformer is PyTorch's, in double") { golden::causal<Cpu<double>>(); }
TEST_CASE("the causal transformer is PyTorch's, in float") { golden::causal<Cpu<float>>(); }
TEST_CASE("the looped transformer is PyTorch's, its products in bf16") { golden::looped<Cpu<bf16>>(); }
TEST_CASE("the causal transformer is PyTorch's, its products in bf16") { golden::causal<Cpu<bf16>>(); }
