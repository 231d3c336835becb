#include "cuda/sm90/matmul_dw.cuh"

namespace bsparse {

Kernel sm90_matmul_dw_bf16(int block_size, int feature_axis) {
  return sm90_matmul_dw_for<Bf16>(block_size, feature_axis);
}

}  // namespace bsparse
