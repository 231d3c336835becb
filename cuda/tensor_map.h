// Tensor maps: how the copy engine of Hopper finds boxes of a matrix.
#ifndef BSPARSE_CUDA_TENSOR_MAP_H_
#define BSPARSE_CUDA_TENSOR_MAP_H_

#include <cuda.h>

#include <cstdint>

#include "cuda/bsparse_cuda.h"

namespace bsparse {

// A map of a row-major (rows, columns) matrix in boxes of (box_rows, box_columns), swizzled in shared
// memory by their width: 32, 64 or 128 bytes.
bsparse_status make_tensor_map(bsparse_dtype dtype, const void* data, int64_t columns, int64_t rows,
                               int box_columns, int box_rows, CUtensorMap* map);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_TENSOR_MAP_H_
