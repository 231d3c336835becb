#include "cuda/dense/blocks.h"

#include "cuda/dtype.cuh"
#include "cuda/early_launch.cuh"
#include "cuda/elements.cuh"
#include "cuda/with_element.cuh"

namespace bsparse {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;

// The map: a CTA takes one of its rows, a column of the product.

__device__ __forceinline__ void clear_map_row(int32_t* row, int32_t in_blocks) {
  for (int i = threadIdx.x; i < in_blocks; i += kThreads) row[i] = -1;
  __syncthreads();  // before any thread writes a block over what another has cleared
}

__global__ void __launch_bounds__(kThreads)
    map_items_kernel(const int4* items, const int2* entries, int32_t* map, int32_t in_blocks) {
  follow_kernel_before();
  const int4 item = items[blockIdx.x];  // column, first entry, end
  int32_t* const row = map + int64_t{item.x} * in_blocks;
  clear_map_row(row, in_blocks);
  for (int e = item.y + static_cast<int>(threadIdx.x); e < item.z; e += kThreads) {
    const int2 entry = entries[e];
    row[entry.x] = entry.y;
  }
}

// The first of a list of (in_block, out_block, weight_block), by rising out_block, that is of `column`
// or one behind it. The whole CTA looks for it, so that a list of a million takes three rounds.
__device__ __forceinline__ int64_t first_of_column(const int32_t* blocks, int64_t num_blocks,
                                                   int32_t column) {
  int64_t first = 0, end = num_blocks;  // the answer is one of these, either included
  while (first < end) {
    const int64_t step = (end - first - 1) / kThreads + 1;
    const int64_t probe = first + threadIdx.x * step;
    const int before = __syncthreads_count(probe < end && blocks[3 * probe + 1] < column);
    if (before == 0) break;
    end = min(end, first + before * step);
    first += (before - 1) * step + 1;
  }
  return first;
}

__global__ void __launch_bounds__(kThreads)
    map_list_kernel(const int32_t* blocks, int64_t num_blocks, int32_t* map, int32_t in_blocks) {
  follow_kernel_before();
  const auto column = static_cast<int32_t>(blockIdx.x);
  int32_t* const row = map + int64_t{column} * in_blocks;
  clear_map_row(row, in_blocks);
  for (int64_t b = first_of_column(blocks, num_blocks, column) + threadIdx.x; b < num_blocks;
       b += kThreads) {
    const int32_t* const block = blocks + 3 * b;
    if (block[1] != column) break;
    row[block[0]] = block[2];
  }
}

// The matrix: a CTA takes a tile of it, a warp a band of the tile, each thread vectors of 16 bytes. A
// warp moves 4 rows of 128 bytes at once, which are whole lines of the matrix and 64 neighbouring bytes
// or more of every block that they meet, so that nothing need pass through shared memory.
constexpr int kVectorBytes = 16;
constexpr int kBandRows = 8;  // of one block row, however small the blocks
constexpr int kLineVectors = 8;
constexpr int kRowsAtOnce = 32 / kLineVectors;
constexpr int kSteps = kBandRows / kRowsAtOnce;
constexpr int kLines = 2;  // side by side in a tile

// Where in the matrix, in vectors of it, the blocks lie.
struct Places {
  const int32_t* map;
  int64_t row_stride, column_stride;  // of the map, from one row or column of blocks to the next
  int64_t bands, row_vectors;         // of the matrix
  uint32_t tiles_across;
  int32_t log_block_bands;
  int32_t log_row;    // vectors of a block's row
  int32_t log_block;  // of a block
};

// The vectors of one thread: `step` and `line` count them.
class ThreadPlaces {
 public:
  __device__ __forceinline__ explicit ThreadPlaces(const Places& places) : places_(places) {
    const int lane = threadIdx.x % 32;
    const int64_t band = int64_t{blockIdx.x / places.tiles_across} * kWarps + threadIdx.x / 32;
    const int32_t block_bands = 1 << places.log_block_bands;
    in_rows_ = band < places.bands;
    first_column_ = int64_t{blockIdx.x % places.tiles_across} * (kLines * kLineVectors) +
                    lane % kLineVectors;
    const int row = lane / kLineVectors;
    map_row_ = (band >> places.log_block_bands) * places.row_stride;
    row_in_block_ = static_cast<int32_t>(band & (block_bands - 1)) * kBandRows + row;
    in_matrix_ = (band * kBandRows + row) * places.row_vectors + first_column_;
  }

  __device__ __forceinline__ bool exists(int line) const {
    return in_rows_ && column(line) < places_.row_vectors;
  }

  // That vectors of a line lie in, or -1.
  __device__ __forceinline__ int32_t block(int line) const {
    if (!exists(line)) return -1;
    return places_.map[map_row_ + (column(line) >> places_.log_row) * places_.column_stride];
  }

  __device__ __forceinline__ int64_t in_matrix(int step, int line) const {
    return in_matrix_ + step * kRowsAtOnce * places_.row_vectors + line * kLineVectors;
  }

  // In the array of all blocks.
  __device__ __forceinline__ int64_t in_blocks(int step, int line, int32_t block) const {
    const int32_t in_row = static_cast<int32_t>(column(line)) & ((1 << places_.log_row) - 1);
    const int32_t row = row_in_block_ + step * kRowsAtOnce;
    return (int64_t{block} << places_.log_block) + (row << places_.log_row) + in_row;
  }

 private:
  __device__ __forceinline__ int64_t column(int line) const {
    return first_column_ + line * kLineVectors;
  }

  const Places& places_;
  bool in_rows_;
  int32_t row_in_block_;  // of the first step
  int64_t first_column_;
  int64_t map_row_;
  int64_t in_matrix_;  // of the first step and line
};

__global__ void __launch_bounds__(kThreads)
    expand_kernel(const __grid_constant__ Places places, const uint4* w, uint4* matrix) {
  follow_kernel_before();
  const ThreadPlaces mine(places);
  // All loads before the first store, behind which the compiler may not move them.
  int32_t blocks[kLines];
#pragma unroll
  for (int line = 0; line < kLines; ++line) blocks[line] = mine.block(line);
  uint4 vectors[kLines][kSteps];
#pragma unroll
  for (int line = 0; line < kLines; ++line) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      vectors[line][step] = {};
      if (blocks[line] >= 0) vectors[line][step] = w[mine.in_blocks(step, line, blocks[line])];
    }
  }
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int line = 0; line < kLines; ++line) {
      if (mine.exists(line)) matrix[mine.in_matrix(step, line)] = vectors[line][step];
    }
  }
}

// `Sum` is the type of the matrix, `Element` that of dw. kAligned: dw and the addend begin at multiples
// of a vector.
template <class Sum, class Element, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    gather_kernel(const __grid_constant__ Places places, const uint4* matrix,
                  const __grid_constant__ DwOutput output) {
  follow_kernel_before();
  constexpr int kCount = kVectorBytes / sizeof(Sum);
  const ThreadPlaces mine(places);
  int32_t blocks[kLines];
#pragma unroll
  for (int line = 0; line < kLines; ++line) blocks[line] = mine.block(line);
  float scales[kLines];
#pragma unroll
  for (int line = 0; line < kLines; ++line) {
    scales[line] = blocks[line] < 0 ? 0.0f : output.scale(blocks[line]);
  }
  uint4 vectors[kLines][kSteps];
#pragma unroll
  for (int line = 0; line < kLines; ++line) {
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      vectors[line][step] = {};
      if (scales[line] != 0.0f) vectors[line][step] = matrix[mine.in_matrix(step, line)];
    }
  }
#pragma unroll
  for (int line = 0; line < kLines; ++line) {
    if (blocks[line] < 0) continue;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      float sums[kCount];
      load_elements(reinterpret_cast<const Sum*>(&vectors[line][step]), sums);
      const int64_t place = kCount * mine.in_blocks(step, line, blocks[line]);
      if constexpr (kAligned) {
        output.store_vector<Element>(place, scales[line], sums);
      } else {
#pragma unroll
        for (int e = 0; e < kCount; e += 2) {
          output.store<Element>(place + e, scales[line], sums[e], sums[e + 1]);
        }
      }
    }
  }
}

template <class Sum, class Element>
auto* gather_kernel_for(const DwOutput& output) {
  const bool aligned =
      is_aligned(output.dw, kVectorBytes) && is_aligned(output.addend, kVectorBytes);
  return aligned ? &gather_kernel<Sum, Element, true> : &gather_kernel<Sum, Element, false>;
}

int log2_of(int64_t power) {
  int log = 0;
  while (int64_t{1} << log < power) ++log;
  return log;
}

Places places_of(const DenseMatrix& matrix) {
  const auto vectors = [&](int64_t columns) {
    return columns * static_cast<int64_t>(element_size(matrix.dtype)) / kVectorBytes;
  };
  Places places{};
  places.map = matrix.map();
  places.row_stride = matrix.transposed ? matrix.in_blocks : 1;
  places.column_stride = matrix.transposed ? 1 : matrix.in_blocks;
  places.bands = matrix.rows() / kBandRows;
  places.row_vectors = vectors(matrix.columns());
  places.tiles_across =
      static_cast<uint32_t>((places.row_vectors - 1) / (kLines * kLineVectors) + 1);
  places.log_block_bands = log2_of(matrix.block_size / kBandRows);
  places.log_row = log2_of(vectors(matrix.block_size));
  places.log_block = places.log_row + log2_of(matrix.block_size);
  return places;
}

// Tiles are of 16 KB, so that a matrix that fits in memory has fewer than 2^31 of them.
dim3 tiles_of(const Places& places) {
  return dim3(static_cast<unsigned>(((places.bands - 1) / kWarps + 1) * places.tiles_across));
}

}  // namespace

cudaError_t launch_expand_blocks(const DenseMatrix& matrix, const bsparse_matmul_plan& plan,
                                 const void* w, cudaStream_t stream) {
  launch_early(&map_items_kernel, dim3(plan.num_items), dim3(kThreads), stream,
               reinterpret_cast<const int4*>(plan.items),
               reinterpret_cast<const int2*>(plan.entries), matrix.map(), matrix.in_blocks);
  const Places places = places_of(matrix);
  launch_early(&expand_kernel, tiles_of(places), dim3(kThreads), stream, places,
               static_cast<const uint4*>(w), static_cast<uint4*>(matrix.data));
  return cudaGetLastError();
}

cudaError_t launch_gather_blocks(const DenseMatrix& matrix, const bsparse_matmul_dw_plan& plan,
                                 const DwOutput& output, bsparse_dtype out_dtype,
                                 cudaStream_t stream) {
  launch_early(&map_list_kernel, dim3(matrix.out_blocks), dim3(kThreads), stream, plan.blocks,
               int64_t{plan.num_blocks}, matrix.map(), matrix.in_blocks);
  const Places places = places_of(matrix);
  const bool wide = matrix.dtype == BSPARSE_FLOAT32;
  with_element(out_dtype, [&](auto element) {
    using Element = typename decltype(element)::Type;
    launch_early(wide ? gather_kernel_for<float, Element>(output)
                      : gather_kernel_for<Element, Element>(output),
                 tiles_of(places), dim3(kThreads), stream, places,
                 static_cast<const uint4*>(matrix.data), output);
  });
  return cudaGetLastError();
}

}  // namespace bsparse
