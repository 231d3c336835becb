// Choices of the weight gradient by tiles of the layout (sm90/dw_tiles.cuh).
#ifndef BSPARSE_CUDA_SM90_DW_TILES_POLICY_CUH_
#define BSPARSE_CUDA_SM90_DW_TILES_POLICY_CUH_

#include <cstdint>

#include "cuda/bsparse_cuda.h"
#include "cuda/sm90/policy.cuh"

namespace bsparse {

// A block larger than this is computed in cells, as if it were several.
inline constexpr int kMaxDwTileCell = 32;
constexpr int dw_tile_cell(int block_size) {
  return block_size < kMaxDwTileCell ? block_size : kMaxDwTileCell;
}

// A chunk of x or dy in shared memory: as many features as a row of 128 bytes has where they lie along
// the rows, and as many batch entries as one of 64 bytes where these do, the shortest that come at L2's
// rate.
constexpr int dw_tile_chunk_features(int element_size) { return 128 / element_size; }
constexpr int dw_tile_depth(int element_size) { return 64 / element_size; }
constexpr int dw_tile_chunk_bytes(int element_size) {
  return dw_tile_chunk_features(element_size) * 64;
}

inline constexpr int kDwTileRingBytes = 224 << 10;
inline constexpr int kMaxDwTileStages = 8;
inline constexpr int kDwTileSharedBytes = kDwTileRingBytes + 1024 + 16 * kMaxDwTileStages;
static_assert(kDwTileSharedBytes <= kMaxSharedBytes);

// Chunks of a stage, at most: two stages of them are the least that a ring can do with.
constexpr int max_dw_tile_chunks(int element_size) {
  return kDwTileRingBytes / 2 / dw_tile_chunk_bytes(element_size);
}
constexpr int dw_tile_stages(int chunks, int element_size) {
  const int stages = kDwTileRingBytes / dw_tile_chunk_bytes(element_size) / chunks;
  return stages < kMaxDwTileStages ? stages : kMaxDwTileStages;
}

// A slot is a cell, or of blocks of 8 two that have the same outputs. The more of them a tile has, the fewer
// chunks are loaded in all: as many as a warp's registers hold the sums of, beside a place for each and
// operands in flight.
constexpr int dw_tile_slot_blocks(int block_size) { return block_size == 8 ? 2 : 1; }
constexpr int dw_tile_slots(int block_size) {
  return block_size == 8 ? 32 : block_size == 16 ? 24 : 6;
}
inline constexpr int kDwTileAhead = 2;  // slots that operands are read ahead of their product
inline constexpr int kDwTileGroup = 4;  // slots after which a warp asks whether there are more
inline constexpr int kDwTileRegisters = 232;
inline constexpr int kDwTileProducerRegisters = 40;

// CTAs that share their input chunks, each of which one of them copies for all. Tiles of blocks of 128 have
// few chunks for what they compute.
constexpr int wanted_dw_tile_ctas(int block_size) { return block_size == 128 ? 1 : 2; }

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_DW_TILES_POLICY_CUH_
