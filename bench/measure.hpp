// What the CPU's benchmarks share besides: random tensors, batches of arithmetic.
//
// "flops" counts multiplications and additions of the matrix products only (2 m n k each; backward twice as many), so that
// the rate can be held against BM_Product, the bare product of the same library on the same machine in the same run.
#pragma once

#include "models.hpp"

namespace bench {

using Backend = relay::Cpu<float>;
using Tensor = Backend::Tensor;

/// Multiply-adds of one token through all layers, without attention's own products.
inline double macs_per_token(const relay::TransformerConfig& c) { return 12.0 * c.width * c.width * c.layers; }

inline Tensor random(int rows, int cols, relay::Cpu<float>::Device device = {}) {
  Tensor t(rows, cols, device);
  relay::initialise_normal<Backend>(t, 1, relay::Key(1).fold(static_cast<std::uint64_t>(rows * 1000 + cols)));
  return t;
}

/// Batches of arithmetic problems, lengths 1..longest drawn as P ~ length^power.
inline std::vector<std::vector<relay::Example>> batches(int count, int batch, int longest, double power, int modulus) {
  const relay::ExampleStream stream(relay::Arithmetic{.modulus = modulus}, {.longest = longest, .power = power}, batch,
                                    relay::Key(7));
  std::vector<std::vector<relay::Example>> all;
  for (int i = 0; i < count; ++i) all.push_back(stream(i));
  return all;
}

}  // namespace bench
