// dw[b] = x[c]^T dy[k] for sm_80 and newer: mma.sync fed by ldmatrix from a cp.async ring.
//
// A CTA computes `slots` stored blocks over one split of the batch. Blocks with the same x (or
// dy) block as an earlier slot read that slot's tile, so with blocks sorted by either one, a CTA
// loads little more than one tile a block instead of two.
#ifndef BSPARSE_CUDA_SM80_MATMUL_DW_CUH_
#define BSPARSE_CUDA_SM80_MATMUL_DW_CUH_

#include "cuda/matmul_params.h"
#include "cuda/policy.cuh"
#include "cuda/tile.cuh"
#include "cuda/warp_mma.cuh"

namespace bsparse {

template <class MathT, int kBlockSizeT, int kFeatureAxisT>
struct Sm80MatmulDwTraits {
  using Math = MathT;
  using Element = typename Math::Element;
  static constexpr int kBlockSize = kBlockSizeT;
  static constexpr int kFeatureAxis = kFeatureAxisT;
  static constexpr MatmulDwTile kTile = matmul_dw_tile(kBlockSize);
  static constexpr int kSlots = kTile.slots;
  static constexpr int kStages = kTile.stages;
  static constexpr int kDepth = kTile.depth_bytes / static_cast<int>(sizeof(Element));

  // Warps share a block of 128 and share out the slots of smaller ones.
  static constexpr int kWarpSize = kBlockSize < 64 ? kBlockSize : 64;
  static constexpr int kWarpsPerRow = kBlockSize / kWarpSize;
  static constexpr int kWarpSlots = kSlots * kWarpsPerRow * kWarpsPerRow / kWarps;
  static_assert(kWarpSlots >= 1, "every warp has a block");

  static constexpr Major kMajor = kFeatureAxis == 1 ? Major::kOutput : Major::kReduction;
  using Tile = OperandTile<Element, kMajor, kBlockSize, kDepth>;
  static constexpr int kStageBytes = 2 * kSlots * Tile::kBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes;
};

// What a CTA knows of one of its slots.
struct DwSlot {
  int in_block;
  int out_block;
  int weight_block;  // -1 past the last block
  int live;          // neither past the last block nor gated off
  int x_tile;        // the slot whose x tile, and whose dy tile, this one reads
  int dy_tile;
};

// Brings one operand of all slots into shared memory, each distinct block once.
template <class Traits>
struct DwLoader {
  using Element = typename Traits::Element;
  using Tile = typename Traits::Tile;
  static constexpr int kPerChunk = kChunkElements<Element>;

  const Element* source;
  int64_t features;
  int64_t batch;
  int64_t batch_end;  // of this split
  bool aligned;

  // `wanted(slot)`: the block to load for a slot, or -1.
  template <class Wanted>
  __device__ __forceinline__ void load(uint32_t to, int64_t batch_begin,
                                       const Wanted& wanted) const {
    const int64_t left = batch_end - batch_begin;
    const int valid = left > Traits::kDepth ? Traits::kDepth : static_cast<int>(left);
#pragma unroll 4
    for (int c = threadIdx.x; c < Traits::kSlots * Tile::kChunks; c += kThreads) {
      const int slot = c / Tile::kChunks;
      const int row = c % Tile::kChunks / Tile::kRowChunks;
      const int chunk = c % Tile::kRowChunks;
      const int block = wanted(slot);
      if (block < 0) continue;
      const uint32_t place = to + slot * Tile::kBytes + Tile::offset(row, chunk);
      const int64_t feature = static_cast<int64_t>(block) * Traits::kBlockSize;
      if constexpr (Traits::kFeatureAxis == 1) {
        load_chunk(place, source + (batch_begin + row) * features + feature + chunk * kPerChunk,
                   row < valid ? kPerChunk : 0, aligned);
      } else {
        load_chunk(place, source + (feature + row) * batch + batch_begin + chunk * kPerChunk,
                   valid - chunk * kPerChunk, aligned);
      }
    }
  }
};

template <class Traits>
__global__ void __launch_bounds__(kThreads, 2)
    sm80_matmul_dw_kernel(const __grid_constant__ MatmulDwParams params) {
  using Element = typename Traits::Element;
  using Tile = typename Traits::Tile;
  constexpr int kSlots = Traits::kSlots;
  constexpr int kStages = Traits::kStages;
  constexpr int kBlockSize = Traits::kBlockSize;
  extern __shared__ __align__(128) char shared[];
  __shared__ DwSlot slots[kSlots];
  const uint32_t ring = ptx::shared_address(shared);

  const int first_block = blockIdx.x / params.splits * kSlots;
  const int split = blockIdx.x % params.splits;
  if (threadIdx.x < kSlots) {
    DwSlot slot = {-1, -1, -1, 0, 0, 0};
    if (first_block + threadIdx.x < params.num_blocks) {
      const int32_t* block = params.blocks + 3 * static_cast<int64_t>(first_block + threadIdx.x);
      slot = {block[0], block[1], block[2], 0, 0, 0};
      slot.live = params.gate == nullptr || params.gate[slot.weight_block] != 0.0f;
    }
    slots[threadIdx.x] = slot;
  }
  __syncthreads();
  if (threadIdx.x < kSlots) {
    DwSlot& slot = slots[threadIdx.x];
    slot.x_tile = slot.dy_tile = threadIdx.x;
    for (int other = threadIdx.x - 1; other >= 0; --other) {
      if (!slots[other].live) continue;
      if (slots[other].in_block == slot.in_block) slot.x_tile = other;
      if (slots[other].out_block == slot.out_block) slot.dy_tile = other;
    }
  }
  __syncthreads();

  const int64_t batch_begin = split * params.split_size;
  const int64_t batch_end = min(params.batch, batch_begin + params.split_size);
  const int64_t steps =
      batch_end > batch_begin ? (batch_end - batch_begin + Traits::kDepth - 1) / Traits::kDepth : 0;
  const DwLoader<Traits> x_loader{static_cast<const Element*>(params.x), params.in_features,
                                  params.batch, batch_end, params.x_aligned};
  const DwLoader<Traits> dy_loader{static_cast<const Element*>(params.dy), params.out_features,
                                   params.batch, batch_end, params.dy_aligned};
  const auto load_stage = [&](int64_t step, int place) {
    if (step < steps) {
      const uint32_t stage = ring + place * Traits::kStageBytes;
      const int64_t begin = batch_begin + step * Traits::kDepth;
      x_loader.load(stage, begin, [&](int slot) {
        return slots[slot].live && slots[slot].x_tile == slot ? slots[slot].in_block : -1;
      });
      dy_loader.load(stage + kSlots * Tile::kBytes, begin, [&](int slot) {
        return slots[slot].live && slots[slot].dy_tile == slot ? slots[slot].out_block : -1;
      });
    }
    ptx::cp_async_commit();
  };
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) load_stage(step, step);

  const int warp = threadIdx.x / 32;
  // First row and column of this warp in its blocks, and its first slot.
  const int row = warp / Traits::kWarpsPerRow % Traits::kWarpsPerRow * Traits::kWarpSize;
  const int column = warp % Traits::kWarpsPerRow * Traits::kWarpSize;
  const int first_slot =
      warp / (Traits::kWarpsPerRow * Traits::kWarpsPerRow) * Traits::kWarpSlots;
  Accumulator<Traits::kWarpSize, Traits::kWarpSize> accumulators[Traits::kWarpSlots];
#pragma unroll
  for (auto& accumulator : accumulators) accumulator.clear();
  int place = 0;
#pragma unroll 1
  for (int64_t step = 0; step < steps; ++step) {
    ptx::cp_async_wait<kStages - 2>();
    // Tiles of this step have arrived, and everyone has finished with those of the last one.
    __syncthreads();
    load_stage(step + kStages - 1, place == 0 ? kStages - 1 : place - 1);
    const uint32_t stage = ring + place * Traits::kStageBytes;
#pragma unroll
    for (int s = 0; s < Traits::kWarpSlots; ++s) {
      const DwSlot& slot = slots[first_slot + s];
      if (!slot.live) continue;
      multiply_tiles<typename Traits::Math, Traits::kMajor, Traits::kMajor, Tile, Tile,
                     Traits::kDepth>(accumulators[s], stage + slot.x_tile * Tile::kBytes, row,
                                     stage + (kSlots + slot.dy_tile) * Tile::kBytes, column);
    }
    place = place == kStages - 1 ? 0 : place + 1;
  }

#pragma unroll
  for (int s = 0; s < Traits::kWarpSlots; ++s) {
    const int weight_block = slots[first_slot + s].weight_block;
    if (weight_block < 0) continue;
    constexpr int64_t kBlockElements = kBlockSize * kBlockSize;
    const bool partial = params.splits > 1;
    const float scale = partial || params.gate == nullptr ? 1.0f : params.gate[weight_block];
    const int64_t block =
        ((partial ? static_cast<int64_t>(split) * params.num_blocks : 0) + weight_block) *
        kBlockElements;
    accumulators[s].for_each_pair([&](int i, int j, float first, float second) {
      const int64_t element = block + (row + i) * kBlockSize + column + j;
      if (!slots[first_slot + s].live) {
        first = second = 0.0f;
      } else {
        first *= scale;
        second *= scale;
      }
      if (partial || params.float_output) {
        float* to = partial ? params.partials : static_cast<float*>(params.dw);
        *reinterpret_cast<float2*>(to + element) = {first, second};
      } else {
        *reinterpret_cast<Pair<Element>*>(static_cast<Element*>(params.dw) + element) =
            make_pair<Element>(first, second);
      }
    });
  }
}

template <class Math, int kBlockSize>
Kernel sm80_matmul_dw_for(int feature_axis) {
  using Axis0 = Sm80MatmulDwTraits<Math, kBlockSize, 0>;
  using Axis1 = Sm80MatmulDwTraits<Math, kBlockSize, 1>;
  return {.function = feature_axis == 0
                          ? reinterpret_cast<const void*>(&sm80_matmul_dw_kernel<Axis0>)
                          : reinterpret_cast<const void*>(&sm80_matmul_dw_kernel<Axis1>),
          .threads = kThreads,
          .shared_bytes = Axis1::kSharedBytes,
          .blocks_per_cta = Axis1::kSlots,
          .depth = Axis1::kDepth};
}

// The kernel for a variant; instantiates all of them for one arithmetic mode.
template <class Math>
Kernel sm80_matmul_dw_for(int block_size, int feature_axis) {
  switch (block_size) {
    case 8: return sm80_matmul_dw_for<Math, 8>(feature_axis);
    case 16: return sm80_matmul_dw_for<Math, 16>(feature_axis);
    case 32: return sm80_matmul_dw_for<Math, 32>(feature_axis);
    case 64: return sm80_matmul_dw_for<Math, 64>(feature_axis);
    case 128: return sm80_matmul_dw_for<Math, 128>(feature_axis);
  }
  return {};
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM80_MATMUL_DW_CUH_
