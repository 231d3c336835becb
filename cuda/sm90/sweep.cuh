// y = x W for Hopper, blocks of 8 and 16 at low densities: all of x passes by many output columns.
//
// A CTA computes 512 outputs of 64 batch entries, or 1024 of 32. Whole boxes of x, of 64 features or 32 in
// TF32, come into shared memory, with the blocks that its columns have there; each warp goes from column to
// column, and in a column from block to block, and multiplies by mma.sync. So nothing is padded: union tiles
// multiply 64 outputs for a block of 8 or 16, and a missing block beside it counts as zeros. What limits is
// shared memory, out of which each block reads its x (docs/kernel-notes.md). The CTAs of a cluster have other
// outputs and share x.
#ifndef BSPARSE_CUDA_SM90_SWEEP_CUH_
#define BSPARSE_CUDA_SM90_SWEEP_CUH_

#include "cuda/bsparse_cuda.h"
#include "cuda/dtype.cuh"
#include "cuda/early_launch.cuh"
#include "cuda/matmul_params.h"
#include "cuda/ptx.cuh"
#include "cuda/sm90/policy.cuh"
#include "cuda/sm90/ptx.cuh"
#include "cuda/sm90/ring.cuh"
#include "cuda/sm90/sweep_operands.cuh"
#include "cuda/sm90/sweep_output.cuh"
#include "cuda/sm90/sweep_traits.cuh"

namespace bsparse {

// Where a warp is in a stage: addresses of the next block's place and weights.
struct SweepCursor {
  uint32_t boxes;
  uint32_t places;
  uint32_t weights;
};

// Multiplies a block of a column, or two that make a step. Every load is needed here, so that none is under
// way when the stage is released.
template <class Traits, int kBytes>
__device__ __forceinline__ void sweep_blocks(const SweepOperands<Traits, kBytes>& operands,
                                             uint32_t place, SweepCursor& cursor,
                                             typename Traits::ColumnSums& sums) {
  using Operands = SweepOperands<Traits, kBytes>;
  const uint32_t at = operands.address(cursor.boxes, place);
#pragma unroll
  for (int step = 0; step < Traits::kSteps; ++step) {
    uint32_t x[Traits::kBatchPieces][Operands::kWords];
    uint32_t w[Traits::kColumnPieces][Operands::kWords / 2];
    Traits::template load_weights<Operands::kBlocks>(w, cursor.weights + step * 32 * Traits::kLaneBytes);
    operands.load(at, step, x);
#pragma unroll
    for (int n = 0; n < Traits::kColumnPieces; ++n)
#pragma unroll
      for (int i = 0; i < Traits::kBatchPieces; ++i) Traits::Math::mma(sums[n][i], x[i], w[n]);
  }
  cursor.weights += Operands::kBlocks * Traits::kBlockBytes;
  cursor.places += Operands::kBlocks;
}

// Multiplies the blocks of one column in a stage.
template <class Traits>
__device__ __forceinline__ void sweep_column(int blocks,
                                             const SweepOperands<Traits, Traits::kStepBytes>& operands,
                                             SweepCursor& cursor,
                                             typename Traits::ColumnSums& sums) {
  constexpr int kBlocks = Traits::kStepBlocks;
  // Of two blocks the lanes of the upper half have the second.
  const uint32_t mine = kBlocks == 2 ? threadIdx.x % 32 / 16 : 0;
#pragma unroll 1
  for (; blocks >= kBlocks; blocks -= kBlocks) {
    sweep_blocks<Traits, Traits::kStepBytes>(operands, ptx::load_shared_byte(cursor.places + mine),
                                             cursor, sums);
  }
  if constexpr (kBlocks == 2) {
    if (blocks > 0) {
      const SweepOperands<Traits, 16> single(threadIdx.x % 32);
      sweep_blocks<Traits, 16>(single, ptx::load_shared_byte(cursor.places), cursor, sums);
    }
  }
}

// The tiles of this CTA, one after the other, batch tile by batch tile. Every round of tiles is dealt to the
// clusters in the opposite order of the one before: items come heaviest first.
struct SweepWalk {
  const SweepMatmulParams& params;
  uint32_t tile;
  uint32_t step;
  uint32_t batch_tile;
  uint32_t item;
  int2 stages;  // first and end

  __device__ __forceinline__ explicit SweepWalk(const SweepMatmulParams& p)
      : params(p), tile(ptx::cluster_id()), step(2 * (ptx::clusters() - tile) - 1) {
    find(tile);
    stages = read_stages(item);
    look_ahead();
  }

  __device__ __forceinline__ bool done() const { return tile >= params.num_tiles; }

  __device__ __forceinline__ void advance() {
    tile += step;
    step = 2 * ptx::clusters() - step;
    find(min(tile, params.num_tiles - 1));
    // Not before: it would be waited for where the tile that is done began.
    stages = {static_cast<int>(ptx::kept(next.x)), static_cast<int>(ptx::kept(next.y))};
    look_ahead();
  }

 private:
  __device__ __forceinline__ void find(uint32_t number) {
    batch_tile = params.items_of_batch_tile.quotient(number);
    item = params.items_of_batch_tile.remainder(number, batch_tile);
  }

  __device__ __forceinline__ int2 read_stages(uint32_t of) const {
    const auto* const range = reinterpret_cast<const int*>(params.items + of) + 1;
    return {__ldg(range), __ldg(range + 1)};
  }

  __device__ __forceinline__ void look_ahead() {
    const uint32_t number = min(tile + step, params.num_tiles - 1);
    const uint32_t of = params.items_of_batch_tile.quotient(number);
    next = read_stages(params.items_of_batch_tile.remainder(number, of));
  }

  int2 next;
};

// What a producer warp does, which fills every kSweepProducers-th stage: one thread issues all copies, and slowly.
template <class Traits>
__device__ __forceinline__ void fill_sweep_stages(const SweepMatmulParams& params,
                                                  const SweepShared& shared, int turn) {
  const bool elected = ptx::elected();
  const int lane = threadIdx.x % 32;
  const uint32_t rank = ptx::rank_in_cluster();
  StageCursor cursor(params.ring_stages);
  cursor.advance(turn);
  int from = turn;  // of the tile's stages the first that is this warp's
  static_assert(BSPARSE_SWEEP_STAGE_WORDS == 8 && BSPARSE_SWEEP_BOXES == 8);
  for (SweepWalk walk(params); !walk.done(); walk.advance()) {
    const int batch = static_cast<int>(walk.batch_tile) * Traits::kBatchTile;
    const int stages = walk.stages.y - walk.stages.x;
    int4 read[2] = {};
#pragma unroll 1
    for (int i = 0; from < stages; from += kSweepProducers, ++i) {
      // Each lane reads one of the next 32.
      if (i % 32 == 0) {
        const int stage = min(walk.stages.x + from + kSweepProducers * lane, walk.stages.y - 1);
        const int4* const row = params.stages + 2 * (int64_t{stage} * params.ctas + rank);
        read[0] = __ldg(row);
        read[1] = __ldg(row + 1);
      }
      const auto word = [&](int value) { return __shfl_sync(~0u, value, i % 32); };
      const int record = word(read[0].x), sizes = word(read[0].y);
      const int first = word(read[0].z), blocks = word(read[0].w);
      const int numbers[] = {word(read[1].x), word(read[1].y), word(read[1].z), word(read[1].w)};
      ptx::barrier_wait(shared.empty(cursor.stage), cursor.parity ^ 1);
      if (elected) {
        const uint32_t full = shared.full(cursor.stage), to = shared.stage(cursor.stage);
        const uint32_t boxes = static_cast<uint32_t>(sizes) >> 16;
        const uint32_t record_bytes = 16 * (sizes & 0xffff);
        const uint32_t weight_bytes = blocks * Traits::kBlockBytes;
        const uint32_t box_bytes = boxes * Traits::kBoxBytes;
        ptx::barrier_arrive_expect(full, box_bytes + record_bytes + weight_bytes);
        const uint32_t x = to + BSPARSE_SWEEP_RECORD_BYTES;
        const uint32_t own = (boxes + params.ctas - 1 - rank) >> (params.ctas - 1);  // ctas: 1 or 2
        uint32_t to_box = x + rank * Traits::kBoxBytes;
#pragma unroll
        for (uint32_t b = 0; b < BSPARSE_SWEEP_BOXES; ++b, to_box += params.ctas * Traits::kBoxBytes) {
          if (b >= own) break;
          const int box = static_cast<uint32_t>(numbers[b / 2]) >> 16 * (b % 2) & 0xffff;
          copy_sweep_box<Traits>(to_box, params,
                                 box * Traits::kBoxFeatures, batch, full);
        }
        ptx::copy_bytes_to_shared(to, params.records + static_cast<int64_t>(record) * 16,
                                  record_bytes, full);
        if (weight_bytes > 0) {
          ptx::copy_bytes_to_shared(
              x + box_bytes, params.weights + static_cast<int64_t>(first) * Traits::kBlockBytes,
              weight_bytes, full);
        }
      }
      __syncwarp();
      cursor.advance(kSweepProducers);
    }
    from -= stages;
  }
}

template <class Traits>
__device__ __forceinline__ void sweep(const SweepMatmulParams& params, const SweepShared& shared,
                                      int warp) {
  const int lane = threadIdx.x % 32;
  const SweepOperands<Traits, Traits::kStepBytes> operands(lane);
  StageCursor cursor(params.ring_stages);
  for (SweepWalk walk(params); !walk.done(); walk.advance()) {
    const SweepOutput<Traits> output(params, walk.item, walk.batch_tile, warp);
    typename Traits::ColumnSums sums[Traits::kWarpColumns] = {};
#pragma unroll 1
    for (int stages = walk.stages.y - walk.stages.x; stages > 0; --stages) {
      const uint32_t stage = shared.stage(cursor.stage);
      ptx::barrier_wait(shared.full(cursor.stage), cursor.parity);
      uint32_t header[4];
      ptx::load_shared_16(header, stage + BSPARSE_SWEEP_HEADER_BYTES * warp);
      const uint32_t first = header[2] & 0xffff;
      SweepCursor at;
      at.boxes = stage + BSPARSE_SWEEP_RECORD_BYTES;
      at.places = stage + BSPARSE_SWEEP_WARPS * BSPARSE_SWEEP_HEADER_BYTES + first;
      at.weights = at.boxes + (header[2] >> 16) * Traits::kBoxBytes +
                   first * Traits::kBlockBytes + lane * Traits::kLaneBytes;
#pragma unroll
      for (int c = 0; c < Traits::kWarpColumns; ++c) {
        sweep_column<Traits>(header[c / 4] >> c % 4 * 8 & 0xff, operands, at, sums[c]);
      }
      // All loads of the stage are over by now (see `mixed`): each was needed by a product of the loop that it is in, and
      // warps issue in order.
      ptx::keep_in_place(sums);
      __syncwarp();
      // Any CTA of the cluster may write to any other's stage.
      if (static_cast<uint32_t>(lane) < params.ctas) {
        ptx::barrier_arrive_in_cluster(ptx::address_in(shared.empty(cursor.stage), lane));
      }
      cursor.advance();
    }
    output.store(sums);
  }
}

template <class Traits>
__global__ void __launch_bounds__(kSweepThreads, 1)
    sm90_sweep_kernel(const __grid_constant__ SweepMatmulParams params) {
  extern __shared__ char raw[];
  const SweepShared shared(params, raw);
  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&params.x);
    for (int stage = 0; stage < params.ring_stages; ++stage) {
      ptx::barrier_init(shared.full(stage), 1);
      ptx::barrier_init(shared.empty(stage), BSPARSE_SWEEP_WARPS * params.ctas);
    }
    ptx::barrier_init_fence();
  }
  ptx::cluster_barrier();
  follow_kernel_before();
  const int warp = threadIdx.x / 32;
  if (warp >= BSPARSE_SWEEP_WARPS) {
    ptx::give_registers<kSweepProducerRegisters>();
    const int producer = warp - BSPARSE_SWEEP_WARPS;
    if (producer < kSweepProducers) fill_sweep_stages<Traits>(params, shared, producer);
  } else {
    ptx::take_registers<kSweepConsumerRegisters>();
    sweep<Traits>(params, shared, warp);
  }
  // Others may still write to this CTA's shared memory.
  if (params.ctas > 1) ptx::cluster_barrier();
}

template <class Math, int kBlockSize, int kFeatureAxis, int kBatchTile>
Kernel sm90_sweep_for() {
  using Traits = SweepTraits<Math, kBlockSize, kFeatureAxis, kBatchTile>;
  return {.function = reinterpret_cast<const void*>(&sm90_sweep_kernel<Traits>),
          .threads = kSweepThreads,
          .shared_bytes = kMaxSharedBytes,
          .batch_tile = kBatchTile,
          .columns = sweep_outputs(kBatchTile) / kBlockSize,
          .box_features = Traits::kBoxFeatures,
          .column_blocks = column_blocks(kBlockSize),
          .packs = true,
          .starts_early = true};
}

template <class Math, int kBlockSize, int kFeatureAxis>
Kernel sm90_sweep_for(int batch_tile) {
  if (batch_tile == kSweepBatchTile) {
    return sm90_sweep_for<Math, kBlockSize, kFeatureAxis, kSweepBatchTile>();
  }
  if constexpr (has_wide_sweeps(kBlockSize, sizeof(typename Math::Element))) {
    return sm90_sweep_for<Math, kBlockSize, kFeatureAxis, kWideSweepBatchTile>();
  }
  return {};
}

// The kernel for a variant; weights come packed, transposed or not.
template <class Math>
Kernel sm90_sweep_for(const MatmulVariant& variant) {
  const int tile = variant.sweep_batch_tile;
  switch (variant.block_size) {
    case 8:
      return variant.feature_axis == 0 ? sm90_sweep_for<Math, 8, 0>(tile)
                                       : sm90_sweep_for<Math, 8, 1>(tile);
    case 16:
      return variant.feature_axis == 0 ? sm90_sweep_for<Math, 16, 0>(tile)
                                       : sm90_sweep_for<Math, 16, 1>(tile);
  }
  return {};
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_SWEEP_CUH_
