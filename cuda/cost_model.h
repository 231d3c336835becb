// How long products take, roughly: to choose between the sparse kernels and the dense product.
#ifndef BSPARSE_CUDA_COST_MODEL_H_
#define BSPARSE_CUDA_COST_MODEL_H_

#include "cuda/bsparse_cuda.h"

namespace bsparse {

// Of a product on an H100, or where it is short on an H200 (cost_rates.h), by the sparse kernels and by way of the dense
// matrix.
struct ProductSeconds {
  double sparse, dense;
};

// `family`: of the sparse kernels that it would go by.
ProductSeconds product_seconds(const bsparse_tile_request& request, bsparse_kernel family);

// Whether a sweep takes less time than union tiles: of blocks of 8 or 16, in products that fill the GPU.
bool sweep_is_faster(const bsparse_tile_request& request);

// Whether streams take less time than union tiles, of which small products have too few.
bool stream_is_faster(const bsparse_tile_request& request);

// Whether a weight gradient out of registers takes less time than by another family.
bool small_dw_is_faster(const bsparse_tile_request& request, bsparse_kernel other);

// Whether the dense matrix is worth its scratch memory.
bool dense_is_faster(const ProductSeconds& seconds);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_COST_MODEL_H_
