// What the producer warps of a union tile do: bulk tensor copies into the ring.
#ifndef BSPARSE_CUDA_SM90_PRODUCE_CUH_
#define BSPARSE_CUDA_SM90_PRODUCE_CUH_

#include "cuda/matmul_params.h"
#include "cuda/sm90/copy.cuh"
#include "cuda/sm90/ptx.cuh"
#include "cuda/sm90/ring.cuh"
#include "cuda/sm90/stage_record.cuh"
#include "cuda/sm90/union.cuh"

namespace bsparse {

// How a warp fills a stage with what a queue gave it. One thread, the `elected` one, issues all copies.

// Copies the x tiles that this CTA sends, and says how much x is to come.
template <class Traits>
__device__ __forceinline__ void fill(const UnionMatmulParams& params,
                                     const UnionShared<Traits>& shared, int stage,
                                     const StageRecord<Traits, InputRecord>& record, int part,
                                     int batch_begin, bool elected) {
  if (!elected) return;
  const uint32_t full = shared.full(stage);
  uint32_t bytes = 0;
#pragma unroll
  for (const InputRecord& entry : record.entries) {
    bytes += entry.in_block >= 0 ? Traits::kEntryBytesX : 0;
  }
  ptx::barrier_arrive_expect(full, bytes);
#pragma unroll
  for (int e = 0; e < Traits::kEntries; ++e) {
    const InputRecord& entry = record.entries[e];
    if (entry.ranks == 0) continue;
    const int feature = entry.in_block * Traits::kEntryFeatures + part * Traits::kDepth;
    copy_x<Traits>(shared.x(stage, e), params, feature, batch_begin, full, entry.ranks);
  }
}

// Copies the weight blocks, and says which there are.
template <class Traits>
__device__ __forceinline__ void fill(const UnionMatmulParams& params,
                                     const UnionShared<Traits>& shared, int stage,
                                     const StageRecord<Traits, WeightRecord<Traits>>& record,
                                     int part, int, bool elected) {
  if (!elected) return;
  const uint32_t full = shared.full(stage);
  uint32_t mask = 0;
#pragma unroll
  for (int e = 0; e < Traits::kEntries; ++e) mask |= record.entries[e].mask() << Traits::kMasked * e;
  ptx::store_shared(shared.mask(stage), mask);
  ptx::barrier_arrive_expect(full, __popc(mask) * Traits::kMaskedBytes);
  const int reduction = part * Traits::kDepth;
#pragma unroll
  for (int i = 0; i < Traits::kEntries * Traits::kBoxesW; ++i) {
    const int e = i / Traits::kBoxesW, box = i % Traits::kBoxesW;
    if ((mask >> (i * Traits::kMasked / Traits::kBoxesW) & 1) == 0) continue;
    const int block = record.entries[e].blocks[box * Traits::kColumns / Traits::kBoxesW];
    // Where in its block the box begins: a block of 128 is copied in parts.
    const int output = box * Traits::kRows % Traits::kBlockSize;
    const uint32_t to = shared.w(stage, e) + box * Traits::kBoxBytes;
    const int row = (block >= 0 ? block : params.num_blocks) * Traits::kBlockSize +
                    (Traits::kOutputRows ? output : reduction);
    const int column = Traits::kOutputRows ? reduction : output;
    copy_w(to, params, column, row, full);
  }
}

// Copies packed weights, in one piece, and says where the operands of each step and warp will be.
template <class Traits>
__device__ __forceinline__ void fill(const UnionMatmulParams& params,
                                     const UnionShared<Traits>& shared, int stage,
                                     const PackedStage<Traits>& record, int, int, bool elected) {
  using Stage = PackedStage<Traits>;
  constexpr int kOperands = Traits::kColumnFeatures / 16;  // along a side of a square
  // A lane for each of 8 warps and 4 steps.
  static_assert(Traits::kEntries * Traits::kSteps == 4 && kUnionOutputs == 8 * 16);
  const int lane = threadIdx.x % 32;
  const int warp = lane / 4, step = lane % 4;
  constexpr int kRowBits = Traits::kColumns;  // of squares that share inputs
  const int bit = step / kOperands * kRowBits + warp / kOperands;
  const bool there = (record.mask >> bit & 1) != 0;
  const int before = __popc(record.mask & ((1u << bit) - 1));
  uint32_t place = there ? shared.w(stage, 0) + before * Traits::kSquareBytes +
                               (step % kOperands * kOperands + warp % kOperands) * 512
                         : shared.zeros();
  // The steps in which this lane's warpgroup has a square.
  constexpr int kGroupBits = kRowBits / kConsumers;
  const uint32_t group = record.mask >> warp / 4 * kGroupBits;
#pragma unroll
  for (int s = 0; s < 4; ++s) {
    const uint32_t mine = group >> s / kOperands * kRowBits & ((1u << kGroupBits) - 1);
    place |= mine != 0 ? 1u << s : 0u;
  }
  ptx::store_shared(shared.table(stage, warp) + 4 * step, place);
  __syncwarp();
  if (!elected) return;
  const uint32_t full = shared.full(stage);
  const uint32_t bytes = __popc(record.mask) * Traits::kSquareBytes;
  ptx::barrier_arrive_expect(full, bytes);
  if (bytes == 0) return;
  const auto* const from = static_cast<const char*>(params.packed_weights) +
                           static_cast<int64_t>(record.first) * Traits::kSquareBytes;
  ptx::copy_bytes_to_shared(shared.w(stage, 0), from, bytes, full);
}

// Fills stages in the order in which the consumers empty them: with x or with w, and every
// kTurns-th stage from the `turn`-th on. A warp issues copies one by one, and slowly, so several
// share the work.
template <class Traits, class Queue, int kTurns>
__device__ __forceinline__ void produce(const UnionMatmulParams& params,
                                        const UnionShared<Traits>& shared, int turn) {
  const bool elected = ptx::elected();
  StageCursor cursor(shared.stages());
  cursor.advance(turn);
  int first = turn;  // of the tile's stages the first that is this warp's
  TileWalk walk(params);
  Queue queue(params, walk, first);
  for (; !walk.done(); walk.advance()) {
    const int batch_begin = static_cast<int>(walk.batch_tile) * Traits::kBatchTile;
    const int stages = stages_of<Traits>(walk.item);
    if (first >= stages) queue.skip(walk, first);
#pragma unroll 1
    for (int i = 0; first + kTurns * i < stages; ++i) {
      const auto taken = queue.take(walk, first, i);
      const int part = (first + kTurns * i) % Traits::kParts;
      const int stage = cursor.stage;
      const uint32_t empty = Queue::kInputs ? shared.empty_x(stage) : shared.empty_w(stage);
      ptx::barrier_wait(empty, cursor.parity ^ 1);
      fill<Traits>(params, shared, stage, taken, part, batch_begin, elected);
      __syncwarp();
      cursor.advance(kTurns);
    }
    first = first_of_next<Traits, kTurns>(walk, first);
  }
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_PRODUCE_CUH_
