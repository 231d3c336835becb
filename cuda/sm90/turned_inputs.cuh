// Union tiles of TF32 with features first. The tensor cores want both operands in shared memory along
// the reduction, and here x lies along the batch. So it is multiplied out of registers, which a warp loads
// word by word: the batch lies along M, and the outputs of a warpgroup along N.
#ifndef BSPARSE_CUDA_SM90_TURNED_INPUTS_CUH_
#define BSPARSE_CUDA_SM90_TURNED_INPUTS_CUH_

#include "cuda/matmul_params.h"
#include "cuda/sm90/epilogue.cuh"
#include "cuda/sm90/ptx.cuh"
#include "cuda/sm90/ring.cuh"
#include "cuda/sm90/swizzle.cuh"
#include "cuda/sm90/union.cuh"

namespace bsparse {

// The x of a stage as operands of 64 batch entries by 8 inputs. A lane holds inputs 2 t and 2 t + 1 where
// mma.m16n8k8 has t and t + 4, so that the 32 words of a load lie in different banks; weight blocks come
// with their inputs in that order (arrange_blocks.cu).
template <class Traits>
struct TurnedInputs {
  static constexpr int kOperands = Traits::kBatchTile / 64;
  static constexpr int kStepBytes = 8 * 128;
  using Step = uint32_t[kOperands][4];

  uint32_t offsets[4];  // of a thread's words

  __device__ __forceinline__ TurnedInputs() {
    const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    const int batch = 16 * warp + lane / 4, input = 2 * (lane % 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int b = batch + 8 * (i % 2);
      const uint32_t offset = (input + i / 2) * 128 + b % Traits::kLineBatch * 4;
      offsets[i] = ptx::kept(b / Traits::kLineBatch * Traits::kBoxBytesX + swizzled(offset, 128));
    }
  }

  // `x`: of the stage.
  __device__ __forceinline__ void read(uint32_t x, int step, Step& words) const {
#pragma unroll
    for (int o = 0; o < kOperands; ++o) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        words[o][i] = ptx::load_shared(x + offsets[i] + step * kStepBytes +
                                       o * (64 / Traits::kLineBatch) * Traits::kBoxBytesX);
      }
    }
  }
};

// Multiplies a stage with those parts of the warpgroup's outputs that are bits of the constant kPresent; no
// products may be under way. With one part the x of a step is read while the step before is multiplied.
template <class Traits, int kPresent>
__device__ __forceinline__ void multiply_turned(const TurnedInputs<Traits>& reader, uint32_t x,
                                                uint32_t w,
                                                typename TurnedInputs<Traits>::Step (&inputs)[2],
                                                float (&sums)[Traits::kBatchTile / 2]) {
  constexpr int kOutputs = Traits::kPartFeatures;
  const uint64_t weights = ptx::operand(Traits::kLayoutA, w);
#pragma unroll
  for (int step = 0; step < Traits::kSteps; ++step) {
    // The products that had these registers are done; with several parts the compiler finds no registers
    // for two steps at once.
    if (Traits::kMasked > kConsumers && step >= 1) {
      ptx::wgmma_wait<0>();
    } else if (step >= 2) {
      ptx::wgmma_wait<1>();
    }
    reader.read(x, step, inputs[step % 2]);
    ptx::wgmma_fence();
#pragma unroll
    for (int o = 0; o < TurnedInputs<Traits>::kOperands; ++o) {
#pragma unroll
      for (int first = 0; first < 64; first += kOutputs) {
        if ((kPresent >> first / kOutputs & 1) == 0) continue;
        ptx::wgmma_of_registers<typename Traits::Element, kOutputs, 0>(
            reinterpret_cast<float(&)[kOutputs / 2]>(sums[32 * o + first / 2]),
            inputs[step % 2][o],
            weights + (first * Traits::kRowBytes + step * Traits::kStepA >> 4));
      }
    }
    ptx::wgmma_commit();
  }
}

// A consumer warpgroup.
template <class Traits>
__device__ __forceinline__ void consume_turned_inputs(const UnionMatmulParams& params,
                                                      const UnionShared<Traits>& shared,
                                                      int group) {
  using Inputs = TurnedInputs<Traits>;
  static_assert(!DeferredRound<Traits>::kUsed, "nothing here finishes one");
  constexpr int kGroupParts = Traits::kMasked / kConsumers;  // of a warpgroup's outputs
  // Bits of a mask, shifted to the warpgroup's.
  constexpr uint32_t kEntryParts = (1 << kGroupParts) - 1;
  constexpr uint32_t kStageParts =
      Traits::kEntries == 2 ? kEntryParts << Traits::kMasked | kEntryParts : kEntryParts;
  static_assert(Traits::kEntries <= 2, "as the masks are read here");
  constexpr int kAccumulators = Traits::kBatchTile / 2;
  const auto release = [&](int stage) {
    release_x(params, shared, stage);
    release_w(shared, stage);
  };
  const Inputs reader;
  StageCursor cursor(shared.stages());
  ResidualBarrier residual = {shared.residual(group)};
  DeferredRound<Traits> deferred;
  float sums[kAccumulators];
  typename Inputs::Step inputs[2];
  for (TileWalk walk(params); !walk.done(); walk.advance()) {
    const UnionEpilogue<Traits> epilogue(params, shared.y(group), group, walk);
    const int stages = stages_of<Traits>(walk.item);
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) sums[i] = 0.0f;

    int pending = -1;  // stage whose products are still under way
    for (int s = 0; s < stages; ++s) {
      const int stage = cursor.stage;
      wait_for_stage(shared.full(stage), cursor.parity, pending, release);
      cursor.advance();
      // The same in all lanes, as the compiler must know: products are the whole warpgroup's.
      const uint32_t mask = __shfl_sync(~0u, ptx::load_shared(shared.mask(stage)), 0);
      const uint32_t parts = mask >> kGroupParts * group & kStageParts;
      if (parts == 0) {
        ptx::wgmma_wait<0>();
        ptx::named_barrier(1 + group, 128);  // all have read the mask
        if (pending >= 0) release(pending);
        release(stage);
        pending = -1;
        continue;
      }
#pragma unroll 1
      for (int e = 0; e < Traits::kEntries; ++e) {
        const uint32_t x = shared.x(stage, e);
        const uint32_t w = shared.w(stage, e) + group * Traits::kGroupBytesW;
        // Were any under way across an entry's beginning, the compiler would serialise them all.
        ptx::wgmma_wait<0>();
        if (pending >= 0) release(pending);
        pending = -1;
        // Each set of parts has code of its own: products that a branch comes between are serialised.
        const uint32_t present = parts >> Traits::kMasked * e & kEntryParts;
        if (kGroupParts == 2 && present == 3) {
          multiply_turned<Traits, 3>(reader, x, w, inputs, sums);
        } else if (kGroupParts == 2 && present == 2) {
          multiply_turned<Traits, 2>(reader, x, w, inputs, sums);
        } else if (present != 0) {
          multiply_turned<Traits, 1>(reader, x, w, inputs, sums);
        }
      }
      pending = stage;
    }
    ptx::wgmma_wait_for(sums);
    if (pending >= 0) release(pending);
    epilogue.store(sums, residual, deferred);
  }
  if (UnionEpilogue<Traits>::copies()) ptx::bulk_wait();
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_TURNED_INPUTS_CUH_
