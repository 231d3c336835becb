#include "cuda/sm80/small_dw.cuh"

namespace bsparse {

Kernel sm80_small_dw_tf32(int block_size, int feature_axis) {
  return sm80_small_dw_for<Tf32>(block_size, feature_axis);
}

}  // namespace bsparse
