// dw = x^T dy for Hopper: mma.sync out of a ring that bulk tensor copies fill.
//
// A block of 8 to 32 features is too small to repay its own copies of x and dy. So a CTA takes a tile
// of the layout: some chunks of 64 inputs (32 in TF32), some of 64 outputs, and the blocks stored where
// they cross, as many as its registers have sums for. Blocks of 64 and 128 are cells of 32 here. It walks the batch; a stage holds kDepth batch
// entries of all chunks. A warp has the same blocks all the way. The CTAs of a cluster have the same
// input chunks, which are copied once for all of them.
#ifndef BSPARSE_CUDA_SM90_DW_TILES_CUH_
#define BSPARSE_CUDA_SM90_DW_TILES_CUH_

#include "cuda/dtype.cuh"
#include "cuda/early_launch.cuh"
#include "cuda/matmul_params.h"
#include "cuda/ptx.cuh"
#include "cuda/sm90/dw_tile_slots.cuh"
#include "cuda/sm90/dw_tiles_policy.cuh"
#include "cuda/sm90/policy.cuh"
#include "cuda/sm90/ptx.cuh"
#include "cuda/sm90/ring.cuh"

namespace bsparse {

// Where the stages and their barriers are. How many stages there are depends on the plan.
template <class Traits>
struct DwTilesShared {
  uint32_t base;
  uint32_t stage_bytes;
  int stages;

  __device__ __forceinline__ DwTilesShared(const TiledMatmulDwParams& params, const void* raw)
      : base((ptx::shared_address(raw) + 1023) & ~1023u),
        stage_bytes(params.chunks * Traits::kChunkBytes),
        stages(params.ring_stages) {}

  __device__ __forceinline__ uint32_t stage(int number) const {
    return base + number * stage_bytes;
  }
  __device__ __forceinline__ uint32_t full(int number) const {
    return base + kDwTileRingBytes + 8 * number;
  }
  __device__ __forceinline__ uint32_t empty(int number) const {
    return full(kMaxDwTileStages) + 8 * number;
  }
};

// The part of dw that a cluster computes next: an item, for the batch or a range of it.
struct DwTilesWork {
  uint32_t cta;  // number of this CTA's share among those of all items
  int first;     // stage
  int stages;
  float* partials;  // of this CTA's places, or null

  template <class Traits>
  __device__ __forceinline__ DwTilesWork(const TiledMatmulDwParams& params, Traits, uint32_t tile,
                                         uint32_t rank) {
    if (tile < params.whole_items) {
      cta = tile * params.ctas + rank;
      first = 0;
      stages = static_cast<int>(params.stages.count);
      partials = nullptr;
      return;
    }
    const uint32_t part = tile - params.whole_items;
    const uint32_t split = part / params.split_items, item = part % params.split_items;
    cta = (params.whole_items + item) * params.ctas + rank;
    first = static_cast<int>(params.stages.begin(split));
    stages = static_cast<int>(params.stages.size(split));
    partials = params.partials + (int64_t{part} * params.ctas + rank) * Traits::kBlocks *
                                     Traits::kBlockElements;
  }
};

// A lane of a producer warp sees to one chunk of a stage: those of dy, and its share of those of x,
// which go to all CTAs of the cluster.
template <class Traits>
__device__ __forceinline__ void produce_dw_tiles(const TiledMatmulDwParams& params,
                                                 const DwTilesShared<Traits>& shared, int producer,
                                                 uint32_t rank) {
  const int lane = threadIdx.x % 32;
  const int chunk = lane * kProducers + producer;
  const auto everyone = static_cast<uint16_t>((1u << params.ctas) - 1);
  StageCursor cursor(shared.stages);
  for (uint32_t tile = ptx::cluster_id(); tile < params.num_tiles; tile += ptx::clusters()) {
    const DwTilesWork work(params, Traits{}, tile, rank);
    const int32_t* const row = params.items + static_cast<int64_t>(work.cta) * (2 + params.chunks);
    const int x_chunks = row[0], chunks = x_chunks + row[1];
    const bool is_x = chunk < x_chunks;
    const bool copies = chunk < chunks && (!is_x || chunk % params.ctas == rank);
    const bool sends = is_x && params.ctas > 1;
    const int feature = copies ? Traits::kChunkFeatures * row[2 + chunk] : 0;
    int pair = work.stages > 0 ? params.stages.pair(work.first) : 0;
    int pair_end = static_cast<int>(params.stages.first[pair + 1]);
    int batch = (work.first - static_cast<int>(params.stages.first[pair])) * Traits::kDepth;
#pragma unroll 1
    for (int s = 0; s < work.stages; ++s) {
      const uint32_t full = shared.full(cursor.stage);
      if (work.first + s == pair_end) {
        ++pair;
        pair_end = static_cast<int>(params.stages.first[pair + 1]);
        batch = 0;
      }
      ptx::barrier_wait(shared.empty(cursor.stage), cursor.parity ^ 1);
      if (producer == 0 && lane == 0) {
        ptx::barrier_arrive_expect(full, chunks * Traits::kChunkBytes);
      }
      if (copies) {
        const uint32_t to = shared.stage(cursor.stage) + chunk * Traits::kChunkBytes;
        const CUtensorMap* const from = is_x ? &params.x[pair] : &params.dy[pair];
        const int column = Traits::kFeatureAxis == 1 ? feature : batch;
        const int line = Traits::kFeatureAxis == 1 ? batch : feature;
        if (sends) {
          ptx::copy_box_to_cluster(to, from, column, line, full, everyone);
        } else {
          ptx::copy_box_to_shared(to, from, column, line, full);
        }
      }
      batch += Traits::kDepth;
      __syncwarp();
      if (producer > 0 && lane == 0) ptx::barrier_arrive(full);
      cursor.advance();
    }
  }
}

// Says that this warp is done with a stage, to all that write it.
template <class Traits>
__device__ __forceinline__ void release_dw_tiles(const TiledMatmulDwParams& params,
                                                 const DwTilesShared<Traits>& shared, int stage,
                                                 uint32_t mix) {
  static_assert(kMaxUnionCtas < 256, "what is added is 0");
  const uint32_t empty = shared.empty(stage) + (mix & params.ctas >> 8);  // see `mixed`
  const uint32_t lane = threadIdx.x % 32;
  if (params.ctas == 1) {
    if (lane == 0) ptx::barrier_arrive(empty);
  } else if (lane < params.ctas) {
    ptx::barrier_arrive_in_cluster(ptx::address_in(empty, lane));
  }
}

template <class Traits>
__device__ __forceinline__ void consume_dw_tiles(const TiledMatmulDwParams& params,
                                                 const DwTilesShared<Traits>& shared, int warp,
                                                 uint32_t rank) {
  const typename DwTileSlots<Traits>::Reader reader;
  DwTileFragments<Traits> fragments;
  StageCursor cursor(shared.stages);
  for (uint32_t tile = ptx::cluster_id(); tile < params.num_tiles; tile += ptx::clusters()) {
    const DwTilesWork work(params, Traits{}, tile, rank);
    constexpr int kWarpBlocks = Traits::kBlocks / BSPARSE_DW_TILE_WARPS;
    const int32_t* const blocks =
        params.blocks + 3 * (int64_t{work.cta} * Traits::kBlocks + warp * kWarpBlocks);
    DwTileSlots<Traits> slots(blocks);
    slots.clear();
#pragma unroll 1
    for (int s = 0; s < work.stages; ++s) {
      ptx::barrier_wait(shared.full(cursor.stage), cursor.parity);
      const uint32_t stage = shared.stage(cursor.stage);
#pragma unroll
      for (int step = 0; step < Traits::kSteps; ++step) {
        slots.multiply(reader, stage, step, fragments);
      }
      __syncwarp();
      release_dw_tiles(params, shared, cursor.stage, fragments.mix());
      cursor.advance();
    }
    slots.store(params.output, blocks,
                work.partials == nullptr
                    ? nullptr
                    : work.partials + warp * kWarpBlocks * Traits::kBlockElements);
  }
}

template <class Traits>
__global__ void __launch_bounds__(kUnionThreads, 1)
    sm90_dw_tiles_kernel(const __grid_constant__ TiledMatmulDwParams params) {
  extern __shared__ char raw[];
  const DwTilesShared<Traits> shared(params, raw);
  if (threadIdx.x < static_cast<unsigned>(params.num_pairs)) {
    ptx::prefetch_tensor_map(&params.x[threadIdx.x]);
    ptx::prefetch_tensor_map(&params.dy[threadIdx.x]);
  }
  if (threadIdx.x == 0) {
#pragma unroll 1
    for (int stage = 0; stage < shared.stages; ++stage) {
      ptx::barrier_init(shared.full(stage), kProducers);
      ptx::barrier_init(shared.empty(stage), BSPARSE_DW_TILE_WARPS * params.ctas);
    }
    ptx::barrier_init_fence();
  }
  __syncthreads();
  // Others may write to this CTA's shared memory from here on.
  if (params.ctas > 1) ptx::cluster_barrier();
  follow_kernel_before();
  const uint32_t rank = params.ctas > 1 ? ptx::rank_in_cluster() : 0;
  const int warp = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0);
  if (warp >= BSPARSE_DW_TILE_WARPS) {
    ptx::give_registers<kDwTileProducerRegisters>();
    produce_dw_tiles(params, shared, warp - BSPARSE_DW_TILE_WARPS, rank);
  } else {
    ptx::take_registers<kDwTileRegisters>();
    consume_dw_tiles(params, shared, warp, rank);
  }
  // Until here.
  if (params.ctas > 1) ptx::cluster_barrier();
}

template <class Traits>
Kernel sm90_dw_tiles_entry() {
  return {.function = reinterpret_cast<const void*>(&sm90_dw_tiles_kernel<Traits>),
          .threads = kUnionThreads,
          .shared_bytes = kDwTileSharedBytes,
          .columns = Traits::kBlocks,
          .depth = Traits::kDepth,
          .starts_early = true};
}

template <class Math, int kBlockSize>
Kernel sm90_dw_tiles_for(int feature_axis) {
  return feature_axis == 0 ? sm90_dw_tiles_entry<DwTilesTraits<Math, kBlockSize, 0>>()
                           : sm90_dw_tiles_entry<DwTilesTraits<Math, kBlockSize, 1>>();
}

// In 16 bit blocks of 64 and 128 have kernels of their own (sm90/matmul_dw.cuh).

template <class Math>
Kernel sm90_dw_tiles_for(int block_size, int feature_axis) {
  switch (block_size) {
    case 8: return sm90_dw_tiles_for<Math, 8>(feature_axis);
    case 16: return sm90_dw_tiles_for<Math, 16>(feature_axis);
    case 32: return sm90_dw_tiles_for<Math, 32>(feature_axis);
  }
  if constexpr (sizeof(typename Math::Element) == 4) {
    switch (block_size) {
      case 64: return sm90_dw_tiles_for<Math, 64>(feature_axis);
      case 128: return sm90_dw_tiles_for<Math, 128>(feature_axis);
    }
  }
  return {};
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_DW_TILES_CUH_
