#include "cuda/sm90/matmul_dw.cuh"

namespace bsparse {

// Features come first, also where they have to be turned round for that (hopper_dw_turns).
Kernel sm90_matmul_dw_tf32(int block_size, int feature_axis) {
  if (feature_axis != 0) return {};
  switch (block_size) {
    case 16: return sm90_matmul_dw_entry<Sm90MatmulDwTraits<Tf32, 16, 0>>();
    case 32: return sm90_matmul_dw_entry<Sm90MatmulDwTraits<Tf32, 32, 0>>();
    case 64: return sm90_matmul_dw_entry<Sm90MatmulDwTraits<Tf32, 64, 0>>();
    case 128: return sm90_matmul_dw_entry<Sm90MatmulDwTraits<Tf32, 128, 0>>();
  }
  return {};
}

}  // namespace bsparse
