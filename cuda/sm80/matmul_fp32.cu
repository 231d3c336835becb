#include "cuda/sm80/matmul.cuh"

namespace bsparse {

Kernel sm80_matmul_fp32(const MatmulVariant& variant) {
  if (variant.family == BSPARSE_SM80) {
    return sm80_exact_matmul(variant.block_size, variant.feature_axis);
  }
  return sm80_matmul_for<Fp32>(variant);
}

}  // namespace bsparse
