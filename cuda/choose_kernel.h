// Which family of kernels should serve a product on a device of some compute capability.
#ifndef BSPARSE_CUDA_CHOOSE_KERNEL_H_
#define BSPARSE_CUDA_CHOOSE_KERNEL_H_

#include "cuda/bsparse_cuda.h"
#include "cuda/cost_model.h"

namespace bsparse {

struct Choice {
  bsparse_kernel family;
  bsparse_dense_reason dense;
  bsparse_hopper_reason hopper;
  ProductSeconds seconds;
};

// With `assume_cublas` cuBLAS is not looked for but taken to be there.
Choice choose_kernel(const bsparse_tile_request& request, int compute_capability,
                     bool assume_cublas);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_CHOOSE_KERNEL_H_
