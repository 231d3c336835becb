#include "cuda/sm80/matmul.cuh"

namespace bsparse {

Kernel sm80_matmul_tf32x3(const MatmulVariant& variant) { return sm80_matmul_for<Tf32x3>(variant); }

}  // namespace bsparse
