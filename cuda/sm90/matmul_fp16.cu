#include "cuda/sm90/matmul.cuh"

namespace bsparse {

Kernel sm90_matmul_fp16(const MatmulVariant& variant) { return sm90_matmul_for<Fp16>(variant); }

}  // namespace bsparse
