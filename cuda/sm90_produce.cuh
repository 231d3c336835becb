// What the producer warps of a union tile do: bulk tensor copies into the ring.
#ifndef BSPARSE_CUDA_SM90_PRODUCE_CUH_
#define BSPARSE_CUDA_SM90_PRODUCE_CUH_

#include "cuda/matmul_params.h"
#include "cuda/sm90_policy.cuh"
#include "cuda/sm90_ptx.cuh"
#include "cuda/sm90_ring.cuh"
#include "cuda/sm90_union.cuh"

namespace bsparse {

// A box of x into the CTAs of the cluster whose bits are set, this one among them.
template <class Traits>
__device__ __forceinline__ void copy_x(uint32_t to, const UnionMatmulParams& params, int feature,
                                       int batch, uint32_t barrier, uint32_t ranks) {
  const int column = Traits::kFeatureAxis == 1 ? feature : batch;
  const int row = Traits::kFeatureAxis == 1 ? batch : feature;
  if ((ranks & (ranks - 1)) == 0) {
    ptx::copy_box_to_shared(to, &params.x, column, row, barrier);
  } else {
    ptx::copy_box_to_cluster(to, &params.x, column, row, barrier, static_cast<uint16_t>(ranks));
  }
}

// The producers fill stages in the order in which the consumers empty them. Producer 0 copies x and
// says what is to come; the others share the weight blocks, since a warp issues copies one by one.
template <class Traits>
__device__ __forceinline__ void produce(const UnionMatmulParams& params,
                                        const UnionShared<Traits>& shared, int producer) {
  constexpr int kWords = Traits::kWords;
  constexpr int kRecords = 32 / kWords;  // entries that the warp reads at once
  constexpr unsigned kAllColumns = (1u << Traits::kColumns) - 1;
  constexpr int kWeightProducers = kProducers - 1;
  const int lane = threadIdx.x % 32;
  const int record = lane / kWords;
  const int slot = lane % kWords - 2;  // this lane's column of the CTA
  const bool holds_weight = slot >= 0 && slot < Traits::kColumns;
  const uint32_t rank = ptx::rank_in_cluster();
  const bool elected = ptx::elected();

  // This lane's word of the `count` entries from `first` on.
  const auto read = [&](int first, int count) {
    const int64_t place = static_cast<int64_t>(first + record) * params.ctas + rank;
    return record < count ? params.entries[place * kWords + lane % kWords] : -1;
  };
  // Columns of a group share a product, so all are copied, or made zero, if one is there.
  const auto group_present = [](unsigned columns, int group) {
    constexpr int kShare = Traits::kColumns > 1 ? Traits::kColumns / kConsumers : 1;
    const int shift = Traits::kColumns > 1 ? group * kShare : 0;
    return (columns >> shift & ((1u << kShare) - 1)) != 0;
  };
  if (params.stagger > 0) {
    unsigned long long t0, t; asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t0));
    const unsigned long long d = (unsigned long long)params.stagger * ptx::cluster_id() / ptx::clusters();
    do { asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(t)); } while (t - t0 < d);
  }
  const uint64_t keep = ptx::policy_keep();
  StageCursor<Traits::kStages> cursor;
  TileWalk walk(params);
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
      const int last = min(kRecords, entries - first);
#pragma unroll 1
      for (int r = 0; r < last; ++r) {
        const unsigned columns = present >> (r * kWords + 2) & kAllColumns;
        const auto word_of = [&](int i) { return __shfl_sync(~0u, word, r * kWords + i); };
        const int in_block = word_of(0);
        const auto ranks = static_cast<uint32_t>(word_of(1));  // that this CTA sends x to
        // Rows of w where this producer's boxes begin, for one box in kWeightProducers.
        constexpr int kBoxes = (Traits::kBoxesW + kWeightProducers - 1) / kWeightProducers;
        int rows[kBoxes];
#pragma unroll
        for (int i = 0; i < kBoxes; ++i) {
          const int box = max(producer - 1, 0) + i * kWeightProducers;
          const int block = word_of(2 + box * Traits::kColumns / Traits::kBoxesW);
          rows[i] = (block >= 0 ? block : params.num_blocks) * Traits::kBlockSize;
        }
#pragma unroll 1
        for (int part = 0; part < Traits::kParts; ++part) {
          const int stage = cursor.stage;
          const uint32_t full = shared.full(stage);
          ptx::barrier_wait(shared.empty(stage), cursor.parity ^ 1);
          if (producer == 0 && elected) {
            uint32_t mask = 0;
#pragma unroll
            for (int g = 0; g < kConsumers; ++g) {
              if (group_present(columns, g)) mask |= 1u << g;
            }
            ptx::store_shared(shared.mask(stage), mask);
            ptx::barrier_arrive_expect(full, (in_block >= 0 ? Traits::kStageBytesX : 0) +
                                                 __popc(mask) * Traits::kGroupBytesW);
            if (ranks != 0) {
              const int feature = in_block * Traits::kBlockSize + part * Traits::kDepth;
#pragma unroll
              for (int b = 0; b < Traits::kBoxesX; ++b) {
                copy_x<Traits>(shared.x(stage) + b * Traits::kBoxBytesX, params, feature,
                               batch_begin + b * Traits::kBoxBatch, full, ranks);
              }
            }
          } else if (elected) {
#pragma unroll
            for (int i = 0; i < kBoxes; ++i) {
              const int box = producer - 1 + i * kWeightProducers;
              if (box >= Traits::kBoxesW ||
                  !group_present(columns, box * kConsumers / Traits::kBoxesW)) {
                continue;
              }
              // Where in its block the box begins: a block of 128 is copied in parts.
              const int output = box * Traits::kRows % Traits::kBlockSize;
              const int reduction = part * Traits::kDepth;
              const uint32_t to = shared.w(stage) + box * Traits::kBoxBytes;
              const int box_column = Traits::kOutputRows ? reduction : output;
              const int box_row = rows[i] + (Traits::kOutputRows ? output : reduction);
              if (params.keeps_weights) {
                ptx::copy_box_to_shared(to, &params.w, box_column, box_row, full, keep);
              } else {
                ptx::copy_box_to_shared(to, &params.w, box_column, box_row, full);
              }
            }
            // All producers count: one that fell a round behind would mistake the ring's parity.
            ptx::barrier_arrive(full);
          }
          __syncwarp();
          cursor.advance();
        }
      }
    }
  }
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_PRODUCE_CUH_
