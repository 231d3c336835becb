// Union tiles on Hopper: sizes, places in shared memory, and the order of tiles, which producers and
// consumers must agree on.
#ifndef BSPARSE_CUDA_SM90_UNION_CUH_
#define BSPARSE_CUDA_SM90_UNION_CUH_

#include "cuda/bsparse_cuda.h"
#include "cuda/matmul_params.h"
#include "cuda/sm90/policy.cuh"
#include "cuda/sm90/ptx.cuh"

namespace bsparse {

// kInputAxis: of x, where it differs from y's.
template <class MathT, int kBlockSizeT, int kFeatureAxisT, bool kTransposeT,
          int kInputAxisT = kFeatureAxisT>
struct Sm90MatmulTraits {
  using Math = MathT;
  using Element = typename Math::Element;
  static constexpr int kSize = sizeof(Element);
  static constexpr int kBlockSize = kBlockSizeT;
  static constexpr int kColumnBlocks = column_blocks(kBlockSize);
  static constexpr int kEntryBlocks = entry_blocks(kBlockSize, kSize, kFeatureAxisT);
  static constexpr int kColumnFeatures = kBlockSize * kColumnBlocks;
  static constexpr int kEntryFeatures = kBlockSize * kEntryBlocks;
  static constexpr int kFeatureAxis = kFeatureAxisT;
  static constexpr int kInputAxis = kInputAxisT;
  static constexpr bool kTranspose = kTransposeT;
  // Products of 32-bit elements want both operands along the reduction: weight blocks are (outputs, inputs)
  // whatever the product (the launcher sees to it), and activations with features first are multiplied out
  // of registers (sm90/turned_inputs.cuh).
  static constexpr bool kOutputRows = kTranspose || kSize == 4;
  static constexpr bool kTurnsInputs = kSize == 4 && kInputAxis == 0;
  static constexpr UnionTile kTile = union_tile(kEntryFeatures, kSize);
  static constexpr int kBatchTile = kTile.batch_tile;
  static constexpr int kDepth = kTile.depth;
  static constexpr int kParts = kEntryFeatures / kDepth;  // stages that an entry fills
  static constexpr int kEntries = kTile.entries;      // or entries that a stage holds
  static_assert(kParts == 1 || kEntries == 1, "an entry in several stages, or several in one");
  static constexpr int kColumns = kUnionOutputs / kColumnFeatures;  // of a CTA
  // Where 64 outputs are several columns, weights are multiplied out of registers
  // (sm90/packed_weights.cuh).
  static constexpr bool kPacks = packs_weights(kBlockSize, kSize);
  static constexpr int kWords =  // of a record
      kPacks ? BSPARSE_PACKED_RECORD_WORDS : bsparse_record_words(kColumns);

  // Boxes of x and w are kDepth features wide. One of w has kRows rows: a block or a part of it.
  static constexpr int kRows = kBlockSize < 64 ? kBlockSize : 64;
  static_assert(kPacks || kOutputRows || kRows == kDepth, "boxes whose rows are the reduction");
  static constexpr int kRowBytes = kDepth * kSize;
  static constexpr int kBoxBytes = kRows * kRowBytes;
  static constexpr int kSquareBytes = kColumnFeatures * kColumnFeatures * kSize;  // packed
  static constexpr int kGroupBytesW = 64 * kRowBytes;  // of w for one warpgroup and entry
  static constexpr int kBoxesW = kUnionOutputs / kRows;
  // What a mask tells about: parts of the outputs whose columns share a product.
  static constexpr int kPartFeatures = kTurnsInputs && kColumnFeatures <= 32 ? 32 : 64;
  static constexpr int kMasked = kUnionOutputs / kPartFeatures;
  static constexpr int kMaskedBytes = kUnionOutputs / kMasked * kRowBytes;
  static constexpr int kEntryBytesX = kBatchTile * kRowBytes;
  static constexpr int kEntryBytesW = kConsumers * kGroupBytesW;
  static constexpr int kStageBytes = kEntries * (kEntryBytesX + kEntryBytesW);

  // x: input axis 1, a box (batch rows, kDepth); 0, boxes (kDepth rows, kLineBatch).
  static constexpr int kLineBatch = line_elements(kSize);
  static constexpr int kBoxesX = kInputAxis == 1 ? 1 : kBatchTile / kLineBatch;
  static constexpr int kBoxBytesX = kEntryBytesX / kBoxesX;
  static constexpr int kBoxBatch = kBatchTile / kBoxesX;

  // The output tile of a warpgroup, staged for the copy engine in boxes of one block column:
  // (batch rows, kWidthY) for axis 1; (kWidthY, kLineBatch) for axis 0.
  // Large tiles in rounds, which leaves more room for the ring.
  static constexpr int kWidthY = kColumnFeatures < kLineBatch ? kColumnFeatures : kLineBatch;
  static constexpr int kRowBytesY = kWidthY * kSize;
  static constexpr int kRoundBatch = 256 / kSize;
  static constexpr int kRounds = kBatchTile / kRoundBatch;
  static constexpr int kWidthsY = 64 / kWidthY;  // of a warpgroup
  static constexpr int kBoxesY = kFeatureAxis == 1 ? 1 : kRoundBatch / kLineBatch;  // of a width
  static constexpr int kBoxBytesY = kRoundBatch * kRowBytesY / kBoxesY;
  static constexpr int kGroupBytesY = 64 * kRoundBatch * kSize;
  // Columns that share a product.
  static constexpr int kSharedColumns =
      kColumnFeatures < kPartFeatures ? kPartFeatures / kColumnFeatures : 1;

  // Of a thread: 504 for a producer and two consumers. Producers hold the records of stages to come; turned inputs
  // need every register they can have.
  static constexpr int kProducerRegisters =
      !kPacks && !kTurnsInputs && kEntries * kColumns > 8 ? 88 : 72;
  static constexpr int kConsumerRegisters = (504 - kProducerRegisters) / kConsumers;

  static constexpr int kZeroBytes = 512;
  static constexpr int kControlBytes = kPacks ? 2048 : 1024;  // barriers, masks, tables, zeros
  static constexpr int kRingBytes =
      (kMaxSharedBytes - 1024 - kControlBytes - kConsumers * kGroupBytesY) / 1024 * 1024;
  static constexpr int kStages = kRingBytes / kStageBytes;  // at least: UnionShared::stages()
  static constexpr int kMaxStages = kPacks ? kMaxPackedStages : kStages;
  static constexpr int kSharedBytes =
      1024 + kControlBytes + kConsumers * kGroupBytesY + kRingBytes;
  static_assert(kStages >= 3 && kMaxStages * 28 + 8 * kConsumers <= 256, "a sensible ring");
  static_assert(!kPacks || 256 + kMaxStages * 128 + kZeroBytes <= kControlBytes);

  // How the tensor cores find the operands, 32 bytes of the reduction at once.
  static constexpr int kSteps = kRowBytes / 32;
  static constexpr int kTransposeA = kOutputRows ? 0 : 1;
  static constexpr int kTransposeB = kInputAxis == 1 ? 0 : 1;
  static constexpr uint64_t kLayoutA =
      ptx::operand_layout(ptx::swizzle_of(kRowBytes), kBoxBytes, 8 * kRowBytes);
  static constexpr int kStepA = kTransposeA ? 16 * kRowBytes : 32;
  static constexpr uint64_t kLayoutB =
      kTransposeB ? ptx::operand_layout(ptx::Swizzle::k128Bytes, kBoxBytesX, 1024)
                  : ptx::operand_layout(ptx::swizzle_of(kRowBytes), 16, 8 * kRowBytes);
  static constexpr int kStepB = kTransposeB ? 16 * 128 : 32;
};

// Places in shared memory. A box begins where its swizzle does: at a multiple of 1024 bytes, or of 8 rows
// if these are shorter than 128 bytes.
template <class Traits>
struct UnionShared {
  uint32_t base;
  uint32_t packed_stage_bytes;
  int packed_stages;

  // Of packed weights a plan says what its fullest stage holds, and the ring has as many as find room.
  __device__ __forceinline__ UnionShared(const UnionMatmulParams& params, const void* raw)
      : base(ptx::kept((ptx::shared_address(raw) + 1023) & ~1023u)) {
    const int squares = Traits::kPacks ? params.fullest_stage : 0;
    packed_stage_bytes = Traits::kEntries * Traits::kEntryBytesX +
                         (squares * Traits::kSquareBytes + 1023) / 1024 * 1024;
    packed_stages = min(Traits::kRingBytes / packed_stage_bytes, Traits::kMaxStages);
  }

  __device__ __forceinline__ int stages() const {
    return Traits::kPacks ? packed_stages : Traits::kStages;
  }
  __device__ __forceinline__ uint32_t x(int stage, int entry) const {
    return base + stage * (Traits::kPacks ? packed_stage_bytes : Traits::kStageBytes) +
           entry * Traits::kEntryBytesX;
  }
  __device__ __forceinline__ uint32_t w(int stage, int entry) const {
    return x(stage, Traits::kEntries) + entry * Traits::kEntryBytesW;
  }
  __device__ __forceinline__ uint32_t y(int group) const {
    return base + Traits::kRingBytes + group * Traits::kGroupBytesY;
  }
  __device__ __forceinline__ uint32_t full(int stage) const {
    return y(kConsumers) + 8 * stage;
  }
  // x is written by any CTA of the cluster, w by this one alone.
  __device__ __forceinline__ uint32_t empty_x(int stage) const {
    return full(Traits::kMaxStages) + 8 * stage;
  }
  __device__ __forceinline__ uint32_t empty_w(int stage) const {
    return empty_x(Traits::kMaxStages) + 8 * stage;
  }
  // The residual has come to where a warpgroup stages y.
  __device__ __forceinline__ uint32_t residual(int group) const {
    return empty_w(Traits::kMaxStages) + 8 * group;
  }
  // Bit kMasked * e + p: part p of the outputs has a block in entry e of the stage.
  __device__ __forceinline__ uint32_t mask(int stage) const {
    return residual(kConsumers) + 4 * stage;
  }
  // Of packed weights: for each consumer warp and step where its operand is, 16 bytes.
  __device__ __forceinline__ uint32_t table(int stage, int warp) const {
    return y(kConsumers) + 256 + 128 * stage + 16 * warp;
  }
  // An operand of a missing block.
  __device__ __forceinline__ uint32_t zeros() const {
    return y(kConsumers) + Traits::kControlBytes - Traits::kZeroBytes;
  }
};

// The tiles of this CTA, one after the other; the next one's item is read ahead. Every round of tiles is
// dealt to the clusters in the opposite order of the one before: items come heaviest first, so who had the heaviest
// of a round has the lightest of the next.
struct TileWalk {
  const UnionMatmulParams& params;
  uint32_t tile;
  uint32_t step;  // to the next tile; two steps are two rounds
  uint32_t batch_tile;
  // Group and partial (or -1), each times the CTAs of an item plus which of them this is; between these
  // the first and the end of the entries.
  int4 item;

  __device__ __forceinline__ explicit TileWalk(const UnionMatmulParams& p)
      : params(p), tile(ptx::cluster_id()), step(0) {
    look_ahead();
    take_next();
    step = 2 * (ptx::clusters() - tile) - 1;
    look_ahead();
  }

  __device__ __forceinline__ bool done() const { return tile >= params.num_tiles; }

  // Behind the last tile an item without entries.
  __device__ __forceinline__ int4 next_item() const {
    const auto ctas = static_cast<int>(params.ctas), rank = static_cast<int>(next_rank);
    int4 next = read_item;
    next.x = next.x * ctas + rank;
    if (next.w >= 0) next.w = next.w * ctas + rank;
    if (tile + step >= params.num_tiles) next.z = next.y;
    return next;
  }

  __device__ __forceinline__ void advance() {
    take_next();
    tile += step;
    step = 2 * ptx::clusters() - step;
    look_ahead();
  }

 private:
  __device__ __forceinline__ void take_next() {
    item = next_item();
    batch_tile = next_batch_tile;
  }

  // Nothing is done with what is read before the tile under way has been multiplied: that would wait for it.
  __device__ __forceinline__ void look_ahead() {
    const TilePlace place = params.raster.place(min(tile + step, params.num_tiles - 1));
    next_batch_tile = params.first_batch_tile + place.batch_tile;
    const uint32_t number = params.item_places.quotient(place.item);
    next_rank = params.item_places.remainder(place.item, number) + ptx::rank_in_cluster();
    read_item = params.items[number];
  }

  uint32_t next_batch_tile;
  uint32_t next_rank;
  int4 read_item;
};

// Stages of an item.
template <class Traits>
__device__ __forceinline__ int stages_of(const int4& item) {
  return (item.z - item.y + Traits::kEntries - 1) / Traits::kEntries * Traits::kParts;
}

// Say that this warpgroup is done with the x or w of a stage, to all that write it.
template <class Traits>
__device__ __forceinline__ void release_x(const UnionMatmulParams& params,
                                          const UnionShared<Traits>& shared, int stage) {
  const uint32_t thread = threadIdx.x % 128;
  if (thread < params.cluster_ctas) {
    ptx::barrier_arrive_in_cluster(ptx::address_in(shared.empty_x(stage), thread));
  }
}

template <class Traits>
__device__ __forceinline__ void release_w(const UnionShared<Traits>& shared, int stage) {
  if (threadIdx.x % 128 == 0) ptx::barrier_arrive(shared.empty_w(stage));
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_UNION_CUH_
