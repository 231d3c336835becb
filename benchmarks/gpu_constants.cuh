// What the kernels of benchmarks/gpu_constants and gpu_mixture have in common.
#ifndef BSPARSE_BENCHMARKS_GPU_CONSTANTS_CUH_
#define BSPARSE_BENCHMARKS_GPU_CONSTANTS_CUH_

#include <cstdint>

// Hopper's own instructions exist in code for sm_90a alone.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define HOPPER 1
#else
#define HOPPER 0
#endif

namespace bsparse {

__device__ __forceinline__ uint32_t hash(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

// Two random bfloat16 numbers of either sign between 1/4 and 1: 1/4 plus a random sign, low bit of
// the exponent, and fraction. As float32, one such number.
__device__ __forceinline__ uint32_t random_pair(uint32_t seed) { return 0x3e803e80u + (hash(seed) & 0x80ff80ffu); }

}  // namespace bsparse

#endif  // BSPARSE_BENCHMARKS_GPU_CONSTANTS_CUH_
