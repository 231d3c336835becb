// The 16-bit element types and their conversions, one number at a time. Vector code lives in
// convert-inl.h and gives the same bits.
#ifndef BSPARSE_CC_CPU_DTYPE_H_
#define BSPARSE_CC_CPU_DTYPE_H_

#include <cstdint>
#include <cstring>

namespace bsparse {

struct Float16 {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

// Two bfloat16 numbers that follow each other along the depth of a product, the earlier one in the
// low half: what VDPBF16PS multiplies and adds.
struct BFloat16Pair {
  uint32_t bits;
};

// The type that products of T are summed in.
template <typename T>
struct AccumulatorOf {
  using Type = float;
};
template <>
struct AccumulatorOf<double> {
  using Type = double;
};
template <typename T>
using Accumulator = typename AccumulatorOf<T>::Type;

inline uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline float Widen(float value) { return value; }
inline double Widen(double value) { return value; }
inline float Widen(BFloat16 value) { return FloatOf(uint32_t{value.bits} << 16); }

inline float Widen(Float16 value) {
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) {  // Inf and NaN keep their mantissa; a NaN comes out quiet
    const uint32_t quiet = magnitude > 0x7c00u ? 0x400000u : 0;
    return FloatOf(sign | 0x7f800000u | quiet | (magnitude & 0x3ffu) << 13);
  }
  if (magnitude >= 0x400u) return FloatOf(sign | ((magnitude << 13) + (112u << 23)));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;  // exact
  return FloatOf(sign | BitsOf(subnormal));
}

// Rounds to nearest, ties to even; NaN stays NaN.
template <typename T>
T Narrow(float value);

template <>
inline float Narrow<float>(float value) {
  return value;
}

template <>
inline BFloat16 Narrow<BFloat16>(float value) {
  const uint32_t bits = BitsOf(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    // Adding the rounding term could carry a NaN into Inf or -0.
    return {static_cast<uint16_t>(bits >> 16 | 0x40u)};
  }
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}

template <>
inline Float16 Narrow<Float16>(float value) {
  const uint32_t bits = BitsOf(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return {static_cast<uint16_t>(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu))};
  }
  // 65520 and more round to infinity.
  if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
  if (magnitude < 0x38800000u) {
    // Below 2^-14 the result is subnormal. Adding 0.5 makes the unit of the last place 2^-24, so
    // the float addition itself rounds to the nearest subnormal.
    const uint32_t rounded = BitsOf(FloatOf(magnitude) + 0.5f) - BitsOf(0.5f);
    return {static_cast<uint16_t>(sign | rounded)};
  }
  const uint32_t rounded = magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u);
  return {static_cast<uint16_t>(sign | rounded >> 13)};
}

// From the accumulator to the stored type.
template <typename T>
T Store(float value) {
  return Narrow<T>(value);
}
template <typename T>
T Store(double value) {
  return static_cast<T>(value);
}

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_DTYPE_H_
