// Tile sizes of the Hopper kernels, and why. A new tile is a line here.
#ifndef BSPARSE_CUDA_SM90_POLICY_CUH_
#define BSPARSE_CUDA_SM90_POLICY_CUH_

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "cuda/bsparse_cuda.h"

namespace bsparse {

// A CTA computes (kUnionOutputs, batch_tile) outputs: two consumer warpgroups of 64 outputs each,
// fed by producer warps. Its output columns need not be neighbours; an input block is loaded
// once for all of them, and where CTAs form a cluster once for all of those that need it at the
// same time (cc/plan/cluster_rounds).
inline constexpr int kUnionOutputs = BSPARSE_UNION_OUTPUTS;
inline constexpr int kConsumers = 2;
inline constexpr int kProducers = 4;  // warps
inline constexpr int kUnionThreads = 128 * kConsumers + 32 * kProducers;

// Bytes of shared memory that a CTA may have on an H100.
inline constexpr int kMaxSharedBytes = 227 * 1024;

// Elements of the longest row that the tensor cores read at once, of 128 bytes.
constexpr int line_elements(int element_size) { return 128 / element_size; }

struct UnionTile {
  int batch_tile;
  int depth;    // terms of the sum in a stage and entry
  int entries;  // that a stage holds
};

// A row of a stage is an entry's, or the 128 bytes that the tensor cores read at once. The shorter the
// rows, the more entries a stage has, so that consumers wait less often. `features`: of an entry.
constexpr UnionTile union_tile(int features, int element_size) {
  const int most = line_elements(element_size);
  const int depth = features < most ? features : most;
  return {256, depth, most / depth};
}

// Stages of a ring with packed weights, at most.
inline constexpr int kMaxPackedStages = 8;

// Whether union tiles multiply weights out of registers, where a missing block is a register of zeros:
// those of which 64 outputs are several. Such weights are packed before (pack_weights.cu).
constexpr bool packs_weights(int block_size, int element_size) {
  return block_size <= 32 && element_size == 2;
}

// Neighbouring blocks that the columns and entries of items are made of. The tensor cores take 16 inputs
// at once, boxes of y should not be narrower, and rows of x of fewer than 64 bytes come slowly.
__host__ __device__ constexpr int column_blocks(int block_size) {
  return block_size < 16 ? 16 / block_size : 1;
}
constexpr int entry_blocks(int block_size, int element_size, int feature_axis) {
  const int features = packs_weights(block_size, element_size) && feature_axis == 1 ? 32 : 16;
  return block_size < features ? features / block_size : 1;
}

// Whether x in TF32 with features first is turned round before, so that tensor cores take it out of shared memory:
// where enough weights are stored for each input (docs/kernel-notes.md).
inline constexpr int kSmallestTurnedBlock = 32;
constexpr bool union_turns_inputs(bsparse_dtype dtype, int block_size, int feature_axis,
                                  double weights_per_input) {
  return dtype == BSPARSE_FLOAT32 && feature_axis == 0 && block_size >= kSmallestTurnedBlock &&
         weights_per_input >= 1200;
}
inline bool union_turns_inputs(const bsparse_tile_request& request) {
  const double outputs = static_cast<double>(request.out_blocks) * request.block_size;
  return union_turns_inputs(request.dtype, request.block_size, request.feature_axis,
                            request.density * outputs);
}

// CTAs of a cluster: as many as every Hopper GPU can place.
inline constexpr int kMaxUnionCtas = 8;

// SMs that clusters of so many CTAs cover, one CTA an SM: those of 4 and 8 find no place on some.
constexpr int32_t sms_of_clusters(int32_t sm_count, int32_t ctas) {
  return ctas <= 2 ? sm_count / ctas * ctas : sm_count * 10 / 11 / ctas * ctas;
}

// CTAs that send each other the x they share. More of them read less of it, but wait for each other,
// and are fewer in all; measured on an H100, in TF32 at 0.05 to 0.25 on an H200 (docs/kernel-notes.md). `input_axis`:
// the features' in x, once it may have been turned round.
constexpr int32_t wanted_union_ctas(int block_size, int element_size, int input_axis,
                                    float density) {
  if (element_size == 4 && input_axis == 1) {  // twice the bytes to share
    if (block_size <= 32 || density > 0.35f) return 8;
    return block_size == 64 && density > 0.07f ? 1 : 4;
  }
  if (element_size == 4 && block_size >= 32) {
    if (density > 0.15f) return block_size == 32 || density > 0.35f ? 2 : 8;
    return block_size == 32 && density <= 0.02f ? 8 : 1;
  }
  if (block_size <= 32) {
    if (input_axis == 0) return block_size == 32 && density <= 0.02f ? 8 : 2;
    // Columns of scale-free and clustered layouts have much in common: on 8 CTAs blocks of 32 are a fifth faster
    // there, and at most 7 % slower on random ones.
    if (density > (block_size == 32 ? 0.15f : 0.02f)) return 2;
    return block_size == 8 ? 4 : 8;
  }
  if (density > 0.35f) return 2;
  if (density > 0.15f) return 4;
  if (block_size == 64) return density > 0.07f ? 8 : 4;
  return 8;
}

// As many of them as have something to do and do not make the last round of tiles an expensive one.
// `groups`: of the output columns of a CTA.
constexpr int32_t union_ctas(int32_t wanted, int64_t groups, int64_t batch_tiles,
                             int32_t sm_count) {
  const auto rounds = [&](int32_t ctas) {
    const int64_t clusters = sms_of_clusters(sm_count, ctas) / ctas;
    const int64_t tiles = (groups + ctas - 1) / ctas * batch_tiles;
    return clusters < 1 ? INT64_MAX / 8 : (tiles + clusters - 1) / clusters;
  };
  int32_t ctas = wanted;
  while (ctas > 1 && (ctas / 2 >= groups || 5 * rounds(ctas) > 6 * rounds(1))) ctas /= 2;
  return ctas;
}

// Batch tiles that CTAs alone take, on SMs where no cluster finds room: so many that clusters and they are done at
// about the same time. A CTA alone is held to take a quarter longer, as nobody sends it anything.
constexpr int64_t union_lone_batch_tiles(int64_t items, int64_t batch_tiles, int32_t ctas,
                                         int64_t clusters, int64_t lone_ctas) {
  if (ctas == 1 || lone_ctas == 0) return 0;
  const auto rounds = [](int64_t tiles, int64_t places) { return (tiles + places - 1) / places; };
  const int64_t most = batch_tiles * lone_ctas / (lone_ctas + clusters * ctas);
  int64_t best = 0, best_time = INT64_MAX;
  // More than their share they never take, and rounds repeat after a few.
  for (int64_t lone = most; lone >= 0 && lone > most - 4; --lone) {
    const int64_t in_clusters = 4 * rounds(items * (batch_tiles - lone), clusters);
    const int64_t alone = 5 * rounds(items * ctas * lone, lone_ctas);
    const int64_t time = in_clusters > alone ? in_clusters : alone;
    if (time <= best_time) {
      best = lone;
      best_time = time;
    }
  }
  return best;
}

// Bytes of x in a group of batch tiles. Little, so that all CTAs read the same x at the same time,
// and y on its way out does not push x out of the L2 cache.
inline constexpr int64_t kUnionGroupBytes = 4 << 20;

// Weights of up to so many bytes are kept in L2 ahead of anything else, since every batch tile reads
// them again. More would leave too little room for x.
inline constexpr int64_t kKeptWeightBytes = 8 << 20;

// Stored blocks of one output column that a CTA of the weight gradient computes at once: as many as
// its registers hold, and shared memory three stages of.
constexpr int dw_item_blocks(int block_size) { return block_size == 128 ? 2 : 512 / block_size; }

// Features of a box that is copied for it. With features last in TF32 rows of 128 bytes, which are turned round.
constexpr int dw_column_box_features(int block_size, int element_size, int feature_axis) {
  const int most = feature_axis == 1 ? line_elements(element_size) : 64;
  return block_size < most ? block_size : most;
}

// With features last, in 16 bit: copies of dy are dear, and memory sends such rows slowly.
constexpr bool dw_rows_are_short(int block_size, int element_size, int feature_axis) {
  return feature_axis == 1 && block_size * element_size <= 64;
}

// Where columns hold few blocks no more than most of them do: every stage has room for the longest item, and what shorter
// ones leave free is missing from what is under way. Not where rows are short.
inline int wanted_dw_item_blocks(int block_size, int element_size, int feature_axis,
                                 double blocks_per_column) {
  constexpr long kFew = 4;
  const int most = dw_item_blocks(block_size);
  if (blocks_per_column <= 0 || dw_rows_are_short(block_size, element_size, feature_axis)) return most;
  const long usual = std::max(2L, std::lround(blocks_per_column + std::sqrt(blocks_per_column)));
  return usual <= std::min(kFew, long{most}) ? static_cast<int>(usual) : most;
}

// A stage holds dy and the x of an item's blocks, lines of 128 bytes of each feature; inputs are read by 64.
inline constexpr int kMaxDwColumnStages = 16;
inline constexpr int kDwColumnRingBytes = kMaxSharedBytes - 2048;
constexpr int dw_column_stage_bytes(int block_size, int blocks) {
  return 128 * (block_size + (blocks * block_size + 63) / 64 * 64);
}
constexpr int dw_column_stages(int block_size, int blocks) {
  const int stages = kDwColumnRingBytes / dw_column_stage_bytes(block_size, blocks);
  return stages < kMaxDwColumnStages ? stages : kMaxDwColumnStages;
}

// Ranges that the batch of a weight gradient is cut into, at least. Short rows come from memory
// slowly, and every round of items reads all of x and dy again, unless a range of them stays in the
// L2 cache meanwhile. Wider rows lose more by the partial sums than they gain.
inline constexpr int64_t kDwRangeBytes = 32 << 20;
inline constexpr int64_t kMaxDwRanges = 16;
constexpr int64_t dw_ranges(int block_size, int element_size, int feature_axis,
                            int64_t activation_bytes) {
  if (block_size != 32 || !dw_rows_are_short(block_size, element_size, feature_axis)) return 1;
  const int64_t ranges = (activation_bytes + kDwRangeBytes - 1) / kDwRangeBytes;
  return ranges < 1 ? 1 : ranges < kMaxDwRanges ? ranges : kMaxDwRanges;
}

// Small batches stream (sm90/stream.cuh): one CTA an SM, whose warps have rings of at most so many
// stages. A warp takes some 700 cycles for an entry, most of them waiting, so there are as many warps as
// leave shared memory for their sums and rings; blocks of 16 with a batch of 17 to 32 were measured to
// want fewer.
inline constexpr int kStreamStages = 12;
constexpr int stream_warps(int block_size, int batch_tile, int element_size) {
  if (block_size == 8) return 16;
  if (element_size == 4) return block_size == 16 ? 16 : 8;
  if (batch_tile == 32) return block_size == 16 ? 8 : 12;
  return block_size == 16 || batch_tile == 16 ? 16 : 8;
}
// Entries of a column that a warp takes at once: of blocks of 8 as many as make a product's reduction.
constexpr int stream_entries(int block_size) { return block_size == 8 ? 4 : 1; }

// Streams were measured to be faster than union tiles up to these batches but for a few cells at densities of 0.25, and
// where densities are low and union tiles too few to fill a GPU up to 2048 (docs/kernel-notes.md).
constexpr int64_t always_streamed_batch(int element_size) { return element_size == 4 ? 128 : 256; }
inline constexpr int64_t kMaxStreamedBatch = 4096;

// A larger block streams in cells, as if it were several.
inline constexpr int kMaxStreamCell = 32;
__host__ __device__ constexpr int stream_cell(int block_size) {
  return block_size < kMaxStreamCell ? block_size : kMaxStreamCell;
}
// Rows of a box have 128 bytes at most.
constexpr int stream_batch_tile(int64_t batch, int element_size) {
  return batch <= 16 ? 16 : batch <= 32 || element_size == 4 ? 32 : 64;
}
// Copies take their time by rows, of which an entry's x has one for each batch entry with features last, and
// one for each feature with features first. So where batches are clearly longer than blocks, x with
// features last is turned round before.
constexpr bool stream_turns_inputs(int block_size, int feature_axis, int batch_tile,
                                   int element_size) {
  return feature_axis == 1 && element_size == 2 && batch_tile > 2 * block_size;
}

// Sweeps over x (sm90/sweep.cuh): 16 warps, so that enough loads are under way, and producers: one issues its copies too
// slowly. A warp that is through with a stage must not be more than a ring ahead of the one that fills the next, so there
// are no more of them than stages. Registers are given and taken by four warps; a thread begins with 96.
inline constexpr int kSweepProducers = 3;
inline constexpr int kSweepThreads = 32 * (BSPARSE_SWEEP_WARPS + 4);
inline constexpr int kSweepProducerRegisters = 40;
inline constexpr int kSweepConsumerRegisters = 104;
inline constexpr int kMaxSweepStages = 16;
// Of shared memory the ring's share: 1 KB is for alignment, 1 KB for barriers.
inline constexpr int kSweepRingBytes = kMaxSharedBytes - 2048;
// The fuller stages are, the less often warps wait for each other.
inline constexpr int kMaxSweepStageKib = kSweepRingBytes / 1024 / kSweepProducers;
// CTAs that share x by multicast, or one alone: more of them find no place on some SMs.
inline constexpr int kSweepCtas = 2;

// Batch entries of a CTA, whose outputs are the more the fewer these are. In wide tiles x is read half as often, and
// weights twice. They are of pairs only: so the outputs of an item say which it is.
inline constexpr int kSweepBatchTile = 64;
inline constexpr int kWideSweepBatchTile = 32;
constexpr int sweep_outputs(int batch_tile) { return BSPARSE_SWEEP_SUMS / batch_tile; }
constexpr int sweep_batch_tile(int64_t item_outputs) {
  return item_outputs > kSweepCtas * sweep_outputs(kSweepBatchTile) ? kWideSweepBatchTile
                                                                    : kSweepBatchTile;
}
constexpr int sweep_ctas(int64_t outputs, int batch_tile) {
  return outputs > sweep_outputs(kSweepBatchTile) || batch_tile != kSweepBatchTile ? kSweepCtas : 1;
}
// Wide tiles of blocks of 8 in 16 bit were measured to be no faster at any density (docs/kernel-notes.md).
constexpr bool has_wide_sweeps(int block_size, int element_size) {
  return block_size * element_size > 16;
}
constexpr int wanted_sweep_batch_tile(int64_t outputs, int block_size, int element_size,
                                      float density) {
  const bool wide = has_wide_sweeps(block_size, element_size) && density <= 0.025f &&
                    outputs > kSweepCtas * sweep_outputs(kSweepBatchTile);
  return wide ? kWideSweepBatchTile : kSweepBatchTile;
}

// What sweeps can do: blocks of 8 and 16 on tensor cores, and tiles enough for every SM to have three, so that the last
// round is no large part. Whether they are faster than union tiles: cost_model.cu.
constexpr bool may_sweep(int block_size, int element_size, int64_t in_features, int64_t out_features,
                         int64_t batch) {
  if (block_size > 16) return false;
  constexpr int64_t kMaxBoxes = 1 << 16;  // numbers of 16 bits
  if ((in_features - 1) / line_elements(element_size) >= kMaxBoxes) return false;
  const int64_t tiles = ((out_features - 1) / sweep_outputs(kSweepBatchTile) + 1) *
                        ((batch - 1) / kSweepBatchTile + 1);
  return tiles >= 3 * 132;
}

// Of fprop and dx on Hopper by union tiles and streams.
constexpr int smallest_product_block(int element_size) { return element_size == 2 ? 8 : 16; }

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_POLICY_CUH_
