// Tile sizes, and why. Mechanism is elsewhere: a new measurement changes this file only.
#ifndef BSPARSE_CUDA_SM80_POLICY_CUH_
#define BSPARSE_CUDA_SM80_POLICY_CUH_

#include <cstdint>

namespace bsparse {

// Four warps a CTA everywhere: enough for one tile, and two to four CTAs fit on an SM, so that
// one computes while another starts or stores.
inline constexpr int kWarps = 4;
inline constexpr int kThreads = 32 * kWarps;

// A CTA of the matmul: (batch_tile, block_size) outputs, its warps in a warps_batch x warps_out
// grid, and a ring of `stages` pieces of the reduction, each depth_bytes wide.
struct MatmulTile {
  int batch_tile;
  int warps_batch;
  int warps_out;
  int depth_bytes;
  int stages;
  int ctas_per_sm;  // what __launch_bounds__ asks the compiler to leave registers for

  constexpr int shared_bytes(int block_size) const {
    return stages * depth_bytes * (batch_tile + block_size);
  }
};

// Warp tiles of 64 x 64 keep shared-memory reads (4 KB a step) below the tensor cores' time;
// smaller blocks leave 64 x block_size. Two deep stages beat four or five of half the depth there,
// by 10 to 17% on an H100: fewer barriers, and a stage is long enough to hide the next one's
// arrival. Blocks of 32 and less fill a deep stage from several places, which costs more than it
// gives at low density (docs/kernel-notes.md).
//
// A batch of up to kSmallBatch would leave most of such a tile empty, and there the weights'
// bytes decide: a quarter of the tile, and as many CTAs as registers allow, since each waits three
// times for memory before it multiplies.
inline constexpr int64_t kSmallBatch = 64;

constexpr MatmulTile matmul_tile(int block_size, bool small_batch) {
  if (small_batch) {
    if (block_size == 128) return {64, 2, 2, 64, 5, 3};
    if (block_size == 64) return {64, 4, 1, 64, 5, 4};
    return {64, 4, 1, 64, 5, block_size == 32 ? 6 : 8};
  }
  if (block_size == 128) return {128, 2, 2, 128, 2, 2};  // 64 KB
  if (block_size == 64) return {256, 4, 1, 128, 2, 2};   // 80 KB: two CTAs in an A100's 164 KB
  return {256, 4, 1, 64, 4, 3};                         // 72 KB and less: three on an H100
}

// A CTA of the weight gradient: `slots` stored blocks, each as many warps as it is 64 rows and
// columns wide. Blocks that share an x or a dy block share its tile.
struct MatmulDwTile {
  int slots;
  int depth_bytes;  // batch entries of a stage, in bytes
  int stages;

  constexpr int shared_bytes(int block_size) const {
    return stages * 2 * slots * block_size * depth_bytes;
  }
};

constexpr MatmulDwTile matmul_dw_tile(int block_size) {
  if (block_size == 128) return {1, 64, 5};  // 80 KB
  return {256 / block_size, 64, 3};          // 96 KB; five tiles loaded for four products at 64
}

// Weight gradients in exact float32 by warps on their own (sm80/exact_matmul_dw.cu); larger blocks are
// faster through shared memory (sm80/exact_blocks_dw.cu).
inline constexpr int kMaxExactDwBlock = 16;

// Weight gradients of small batches (sm80/small_dw.cuh): up to so many batch entries of all pairs in any case. From there
// on tiles of the layout and Hopper's columns soon load less (docs/kernel-notes.md).
constexpr int64_t small_dw_batch(int feature_axis, int element_size) {
  return (feature_axis == 0 ? 256 : 128) / (element_size == 4 ? 4 : 1);
}
// And up to so many where the cost model says so, which is far off above.
constexpr int64_t most_small_dw_batch(int feature_axis, int element_size) {
  return small_dw_batch(feature_axis, element_size) * (element_size == 4 && feature_axis == 0 ? 16 : 2);
}

// `features`: the more of inputs and outputs. 16-byte pieces of rows, and bytes of four rows, are counted in 32 bits.
constexpr bool small_dw_counts(int64_t features, int64_t batch, int element_size) {
  const int64_t most = UINT32_MAX;
  return features <= most / (4 * element_size) && batch <= most / features * 16 / element_size;
}

// Features along each side of what a warp computes at once: a block, or a cell of a larger one.
constexpr int small_dw_cell(int block_size) { return block_size < 32 ? block_size : 32; }

// Rows of 16 bytes would come at half of L2's rate, and those of 32 ask for as many loads as bytes allow: of 16-bit
// blocks of 8 and 16 x and dy are turned round (docs/kernel-notes.md).
constexpr bool small_dw_turns(int block_size, int feature_axis, int element_size) {
  return feature_axis == 1 && element_size == 2 && block_size <= 16;
}

// Blocks that a warp takes at once: of blocks of 8 two, as an operand has 16 features.
constexpr int small_dw_unit_blocks(int block_size) { return block_size < 16 ? 16 / block_size : 1; }

// As many warps as there are registers for the operands of a cell, and its sums.
inline constexpr int kSmallDwCtas = 2;  // of an SM
constexpr int small_dw_warps(int cell) { return cell == 32 ? 8 : cell == 16 ? 12 : 16; }

// Bytes of x in a group of batch tiles: a third of an H100's L2.
inline constexpr int64_t kGroupBytes = 16 << 20;

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM80_POLICY_CUH_
