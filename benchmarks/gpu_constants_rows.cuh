// Boxes of a matrix, as the union tiles of cuda/ copy them with features last: how fast the copy
// engine takes their rows. The same tiles of x come in boxes of 16, 32 or 64 features, so the rows are
// of 32, 64 or 128 bytes and the bytes the same; as many of them are under way as in the kernels.
#ifndef BSPARSE_BENCHMARKS_GPU_CONSTANTS_ROWS_CUH_
#define BSPARSE_BENCHMARKS_GPU_CONSTANTS_ROWS_CUH_

#include <cuda.h>

#include <cstdint>

#include "benchmarks/gpu_constants.cuh"
#include "cuda/ptx.cuh"
#include "cuda/sm90/ptx.cuh"

namespace bsparse {

// A tile fills a stage of the ring.
inline constexpr int kTileFeatures = 64;
inline constexpr int kTileBatch = 256;
inline constexpr int kTileRowBytes = 2 * kTileFeatures;
inline constexpr int kTileBytes = kTileBatch * kTileRowBytes;
inline constexpr int kTileStages = 4;
inline constexpr int kTileRingBytes = 1024 + kTileStages * kTileBytes;  // leaves one CTA an SM
inline constexpr int kTilesAcross = 128;  // of the matrix, which is 8192 features wide

// What the words of a box's row are multiplied by in a sum: odd, and another number for each row.
template <int kRowBytes>
__device__ __forceinline__ uint32_t row_weight(int tile, int row, int box) {
  constexpr int kBoxes = kTileRowBytes / kRowBytes;
  return 2u * ((tile * kTileBatch + row) * kBoxes + box) + 1;
}

// The numbers that are copied.
__global__ void __launch_bounds__(256) fill_tiles(uint32_t* data, int64_t words) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < words; i += step) {
    data[i] = hash(static_cast<uint32_t>(i));
  }
}

// CTA i copies its own `region` tiles, numbers i * region and on, over and over until it has copied
// `tiles`. With `sums` it adds up what arrived, which takes longer than the copies.
template <int kRowBytes>
__global__ void __launch_bounds__(64)
    copy_rows(const __grid_constant__ CUtensorMap map, int region, int tiles, uint32_t* sums) {
#if HOPPER
  constexpr int kBoxes = kTileRowBytes / kRowBytes;
  constexpr int kBoxBytes = kTileBytes / kBoxes;
  extern __shared__ char raw[];
  __shared__ __align__(8) uint64_t full[kTileStages], empty[kTileStages];
  const uint32_t ring = (ptx::shared_address(raw) + 1023) & ~1023u;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kTileStages; ++i) {
      ptx::barrier_init(ptx::shared_address(&full[i]), 1);
      ptx::barrier_init(ptx::shared_address(&empty[i]), 1);
    }
    ptx::barrier_init_fence();
  }
  __syncthreads();
  const int lane = threadIdx.x % 32;
  if (threadIdx.x < 32) {
    for (int i = 0; i < tiles; ++i) {
      const int stage = i % kTileStages;
      const uint32_t barrier = ptx::shared_address(&full[stage]);
      if (i >= kTileStages) {
        ptx::barrier_wait(ptx::shared_address(&empty[stage]), (i / kTileStages - 1) & 1);
      }
      if (lane == 0) ptx::barrier_arrive_expect(barrier, kTileBytes);
      __syncwarp();
      const int tile = static_cast<int>(blockIdx.x) * region + i % region;
      if (lane < kBoxes) {
        ptx::copy_box_to_shared(ring + stage * kTileBytes + lane * kBoxBytes, &map,
                                tile % kTilesAcross * kTileFeatures + lane * kRowBytes / 2,
                                tile / kTilesAcross * kTileBatch, barrier);
      }
    }
  } else {
    uint32_t sum = 0;
    for (int i = 0; i < tiles; ++i) {
      const int stage = i % kTileStages;
      ptx::barrier_wait(ptx::shared_address(&full[stage]), (i / kTileStages) & 1);
      if (sums != nullptr) {
        // Swizzling moves words within their row only.
        for (int at = 4 * lane; at < kTileBytes; at += 4 * 32) {
          const int row = at % kBoxBytes / kRowBytes;
          sum += row_weight<kRowBytes>(i, row, at / kBoxBytes) *
                 ptx::load_shared(ring + stage * kTileBytes + at);
        }
      }
      __syncwarp();
      if (lane == 0) ptx::barrier_arrive(ptx::shared_address(&empty[stage]));
    }
    if (sums == nullptr) return;
    sum = __reduce_add_sync(~0u, sum);
    if (lane == 0) sums[blockIdx.x] = sum;
  }
#endif
}

// The sums that copy_rows gives after one round of the region, by ordinary loads; one warp a CTA.
template <int kRowBytes>
__global__ void __launch_bounds__(32)
    sum_rows(const uint32_t* data, int region, uint32_t* sums) {
  constexpr int kRowWords = kTileRowBytes / 4;
  static_assert(kRowWords == 32, "a lane has a word of each row");
  const int lane = threadIdx.x;
  uint32_t sum = 0;
  for (int i = 0; i < region; ++i) {
    const int64_t tile = int64_t{blockIdx.x} * region + i;
    const uint32_t* from = data + tile % kTilesAcross * kRowWords + lane +
                           tile / kTilesAcross * kTileBatch * kTilesAcross * kRowWords;
    for (int row = 0; row < kTileBatch; ++row, from += kTilesAcross * kRowWords) {
      sum += row_weight<kRowBytes>(i, row, 4 * lane / kRowBytes) * *from;
    }
  }
  sum = __reduce_add_sync(~0u, sum);
  if (lane == 0) sums[blockIdx.x] = sum;
}

}  // namespace bsparse

#endif  // BSPARSE_BENCHMARKS_GPU_CONSTANTS_ROWS_CUH_
