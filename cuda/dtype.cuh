// Arithmetic modes: the element a tensor stores, and the instruction that multiplies it.
#ifndef BSPARSE_CUDA_DTYPE_CUH_
#define BSPARSE_CUDA_DTYPE_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/ptx.cuh"

namespace bsparse {

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class Element>
__device__ __forceinline__ Element from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

// Two neighbouring elements, so that a fragment's pair is stored at once.
template <class Element>
struct alignas(2 * sizeof(Element)) Pair {
  Element first, second;
};

template <class Element>
__device__ __forceinline__ Pair<Element> make_pair(float first, float second) {
  return {from_float<Element>(first), from_float<Element>(second)};
}

// Adds the pair of 16-bit elements that `word` holds.
template <class Element>
__device__ __forceinline__ void add_pair(float& first, float& second, uint32_t word) {
  const auto& pair = reinterpret_cast<const Pair<Element>&>(word);
  first += to_float(pair.first);
  second += to_float(pair.second);
}

// How a warp multiplies: by mma.sync, by three of them on operands in two parts, or without tensor
// cores.
enum class Multiplier { kMma, kSplitMma, kFma };

struct Bf16 {
  using Element = __nv_bfloat16;
  static constexpr Multiplier kMultiplier = Multiplier::kMma;
  // (16, 16) by (16, 8), or (16, 8) by (8, 8).
  template <int kWords>
  static __device__ void mma(float (&d)[4], const uint32_t (&a)[2 * kWords],
                             const uint32_t (&b)[kWords]) {
    ptx::mma_bf16(d, a, b);
  }
};

struct Fp16 {
  using Element = __half;
  static constexpr Multiplier kMultiplier = Multiplier::kMma;
  // (16, 16) by (16, 8), or (16, 8) by (8, 8).
  template <int kWords>
  static __device__ void mma(float (&d)[4], const uint32_t (&a)[2 * kWords],
                             const uint32_t (&b)[kWords]) {
    ptx::mma_fp16(d, a, b);
  }
};

// float32 storage, operands rounded to TF32.
struct Tf32 {
  using Element = float;
  static constexpr Multiplier kMultiplier = Multiplier::kMma;
  static __device__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::mma_tf32(d, a, b);
  }
};

// The same, but a step's products are added to the sum outside the tensor cores, which round towards zero: a third of
// the error or less, and on an H100 8 to 34 % slower in products that fill it (docs/kernel-notes.md).
struct Tf32AddedOutside : Tf32 {
  static __device__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    float products[4] = {};
    Tf32::mma(products, a, b);
#pragma unroll
    for (int i = 0; i < 4; ++i) d[i] += products[i];
  }
};

// float32 storage; an operand is the sum of two TF32 numbers, and a product three of four: the two
// smaller parts' is below a float32's precision. After Ootomo and Yokota, "Recovering single
// precision accuracy from Tensor Cores", 2022: also that a step's products are added to the sum
// outside the tensor cores, which round towards zero. An infinite operand has no smaller part, so what
// it gives is no number.
struct Tf32x3 {
  using Element = float;
  static constexpr Multiplier kMultiplier = Multiplier::kSplitMma;

  struct Parts {
    uint32_t big, small;
  };

  static __device__ __forceinline__ Parts split(uint32_t float_bits) {
    const uint32_t big = ptx::round_to_tf32(float_bits);
    const float rest = __uint_as_float(float_bits) - __uint_as_float(big);
    return {big, ptx::round_to_tf32(__float_as_uint(rest))};
  }
};

// float32 throughout, by fused multiply-adds.
struct Fp32 {
  using Element = float;
  static constexpr Multiplier kMultiplier = Multiplier::kFma;
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_DTYPE_CUH_
