#include "cuda/sm90/matmul.cuh"

namespace bsparse {

Kernel sm90_matmul_bf16(const MatmulVariant& variant) { return sm90_matmul_for<Bf16>(variant); }

}  // namespace bsparse
