// Tensor maps: how the copy engine of Hopper finds boxes of a matrix.
#ifndef BSPARSE_CUDA_TENSOR_MAP_H_
#define BSPARSE_CUDA_TENSOR_MAP_H_

#include <cuda.h>

#include <cstdint>

#include "cuda/bsparse_cuda.h"

namespace bsparse {

// What the copy engine takes elements for. As TF32 it rounds float32 to nearest on the way, where
// tensor cores would ignore the last 13 bits.
enum class MapType { kFloat32, kTf32, kFloat16, kBfloat16 };

MapType map_type(bsparse_dtype dtype);

// A map of a row-major (rows, columns) matrix in boxes of (box_rows, box_columns), swizzled in shared
// memory by their width: 32, 64 or 128 bytes; not if that is 16 bytes or `swizzles` is false.
bsparse_status make_tensor_map(MapType type, const void* data, int64_t columns, int64_t rows,
                               int box_columns, int box_rows, CUtensorMap* map,
                               bool swizzles = true);

// The same of chunks of columns, 128 bytes each, which `columns` is a multiple of, as a third dimension: boxes of
// (box_chunks, box_rows, a chunk's columns) elements.
bsparse_status make_deep_tensor_map(MapType type, const void* data, int64_t columns, int64_t rows,
                                    int box_rows, int box_chunks, CUtensorMap* map);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_TENSOR_MAP_H_
