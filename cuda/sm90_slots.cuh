// Where a stage takes many small copies, every lane of a producer issues its own: what lanes see to.
#ifndef BSPARSE_CUDA_SM90_SLOTS_CUH_
#define BSPARSE_CUDA_SM90_SLOTS_CUH_

#include "cuda/matmul_params.h"
#include "cuda/sm90_copy.cuh"
#include "cuda/sm90_ptx.cuh"
#include "cuda/sm90_stage_record.cuh"
#include "cuda/sm90_union.cuh"

namespace bsparse {

// A lane's box of x in a stage.
template <class Traits>
struct InputSlot {
  static constexpr bool kInputs = true;
  static constexpr int kSlots = Traits::kEntries * Traits::kBoxesX;
  InputRecord record;

  static __device__ __forceinline__ int entry(int lane) { return lane / Traits::kBoxesX; }

  __device__ __forceinline__ void read(const int32_t* words, int, const float* gate) {
    record.read(words, gate);
  }
};

// A lane's column of an entry in a stage: the weight blocks of its unit.
template <class Traits>
struct WeightSlot {
  static constexpr bool kInputs = false;
  static constexpr int kSlots = Traits::kEntries * Traits::kColumns;
  static constexpr int kBlocks = Traits::kUnitBlocks;
  int blocks[kBlocks];

  __device__ __forceinline__ WeightSlot() {
#pragma unroll
    for (int& block : blocks) block = -1;
  }

  static __device__ __forceinline__ int entry(int lane) { return lane / Traits::kColumns; }

  // A block whose gate is 0 counts as missing.
  __device__ __forceinline__ void read(const int32_t* words, int lane, const float* gate) {
    const int32_t* const from = words + 2 + lane % Traits::kColumns * kBlocks;
    if constexpr (kBlocks == 4) {
      const int2 first = __ldg(reinterpret_cast<const int2*>(from));
      const int2 second = __ldg(reinterpret_cast<const int2*>(from + 2));
      blocks[0] = first.x, blocks[1] = first.y, blocks[2] = second.x, blocks[3] = second.y;
    } else {
      static_assert(kBlocks == 1);
      blocks[0] = __ldg(from);
    }
    if (gate == nullptr) return;
#pragma unroll
    for (int& block : blocks) {
      if (block >= 0 && gate[block] == 0.0f) block = -1;
    }
  }
};

// Says how much x is to come, and copies what this CTA sends.
template <class Traits>
__device__ __forceinline__ void fill(const UnionMatmulParams& params,
                                     const UnionShared<Traits>& shared, int stage,
                                     const InputSlot<Traits>& slot, int, int batch_begin, bool) {
  const int lane = threadIdx.x % 32;
  const uint32_t full = shared.full(stage);
  const uint32_t there = __ballot_sync(~0u, slot.record.in_block >= 0);
  if (lane == 0) ptx::barrier_arrive_expect(full, __popc(there) * Traits::kBoxBytesX);
  __syncwarp();
  if (slot.record.ranks == 0) return;
  copy_x<Traits>(shared.x(stage, 0) + lane * Traits::kBoxBytesX, params,
                 slot.record.in_block * Traits::kUnit,
                 batch_begin + lane % Traits::kBoxesX * Traits::kBoxBatch, full,
                 slot.record.ranks);
}

// Says which weight blocks there are, and copies each to its place.
template <class Traits>
__device__ __forceinline__ void fill(const UnionMatmulParams& params,
                                     const UnionShared<Traits>& shared, int stage,
                                     const WeightSlot<Traits>& slot, int, int, bool) {
  constexpr int kBlocks = Traits::kUnitBlocks;
  constexpr int kLanes = 32 / kBlocks;  // of a word of the mask
  const int lane = threadIdx.x % 32;
  const uint32_t full = shared.full(stage);
  uint32_t there = 0;
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) there |= slot.blocks[b] >= 0 ? 1u << b : 0u;
  uint32_t word = there << lane % kLanes * kBlocks;
#pragma unroll
  for (int step = 1; step < kLanes; step *= 2) word |= __shfl_xor_sync(~0u, word, step);
  const uint32_t count = __reduce_add_sync(~0u, static_cast<uint32_t>(__popc(there)));
  if (lane % kLanes == 0 && lane / kLanes < Traits::kMaskWords) {
    ptx::store_shared(shared.mask(stage) + 4 * (lane / kLanes), word);
  }
  __syncwarp();
  if (lane == 0) ptx::barrier_arrive_expect(full, count * Traits::kBlockBytes);
  __syncwarp();
#pragma unroll
  for (int b = 0; b < kBlocks; ++b) {
    if (slot.blocks[b] < 0) continue;
    copy_w(shared.w(stage, 0) + (lane * kBlocks + b) * Traits::kBlockBytes, params, 0,
           slot.blocks[b] * Traits::kBlockLines, full);
  }
}

// A lane's slots of every kTurns-th stage, in the order of a tile walk: some are read while those
// before are taken.
template <class Traits, class Slot, int kTurns>
struct SlotQueue {
  static constexpr bool kInputs = Slot::kInputs;
  static constexpr int kWindow = sizeof(Slot) > 8 ? 2 : 4;  // as registers allow
  static_assert(Slot::kSlots <= 32, "a slot for each lane");

  const UnionMatmulParams& params;
  uint32_t rank;
  Slot held[kWindow];
  Slot next[kWindow];

  // `first`: of the first tile's stages the first to be taken.
  __device__ __forceinline__ SlotQueue(const UnionMatmulParams& p, const TileWalk& walk, int first)
      : params(p), rank(ptx::rank_in_cluster()) {
    read(walk.item, first);
  }

  // The slot of the i-th of the tile's stages that are taken, which are asked for in turn.
  __device__ __forceinline__ Slot take(const TileWalk& walk, int first, int i) {
    if (i % kWindow == 0) {
#pragma unroll
      for (int s = 0; s < kWindow; ++s) held[s] = next[s];
      const int after = first + kTurns * (i + kWindow);
      if (after < stages_of<Traits>(walk.item)) {
        read(walk.item, after);
      } else {
        skip(walk, first);
      }
    }
    Slot slot = held[0];
#pragma unroll
    for (int s = 1; s < kWindow; ++s) {
      if (i % kWindow == s) slot = held[s];
    }
    return slot;
  }

  // Goes on to the next tile where no stage of this one is taken.
  __device__ __forceinline__ void skip(const TileWalk& walk, int first) {
    read(walk.next_item, first_of_next<Traits, kTurns>(walk, first));
  }

 private:
  __device__ __forceinline__ void read(const int4& item, int first) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int s = 0; s < kWindow; ++s) {
      const int entry = item.y + (first + kTurns * s) * Traits::kEntries + Slot::entry(lane);
      next[s] = Slot();
      if (lane >= Slot::kSlots || entry >= item.z) continue;
      const int64_t place = static_cast<int64_t>(entry) * params.ctas + rank;
      next[s].read(params.entries + place * Traits::kWords, lane, params.gate);
    }
  }
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_SLOTS_CUH_
