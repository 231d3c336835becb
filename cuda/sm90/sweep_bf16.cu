#include "cuda/sm90/sweep.cuh"

namespace bsparse {

Kernel sm90_sweep_bf16(const MatmulVariant& variant) { return sm90_sweep_for<Bf16>(variant); }

}  // namespace bsparse
