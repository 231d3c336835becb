#include "cuda/sm90/dw_tiles.cuh"

namespace bsparse {

Kernel sm90_dw_tiles_bf16(int block_size, int feature_axis) {
  return sm90_dw_tiles_for<Bf16>(block_size, feature_axis);
}

}  // namespace bsparse
