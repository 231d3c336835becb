#include "cuda/sm90/matmul.cuh"

namespace bsparse {

Kernel sm90_matmul_tf32(const MatmulVariant& variant) { return sm90_matmul_for<Tf32>(variant); }

}  // namespace bsparse
