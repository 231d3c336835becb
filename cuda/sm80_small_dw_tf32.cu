#include "cuda/sm80_small_dw.cuh"

namespace bsparse {

Kernel sm80_small_dw_tf32(int block_size, int feature_axis) {
  // Numbers of 32 bits with features last have no kernel that turns them round.
  if (feature_axis != 0) return {};
  return sm80_small_dw_for<Tf32>(block_size);
}

}  // namespace bsparse
