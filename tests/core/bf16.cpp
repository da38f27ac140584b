#include <relay/core/bf16.hpp>

#include <cmath>
#include <initializer_list>
#include <limits>

#include <doctest/doctest.h>

using relay::bf16;

TEST_CASE("values of 8 bits are kept") {
  for (const float v : {0.0f, -0.0f, 1.0f, -1.5f, 255.0f, 0.0078125f, std::ldexp(1.0f, 100), std::numeric_limits<float>::infinity()})
    CHECK(static_cast<float>(bf16(v)) == v);
  CHECK(std::signbit(static_cast<float>(bf16(-0.0f))));
  CHECK(std::isnan(static_cast<float>(bf16(std::numeric_limits<float>::quiet_NaN()))));
  CHECK(std::isnan(static_cast<float>(bf16(std::bit_cast<float>(0x7f800001u)))));  // all its set bits are cut off
}

TEST_CASE("others go to the nearest, halves to the even one") {
  CHECK(static_cast<float>(bf16(256.0f + 0.9f)) == 256.0f);
  CHECK(static_cast<float>(bf16(256.0f + 1.1f)) == 258.0f);
  CHECK(static_cast<float>(bf16(256.0f + 1.0f)) == 256.0f);  // between 256 (even) and 258
  CHECK(static_cast<float>(bf16(258.0f + 1.0f)) == 260.0f);  // between 258 and 260 (even)
  CHECK(static_cast<float>(bf16(-258.0f - 1.0f)) == -260.0f);
  CHECK(std::isinf(static_cast<float>(bf16(std::numeric_limits<float>::max()))));
}
