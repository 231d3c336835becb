#include "cuda/sm80/matmul.cuh"

namespace bsparse {

Kernel sm80_matmul_bf16(const MatmulVariant& variant) { return sm80_matmul_for<Bf16>(variant); }

}  // namespace bsparse
