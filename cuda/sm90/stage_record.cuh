// What the stages of a union tile are to hold: a CTA's records of its entries, read ahead of time.
#ifndef BSPARSE_CUDA_SM90_STAGE_RECORD_CUH_
#define BSPARSE_CUDA_SM90_STAGE_RECORD_CUH_

#include <type_traits>

#include "cuda/matmul_params.h"
#include "cuda/sm90/ptx.cuh"
#include "cuda/sm90/union.cuh"

namespace bsparse {

// The x tile of an entry.
struct InputRecord {
  int in_block = -1;   // or none
  uint32_t ranks = 0;  // CTAs that this one sends it to, as bits

  __device__ __forceinline__ void read(const int32_t* record, const UnionMatmulParams& params) {
    const int2 words = __ldg(reinterpret_cast<const int2*>(record));
    in_block = words.x;
    const bool alone = params.cluster_ctas < params.ctas;
    ranks = alone ? in_block >= 0 : static_cast<uint32_t>(words.y);
  }

  __device__ __forceinline__ InputRecord of_lane(int lane) const {
    return {__shfl_sync(~0u, in_block, lane), __shfl_sync(~0u, ranks, lane)};
  }
};

// The weight blocks of an entry.
template <class Traits>
struct WeightRecord {
  int blocks[Traits::kColumns];  // of each column of the CTA, or -1

  __device__ __forceinline__ WeightRecord() {
#pragma unroll
    for (int& block : blocks) block = -1;
  }

  // A block whose gate is 0 counts as missing.
  __device__ __forceinline__ void read(const int32_t* record, const UnionMatmulParams& params) {
#pragma unroll
    for (int c = 0; c < Traits::kColumns; ++c) blocks[c] = __ldg(record + 2 + c);
    const float* const gate = params.gate;
    if (gate == nullptr) return;
#pragma unroll
    for (int c = 0; c < Traits::kColumns; ++c) {
      if (blocks[c] >= 0 && gate[blocks[c]] == 0.0f) blocks[c] = -1;
    }
  }

  __device__ __forceinline__ WeightRecord of_lane(int lane) const {
    WeightRecord record;
#pragma unroll
    for (int c = 0; c < Traits::kColumns; ++c) {
      record.blocks[c] = __shfl_sync(~0u, blocks[c], lane);
    }
    return record;
  }

  // Bit g: part g of the outputs has a block. Columns of a part share a product, so all are copied,
  // or made zero, if one is there.
  __device__ __forceinline__ uint32_t mask() const {
    uint32_t mask = 0;
#pragma unroll
    for (int g = 0; g < Traits::kMasked; ++g) {
      bool present = false;
#pragma unroll
      for (int c = 0; c < Traits::kColumns; ++c) {
        if (Traits::kColumns == 1 || c * Traits::kMasked / Traits::kColumns == g) {
          present |= blocks[c] >= 0;
        }
      }
      mask |= present ? 1u << g : 0u;
    }
    return mask;
  }
};

// What a stage is to hold of all its entries.
template <class Traits, class Record>
struct StageRecord {
  static constexpr bool kInputs = std::is_same_v<Record, InputRecord>;
  Record entries[Traits::kEntries];

  __device__ __forceinline__ void read(int entry, const int32_t* record,
                                       const UnionMatmulParams& params) {
    entries[entry].read(record, params);
  }

  __device__ __forceinline__ StageRecord of_lane(int lane) const {
    StageRecord record;
#pragma unroll
    for (int e = 0; e < Traits::kEntries; ++e) record.entries[e] = entries[e].of_lane(lane);
    return record;
  }
};

// The packed weights of a stage: the squares of its entries lie one behind the other.
template <class Traits>
struct PackedStage {
  static constexpr bool kInputs = false;
  static constexpr int kBits =  // of an entry
      Traits::kColumns * Traits::kEntryFeatures / Traits::kColumnFeatures;
  static_assert(Traits::kEntries * kBits <= 32, "a bit for each square of a stage");
  int first = 0;
  uint32_t mask = 0;  // of the squares there are

  __device__ __forceinline__ void read(int entry, const int32_t* record,
                                       const UnionMatmulParams&) {
    const int2 words = __ldg(reinterpret_cast<const int2*>(record + 2));
    if (entry == 0) first = words.x;
    mask |= static_cast<uint32_t>(words.y) << entry * kBits;
  }

  __device__ __forceinline__ PackedStage of_lane(int lane) const {
    return {__shfl_sync(~0u, first, lane), __shfl_sync(~0u, mask, lane)};
  }
};

// Of the next tile's stages the first to be taken, if of this one's every kTurns-th is from `first` on.
template <class Traits, int kTurns>
__device__ __forceinline__ int first_of_next(const TileWalk& walk, int first) {
  const int left = stages_of<Traits>(walk.item) - first;
  return left <= 0 ? -left : (kTurns - left % kTurns) % kTurns;
}

// The records of every kTurns-th stage, in the order of a tile walk. Each lane of a warp reads the
// record of one of the next 32, while the 32 before are taken: where all CTAs wait for the L2
// cache, so does a load.
template <class Traits, class StageT, int kTurns>
struct RecordQueue {
  using Stage = StageT;
  static constexpr bool kInputs = Stage::kInputs;

  const UnionMatmulParams& params;
  Stage held;
  Stage next;

  // `first`: of the first tile's stages the first to be taken.
  __device__ __forceinline__ RecordQueue(const UnionMatmulParams& p, const TileWalk& walk,
                                         int first)
      : params(p) {
    next = read(walk.item, first);
    held = next;
  }

  // The record of the i-th of the tile's stages that are taken, which are asked for in turn.
  __device__ __forceinline__ Stage take(const TileWalk& walk, int first, int i) {
    if (i % 32 == 0) {
      held = next;
      const int after = first + kTurns * (i + 32);
      next = after < stages_of<Traits>(walk.item)
                 ? read(walk.item, after)
                 : read(walk.next_item(), first_of_next<Traits, kTurns>(walk, first));
    }
    return held.of_lane(i % 32);
  }

  // Goes on to the next tile where no stage of this one is taken.
  __device__ __forceinline__ void skip(const TileWalk& walk, int first) {
    next = read(walk.next_item(), first_of_next<Traits, kTurns>(walk, first));
  }

 private:
  __device__ __forceinline__ Stage read(const int4& item, int first) const {
    const int stage = first + kTurns * static_cast<int>(threadIdx.x % 32);
    const int entry = item.y + stage * Traits::kEntries / Traits::kParts;
    const uint32_t rank = item.x % params.ctas;
    Stage record;
#pragma unroll
    for (int e = 0; e < Traits::kEntries; ++e) {
      if (entry + e >= item.z) continue;
      const int64_t place = static_cast<int64_t>(entry + e) * params.ctas + rank;
      record.read(e, params.entries + place * Traits::kWords, params);
    }
    return record;
  }
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_STAGE_RECORD_CUH_
