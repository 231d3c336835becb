// How long products take, roughly: to choose between the sparse kernels and the dense product.
#ifndef BSPARSE_CUDA_COST_MODEL_H_
#define BSPARSE_CUDA_COST_MODEL_H_

#include "cuda/bsparse_cuda.h"

namespace bsparse {

// Of a product on an H100, by the sparse kernels and by way of the dense matrix.
struct ProductSeconds {
  double sparse, dense;
};

// `hopper`: whether Hopper's kernels suit it; `streams` and `small_dw`: whether it would go by those kernels.
ProductSeconds product_seconds(const bsparse_tile_request& request, bool hopper, bool streams,
                               bool small_dw);

// Whether the dense matrix is worth its scratch memory.
bool dense_is_faster(const ProductSeconds& seconds);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_COST_MODEL_H_
