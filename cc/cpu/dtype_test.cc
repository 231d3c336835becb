// Conversions between float32 and the 16-bit types, one number at a time.

#include "cc/cpu/dtype.h"

#include <cmath>
#include <cstdint>
#include <limits>

#include "gtest/gtest.h"

namespace bsparse {
namespace {

TEST(Conversions, Float16RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Float16 half{static_cast<uint16_t>(bits)};
    const double sign = bits & 0x8000 ? -1 : 1;
    const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
    if (exponent == 31) {
      ASSERT_EQ(std::isnan(Widen(half)), mantissa != 0);
      ASSERT_EQ(std::isnan(Widen(Narrow<Float16>(Widen(half)))), mantissa != 0);
      continue;
    }
    const double value = sign * (exponent == 0 ? std::ldexp(mantissa, -24)
                                               : std::ldexp(mantissa + 1024, exponent - 25));
    ASSERT_EQ(Widen(half), value);
    ASSERT_EQ(Narrow<Float16>(Widen(half)).bits, bits);
    if (exponent == 30 && mantissa == 1023) continue;
    // Halfway to the next number away from zero: to even; a hair beside it: to the nearer.
    const float next = Widen(Float16{static_cast<uint16_t>(bits + 1)});
    const float halfway = (Widen(half) + next) / 2;
    ASSERT_EQ(Narrow<Float16>(halfway).bits, bits & 1 ? bits + 1 : bits);
    ASSERT_EQ(Narrow<Float16>(std::nextafter(halfway, next)).bits, bits + 1);
    ASSERT_EQ(Narrow<Float16>(std::nextafter(halfway, Widen(half))).bits, bits);
  }
  EXPECT_EQ(Narrow<Float16>(65519.0f).bits, 0x7bff);
  EXPECT_EQ(Narrow<Float16>(65520.0f).bits, 0x7c00);
  EXPECT_EQ(Narrow<Float16>(-std::numeric_limits<float>::infinity()).bits, 0xfc00);
}

TEST(Conversions, BFloat16RoundsToNearestEven) {
  EXPECT_EQ(Narrow<BFloat16>(FloatOf(0x3f808000)).bits, 0x3f80);  // tie, down to even
  EXPECT_EQ(Narrow<BFloat16>(FloatOf(0x3f818000)).bits, 0x3f82);  // tie, up to even
  EXPECT_EQ(Narrow<BFloat16>(FloatOf(0x3f808001)).bits, 0x3f81);
  EXPECT_EQ(Narrow<BFloat16>(FloatOf(0x7f7fffff)).bits, 0x7f80);  // overflows to infinity
  EXPECT_EQ(Narrow<BFloat16>(FloatOf(0x00008001)).bits, 0x0001);  // subnormal
  EXPECT_TRUE(std::isnan(Widen(Narrow<BFloat16>(FloatOf(0x7fffffff)))));
  EXPECT_TRUE(std::isnan(Widen(Narrow<BFloat16>(FloatOf(0xff800001)))));
}

}  // namespace
}  // namespace bsparse
