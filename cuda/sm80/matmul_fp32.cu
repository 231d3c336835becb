#include "cuda/sm80/matmul.cuh"

namespace bsparse {

Kernel sm80_matmul_fp32(const MatmulVariant& variant) { return sm80_matmul_for<Fp32>(variant); }

}  // namespace bsparse
