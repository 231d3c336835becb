// The ring of stages between cp.async and the products.
#ifndef BSPARSE_CUDA_PIPELINE_CUH_
#define BSPARSE_CUDA_PIPELINE_CUH_

#include <cstdint>

#include "cuda/ptx.cuh"

namespace bsparse {

// A position in a ring of kSize places.
template <int kSize>
struct RingPosition {
  int place = 0;
  __device__ __forceinline__ void advance() { place = place == kSize - 1 ? 0 : place + 1; }
};

// Runs `steps` stages through a ring of kStages. The callers' functions:
//   load(place)                   enqueues the next stage, if there is one, in order of steps
//   fetch(place, substep)         loads the fragments of one of kSubsteps parts of a stage
//   multiply(substep)             multiplies the fragments last fetched for this substep
// Fragments are fetched one substep ahead, across stages too, so `multiply` finds them in
// registers. The caller keeps two sets, even and odd substeps.
template <int kStages, int kSubsteps, class Count, class Load, class Fetch, class Multiply>
__device__ __forceinline__ void run_pipeline(Count steps, const Load& load, const Fetch& fetch,
                                             const Multiply& multiply) {
  static_assert(kStages >= 2, "one stage is computed while another arrives");
  static_assert(kSubsteps % 2 == 0, "a stage begins with the even set of fragments");
  RingPosition<kStages> read, write;
#pragma unroll 1
  for (int stage = 0; stage < kStages - 1; ++stage) {
    load(write.place);
    ptx::cp_async_commit();
    write.advance();
  }
  ptx::cp_async_wait<kStages - 2>();
  __syncthreads();
  fetch(read.place, 0);
#pragma unroll 1
  for (; steps > 0; --steps) {
#pragma unroll
    for (int substep = 0; substep < kSubsteps; ++substep) {
      if (substep + 1 < kSubsteps) {
        fetch(read.place, substep + 1);
      } else {
        // The next stage has arrived, and all fragments of this one are in registers.
        ptx::cp_async_wait<kStages - 2>();
        __syncthreads();
        read.advance();
        fetch(read.place, 0);
      }
      if (substep == 0) {
        load(write.place);
        ptx::cp_async_commit();
        write.advance();
      }
      multiply(substep);
    }
  }
  ptx::cp_async_wait<0>();
  __syncthreads();
}

// The same for products that read shared memory themselves: multiply(place) does a whole stage.
template <int kStages, class Count, class Load, class Multiply>
__device__ __forceinline__ void run_simple_pipeline(Count steps, const Load& load,
                                                    const Multiply& multiply) {
  RingPosition<kStages> read, write;
#pragma unroll 1
  for (int stage = 0; stage < kStages - 1; ++stage) {
    load(write.place);
    ptx::cp_async_commit();
    write.advance();
  }
#pragma unroll 1
  for (; steps > 0; --steps) {
    ptx::cp_async_wait<kStages - 2>();
    // This stage has arrived, and everyone has finished with the last one.
    __syncthreads();
    load(write.place);
    ptx::cp_async_commit();
    write.advance();
    multiply(read.place);
    read.advance();
  }
  ptx::cp_async_wait<0>();
  __syncthreads();
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_PIPELINE_CUH_
