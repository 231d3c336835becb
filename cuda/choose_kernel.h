// Which family of kernels should serve a product on a device of some compute capability.
#ifndef BSPARSE_CUDA_CHOOSE_KERNEL_H_
#define BSPARSE_CUDA_CHOOSE_KERNEL_H_

#include "cuda/bsparse_cuda.h"

namespace bsparse {

bsparse_kernel choose_matmul(const bsparse_tile_request& request, int compute_capability);
bsparse_kernel choose_matmul_dw(const bsparse_tile_request& request, int compute_capability);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_CHOOSE_KERNEL_H_
