#include "cuda/tensor_map.h"

#include <cuda_runtime.h>

#include "cuda/check.h"
#include "cuda/error.h"

namespace bsparse {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's function, or null: this library does not link to the driver.
Encode find_encode() {
  static const Encode encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    constexpr unsigned kSince = 12000;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kSince,
                                         cudaEnableDefault, &found) != cudaSuccess ||
        found != cudaDriverEntryPointSuccess) {
      function = nullptr;
    }
    return reinterpret_cast<Encode>(function);
  }();
  return encode;
}

CUtensorMapDataType driver_type(MapType type) {
  switch (type) {
    case MapType::kFloat32: return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
    case MapType::kTf32: return CU_TENSOR_MAP_DATA_TYPE_TFLOAT32;
    case MapType::kFloat16: return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
    case MapType::kBfloat16: return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  }
  return CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
}

size_t size_of(MapType type) {
  return type == MapType::kFloat32 || type == MapType::kTf32 ? 4 : 2;
}

// How much DRAM sends for a row that is not in the L2 cache: more than is asked for would be thrown
// away by the time it is needed.
CUtensorMapL2promotion promotion(size_t row_bytes) {
  return row_bytes == 128 ? CU_TENSOR_MAP_L2_PROMOTION_L2_128B
                          : CU_TENSOR_MAP_L2_PROMOTION_L2_64B;
}

CUtensorMapSwizzle swizzle(size_t row_bytes) {
  return row_bytes == 128  ? CU_TENSOR_MAP_SWIZZLE_128B
         : row_bytes == 64 ? CU_TENSOR_MAP_SWIZZLE_64B
         : row_bytes == 32 ? CU_TENSOR_MAP_SWIZZLE_32B
                           : CU_TENSOR_MAP_SWIZZLE_NONE;
}

}  // namespace

MapType map_type(bsparse_dtype dtype) {
  switch (dtype) {
    case BSPARSE_FLOAT32: return MapType::kFloat32;
    case BSPARSE_FLOAT16: return MapType::kFloat16;
    case BSPARSE_BFLOAT16: return MapType::kBfloat16;
  }
  return MapType::kFloat32;
}

namespace {

// Boxes as wide as a swizzle; of `rank` dimensions, the first of them contiguous.
bsparse_status encode_map(MapType type, const void* data, int rank, const cuuint64_t* extents,
                          const cuuint64_t* strides, const cuuint32_t* box, bool swizzles,
                          CUtensorMap* map) {
  const Encode encode = find_encode();
  if (encode == nullptr) {
    return fail(BSPARSE_UNSUPPORTED, "the CUDA driver has no tensor maps: expected 12.0 or newer");
  }
  const cuuint32_t steps[] = {1, 1, 1};
  const size_t row_bytes = box[0] * size_of(type);
  const CUresult result = encode(
      map, driver_type(type), rank, const_cast<void*>(data), extents, strides, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE,
      swizzles ? swizzle(row_bytes) : CU_TENSOR_MAP_SWIZZLE_NONE, promotion(row_bytes),
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return BSPARSE_OK;
  return fail(BSPARSE_INVALID_ARGUMENT,
              "no tensor map for rows of %lld elements at %p (driver error %d): addresses and row "
              "lengths in bytes must be multiples of 16",
              static_cast<long long>(strides[0] / size_of(type)), data, static_cast<int>(result));
}

}  // namespace

bsparse_status make_tensor_map(MapType type, const void* data, int64_t columns, int64_t rows,
                               int box_columns, int box_rows, CUtensorMap* map,
                               bool swizzles) {
  const cuuint64_t extents[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[] = {columns * size_of(type)};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(box_columns),
                            static_cast<cuuint32_t>(box_rows)};
  return encode_map(type, data, 2, extents, strides, box, swizzles, map);
}

bsparse_status make_deep_tensor_map(MapType type, const void* data, int64_t columns, int64_t rows,
                                    int box_rows, int box_chunks, CUtensorMap* map) {
  constexpr int kChunkBytes = 128;
  const cuuint64_t chunk = kChunkBytes / size_of(type);
  const cuuint64_t extents[] = {chunk, static_cast<cuuint64_t>(rows), columns / chunk};
  const cuuint64_t strides[] = {columns * size_of(type), kChunkBytes};
  const cuuint32_t box[] = {static_cast<cuuint32_t>(chunk), static_cast<cuuint32_t>(box_rows),
                            static_cast<cuuint32_t>(box_chunks)};
  return encode_map(type, data, 3, extents, strides, box, /*swizzles=*/true, map);
}

}  // namespace bsparse
