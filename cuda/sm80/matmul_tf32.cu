#include "cuda/sm80/matmul.cuh"

namespace bsparse {

Kernel sm80_matmul_tf32(const MatmulVariant& variant) { return sm80_matmul_for<Tf32>(variant); }

}  // namespace bsparse
