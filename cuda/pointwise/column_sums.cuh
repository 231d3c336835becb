// Sums down the columns of a matrix, over each of some equal segments of its rows: how layer norm
// and the gradients of parameters add up what lies across memory.
//
// CTAs sum tiles of some columns by a chunk of a segment's rows, and a second kernel adds up the
// chunks. How a matrix is cut depends on its shape alone, and so does the order of a sum.
#ifndef BSPARSE_CUDA_POINTWISE_COLUMN_SUMS_CUH_
#define BSPARSE_CUDA_POINTWISE_COLUMN_SUMS_CUH_

#include <algorithm>
#include <cstdint>

namespace bsparse {

constexpr int kTileColumns = 64;
constexpr int kTileWarps = 8;

// How the rows of a segment are cut into chunks.
struct ChunkPolicy {
  int64_t tile_columns = kTileColumns;
  int64_t fewest_rows = 64;
  int64_t most_rows = INT64_MAX;
  int64_t multiple = 1;  // of rows: a power of two, as the limits are multiples of it
};

// How a matrix of `segments` times `segment_rows` rows is cut into tiles. Depends on its shape
// alone, for the order of the sums must.
struct ColumnTiling {
  int64_t segments, segment_rows, columns;
  int64_t column_tiles;
  int64_t chunks;      // of the rows of a segment
  int64_t chunk_rows;  // at most

  ColumnTiling(int64_t segments, int64_t segment_rows, int64_t columns,
               const ChunkPolicy& policy = {})
      : segments(segments), segment_rows(segment_rows), columns(columns) {
    constexpr int64_t kWantedCtas = 512;
    column_tiles = columns == 0 ? 0 : (columns - 1) / policy.tile_columns + 1;
    const int64_t wanted = kWantedCtas / std::max<int64_t>(1, column_tiles * segments);
    const int64_t most = (segment_rows - 1) / policy.fewest_rows + 1;
    const int64_t cut = std::clamp<int64_t>(wanted, 1, std::max<int64_t>(1, most));
    chunk_rows = segment_rows == 0 ? 1 : (segment_rows - 1) / cut + 1;
    chunk_rows = std::min((chunk_rows - 1) / policy.multiple + 1,
                          policy.most_rows / policy.multiple) *
                 policy.multiple;
    chunks = segment_rows == 0 ? 1 : (segment_rows - 1) / chunk_rows + 1;
  }

  __host__ __device__ int64_t tiles() const { return column_tiles * chunks * segments; }
  int64_t partials() const { return segments * chunks * columns; }
  // CTAs that add_chunks keeps busy.
  int64_t merge_groups() const { return segments * ((columns - 1) / 32 + 1); }
};

// The tile of a CTA. Its 8 warps take every eighth row, a lane kPack neighbouring columns, and
// with kPack 1 another one 32 columns on: so the sums do not depend on how columns are loaded.
struct ColumnTile {
  int64_t segment, chunk;
  int64_t first_row, end_row;  // of the matrix
  int64_t first_column;

  // `tile_columns` is the policy's.
  __device__ __forceinline__ ColumnTile(const ColumnTiling& tiling, int64_t tile,
                                        int tile_columns = kTileColumns) {
    first_column = tile % tiling.column_tiles * tile_columns;
    const int64_t rest = tile / tiling.column_tiles;
    chunk = rest % tiling.chunks;
    segment = rest / tiling.chunks;
    const int64_t begin = chunk * tiling.chunk_rows;
    first_row = segment * tiling.segment_rows + begin;
    end_row = first_row + min(tiling.chunk_rows, tiling.segment_rows - begin);
  }
};

// Threads of a CTA as (32 lanes, 8 warps). Calls f(column) for each group of kPack columns of
// the tile that this thread looks after.
template <int kPack, class F>
__device__ __forceinline__ void for_each_column(const ColumnTile& tile, int64_t columns,
                                                const F& f) {
#pragma unroll
  for (int part = 0; part < kTileColumns; part += 32 * kPack) {
    const int64_t column = tile.first_column + part + threadIdx.x * kPack;
    if (column < columns) f(column);
  }
}

inline dim3 tile_threads() { return dim3(32, kTileWarps); }

// Adds up what the warps of a CTA have put into `shared` for the columns of their tile. Where a
// segment is one chunk the sums are complete, and go to store(segment * columns + column, sum);
// else they are partials, (segments, chunks, columns). `shared` may be used again at once.
template <class Sum, int kColumns, class Store>
__device__ __forceinline__ void add_warps(const Sum (&shared)[kTileWarps][kColumns],
                                          const ColumnTiling& tiling, const ColumnTile& tile,
                                          Sum* partials, const Store& store) {
  static_assert(kColumns <= 32 * kTileWarps);
  __syncthreads();
  const int local = threadIdx.y * 32 + threadIdx.x;
  const int64_t column = tile.first_column + local;
  if (local < kColumns && column < tiling.columns) {
    Sum sum = shared[0][local];
    for (int warp = 1; warp < kTileWarps; ++warp) sum += shared[warp][local];
    if (tiling.chunks == 1) {
      store(tile.segment * tiling.columns + column, sum);
    } else {
      partials[(tile.segment * tiling.chunks + tile.chunk) * tiling.columns + column] = sum;
    }
  }
  __syncthreads();
}

// A kernel's all: adds up the partials of each column of each segment, for store() as above.
template <class Sum, class Store>
__device__ __forceinline__ void add_chunks(const Sum* all_partials, const ColumnTiling& tiling,
                                           const Store& store) {
  __shared__ Sum shared[kTileWarps][32];
  const int64_t groups = (tiling.columns - 1) / 32 + 1;
  for (int64_t g = blockIdx.x; g < tiling.segments * groups; g += gridDim.x) {
    const int64_t segment = g / groups;
    const int64_t column = g % groups * 32 + threadIdx.x;
    Sum sum = {};
    if (column < tiling.columns) {
      const Sum* const partials = all_partials + segment * tiling.chunks * tiling.columns + column;
#pragma unroll 4
      for (int64_t chunk = threadIdx.y; chunk < tiling.chunks; chunk += kTileWarps) {
        sum += partials[chunk * tiling.columns];
      }
    }
    shared[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < tiling.columns) {
      for (int warp = 1; warp < kTileWarps; ++warp) sum += shared[warp][threadIdx.x];
      store(segment * tiling.columns + column, sum);
    }
    __syncthreads();
  }
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_POINTWISE_COLUMN_SUMS_CUH_
