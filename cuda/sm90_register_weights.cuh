// Union tiles of small blocks: outputs along M as in sm90_matmul.cuh, but the weights in registers. A
// matrix of 8 by 8 weights is one register of a warp's operand, so a missing block is a register of
// zeros, and nobody has to write zeros to shared memory or to make code for every set of columns.
//
// What this costs is arithmetic: 64 outputs are multiplied if one of their blocks is there.
#ifndef BSPARSE_CUDA_SM90_REGISTER_WEIGHTS_CUH_
#define BSPARSE_CUDA_SM90_REGISTER_WEIGHTS_CUH_

#include "cuda/matmul_params.h"
#include "cuda/ptx.cuh"
#include "cuda/sm90_epilogue.cuh"
#include "cuda/sm90_policy.cuh"
#include "cuda/sm90_ptx.cuh"
#include "cuda/sm90_ring.cuh"
#include "cuda/sm90_union.cuh"

namespace bsparse {

// Reads the weights of a stage as operands of a warpgroup's products.
template <class Traits>
struct RegisterWeights {
  using Operand = uint32_t[Traits::kEntries][Traits::kSteps][4];
  static constexpr int kColumns = Traits::kColumns / kConsumers;  // of a warpgroup
  static constexpr int kBitsOfEntry = Traits::kColumns * Traits::kUnitBlocks;
  static constexpr int kEntriesOfWord = 32 / kBitsOfEntry;
  static constexpr int kBitsOfGroup = kBitsOfEntry / kConsumers;

  uint32_t offset[Traits::kSteps];  // of the row that this lane reads, in the weights of an entry
  uint32_t zeros;                   // where that row is of a missing block
  int bit;                          // of this lane's block, in the bits of an entry
  int first_bit;                    // of the warpgroup

  __device__ __forceinline__ RegisterWeights(const UnionShared<Traits>& shared, int group) {
    const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    // Matrices 0 and 1: the first 8 inputs of the first and the next 8 outputs; 2 and 3: the next 8
    // inputs.
    const int matrix = lane / 8, row = lane % 8;
    const int output = 64 * group + 16 * warp + 8 * (matrix % 2);
    const int column = output / Traits::kUnit;
#pragma unroll
    for (int k = 0; k < Traits::kSteps; ++k) {
      const int input = 16 * k + 8 * (matrix / 2);
      uint32_t at = column * Traits::kUnitBlocks * Traits::kBlockBytes;
      if constexpr (Traits::kUnitBlocks > 1) {
        at += matrix * Traits::kBlockBytes + row * 16;
      } else if constexpr (Traits::kOutputRows) {
        at += (output % Traits::kUnit + row) * Traits::kRowBytes + 2 * input;
      } else {
        at += (input + row) * Traits::kRowBytes + 2 * (output % Traits::kUnit);
      }
      offset[k] = ptx::kept(swizzled(at, 128));
    }
    zeros = ptx::kept(shared.zeros() + row * 16);
    bit = column * Traits::kUnitBlocks + (Traits::kUnitBlocks > 1 ? matrix : 0);
    first_bit = group * kBitsOfGroup;
  }

  // Reads the weights of all entries; returns, as bits, those in which the warpgroup has some.
  __device__ __forceinline__ uint32_t read(const UnionShared<Traits>& shared, int stage,
                                           Operand& weights) const {
    uint32_t entries = 0;
    uint32_t words[Traits::kMaskWords];
#pragma unroll
    for (int i = 0; i < Traits::kMaskWords; ++i) {
      words[i] = ptx::load_shared(shared.mask(stage) + 4 * i);
    }
#pragma unroll
    for (int e = 0; e < Traits::kEntries; ++e) {
      const uint32_t there = words[e / kEntriesOfWord] >> e % kEntriesOfWord * kBitsOfEntry;
      entries |= (there >> first_bit & ((1u << kBitsOfGroup) - 1)) != 0 ? 1u << e : 0u;
      const bool mine = (there >> bit & 1) != 0;
#pragma unroll
      for (int k = 0; k < Traits::kSteps; ++k) {
        const uint32_t from = mine ? shared.w(stage, e) + offset[k] : zeros;
        if constexpr (Traits::kOutputRows) {
          ptx::ldmatrix_x4(weights[e][k], from);
        } else {
          ptx::ldmatrix_x4_trans(weights[e][k], from);
        }
      }
    }
    // The same in all lanes, as the compiler must know: products are the whole warpgroup's.
    return __shfl_sync(~0u, entries, 0);
  }
};

// Multiplies the entries in the constant kEntries.
template <class Traits, uint32_t kEntries>
__device__ __forceinline__ void multiply_entries(uint32_t x,
                                                 const typename RegisterWeights<Traits>::Operand& w,
                                                 float (&sums)[Traits::kBatchTile / 2]) {
  ptx::wgmma_fence();
#pragma unroll
  for (int e = 0; e < Traits::kEntries; ++e) {
    if ((kEntries >> e & 1) == 0) continue;
    const uint64_t b = ptx::operand(Traits::kLayoutB, x + e * Traits::kEntryBytesX);
#pragma unroll
    for (int k = 0; k < Traits::kSteps; ++k) {
      ptx::wgmma_of_registers<typename Traits::Element, Traits::kBatchTile, Traits::kTransposeB>(
          sums, w[e][k], b + (k * Traits::kStepB >> 4));
    }
  }
  ptx::wgmma_commit();
  ptx::wgmma_wait<1>();
}

// Multiplies those in `entries`, of which the first kDecided are those of kEntries. Each set has code of
// its own: products that a branch comes between are waited for one by one.
template <class Traits, int kDecided = 0, uint32_t kEntries = 0>
__device__ __forceinline__ void multiply_present(uint32_t entries, uint32_t x,
                                                 const typename RegisterWeights<Traits>::Operand& w,
                                                 float (&sums)[Traits::kBatchTile / 2]) {
  if constexpr (kDecided < Traits::kEntries) {
    if ((entries >> kDecided & 1) != 0) {
      multiply_present<Traits, kDecided + 1, kEntries | 1u << kDecided>(entries, x, w, sums);
    } else {
      multiply_present<Traits, kDecided + 1, kEntries>(entries, x, w, sums);
    }
  } else if constexpr (kEntries != 0) {
    multiply_entries<Traits, kEntries>(x, w, sums);
  }
}

// A consumer warpgroup.
template <class Traits>
__device__ __forceinline__ void consume_register_weights(const UnionMatmulParams& params,
                                                         const UnionShared<Traits>& shared,
                                                         int group) {
  constexpr int kAccumulators = Traits::kBatchTile / 2;
  const auto release = [&](int stage) {
    release_x(params, shared, stage);
    release_w(shared, stage);
  };
  const RegisterWeights<Traits> reader(shared, group);
  StageCursor<Traits::kStages> cursor;
  ResidualBarrier residual = {shared.residual(group)};
  float sums[kAccumulators];
  // Two sets, in turn: products read the one while the next stage's weights come into the other.
  typename RegisterWeights<Traits>::Operand weights[2];
  for (TileWalk walk(params); !walk.done(); walk.advance()) {
    const UnionEpilogue<Traits> epilogue(params, shared.y(group), group, walk);
    const int stages = stages_of<Traits>(walk.item);
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) sums[i] = 0.0f;

    int pending = -1;  // stage whose products are still under way
    const auto take = [&](typename RegisterWeights<Traits>::Operand& operand) {
      const int stage = cursor.stage;
      wait_for_stage(shared.full(stage), cursor.parity, pending, release);
      cursor.advance();
      const uint32_t entries = reader.read(shared, stage, operand);
      if (entries != 0) {
        multiply_present<Traits>(entries, shared.x(stage, 0), operand, sums);
        // Everything before this stage is done.
        if (pending >= 0) release(pending);
        pending = stage;
      } else {
        ptx::named_barrier(1 + group, 128);  // all have read the mask
        release(stage);
      }
    };
    for (int s = 0; s < stages; s += 2) {
      take(weights[0]);
      if (s + 1 < stages) take(weights[1]);
    }
    ptx::wgmma_wait_for(sums);
    if (pending >= 0) release(pending);
    epilogue.store(sums, residual);
  }
  if (threadIdx.x % 128 == 0) ptx::bulk_wait();
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_REGISTER_WEIGHTS_CUH_
