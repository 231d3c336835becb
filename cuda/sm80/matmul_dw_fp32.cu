#include "cuda/matmul_params.h"

namespace bsparse {

// x and dy come with features first (matmul_dw_launch.cu).
Kernel sm80_matmul_dw_fp32(int block_size, int) { return sm80_exact_matmul_dw(block_size); }

}  // namespace bsparse
