// Long sums in exact float32: a lane's 64 running sums, and others in shared memory that they are added to every so
// many terms, since a running sum of many products would err more than cuBLAS, whose kernels add up in pieces.
#ifndef BSPARSE_CUDA_SM80_EXACT_SUMS_CUH_
#define BSPARSE_CUDA_SM80_EXACT_SUMS_CUH_

#include "cuda/ptx.cuh"

namespace bsparse {

using ExactSums = float[8][8];

// Those of a warp in shared memory, 16 bytes of each lane side by side.
struct ExactSumStore {
  static constexpr int kBytes = 8 * 8 * 4 * 32;
  uint32_t lane;  // where this lane's begin

  __device__ __forceinline__ explicit ExactSumStore(uint32_t warp) : lane(warp + threadIdx.x % 32 * 16) {}

  // Adds sums to those here, or puts them here if they are the first; clears them.
  __device__ __forceinline__ void take(ExactSums& sums, bool first) const {
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      float* const four = &sums[i / 2][i % 2 * 4];
      if (!first) add(four, i);
      const uint32_t words[4] = {__float_as_uint(four[0]), __float_as_uint(four[1]),
                                 __float_as_uint(four[2]), __float_as_uint(four[3])};
      ptx::store_shared_16(lane + i * 512, words);
      four[0] = four[1] = four[2] = four[3] = 0.0f;
    }
  }

  // Adds those here to sums.
  __device__ __forceinline__ void give(ExactSums& sums) const {
#pragma unroll
    for (int i = 0; i < 16; ++i) add(&sums[i / 2][i % 2 * 4], i);
  }

 private:
  __device__ __forceinline__ void add(float* four, int i) const {
    const float4 before = ptx::load_shared_float4(lane + i * 512);
    four[0] += before.x, four[1] += before.y, four[2] += before.z, four[3] += before.w;
  }
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM80_EXACT_SUMS_CUH_
