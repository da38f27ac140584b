#include <relay/backend/cuda.hpp>

#include <doctest/doctest.h>

#include "backend/conformance.hpp"

using namespace relay;

TEST_CASE("Cuda<float> conforms") { Conformance<Cuda<float>>({}, 1e-5).run(); }
TEST_CASE("Cuda<bf16> conforms: what lies between products keeps 8 bits") { Conformance<Cuda<bf16>>({}, 2e-2).run(); }
TEST_CASE("and with its own memory") {
  cuda::Memory memory;
  Conformance<Cuda<float>>({&memory}, 1e-5).run();
  Conformance<Cuda<bf16>>({&memory}, 2e-2).run();
}
