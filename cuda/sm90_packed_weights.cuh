// Union tiles of small blocks: outputs along M as in sm90_matmul.cuh, but the weights in registers. A
// matrix of 8 by 8 weights is one register of a warp's operand, so a missing block is a register of
// zeros, and nobody has to write zeros to shared memory or to make code for every set of columns.
//
// What this costs is arithmetic: 64 outputs are multiplied with 16 inputs if one of their blocks is there.
// Weights come packed: in the order in which CTAs use them, and as operands lie in registers.
#ifndef BSPARSE_CUDA_SM90_PACKED_WEIGHTS_CUH_
#define BSPARSE_CUDA_SM90_PACKED_WEIGHTS_CUH_

#include "cuda/matmul_params.h"
#include "cuda/ptx.cuh"
#include "cuda/sm90_epilogue.cuh"
#include "cuda/sm90_policy.cuh"
#include "cuda/sm90_ptx.cuh"
#include "cuda/sm90_ring.cuh"
#include "cuda/sm90_stage_record.cuh"
#include "cuda/sm90_union.cuh"

namespace bsparse {

// Reads the weights of a stage as operands of a warpgroup's products, one for each step: 16 inputs.
template <class Traits>
struct PackedWeights {
  using Masks = MaskStage<Traits>;
  static constexpr int kSteps = Traits::kEntries * Traits::kSteps;  // of a stage
  static_assert(kSteps == 4, "as multiply_rest decides");
  static constexpr int kStepsOfMask = Traits::kSteps / Masks::kMasks;
  static constexpr int kBitsOfColumn = Traits::kColumnBlocks * Traits::kColumnBlocks;
  static constexpr int kBitsOfGroup = Masks::kBits / kConsumers;
  using Operand = uint32_t[kSteps][4];

  int group;
  int bit;        // of this warp's column, in a mask
  uint32_t place; // of this lane and warp, in the weights of a block

  __device__ __forceinline__ explicit PackedWeights(int warpgroup) : group(warpgroup) {
    // The same in all lanes, as the compiler must know.
    const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) % 128 / 32, 0);
    const int output = 64 * group + 16 * warp;
    bit = output / Traits::kColumnFeatures * kBitsOfColumn;
    const int lane = threadIdx.x % 32;
    // Operands are 512 bytes, and follow each other by steps and then outputs; 8 by 8 weights are 128.
    place = Traits::kColumnBlocks > 1
                ? 4 * lane
                : output % Traits::kColumnFeatures / 16 * 512 + 16 * lane;
  }

  static __device__ __forceinline__ uint32_t mask(const Masks& masks, int step) {
    constexpr uint32_t kAll = Masks::kBits == 32 ? ~0u : (1u << Masks::kBits % 32) - 1;
    const int at = step / kStepsOfMask * Masks::kBits;
    return masks.words[at / 32] >> at % 32 & kAll;
  }

  // The steps in which the warpgroup has a block, as bits.
  __device__ __forceinline__ uint32_t steps(const Masks& masks) const {
    uint32_t steps = 0;
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const uint32_t mine = mask(masks, s) >> group * kBitsOfGroup & ((1u << kBitsOfGroup) - 1);
      steps |= mine != 0 ? 1u << s : 0u;
    }
    return steps;
  }

  __device__ __forceinline__ void read(const Masks& masks, uint32_t w, Operand& operand) const {
    w += place;
    int before = 0;  // blocks of the masks before
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const uint32_t there = mask(masks, s);
      const int first = before + __popc(there & ((1u << bit) - 1));
      const uint32_t mine = there >> bit & ((1u << kBitsOfColumn) - 1);
      const uint32_t from = w + first * Traits::kBlockBytes;
      if constexpr (Traits::kColumnBlocks > 1) {
        int block = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const bool present = (mine >> i & 1) != 0;
          operand[s][i] = ptx::load_shared_if(present, from + block * Traits::kBlockBytes);
          block += present ? 1 : 0;
        }
      } else {
        ptx::load_shared_16_if(mine != 0, operand[s],
                               from + s % kStepsOfMask * Traits::kColumnFeatures * 32);
      }
      if ((s + 1) % kStepsOfMask == 0) before += __popc(there);
    }
  }
};

// Multiplies a step. kStep is constant, as which registers hold its weights must be.
template <class Traits, int kStep>
__device__ __forceinline__ void multiply_step(uint32_t x,
                                              const typename PackedWeights<Traits>::Operand& w,
                                              float (&sums)[Traits::kBatchTile / 2]) {
  constexpr int kEntry = kStep / Traits::kSteps, kStepOfEntry = kStep % Traits::kSteps;
  const uint64_t b = ptx::operand(Traits::kLayoutB, x + kEntry * Traits::kEntryBytesX);
  ptx::wgmma_of_registers<typename Traits::Element, Traits::kBatchTile, Traits::kTransposeB>(
      sums, w[kStep], b + (kStepOfEntry * Traits::kStepB >> 4));
}

// Multiplies the first of the `steps` that there are, of kFirst and later ones.
template <class Traits, int kFirst = 0>
__device__ __forceinline__ void multiply_first(uint32_t steps, uint32_t x,
                                               const typename PackedWeights<Traits>::Operand& w,
                                               float (&sums)[Traits::kBatchTile / 2]) {
  if constexpr (kFirst < PackedWeights<Traits>::kSteps) {
    if ((steps >> kFirst & 1) != 0) {
      ptx::wgmma_fence();
      multiply_step<Traits, kFirst>(x, w, sums);
      ptx::wgmma_commit();
    } else {
      multiply_first<Traits, kFirst + 1>(steps, x, w, sums);
    }
  }
}

// Multiplies those in `steps`, of which the first kDecided are those of kSteps; never the first one. Each set
// has code of its own: products that a branch comes between begin one by one.
template <class Traits, int kDecided = 1, uint32_t kSteps = 0>
__device__ __forceinline__ void multiply_rest(uint32_t steps, uint32_t x,
                                              const typename PackedWeights<Traits>::Operand& w,
                                              float (&sums)[Traits::kBatchTile / 2]) {
  if constexpr (kDecided < PackedWeights<Traits>::kSteps) {
    if ((steps >> kDecided & 1) != 0) {
      multiply_rest<Traits, kDecided + 1, kSteps | 1u << kDecided>(steps, x, w, sums);
    } else {
      multiply_rest<Traits, kDecided + 1, kSteps>(steps, x, w, sums);
    }
  } else if constexpr (kSteps != 0) {
    ptx::wgmma_fence();
    if constexpr ((kSteps >> 1 & 1) != 0) multiply_step<Traits, 1>(x, w, sums);
    if constexpr ((kSteps >> 2 & 1) != 0) multiply_step<Traits, 2>(x, w, sums);
    if constexpr ((kSteps >> 3 & 1) != 0) multiply_step<Traits, 3>(x, w, sums);
  }
}

// A consumer warpgroup. While a stage is multiplied the weights of the next one are read, if it has come,
// into a second set of registers: the two warpgroups wait for the same stages, so the tensor cores
// would idle while both read.
template <class Traits>
__device__ __forceinline__ void consume_packed_weights(const UnionMatmulParams& params,
                                                       const UnionShared<Traits>& shared,
                                                       int group) {
  using Weights = PackedWeights<Traits>;
  constexpr int kAccumulators = Traits::kBatchTile / 2;
  const auto release = [&](int stage) {
    release_x(params, shared, stage);
    release_w(shared, stage);
  };
  const Weights reader(group);
  StageCursor<Traits::kStages> cursor;  // of the stage whose weights are read next
  ResidualBarrier residual = {shared.residual(group)};
  float sums[kAccumulators];
  typename Weights::Operand weights[2];
  TileWalk walk(params);
  RecordQueue<Traits, MaskStage<Traits>, 1> queue(params, walk, 0);
  for (; !walk.done(); walk.advance()) {
    const UnionEpilogue<Traits> epilogue(params, shared.y(group), group, walk);
    const int stages = stages_of<Traits>(walk.item);
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) sums[i] = 0.0f;
    if (stages == 0) {
      queue.skip(walk, 0);
      epilogue.store(sums, residual);
      continue;
    }
    int pending = -1;  // stage whose products are still under way
    auto masks = queue.take(walk, 0, 0);
    ptx::barrier_wait(shared.full(cursor.stage), cursor.parity);
    reader.read(masks, shared.w(cursor.stage, 0), weights[0]);
    ptx::wgmma_fence();

    // Multiplies stage s, whose weights are there, and reads those of the next.
    const auto take = [&](int s, const typename Weights::Operand& these,
                          typename Weights::Operand& next) {
      const int stage = cursor.stage;
      const uint32_t steps = __shfl_sync(~0u, reader.steps(masks), 0);
      const uint32_t x = shared.x(stage, 0);
      cursor.advance();
      if (steps != 0) multiply_first<Traits>(steps, x, these, sums);
      bool waits = s + 1 < stages;
      if (waits) {
        masks = queue.take(walk, 0, s + 1);
        const bool over = ptx::barrier_is_over(shared.full(cursor.stage), cursor.parity);
        if (__shfl_sync(~0u, static_cast<int>(over), 0) != 0) {
          reader.read(masks, shared.w(cursor.stage, 0), next);
          ptx::wgmma_fence();  // here, or the compiler serialises all products
          waits = false;
        }
      }
      if (steps != 0) {
        multiply_rest<Traits>(steps & (steps - 1), x, these, sums);
        ptx::wgmma_commit();
        ptx::wgmma_wait<2>();
        // Everything before this stage is done.
        if (pending >= 0) release(pending);
        pending = stage;
      } else {
        ptx::named_barrier(1 + group, 128);  // all have seen the stage
        release(stage);
      }
      if (waits) {
        wait_for_stage(shared.full(cursor.stage), cursor.parity, pending, release);
        reader.read(masks, shared.w(cursor.stage, 0), next);
        ptx::wgmma_fence();
      }
    };
    for (int s = 0; s < stages; s += 2) {
      take(s, weights[0], weights[1]);
      if (s + 1 < stages) take(s + 1, weights[1], weights[0]);
    }
    ptx::wgmma_wait_for(sums);
    if (pending >= 0) release(pending);
    epilogue.store(sums, residual);
  }
  if (threadIdx.x % 128 == 0) ptx::bulk_wait();
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_PACKED_WEIGHTS_CUH_
