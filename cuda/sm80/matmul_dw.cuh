// dw[b] = x[c]^T dy[k] for sm_80 and newer: mma.sync fed by ldmatrix from a cp.async ring.
//
// A CTA computes `slots` stored blocks over one split of the batch. Blocks with the same x (or
// dy) block as an earlier slot read that slot's tile, so with blocks sorted by either one, a CTA
// loads little more than one tile a block instead of two.
#ifndef BSPARSE_CUDA_SM80_MATMUL_DW_CUH_
#define BSPARSE_CUDA_SM80_MATMUL_DW_CUH_

#include "cuda/matmul_params.h"
#include "cuda/pipeline.cuh"
#include "cuda/sm80/policy.cuh"
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
  int weight_block;   // -1 past the last block
  int live;           // neither past the last block nor gated off
  int x_tile;         // the slot whose x tile, and whose dy tile, this one reads
  int dy_tile;
  int x_block;        // the x block, and the dy block, to load; -1: another slot loads it, or nobody
  int dy_block;       // needs it
};

// Fills in the slots of a CTA; all of its threads take part.
template <class Traits>
__device__ __forceinline__ void find_slots(DwSlot (&slots)[Traits::kSlots],
                                           const MatmulDwParams& params, int first_block) {
  const int index = threadIdx.x;
  if (index < Traits::kSlots) {
    DwSlot slot = {-1, -1, -1, 0, index, index, -1, -1};
    if (first_block + index < params.num_blocks) {
      const int32_t* block = params.blocks + 3 * static_cast<int64_t>(first_block + index);
      slot.in_block = block[0];
      slot.out_block = block[1];
      slot.weight_block = block[2];
      slot.live = params.output.scale(slot.weight_block) != 0.0f;
    }
    slots[index] = slot;
  }
  __syncthreads();
  if (index < Traits::kSlots && slots[index].live) {
    DwSlot& slot = slots[index];
    int x_tile = index, dy_tile = index;
    for (int other = index - 1; other >= 0; --other) {
      if (!slots[other].live) continue;
      if (slots[other].in_block == slot.in_block) x_tile = other;
      if (slots[other].out_block == slot.out_block) dy_tile = other;
    }
    slot.x_tile = x_tile;
    slot.dy_tile = dy_tile;
    if (x_tile == index) slot.x_block = slot.in_block;
    if (dy_tile == index) slot.dy_block = slot.out_block;
  }
  __syncthreads();
}

// Brings one operand of all slots into shared memory, each distinct block once.
template <class Traits>
struct DwLoader {
  using Element = typename Traits::Element;
  using Tile = typename Traits::Tile;
  static constexpr int kPerChunk = kChunkElements<Element>;
  // Threads work on one slot, or on several small ones at a time.
  static constexpr int kSlotThreads = Tile::kChunks < kThreads ? Tile::kChunks : kThreads;
  static constexpr int kSlotsAtOnce = kThreads / kSlotThreads;
  static constexpr int kRowStep = kSlotThreads / Tile::kRowChunks;
  static_assert(Traits::kSlots % kSlotsAtOnce == 0 && Tile::kRows % kRowStep == 0,
                "threads cover the tiles evenly");

  const Element* source;  // this thread's first element of the next stage, for block 0
  int64_t block_stride;   // elements from one block to the next
  int64_t row_stride;     // elements from one of this thread's rows to its next
  int64_t stage_stride;   // elements from one stage to the next
  int64_t left;           // rows (feature axis 1) or elements (0) from this thread's first one on
  bool aligned;

  // Begins with a stage of one pair's x or dy.
  __device__ __forceinline__ void begin(const void* tensor, int64_t features, int64_t batch,
                                        int64_t batch_begin, bool is_aligned) {
    aligned = is_aligned;
    const int row = threadIdx.x % kSlotThreads / Tile::kRowChunks;
    const int chunk = threadIdx.x % Tile::kRowChunks * kPerChunk;
    source = static_cast<const Element*>(tensor);
    if constexpr (Traits::kFeatureAxis == 1) {
      source += (batch_begin + row) * features + chunk;
      block_stride = Traits::kBlockSize;
      row_stride = kRowStep * features;
      stage_stride = Traits::kDepth * features;
      left = batch - batch_begin - row;
    } else {
      source += row * batch + batch_begin + chunk;
      block_stride = Traits::kBlockSize * batch;
      row_stride = kRowStep * batch;
      stage_stride = Traits::kDepth;
      left = batch - batch_begin - chunk;
    }
  }

  // Loads the next stage. `block_of(slot)`: DwSlot's x_block or dy_block.
  template <class BlockOf>
  __device__ __forceinline__ void load(uint32_t to, const BlockOf& block_of) {
    if (aligned) {
      each_chunk<true>(to, block_of, [](uint32_t place, const Element* from, int elements) {
        ptx::cp_async_16(place, from, elements * static_cast<int>(sizeof(Element)));
      });
    } else {
      each_chunk<false>(to, block_of, [](uint32_t place, const Element* from, int elements) {
        load_chunk_by_elements(place, from, elements);
      });
    }
    source += stage_stride;
    left -= Traits::kDepth;
  }

  // Calls copy(place, source, number of elements to copy) for each of this thread's chunks.
  template <bool kUnroll, class BlockOf, class Copy>
  __device__ __forceinline__ void each_chunk(uint32_t to, const BlockOf& block_of,
                                             const Copy& copy) const {
    const int first_slot = threadIdx.x / kSlotThreads;
    const int first_row = threadIdx.x % kSlotThreads / Tile::kRowChunks;
    const int chunk = threadIdx.x % Tile::kRowChunks;
    const int valid = static_cast<int>(max(int64_t{0}, min(left, int64_t{Traits::kDepth})));
#pragma unroll kUnroll ? Traits::kSlots : 1
    for (int s = 0; s < Traits::kSlots; s += kSlotsAtOnce) {
      const int block = block_of(first_slot + s);
      if (block < 0) continue;
      const Element* from = source + block * block_stride;
      const uint32_t tile = to + (first_slot + s) * Tile::kBytes;
#pragma unroll kUnroll ? Tile::kRows : 1
      for (int row = 0; row < Tile::kRows; row += kRowStep) {
        const int elements = Traits::kFeatureAxis == 1 ? (row < valid ? kPerChunk : 0)
                                                       : min(valid, kPerChunk);
        copy(tile + Tile::offset(first_row + row, chunk), from, elements);
        from += row_stride;
      }
    }
  }
};

// The stages of a split, one after the other, through the pairs that they belong to.
struct DwStageWalk {
  const MatmulDwParams& params;
  int64_t next, end;  // stages
  int pair = -1;
  int64_t pair_end;

  __device__ __forceinline__ DwStageWalk(const MatmulDwParams& p, int split)
      : params(p), next(p.stages.begin(split)), end(next + p.stages.size(split)), pair_end(next) {}

  // Goes on by a stage of `depth` batch entries, and is false if there is none. Calls begin(operands, batch
  // entry) where it is the first of its pair, or of the split.
  template <class Begin>
  __device__ __forceinline__ bool advance(int depth, const Begin& begin) {
    if (next >= end) return false;
    if (next == pair_end) {
      pair = pair < 0 ? params.stages.pair(next) : pair + 1;
      pair_end = params.stages.first[pair + 1];
      begin(params.pairs[pair], (next - params.stages.first[pair]) * depth);
    }
    ++next;
    return true;
  }
};

template <class Traits>
__global__ void __launch_bounds__(kThreads, 2)
    sm80_matmul_dw_kernel(const __grid_constant__ MatmulDwParams params) {
  using Element = typename Traits::Element;
  using Math = typename Traits::Math;
  using Tile = typename Traits::Tile;
  using Product = WarpProduct<Math, Traits::kMajor, Traits::kMajor, Tile, Tile, Traits::kDepth,
                              Traits::kWarpSize, Traits::kWarpSize>;
  constexpr int kSlots = Traits::kSlots;
  constexpr int kWarpSlots = Traits::kWarpSlots;
  constexpr int kBlockSize = Traits::kBlockSize;
  extern __shared__ __align__(128) char shared[];
  __shared__ DwSlot slots[kSlots];
  const uint32_t ring = ptx::shared_address(shared);

  const int first_block = blockIdx.x / params.splits * kSlots;
  const int split = blockIdx.x % params.splits;
  find_slots<Traits>(slots, params, first_block);

  const int64_t steps = params.stages.size(split);
  DwLoader<Traits> x_loader, dy_loader;
  DwStageWalk walk(params, split);  // of stages to load
  const auto load = [&](int place) {
    const auto begin = [&](const MatmulDwParams::Operands& of, int64_t batch_begin) {
      x_loader.begin(of.x, params.in_features, of.batch, batch_begin, of.x_aligned);
      dy_loader.begin(of.dy, params.out_features, of.batch, batch_begin, of.dy_aligned);
    };
    if (!walk.advance(Traits::kDepth, begin)) return;
    const uint32_t stage = ring + place * Traits::kStageBytes;
    x_loader.load(stage, [&](int slot) { return slots[slot].x_block; });
    dy_loader.load(stage + kSlots * Tile::kBytes, [&](int slot) { return slots[slot].dy_block; });
  };

  const int warp = threadIdx.x / 32;
  // First row and column of this warp in its blocks, and its first slot.
  const int row = warp / Traits::kWarpsPerRow % Traits::kWarpsPerRow * Traits::kWarpSize;
  const int column = warp % Traits::kWarpsPerRow * Traits::kWarpSize;
  const int first_slot = warp / (Traits::kWarpsPerRow * Traits::kWarpsPerRow) * kWarpSlots;
  uint32_t tile_x[kWarpSlots], tile_dy[kWarpSlots];  // in stage 0
  uint32_t live = 0;                                 // a bit a slot
#pragma unroll
  for (int s = 0; s < kWarpSlots; ++s) {
    const DwSlot& slot = slots[first_slot + s];
    tile_x[s] = ring + slot.x_tile * Tile::kBytes;
    tile_dy[s] = ring + (kSlots + slot.dy_tile) * Tile::kBytes;
    live |= slot.live << s;
  }
  Accumulator<Traits::kWarpSize, Traits::kWarpSize> accumulators[kWarpSlots];
#pragma unroll
  for (auto& accumulator : accumulators) accumulator.clear();
  if constexpr (Math::kMultiplier == Multiplier::kMma) {
    typename Product::Fragments fragments[2];
    run_pipeline<Traits::kStages, kWarpSlots * Product::kSteps>(
        steps, load,
        [&](int place, int substep) {
          const int s = substep / Product::kSteps;
          const uint32_t stage = place * Traits::kStageBytes;
          Product::load(fragments[substep % 2], tile_x[s] + stage, row, tile_dy[s] + stage, column,
                        substep % Product::kSteps);
        },
        [&](int substep) {
          const int s = substep / Product::kSteps;
          if (live >> s & 1) Product::multiply(accumulators[s], fragments[substep % 2]);
        });
  } else {
    run_simple_pipeline<Traits::kStages>(steps, load, [&](int place) {
      const uint32_t stage = place * Traits::kStageBytes;
#pragma unroll
      for (int s = 0; s < kWarpSlots; ++s) {
        if (live >> s & 1) {
          Product::multiply_tile(accumulators[s], tile_x[s] + stage, row, tile_dy[s] + stage,
                                    column);
        }
      }
    });
  }

  const bool partial = params.partials != nullptr;
#pragma unroll
  for (int s = 0; s < kWarpSlots; ++s) {
    const int weight_block = slots[first_slot + s].weight_block;
    if (weight_block < 0) continue;
    const float scale = partial ? 1.0f : params.output.scale(weight_block);
    const int64_t first_element =
        ((partial ? static_cast<int64_t>(split) * params.num_blocks : 0) + weight_block) *
        (kBlockSize * kBlockSize);
    accumulators[s].for_each_pair([&](int i, int j, float first, float second) {
      const int64_t element = first_element + (row + i) * kBlockSize + column + j;
      if (partial) {
        *reinterpret_cast<float2*>(params.partials + element) = {first, second};
      } else {
        params.output.store<Element>(element, scale, first, second);
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
