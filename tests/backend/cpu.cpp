#include <relay/backend/cpu.hpp>

#include <doctest/doctest.h>

#include "conformance.hpp"

#ifdef RELAY_TEST_VECTOR_BYTES  // this test is built for several instruction sets
static_assert(relay::cpu::vector_bytes == RELAY_TEST_VECTOR_BYTES);
#endif

using namespace relay;

// float: exp and erf within a few ulp and sums in any order. double: the standard library's functions.
TEST_CASE("Cpu<float> conforms") { Conformance<Cpu<float>>({}, 1e-6).run(); }
TEST_CASE("Cpu<bf16> conforms: operands of products keep 8 bits") { Conformance<Cpu<bf16>>({}, 1e-6, 2e-2).run(); }
TEST_CASE("Cpu<double> conforms") { Conformance<Cpu<double>>({}, 1e-14).run(); }

TEST_CASE("and with its own memory") {
  cpu::Memory memory;
  Conformance<Cpu<float>>({&memory}, 1e-6).run();
}
