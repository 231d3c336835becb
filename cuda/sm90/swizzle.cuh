// Where the copy engine puts what it copies into shared memory.
#ifndef BSPARSE_CUDA_SM90_SWIZZLE_CUH_
#define BSPARSE_CUDA_SM90_SWIZZLE_CUH_

#include <cstdint>

namespace bsparse {

// It swizzles the 16-byte chunks of a row: `offset` of a byte from a box's first on, as it would be.
__device__ __forceinline__ uint32_t swizzled(uint32_t offset, int row_bytes) {
  return offset ^ (offset >> 3 & (row_bytes - 16));
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_SWIZZLE_CUH_
