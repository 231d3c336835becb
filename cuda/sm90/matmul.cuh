// y = x W for Hopper: warpgroup products fed by bulk tensor copies, over union tiles.
//
// An item is a handful of output block columns, kUnionOutputs outputs for each CTA of a cluster. A
// CTA's entries are the input blocks that any of its columns uses; each names the weight block of
// every column, or none. A CTA multiplies the x tile of an entry with all the weight blocks there
// are, and a tile that several CTAs of the cluster need is read by one of them and sent to all:
// activations read from L2, not arithmetic, are what limits a block-sparse product.
//
// Outputs lie along the M of the warpgroup product and the batch along N, so one kernel serves both
// feature axes and both transposes: only the operands' majors differ. TF32 has no choice of these, so with
// features first the batch lies along M (sm90/turned_inputs.cuh). Where a product's outputs (64, there also 32)
// are several columns, a missing block of them counts as zeros: in registers (sm90/packed_weights.cuh), or
// of TF32 in boxes outside the tensor, which the copy engine fills.
#ifndef BSPARSE_CUDA_SM90_MATMUL_CUH_
#define BSPARSE_CUDA_SM90_MATMUL_CUH_

#include <type_traits>

#include "cuda/early_launch.cuh"
#include "cuda/matmul_params.h"
#include "cuda/sm90/epilogue.cuh"
#include "cuda/sm90/packed_weights.cuh"
#include "cuda/sm90/policy.cuh"
#include "cuda/sm90/produce.cuh"
#include "cuda/sm90/ptx.cuh"
#include "cuda/sm90/ring.cuh"
#include "cuda/sm90/stage_record.cuh"
#include "cuda/sm90/turned_inputs.cuh"
#include "cuda/sm90/union.cuh"

namespace bsparse {

// Multiplies the entries of a stage that are bits of the constant kEntries. Each set has code of its
// own: products that a branch comes between are waited for one by one.
template <class Traits, int kEntries>
__device__ __forceinline__ void multiply(const UnionShared<Traits>& shared, int stage, int group,
                                         float (&sums)[Traits::kBatchTile / 2]) {
  ptx::wgmma_fence();
#pragma unroll
  for (int e = 0; e < Traits::kEntries; ++e) {
    if ((kEntries >> e & 1) == 0) continue;
    const uint64_t a = ptx::operand(Traits::kLayoutA,
                                    shared.w(stage, e) + group * Traits::kGroupBytesW);
    const uint64_t b = ptx::operand(Traits::kLayoutB, shared.x(stage, e));
#pragma unroll
    for (int k = 0; k < Traits::kSteps; ++k) {
      ptx::wgmma<typename Traits::Element, Traits::kBatchTile, Traits::kTransposeA,
                 Traits::kTransposeB>(sums, a + (k * Traits::kStepA >> 4),
                                      b + (k * Traits::kStepB >> 4));
    }
  }
  ptx::wgmma_commit();
  ptx::wgmma_wait<1>();
}

// A consumer warpgroup: multiplies the entries in which it has blocks.
template <class Traits>
__device__ __forceinline__ void consume(const UnionMatmulParams& params,
                                        const UnionShared<Traits>& shared, int group) {
  constexpr int kAccumulators = Traits::kBatchTile / 2;
  const auto release = [&](int stage) {
    release_x(params, shared, stage);
    release_w(shared, stage);
  };
  StageCursor cursor(shared.stages());
  ResidualBarrier residual = {shared.residual(group)};
  float sums[kAccumulators];
  DeferredRound<Traits> deferred;
  const auto finish = [&] {
    UnionEpilogue<Traits>::finish(params, shared.y(group), group, deferred);
  };
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
      // Bit e: this warpgroup has a block in entry e.
      static_assert(kConsumers == 2 && Traits::kMasked == 2 && Traits::kEntries <= 2,
                    "as the masks are written here");
      const uint32_t mine = (mask >> group & 1) | (mask >> (group + 1) & 2);
      const bool multiplies = mine != 0;
      if (multiplies) {
        if (Traits::kEntries == 2 && mine == 3) {
          multiply<Traits, 3>(shared, stage, group, sums);
        } else if (Traits::kEntries == 2 && mine == 2) {
          multiply<Traits, 2>(shared, stage, group, sums);
        } else {
          multiply<Traits, 1>(shared, stage, group, sums);
        }
      } else {
        ptx::wgmma_wait<0>();
        ptx::named_barrier(1 + group, 128);  // all have read the mask
      }
      // Everything before this stage is done, and with nothing to do this stage is too.
      if (pending >= 0) release(pending);
      if (!multiplies) release(stage);
      pending = multiplies ? stage : -1;
      if (s == 0) finish();
    }
    ptx::wgmma_wait_for(sums);
    if (pending >= 0) release(pending);
    if (stages == 0) finish();
    epilogue.store(sums, residual, deferred);
  }
  finish();
  if (UnionEpilogue<Traits>::copies()) ptx::bulk_wait();
}

template <class Traits>
__global__ void __launch_bounds__(kUnionThreads, 1)
    sm90_matmul_kernel(const __grid_constant__ UnionMatmulParams params) {
  extern __shared__ char raw[];
  const UnionShared<Traits> shared(params, raw);
  if (Traits::kPacks && threadIdx.x < Traits::kZeroBytes / 4) {
    ptx::store_shared(shared.zeros() + 4 * threadIdx.x, 0);
  }
  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&params.x);
    if (!Traits::kPacks) ptx::prefetch_tensor_map(&params.w);
    ptx::prefetch_tensor_map(&params.y);
    if (params.adds_residual) ptx::prefetch_tensor_map(&params.residual);
#pragma unroll
    for (int group = 0; group < kConsumers; ++group) ptx::barrier_init(shared.residual(group), 1);
#pragma unroll 1
    for (int stage = 0; stage < shared.stages(); ++stage) {
      ptx::barrier_init(shared.full(stage), 2);  // x and w
      ptx::barrier_init(shared.empty_x(stage), kConsumers * params.cluster_ctas);
      ptx::barrier_init(shared.empty_w(stage), kConsumers);
    }
    ptx::barrier_init_fence();
  }
  ptx::cluster_barrier();
  if (params.runs_beside) {
    ptx::launch_dependents();
  } else {
    follow_kernel_before();
  }
  const int warpgroup = threadIdx.x / 128;
  if (warpgroup == kConsumers) {
    ptx::give_registers<Traits::kProducerRegisters>();
    const int producer = static_cast<int>(threadIdx.x) / 32 - 4 * kConsumers;
    using Weights = std::conditional_t<Traits::kPacks, PackedStage<Traits>,
                                       StageRecord<Traits, WeightRecord<Traits>>>;
    // Packed weights take one copy a stage.
    constexpr int kTurnsW = Traits::kPacks ? 1 : kProducers / 2;
    constexpr int kTurnsX = kProducers - kTurnsW;
    if (producer < kTurnsX) {
      using Inputs = RecordQueue<Traits, StageRecord<Traits, InputRecord>, kTurnsX>;
      produce<Traits, Inputs, kTurnsX>(params, shared, producer);
    } else {
      produce<Traits, RecordQueue<Traits, Weights, kTurnsW>, kTurnsW>(params, shared,
                                                                      producer - kTurnsX);
    }
  } else {
    ptx::take_registers<Traits::kConsumerRegisters>();
    if constexpr (Traits::kPacks) {
      consume_packed_weights(params, shared, warpgroup);
    } else if constexpr (Traits::kTurnsInputs) {
      consume_turned_inputs(params, shared, warpgroup);
    } else {
      consume(params, shared, warpgroup);
    }
  }
  // Others may still write to this CTA's shared memory.
  if (params.cluster_ctas > 1) ptx::cluster_barrier();
  // Who waits for this part waits for the other as well.
  if (params.runs_beside) ptx::wait_for_kernel_before();
}

template <class Traits>
Kernel sm90_matmul_entry() {
  return {.function = reinterpret_cast<const void*>(&sm90_matmul_kernel<Traits>),
          .threads = kUnionThreads,
          .shared_bytes = Traits::kSharedBytes,
          .batch_tile = Traits::kBatchTile,
          .columns = Traits::kColumns,
          .shared_columns = Traits::kSharedColumns,
          .store_batch = Traits::kRoundBatch,
          .box_features = Traits::kDepth,
          .y_features = Traits::kWidthY,
          .entry_blocks = Traits::kEntryBlocks,
          .column_blocks = Traits::kColumnBlocks,
          .packs = Traits::kPacks,
          .starts_early = true};
}

// The kernel for a variant; instantiates all of them for one arithmetic mode.
template <class Math, int kBlockSize, int kFeatureAxis, bool kTranspose, int kInputAxis = kFeatureAxis>
Kernel sm90_matmul_for() {
  return sm90_matmul_entry<
      Sm90MatmulTraits<Math, kBlockSize, kFeatureAxis, kTranspose, kInputAxis>>();
}

template <class Math, int kBlockSize>
Kernel sm90_matmul_for(const MatmulVariant& variant) {
  if constexpr (sizeof(typename Math::Element) == 4) {
    // Weight blocks come as (outputs, inputs) in both directions.
    if constexpr (kBlockSize >= kSmallestTurnedBlock) {
      if (variant.turned) return sm90_matmul_for<Math, kBlockSize, 0, true, 1>();
    }
    return variant.feature_axis == 0 ? sm90_matmul_for<Math, kBlockSize, 0, true>()
                                     : sm90_matmul_for<Math, kBlockSize, 1, true>();
  } else if constexpr (packs_weights(kBlockSize, sizeof(typename Math::Element))) {
    // And packed in either.
    return variant.feature_axis == 0 ? sm90_matmul_for<Math, kBlockSize, 0, true>()
                                     : sm90_matmul_for<Math, kBlockSize, 1, true>();
  } else {
    if (variant.feature_axis == 0) {
      return variant.transpose ? sm90_matmul_for<Math, kBlockSize, 0, true>()
                               : sm90_matmul_for<Math, kBlockSize, 0, false>();
    }
    return variant.transpose ? sm90_matmul_for<Math, kBlockSize, 1, true>()
                             : sm90_matmul_for<Math, kBlockSize, 1, false>();
  }
}

template <class Math>
Kernel sm90_matmul_for(const MatmulVariant& variant) {
  constexpr int kSize = sizeof(typename Math::Element);
  constexpr int kSmallest = smallest_product_block(kSize);
  switch (variant.block_size) {
    case 8:
      if constexpr (kSmallest <= 8) return sm90_matmul_for<Math, 8>(variant);
      return {};
    case 16:
      if constexpr (kSmallest <= 16) return sm90_matmul_for<Math, 16>(variant);
      return {};
    case 32: return sm90_matmul_for<Math, 32>(variant);
    case 64: return sm90_matmul_for<Math, 64>(variant);
    case 128: return sm90_matmul_for<Math, 128>(variant);
  }
  return {};
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_MATMUL_CUH_
