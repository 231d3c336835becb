// How long products take, roughly: to choose between the sparse kernels and the dense product.
#ifndef BSPARSE_CUDA_COST_MODEL_H_
#define BSPARSE_CUDA_COST_MODEL_H_

#include "cuda/bsparse_cuda.h"

namespace bsparse {

// Whether the product is faster by way of the dense matrix, cuBLAS given.
bool dense_is_faster(const bsparse_tile_request& request);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_COST_MODEL_H_
