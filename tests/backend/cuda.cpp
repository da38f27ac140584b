// The CUDA backend on the host: its kernels, run by a stand-in for the CUDA runtime (cuda_on_host.hpp).
#include <relay/backend/cuda.hpp>

#include <doctest/doctest.h>

#include "conformance.hpp"

using namespace relay;
using cuda_on_host::Order;

namespace {

/// Threads of a block in the other order: another result shows a barrier that is missing.
struct Backwards {
  explicit Backwards(bool backwards) { cuda_on_host::thread_order = backwards ? Order::backwards : Order::forwards; }
  ~Backwards() { cuda_on_host::thread_order = Order::forwards; }
};

}  // namespace

TEST_CASE("Cuda<float> conforms") {
  for (const bool backwards : {false, true}) {
    const Backwards order(backwards);
    Conformance<Cuda<float>>({}, 1e-6).run();
  }
}
TEST_CASE("and with its own memory") {
  cuda::Memory memory;
  Conformance<Cuda<float>>({&memory}, 1e-6).run();
}
// What lies between products keeps 8 bits.
TEST_CASE("Cuda<bf16> conforms, with and without a bias in the product") {
  for (const bool refused : {false, true}) {
    cuda_on_host::refuses_bias = refused;
    Conformance<Cuda<bf16>>({}, 1e-2).run();
  }
  cuda_on_host::refuses_bias = false;
}
