// The ring of stages between producers, which copy, and consumers, which multiply.
#ifndef BSPARSE_CUDA_SM90_RING_CUH_
#define BSPARSE_CUDA_SM90_RING_CUH_

#include <cstdint>

#include "cuda/sm90/ptx.cuh"

namespace bsparse {

// A place in a ring of so many stages, and the parity of its phase.
struct StageCursor {
  const int stages;
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ explicit StageCursor(int stages) : stages(stages) {}

  __device__ __forceinline__ void advance() {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }

  // By fewer than twice as many.
  __device__ __forceinline__ void advance(int by) {
    stage += by;
#pragma unroll
    for (int round = 0; round < 2; ++round) {
      if (stage >= stages) {
        stage -= stages;
        parity ^= 1;
      }
    }
  }
};

// Whether a stage has come, the same in all lanes of the warp: what depends on it is the whole warp's.
__device__ __forceinline__ bool has_come(uint32_t full, uint32_t parity) {
  return __shfl_sync(~0u, static_cast<int>(ptx::barrier_is_over(full, parity)), 0) != 0;
}

// Waits until a stage has come. If it has not, the products of the `pending` stage (or -1) are waited
// for and that one is released first: copies on their way are what is short then.
template <class Release>
__device__ __forceinline__ void wait_for_stage(uint32_t full, uint32_t parity, int& pending,
                                               const Release& release) {
  if (pending >= 0 && !has_come(full, parity)) {
    ptx::wgmma_wait<0>();
    release(pending);
    pending = -1;
  }
  ptx::barrier_wait(full, parity);
}

// A number made of one register of each load of fragments. Where a release depends on it, as by a mask
// that is 0 and that the compiler does not know to be, the loads are over before: neither barriers nor
// __syncwarp wait for loads that are under way, and the copy engine, which does not queue behind
// them, would overwrite what they have yet to read. (Seen on an H100: warpgroup products keep shared
// memory so busy that ldmatrix waits longer than a release and a copy take.)
template <int kPieces, int kRegisters>
__device__ __forceinline__ uint32_t mixed(const uint32_t (&fragments)[kPieces][kRegisters]) {
  uint32_t mix = 0;
#pragma unroll
  for (const auto& piece : fragments) mix ^= piece[0];
  return mix;
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_RING_CUH_
