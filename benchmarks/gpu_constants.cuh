// What the kernels that benchmarks/gpu_constants times have in common.
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

}  // namespace bsparse

#endif  // BSPARSE_BENCHMARKS_GPU_CONSTANTS_CUH_
