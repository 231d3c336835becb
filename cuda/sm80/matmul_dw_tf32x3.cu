#include "cuda/sm80/matmul_dw.cuh"

namespace bsparse {

Kernel sm80_matmul_dw_tf32x3(int block_size, int feature_axis) {
  return sm80_matmul_dw_for<Tf32x3>(block_size, feature_axis);
}

}  // namespace bsparse
