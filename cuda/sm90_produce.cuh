// What the producer warps of a union tile do: bulk tensor copies into the ring.
#ifndef BSPARSE_CUDA_SM90_PRODUCE_CUH_
#define BSPARSE_CUDA_SM90_PRODUCE_CUH_

#include "cuda/matmul_params.h"
#include "cuda/sm90_policy.cuh"
#include "cuda/sm90_ptx.cuh"
#include "cuda/sm90_ring.cuh"
#include "cuda/sm90_union.cuh"

namespace bsparse {

// A box of x into every CTA of the cluster.
template <class Traits>
__device__ __forceinline__ void copy_x(uint32_t to, const UnionMatmulParams& params, int feature,
                                       int batch, uint32_t barrier) {
  const int column = Traits::kFeatureAxis == 1 ? feature : batch;
  const int row = Traits::kFeatureAxis == 1 ? batch : feature;
  if constexpr (Traits::kCluster == 1) {
    ptx::copy_box_to_shared(to, &params.x, column, row, barrier);
  } else {
    constexpr uint16_t kAll = (1 << Traits::kCluster) - 1;
    ptx::copy_box_to_cluster(to, &params.x, column, row, barrier, kAll);
  }
}

// The producers fill stages in the order in which the consumers empty them. Producer 0 copies x and
// says what is to come; the others share the weight blocks, since a warp issues copies one by one.
template <class Traits>
__device__ __forceinline__ void produce(const UnionMatmulParams& params,
                                        const UnionShared<Traits>& shared, int producer) {
  constexpr int kWords = Traits::kWords;
  constexpr int kRecords = 32 / kWords;  // entries that the warp reads at once
  const int lane = threadIdx.x % 32;
  const int record = lane / kWords;
  const int word_of_record = lane % kWords;
  const int rank = Traits::kCluster == 1 ? 0 : static_cast<int>(ptx::rank_in_cluster());
  const int first_column = 1 + rank * Traits::kColumns;  // word of this CTA's first column
  const int slot = word_of_record - first_column;  // this lane's column of the CTA
  const bool holds_weight = slot >= 0 && slot < Traits::kColumns;
  // Boxes of w in an entry: one a column, or the two halves of a column of 128.
  const bool copies_x = producer == 0 && word_of_record == 0;
  const bool copies_w =
      holds_weight && producer > 0 &&
      (Traits::kColumns == 1 ? producer <= kConsumers
                             : slot % (kProducers - 1) == producer - 1);

  // This lane's word of the `count` entries from `first` on.
  const auto read = [&](int first, int count) {
    return record < count ? params.entries[static_cast<int64_t>(first) * kWords + lane] : -1;
  };
  // Columns of a group share a product, so all are copied, or made zero, if one is there.
  const auto group_present = [](unsigned columns, int group) {
    constexpr int kShare = Traits::kColumns > 1 ? Traits::kColumns / kConsumers : 1;
    const int shift = Traits::kColumns > 1 ? group * kShare : 0;
    return (columns >> shift & ((1u << kShare) - 1)) != 0;
  };
  const uint64_t keep = ptx::policy_keep();
  StageCursor<Traits::kStages> cursor;
  TileWalk<Traits::kCluster> walk(params);
  int next = read(walk.item.y, walk.item.z - walk.item.y);
  for (; !walk.done(); walk.advance()) {
    const int batch_begin = static_cast<int>(walk.batch_tile) * Traits::kBatchTile;
    const int entries = walk.item.z - walk.item.y;
    if (entries == 0) next = read(walk.next_item.y, walk.next_item.z - walk.next_item.y);
    for (int first = 0; first < entries; first += kRecords) {
      int word = next;
      // A block whose gate is 0 counts as missing.
      if (params.gate != nullptr && holds_weight && word >= 0 && params.gate[word] == 0.0f) {
        word = -1;
      }
      const int left = entries - first - kRecords;
      next = left > 0 ? read(walk.item.y + first + kRecords, left)
                      : read(walk.next_item.y, walk.next_item.z - walk.next_item.y);
      const unsigned present = __ballot_sync(~0u, holds_weight && word >= 0);
      const auto columns_of = [&](int r) {
        return present >> (r * kWords + first_column) & ((1u << Traits::kColumns) - 1);
      };
      const bool has_w = copies_w && group_present(columns_of(record),
                                                   slot * kConsumers / Traits::kColumns);
      const int row = (word >= 0 ? word : params.num_blocks) * Traits::kBlockSize;
      const int last = min(kRecords, entries - first);
#pragma unroll 1
      for (int r = 0; r < last; ++r) {
#pragma unroll 1
        for (int part = 0; part < Traits::kParts; ++part) {
          const int stage = cursor.stage;
          const uint32_t full = shared.full(stage);
          ptx::barrier_wait(shared.empty(stage), cursor.parity ^ 1);
          if (copies_x && record == r) {
            uint32_t mask = 0;
#pragma unroll
            for (int g = 0; g < kConsumers; ++g) {
              if (group_present(columns_of(r), g)) mask |= 1u << g;
            }
            ptx::store_shared(shared.mask(stage), mask);
            ptx::barrier_arrive_expect(
                full, Traits::kStageBytesX + __popc(mask) * Traits::kGroupBytesW);
            const int feature = word * Traits::kBlockSize + part * Traits::kDepth;
#pragma unroll
            for (int i = 0; i < Traits::kBoxesX / Traits::kCluster; ++i) {
              const int b = rank * (Traits::kBoxesX / Traits::kCluster) + i;
              copy_x<Traits>(shared.x(stage) + b * Traits::kBoxBytesX, params, feature,
                             batch_begin + b * Traits::kBoxBatch, full);
            }
          } else if (has_w && record == r) {
            // Which of the two halves of a block of 128, and else its only one.
            const int half = Traits::kColumns == 1 ? producer - 1 : 0;
            const int box = Traits::kColumns == 1 ? half : slot;
            const int reduction = part * Traits::kDepth, output = 64 * half;
            const uint32_t to = shared.w(stage) + box * Traits::kBoxBytes;
            const int box_column = Traits::kOutputRows ? reduction : output;
            const int box_row = row + (Traits::kOutputRows ? output : reduction);
            if (params.keeps_weights) {
              ptx::copy_box_to_shared(to, &params.w, box_column, box_row, full, keep);
            } else {
              ptx::copy_box_to_shared(to, &params.w, box_column, box_row, full);
            }
          }
          __syncwarp();
          // All producers count: one that fell a round behind would mistake the ring's parity.
          if (producer > 0 && lane == 0) ptx::barrier_arrive(full);
          cursor.advance();
        }
      }
    }
  }
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_PRODUCE_CUH_
