// Union tiles of small blocks: outputs along M as in sm90/matmul.cuh, but the weights in registers. A
// matrix of 8 by 8 weights is one register of a warp's operand, so a missing block is a register of
// zeros, and nobody has to write zeros to shared memory or to make code for every set of columns.
//
// What this costs is arithmetic: 64 outputs are multiplied with 16 inputs if one of their blocks is there.
// Weights come packed: in the order in which CTAs use them, and as operands lie in registers
// (pack_weights.cu); a producer says where each operand is.
#ifndef BSPARSE_CUDA_SM90_PACKED_WEIGHTS_CUH_
#define BSPARSE_CUDA_SM90_PACKED_WEIGHTS_CUH_

#include "cuda/matmul_params.h"
#include "cuda/ptx.cuh"
#include "cuda/sm90/epilogue.cuh"
#include "cuda/sm90/policy.cuh"
#include "cuda/sm90/ptx.cuh"
#include "cuda/sm90/ring.cuh"
#include "cuda/sm90/union.cuh"

namespace bsparse {

// Reads the weights of a stage as operands of a warpgroup's products, one for each step: 16 inputs.
template <class Traits>
struct PackedWeights {
  static constexpr int kSteps = Traits::kEntries * Traits::kSteps;  // of a stage
  static_assert(kSteps == 4, "as the producer's tables and multiply_rest have it");
  using Operand = uint32_t[kSteps][4];

  uint32_t table;  // of the first stage
  uint32_t place;  // of this lane, in an operand

  __device__ __forceinline__ PackedWeights(const UnionShared<Traits>& shared, int group)
      : table(ptx::kept(shared.table(0, 4 * group + static_cast<int>(threadIdx.x) % 128 / 32))),
        place(16 * (threadIdx.x % 32)) {}

  // Returns the steps in which the warpgroup has a block, as bits; in the others, operands of zeros.
  __device__ __forceinline__ uint32_t read(int stage, Operand& operand) const {
    uint32_t places[kSteps];
    ptx::load_shared_16(places, table + stage * 128);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      ptx::load_shared_16(operand[s], (places[s] & ~15u) + place);
    }
    // The same in all lanes, as the compiler must know: products are the whole warpgroup's.
    return __shfl_sync(~0u, places[0] & 15, 0);
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
// has code of its own: products that a branch comes between begin one by one. Where there are none an empty group is
// committed: who waits counts two groups a stage.
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
  } else {
    ptx::wgmma_fence();
    if constexpr ((kSteps >> 1 & 1) != 0) multiply_step<Traits, 1>(x, w, sums);
    if constexpr ((kSteps >> 2 & 1) != 0) multiply_step<Traits, 2>(x, w, sums);
    if constexpr ((kSteps >> 3 & 1) != 0) multiply_step<Traits, 3>(x, w, sums);
    ptx::wgmma_commit();
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
  const Weights reader(shared, group);
  StageCursor cursor(shared.stages());  // of the stage whose weights are read next
  ResidualBarrier residual = {shared.residual(group)};
  float sums[kAccumulators];
  DeferredRound<Traits> deferred;
  const auto finish = [&] {
    UnionEpilogue<Traits>::finish(params, shared.y(group), group, deferred);
  };
  typename Weights::Operand weights[2];
  for (TileWalk walk(params); !walk.done(); walk.advance()) {
    const UnionEpilogue<Traits> epilogue(params, shared.y(group), group, walk);
    const int stages = stages_of<Traits>(walk.item);
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) sums[i] = 0.0f;
    int pending = -1;  // stage whose products are still under way
    uint32_t steps = 0;  // of the stage that is multiplied next
    if (stages > 0) {
      ptx::barrier_wait(shared.full(cursor.stage), cursor.parity);
      steps = reader.read(cursor.stage, weights[0]);
      ptx::wgmma_fence();
    }

    // Multiplies a stage whose weights are there, and reads those of the next.
    const auto take = [&](bool last, const typename Weights::Operand& these,
                          typename Weights::Operand& next) {
      const int stage = cursor.stage;
      const uint32_t x = shared.x(stage, 0);
      const uint32_t now = steps;
      cursor.advance();
      if (now != 0) {
        multiply_first<Traits>(now, x, these, sums);
        multiply_rest<Traits>(now & (now - 1), x, these, sums);
        ptx::wgmma_wait<2>();
      } else {
        ptx::wgmma_wait<0>();
        ptx::named_barrier(1 + group, 128);  // all have seen the stage
      }
      // The products of the stage before are done: `next` held its weights.
      if (pending >= 0) release(pending);
      if (now == 0) release(stage);
      pending = now != 0 ? stage : -1;
      bool waits = !last;
      if (waits && has_come(shared.full(cursor.stage), cursor.parity)) {
        steps = reader.read(cursor.stage, next);
        ptx::wgmma_fence();  // here, or the compiler serialises all products
        waits = false;
      }
      if (waits) {
        wait_for_stage(shared.full(cursor.stage), cursor.parity, pending, release);
        steps = reader.read(cursor.stage, next);
        ptx::wgmma_fence();
      }
    };
    for (int s = 0; s < stages; s += 2) {
      take(s + 1 == stages, weights[0], weights[1]);
      if (s == 0) finish();
      if (s + 1 < stages) take(s + 2 == stages, weights[1], weights[0]);
    }
    ptx::wgmma_wait_for(sums);
    if (pending >= 0) release(pending);
    if (stages == 0) finish();
    epilogue.store(sums, residual, deferred);
  }
  finish();
  if (UnionEpilogue<Traits>::copies()) ptx::bulk_wait();
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_PACKED_WEIGHTS_CUH_
