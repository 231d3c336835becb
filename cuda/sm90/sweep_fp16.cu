#include "cuda/sm90/sweep.cuh"

namespace bsparse {

Kernel sm90_sweep_fp16(const MatmulVariant& variant) { return sm90_sweep_for<Fp16>(variant); }

}  // namespace bsparse
