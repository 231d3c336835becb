#include "cuda/sm90/matmul_dw.cuh"

namespace bsparse {

// Features come first, also where they have to be turned round for that (dw_turns). Smaller blocks go by tiles.
Kernel sm90_matmul_dw_tf32(int block_size, int feature_axis) {
  if (feature_axis != 0) return {};
  switch (block_size) {
    case 64: return sm90_matmul_dw_entry<Sm90MatmulDwTraits<Tf32, 64, 0>>();
    case 128: return sm90_matmul_dw_entry<Sm90MatmulDwTraits<Tf32, 128, 0>>();
  }
  return {};
}

}  // namespace bsparse
