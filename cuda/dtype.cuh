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

struct Bf16 {
  using Element = __nv_bfloat16;
  static constexpr bool kUsesTensorCores = true;
  static constexpr char kName[] = "bf16";
  static __device__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::mma_bf16(d, a, b);
  }
};

struct Fp16 {
  using Element = __half;
  static constexpr bool kUsesTensorCores = true;
  static constexpr char kName[] = "fp16";
  static __device__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::mma_fp16(d, a, b);
  }
};

// float32 storage, operands rounded to TF32.
struct Tf32 {
  using Element = float;
  static constexpr bool kUsesTensorCores = true;
  static constexpr char kName[] = "tf32";
  static __device__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    ptx::mma_tf32(d, a, b);
  }
};

// float32 throughout, by fused multiply-adds.
struct Fp32 {
  using Element = float;
  static constexpr bool kUsesTensorCores = false;
  static constexpr char kName[] = "fp32";
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_DTYPE_CUH_
