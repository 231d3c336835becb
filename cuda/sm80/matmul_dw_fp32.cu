#include "cuda/matmul_params.h"
#include "cuda/sm80/policy.cuh"

namespace bsparse {

Kernel sm80_matmul_dw_fp32(int block_size, int feature_axis) {
  return block_size <= kMaxExactDwBlock ? sm80_exact_matmul_dw(block_size)
                                        : sm80_exact_blocks_dw(block_size, feature_axis);
}

}  // namespace bsparse
