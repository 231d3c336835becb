// The ring of stages between producers, which copy, and consumers, which multiply.
#ifndef BSPARSE_CUDA_SM90_RING_CUH_
#define BSPARSE_CUDA_SM90_RING_CUH_

#include <cstdint>

namespace bsparse {

// A place in the ring of stages, and the parity of its phase.
template <int kStages>
struct StageCursor {
  int stage = 0;
  uint32_t parity = 0;
  __device__ __forceinline__ void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }

  // By fewer than 2 * kStages.
  __device__ __forceinline__ void advance(int stages) {
    stage += stages;
    if (stage >= kStages) {
      stage -= kStages;
      parity ^= 1;
    }
    if (stage >= kStages) {
      stage -= kStages;
      parity ^= 1;
    }
  }
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_RING_CUH_
