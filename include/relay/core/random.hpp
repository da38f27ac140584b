// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//
// A number is a pure function of (key, counter). Nothing is stored, so the same numbers come out on every backend, for
// any number of threads, and after any restart: dropout remembers a key instead of a mask, and "the state of the random
// generator" of a training run is its seed and its step.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace relay {

/// What a user gives; everything random follows from it.
struct Seed {
  std::uint64_t value = 1;
};

/// Ten rounds of Philox over a 128-bit counter with a 64-bit key.
constexpr std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::uint64_t key) {
  std::uint32_t k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ k0, static_cast<std::uint32_t>(b),
               static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ k1, static_cast<std::uint32_t>(a)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return counter;
}

/// Names one stream of random numbers. `fold` derives the key of a sub-stream, e.g. Key(seed).fold(step).fold(layer).
struct Key {
  std::uint64_t value = 0;

  constexpr Key() = default;
  constexpr explicit Key(std::uint64_t v) : value(v) {}
  constexpr explicit Key(Seed seed) : value(seed.value) {}

  constexpr Key fold(std::uint64_t data) const {
    const auto r = philox({static_cast<std::uint32_t>(data), static_cast<std::uint32_t>(data >> 32), 0x464f4c44u, 0}, value);
    return Key((std::uint64_t{r[1]} << 32) | r[0]);
  }
  constexpr bool operator==(const Key&) const = default;
};

/// Random numbers of one stream, in order. Cheap to make: one per example, per tensor, ...
class Random {
 public:
  constexpr explicit Random(Key key) : key_(key.value) {}

  constexpr std::uint32_t bits() {
    if (left_ == 0) {
      block_ = philox({static_cast<std::uint32_t>(counter_), static_cast<std::uint32_t>(counter_ >> 32), 0, 0}, key_);
      ++counter_;
      left_ = 4;
    }
    return block_[static_cast<std::size_t>(4 - left_--)];
  }

  /// Uniform over 0 .. n-1 (n >= 1), without bias: Lemire's multiplication with rejection.
  constexpr int below(int n) {
    const std::uint32_t range = static_cast<std::uint32_t>(n);
    std::uint64_t product = std::uint64_t{bits()} * range;
    if (static_cast<std::uint32_t>(product) < range) {
      const std::uint32_t threshold = (0u - range) % range;
      while (static_cast<std::uint32_t>(product) < threshold) product = std::uint64_t{bits()} * range;
    }
    return static_cast<int>(product >> 32);
  }

  /// Uniform over [0, 1), 53 bits.
  constexpr double uniform() {
    const std::uint64_t high = bits(), low = bits();
    return static_cast<double>(((high << 32) | low) >> 11) * 0x1.0p-53;
  }

  /// Standard normal (Box-Muller, the cosine half).
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }

 private:
  std::uint64_t key_;
  std::uint64_t counter_ = 0;
  std::array<std::uint32_t, 4> block_{};
  int left_ = 0;
};

}  // namespace relay
