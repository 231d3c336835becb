#include "cuda/sm90/dw_tiles.cuh"

namespace bsparse {

Kernel sm90_dw_tiles_tf32(int block_size, int feature_axis) {
  return sm90_dw_tiles_for<Tf32>(block_size, feature_axis);
}

}  // namespace bsparse
