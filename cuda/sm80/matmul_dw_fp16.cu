#include "cuda/sm80/matmul_dw.cuh"

namespace bsparse {

Kernel sm80_matmul_dw_fp16(int block_size, int feature_axis) {
  return sm80_matmul_dw_for<Fp16>(block_size, feature_axis);
}

}  // namespace bsparse
