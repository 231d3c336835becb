#include "cuda/sm90/matmul_dw.cuh"

namespace bsparse {

Kernel sm90_matmul_dw_tf32(int block_size, int feature_axis) {
  return sm90_matmul_dw_for<Tf32>(block_size, feature_axis);
}

}  // namespace bsparse
