#include "cuda/sm80/matmul.cuh"

namespace bsparse {

Kernel sm80_matmul_fp16(const MatmulVariant& variant) { return sm80_matmul_for<Fp16>(variant); }

}  // namespace bsparse
