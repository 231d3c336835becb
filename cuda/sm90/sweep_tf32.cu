#include "cuda/sm90/sweep.cuh"

namespace bsparse {

Kernel sm90_sweep_tf32(const MatmulVariant& variant) { return sm90_sweep_for<Tf32>(variant); }

}  // namespace bsparse
