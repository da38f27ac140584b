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
TEST_CASE("Cuda<bf16> conforms") { Conformance<Cuda<bf16>>({}, 1e-2).run(); }

TEST_CASE("and where cuBLASLt has no such epilogue, or will not multiply, before or when it is to do it") {
  using cuda_on_host::Refuses;
  for (Refuses* when : {&cuda_on_host::refuses, &cuda_on_host::fails})
    for (const Refuses what : {Refuses::gelu, Refuses::any_epilogue, Refuses::everything}) {
      cuda::Products::instance().forget();
      *when = what;
      Conformance<Cuda<bf16>>({}, 1e-2).run();
      Conformance<Cuda<float>>({}, 1e-6).run();
      *when = Refuses::nothing;
    }
  cuda::Products::instance().forget();
}

TEST_CASE("rows of a long list that come again and again are added in parts") {
  const int rows = 5, cols = 9, count = 5000;
  std::vector<std::int32_t> list;
  std::vector<float> values;
  Random random(Key(3));
  std::vector<double> expected(rows * cols, 1.0);
  for (int i = 0; i < count; ++i) {
    list.push_back(random.below(rows));
    for (int c = 0; c < cols; ++c) {
      values.push_back(static_cast<float>(random.normal()));
      expected[static_cast<std::size_t>(list.back() * cols + c)] += static_cast<double>(values.back());
    }
  }
  using B = Cuda<float>;
  B::Tensor x(rows, cols), y(count, cols);
  B::fill(x, 1);
  B::upload(values, y);
  B::scatter_rows(y, 0, B::indices(list, {}), x);
  const auto got = B::download(x);
  for (std::size_t i = 0; i < got.size(); ++i) CHECK(static_cast<double>(got[i]) == doctest::Approx(expected[i]).epsilon(1e-4));
}
