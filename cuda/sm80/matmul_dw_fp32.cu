#include "cuda/sm80/matmul_dw.cuh"

namespace bsparse {

Kernel sm80_matmul_dw_fp32(int block_size, int feature_axis) {
  if (block_size <= kMaxExactDwBlock) return sm80_exact_matmul_dw(block_size);
  return block_size == 64 ? sm80_matmul_dw_for<Fp32, 64>(feature_axis)
                          : sm80_matmul_dw_for<Fp32, 128>(feature_axis);
}

}  // namespace bsparse
