// bf16: the upper half of a float: its sign and exponent, and 8 of its 24 bits of precision. Rounded to nearest, ties to even.
//
// A type to compute products in, and the name of backends that do: Cpu<bf16>. Parameters, gradients, sums and what layers hand
// on stay float32 there, as in mixed-precision training (Kalamkar et al. 2019, "A Study of BFLOAT16").
#pragma once

#include <bit>
#include <cstdint>

namespace relay {

struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  explicit bf16(float value) {
    const auto whole = std::bit_cast<std::uint32_t>(value);
    const bool nan = (whole & 0x7fffffffu) > 0x7f800000u;
    // Half of what is cut off, less a little where the kept part is even already. A NaN stays one.
    const std::uint32_t rounded = whole + 0x7fffu + (whole >> 16 & 1u);
    bits = static_cast<std::uint16_t>(nan ? whole >> 16 | 0x40u : rounded >> 16);
  }

  explicit operator float() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }
};

}  // namespace relay
