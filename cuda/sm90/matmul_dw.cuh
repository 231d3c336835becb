// dw = x^T dy for Hopper: warpgroup products fed by bulk tensor copies.
//
// An item is an output block column and a handful of its stored blocks. A CTA walks the batch: a stage
// holds kDepth batch entries of the column's dy, loaded once, and of the x of every block. Inputs lie
// along the M of the warpgroup product, blocks below each other, and the column's outputs along
// N; nothing is multiplied that is not stored. In TF32 with features last x and dy have to be turned
// round (dw_of_registers.cuh).
#ifndef BSPARSE_CUDA_SM90_MATMUL_DW_CUH_
#define BSPARSE_CUDA_SM90_MATMUL_DW_CUH_

#include "cuda/dtype.cuh"
#include "cuda/early_launch.cuh"
#include "cuda/matmul_params.h"
#include "cuda/sm90/dw_of_registers.cuh"
#include "cuda/sm90/policy.cuh"
#include "cuda/sm90/ptx.cuh"
#include "cuda/sm90/ring.cuh"

namespace bsparse {

template <class MathT, int kBlockSizeT, int kFeatureAxisT>
struct Sm90MatmulDwTraits {
  using Math = MathT;
  using Element = typename Math::Element;
  static constexpr int kBlockSize = kBlockSizeT;
  static constexpr int kFeatureAxis = kFeatureAxisT;
  static constexpr int kSize = sizeof(Element);
  static constexpr bool kOfRegisters = kSize == 4 && kFeatureAxis == 1;  // x is, and dy is turned round
  static constexpr int kDepth = line_elements(kSize);  // batch entries of a stage

  // Tiles of 64 inputs that a warpgroup computes.
  static constexpr int kTiles = dw_item_blocks(kBlockSize) * kBlockSize / 64 / kConsumers;
  static constexpr int kBlocks = dw_item_blocks(kBlockSize);  // of an item, at most
  static constexpr int kTileBytes = 64 * kDepth * kSize;

  // Copied boxes hold kRows features.
  static constexpr int kRows = dw_column_box_features(kBlockSize, kSize, kFeatureAxis);
  static constexpr int kRowBytes = kSize * kRows;
  static constexpr int kBoxBytes = kRows * kDepth * kSize;
  static constexpr int kBlockBoxes = kBlockSize / kRows;
  static constexpr int kStageBytesDy = kBlockSize * kDepth * kSize;
  static_assert(dw_column_stages(kBlockSize, kBlocks) >= 3, "a ring of a sensible length");

  // Axis 1: features run along the rows of shared memory, across the sum; axis 0: the batch does. So it does in
  // dy once that is turned round.
  static constexpr int kTransposed = kFeatureAxis == 1 && !kOfRegisters ? 1 : 0;
  static constexpr uint64_t kLayout =
      kTransposed ? ptx::operand_layout(ptx::swizzle_of(kRowBytes), kBoxBytes, 8 * kRowBytes)
                  : ptx::operand_layout(ptx::Swizzle::k128Bytes, 16, 1024);
  static constexpr int kStepEntries = 32 / kSize;  // batch entries of a product
  static constexpr int kStep = kTransposed ? kStepEntries * kRowBytes : 32;

  static constexpr int kTurners = !kOfRegisters ? 0 : kBlockBoxes < kDwTurners ? kBlockBoxes : kDwTurners;  // warps
  static constexpr int kThreads = kUnionThreads + (kOfRegisters ? 32 * kDwTurners : 0);
  static constexpr int kTurnerRegisters = 56, kProducerRegisters = 40;
  static constexpr int kConsumerRegisters = kOfRegisters ? 208 : 232;
  static_assert(!kOfRegisters || (kRowBytes == kTurnedRowBytes && kBoxBytes == kTurnedBoxBytes &&
                                  kTileBytes == DwInputs::kTileBytes && kStepEntries == DwInputs::kStepEntries),
                "boxes as dw_of_registers.cuh takes them");
};

// Where the stages and their barriers are: a stage is dy and behind it the x of as many blocks as the
// plan's largest item has.
struct DwShared {
  uint32_t barriers, ring;
  uint32_t stage_bytes, dy_bytes;
  __device__ __forceinline__ uint32_t dy(int stage) const { return ring + stage * stage_bytes; }
  __device__ __forceinline__ uint32_t x(int stage) const { return dy(stage) + dy_bytes; }
  __device__ __forceinline__ uint32_t full(int stage) const { return barriers + 8 * stage; }
  __device__ __forceinline__ uint32_t empty(int stage) const {
    return full(kMaxDwColumnStages) + 8 * stage;
  }
  __device__ __forceinline__ uint32_t turned(int stage) const {
    return empty(kMaxDwColumnStages) + 8 * stage;
  }
};

// The part of dw that a CTA computes next: an item, for a range of the batch.
struct DwTile {
  int4 item;  // out_block, first, end of blocks, unused
  uint32_t split;
  int stages;

  __device__ __forceinline__ DwTile(const UnionMatmulDwParams& params, uint32_t tile)
      : item(params.items[tile % params.num_items]),
        split(tile / params.num_items),
        stages(static_cast<int>(params.stages.size(split))) {}
};

template <class Traits>
__device__ __forceinline__ void copy_features(uint32_t to, const CUtensorMap* from, int feature,
                                              int batch, uint32_t barrier) {
  if constexpr (Traits::kFeatureAxis == 1) {
    ptx::copy_box_to_shared(to, from, feature, batch, barrier);
  } else {
    ptx::copy_box_to_shared(to, from, batch, feature, barrier);
  }
}

// Every producer warp copies its share of the boxes of x, the first also dy.
template <class Traits>
__device__ __forceinline__ void produce_dw(const UnionMatmulDwParams& params,
                                           const DwShared& shared, int producer) {
  const int lane = threadIdx.x % 32;
  const int box = lane * kProducers + producer;
  StageCursor cursor(params.ring_stages);
  for (uint32_t tile = blockIdx.x; tile < params.num_tiles; tile += gridDim.x) {
    const DwTile work(params, tile);
    const int boxes = (work.item.z - work.item.y) * Traits::kBlockBoxes;
    const bool copies = box < boxes;
    int feature = 0;
    if (copies) {
      const int block = work.item.y + box / Traits::kBlockBoxes;
      feature = params.blocks[3 * static_cast<int64_t>(block)] * Traits::kBlockSize +
                box % Traits::kBlockBoxes * Traits::kRows;
    }
    const int dy_feature = work.item.x * Traits::kBlockSize;
    const auto first = static_cast<int>(params.stages.begin(work.split));
    int pair = work.stages > 0 ? params.stages.pair(first) : 0;
    int pair_end = static_cast<int>(params.stages.first[pair + 1]);
    int batch = (first - static_cast<int>(params.stages.first[pair])) * Traits::kDepth;
#pragma unroll 1
    for (int s = 0; s < work.stages; ++s) {
      const int stage = cursor.stage;
      const uint32_t full = shared.full(stage);
      if (first + s == pair_end) {
        ++pair;
        pair_end = static_cast<int>(params.stages.first[pair + 1]);
        batch = 0;
      }
      ptx::barrier_wait(shared.empty(stage), cursor.parity ^ 1);
      if (producer == 0 && lane == 0) {
        ptx::barrier_arrive_expect(full, boxes * Traits::kBoxBytes + Traits::kStageBytesDy);
#pragma unroll
        for (int b = 0; b < Traits::kBlockBoxes; ++b) {
          copy_features<Traits>(shared.dy(stage) + b * Traits::kBoxBytes, &params.dy[pair],
                                dy_feature + b * Traits::kRows, batch, full);
        }
      }
      if (copies) {
        copy_features<Traits>(shared.x(stage) + box * Traits::kBoxBytes, &params.x[pair], feature,
                              batch, full);
      }
      batch += Traits::kDepth;
      __syncwarp();
      if (producer > 0 && lane == 0) ptx::barrier_arrive(full);
      cursor.advance();
    }
  }
}

// A warp that turns its share of dy round.
template <class Traits>
__device__ __forceinline__ void turn_dw(const UnionMatmulDwParams& params, const DwShared& shared,
                                        int turner) {
  if (turner >= Traits::kTurners) return;
  StageCursor cursor(params.ring_stages);
  for (uint32_t tile = blockIdx.x; tile < params.num_tiles; tile += gridDim.x) {
    const int stages = DwTile(params, tile).stages;
#pragma unroll 1
    for (int s = 0; s < stages; ++s) {
      ptx::barrier_wait(shared.full(cursor.stage), cursor.parity);
#pragma unroll 1
      for (int box = turner; box < Traits::kBlockBoxes; box += Traits::kTurners) {
        turn_box(shared.dy(cursor.stage) + box * Traits::kBoxBytes);
      }
      ptx::fence_async_proxy();
      __syncwarp();
      if (threadIdx.x % 32 == 0) ptx::barrier_arrive(shared.turned(cursor.stage));
      cursor.advance();
    }
  }
}

// Stores one tile of 64 inputs: thread t holds, at 4 * j + 2 * h + i, input
// 16 * warp + lane / 4 + 8 * h and output 8 * j + 2 * (lane % 4) + i.
template <class Traits>
__device__ __forceinline__ void store_dw(const UnionMatmulDwParams& params, const DwTile& work,
                                         int first_input,
                                         const float (&sums)[Traits::kBlockSize / 2]) {
  using Element = typename Traits::Element;
  constexpr int kBlockSize = Traits::kBlockSize;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int input = first_input + threadIdx.x % 128 / 32 * 16 + lane / 4 + 8 * h;
    const int block = work.item.y + input / kBlockSize;
    if (block >= work.item.z) continue;
    const int64_t weight = params.blocks[3 * static_cast<int64_t>(block) + 2];
    const int64_t place = (weight * kBlockSize + input % kBlockSize) * kBlockSize + 2 * (lane % 4);
    const int64_t elements = int64_t{params.num_blocks} * kBlockSize * kBlockSize;
    const float scale = params.partials != nullptr ? 1.0f : params.output.scale(weight);
    if (params.partials != nullptr) {
      float* const to = params.partials + work.split * elements + place;
#pragma unroll
      for (int j = 0; j < kBlockSize / 8; ++j) {
        *reinterpret_cast<float2*>(to + 8 * j) = {sums[4 * j + 2 * h], sums[4 * j + 2 * h + 1]};
      }
      continue;
    }
#pragma unroll
    for (int j = 0; j < kBlockSize / 8; ++j) {
      params.output.store<Element>(place + 8 * j, scale, sums[4 * j + 2 * h],
                                   sums[4 * j + 2 * h + 1]);
    }
  }
}

// The products of all stages of an item and range, of a warpgroup's kCount tiles from `first_tile` on.
template <class Traits, int kCount>
__device__ __forceinline__ void multiply_stages(const DwShared& shared, int stages, int first_tile,
                                                StageCursor& cursor,
                                                float (&sums)[kCount][Traits::kBlockSize / 2]) {
  using Element = typename Traits::Element;
  const auto release = [&](int stage) {
    if (threadIdx.x % 128 == 0) ptx::barrier_arrive(shared.empty(stage));
  };
  int pending = -1;  // stage whose products are still under way
  for (int s = 0; s < stages; ++s) {
    const int stage = cursor.stage;
    ptx::barrier_wait(shared.full(stage), cursor.parity);
    cursor.advance();
    ptx::wgmma_fence();
    const uint64_t a =
        ptx::operand(Traits::kLayout, shared.x(stage) + first_tile * Traits::kTileBytes);
    const uint64_t b = ptx::operand(Traits::kLayout, shared.dy(stage));
#pragma unroll
    for (int k = 0; k < Traits::kDepth / Traits::kStepEntries; ++k) {
#pragma unroll
      for (int t = 0; t < kCount; ++t) {
        ptx::wgmma<Element, Traits::kBlockSize, Traits::kTransposed, Traits::kTransposed>(
            sums[t], a + (t * Traits::kTileBytes + k * Traits::kStep >> 4),
            b + (k * Traits::kStep >> 4));
      }
    }
    ptx::wgmma_commit();
    ptx::wgmma_wait<1>();
    if (pending >= 0) release(pending);
    pending = stage;
  }
#pragma unroll
  for (int t = 0; t < kCount; ++t) ptx::wgmma_wait_for(sums[t]);
  if (pending >= 0) release(pending);
}

// The same with x out of registers. None are under way where a stage begins, or the compiler would serialise all; the
// other warpgroup's fill the gap.
template <class Traits, int kCount>
__device__ __forceinline__ void multiply_stages_of_registers(
    const DwShared& shared, int stages, int first_tile, StageCursor& cursor,
    float (&sums)[kCount][Traits::kBlockSize / 2]) {
  using Element = typename Traits::Element;
  const DwInputs reader;
  uint32_t inputs[2][kCount][4];
  for (int s = 0; s < stages; ++s) {
    const int stage = cursor.stage;
    ptx::barrier_wait(shared.full(stage), cursor.parity);
    const uint32_t x = shared.x(stage) + first_tile * Traits::kTileBytes;
    const uint64_t b = ptx::operand(Traits::kLayout, shared.dy(stage));
#pragma unroll
    for (int k = 0; k < Traits::kDepth / Traits::kStepEntries; ++k) {
      if (k >= 2) ptx::wgmma_wait<1>();  // those that had these registers
      reader.read(x, k, inputs[k % 2]);
      if (k == 0) ptx::barrier_wait(shared.turned(stage), cursor.parity);
      ptx::wgmma_fence();
#pragma unroll
      for (int t = 0; t < kCount; ++t) {
        ptx::wgmma_of_registers<Element, Traits::kBlockSize, 0>(sums[t], inputs[k % 2][t],
                                                                b + (k * Traits::kStep >> 4));
      }
      ptx::wgmma_commit();
    }
#pragma unroll
    for (int t = 0; t < kCount; ++t) ptx::wgmma_wait_for(sums[t]);
    if (threadIdx.x % 128 == 0) ptx::barrier_arrive(shared.empty(stage));
    cursor.advance();
  }
}

// An item and range, for a warpgroup with kCount tiles from `first_tile` on.
template <class Traits, int kCount>
__device__ __forceinline__ void multiply_dw(const UnionMatmulDwParams& params,
                                            const DwShared& shared, const DwTile& work,
                                            int first_tile,
                                            StageCursor& cursor) {
  float sums[kCount][Traits::kBlockSize / 2];
#pragma unroll
  for (int t = 0; t < kCount; ++t) {
#pragma unroll
    for (int i = 0; i < Traits::kBlockSize / 2; ++i) sums[t][i] = 0.0f;
  }
  if constexpr (Traits::kOfRegisters) {
    multiply_stages_of_registers<Traits, kCount>(shared, work.stages, first_tile, cursor, sums);
  } else {
    multiply_stages<Traits, kCount>(shared, work.stages, first_tile, cursor, sums);
  }
#pragma unroll
  for (int t = 0; t < kCount; ++t) {
    store_dw<Traits>(params, work, 64 * (first_tile + t), sums[t]);
  }
}

template <class Traits>
__device__ __forceinline__ void consume_dw(const UnionMatmulDwParams& params,
                                           const DwShared& shared, int group) {
  StageCursor cursor(params.ring_stages);
  for (uint32_t tile = blockIdx.x; tile < params.num_tiles; tile += gridDim.x) {
    const DwTile work(params, tile);
    const int inputs = (work.item.z - work.item.y) * Traits::kBlockSize;
    const int tiles = (inputs + 63) / 64;
    // The first group takes the larger half.
    const int half = (tiles + 1) / 2;
    const int first = group * half;
    const int count = __shfl_sync(~0u, min(half, tiles - first), 0);
    switch (count) {
      case 1: multiply_dw<Traits, 1>(params, shared, work, first, cursor); break;
      case 2: multiply_dw<Traits, 2>(params, shared, work, first, cursor); break;
      case 3:
        if constexpr (Traits::kTiles >= 3) {
          multiply_dw<Traits, 3>(params, shared, work, first, cursor);
        }
        break;
      case 4:
        if constexpr (Traits::kTiles >= 4) {
          multiply_dw<Traits, 4>(params, shared, work, first, cursor);
        }
        break;
      default:  // nothing for this group: the stages pass by
        for (int s = 0; s < work.stages; ++s) {
          ptx::barrier_wait(shared.full(cursor.stage), cursor.parity);
          ptx::named_barrier(1 + group, 128);
          if (threadIdx.x % 128 == 0) ptx::barrier_arrive(shared.empty(cursor.stage));
          cursor.advance();
        }
    }
  }
}

template <class Traits>
__global__ void __launch_bounds__(Traits::kThreads, 1)
    sm90_matmul_dw_kernel(const __grid_constant__ UnionMatmulDwParams params) {
  extern __shared__ char raw[];
  const uint32_t barriers = (ptx::shared_address(raw) + 1023) & ~1023u;
  const DwShared shared = {barriers, barriers + 1024, params.stage_bytes, Traits::kStageBytesDy};
  if (threadIdx.x < static_cast<unsigned>(params.num_pairs)) {
    ptx::prefetch_tensor_map(&params.x[threadIdx.x]);
    ptx::prefetch_tensor_map(&params.dy[threadIdx.x]);
  }
  if (threadIdx.x == 0) {
#pragma unroll 1
    for (int stage = 0; stage < params.ring_stages; ++stage) {
      ptx::barrier_init(shared.full(stage), kProducers);
      ptx::barrier_init(shared.empty(stage), kConsumers);
      if (Traits::kOfRegisters) ptx::barrier_init(shared.turned(stage), Traits::kTurners);
    }
    ptx::barrier_init_fence();
  }
  __syncthreads();
  follow_kernel_before();
  const int warpgroup = threadIdx.x / 128;
  if (warpgroup < kConsumers) {
    ptx::take_registers<Traits::kConsumerRegisters>();
    consume_dw<Traits>(params, shared, warpgroup);
  } else if (warpgroup == kConsumers) {
    ptx::give_registers<Traits::kProducerRegisters>();
    produce_dw<Traits>(params, shared, static_cast<int>(threadIdx.x) / 32 - 4 * kConsumers);
  } else if constexpr (Traits::kOfRegisters) {
    ptx::give_registers<Traits::kTurnerRegisters>();
    turn_dw<Traits>(params, shared, static_cast<int>(threadIdx.x) / 32 - 4 * kConsumers - kProducers);
  }
}

template <class Traits>
Kernel sm90_matmul_dw_entry() {
  return {.function = reinterpret_cast<const void*>(&sm90_matmul_dw_kernel<Traits>),
          .threads = Traits::kThreads,
          .shared_bytes = kMaxSharedBytes,
          .columns = Traits::kBlocks,
          .depth = Traits::kDepth,
          .starts_early = true};
}

template <class Math, int kBlockSize>
Kernel sm90_matmul_dw_for(int feature_axis) {
  if (feature_axis == 0) return sm90_matmul_dw_entry<Sm90MatmulDwTraits<Math, kBlockSize, 0>>();
  // Rows of 32 bytes, all that a block of 16 has with features last in 16 bit, take the copy engine as long as
  // rows of 128; in TF32 boxes that are turned round have 32 features.
  if constexpr (kBlockSize == 16) {
    return {};
  } else {
    return sm90_matmul_dw_entry<Sm90MatmulDwTraits<Math, kBlockSize, 1>>();
  }
}

template <class Math>
Kernel sm90_matmul_dw_for(int block_size, int feature_axis) {
  switch (block_size) {
    case 16: return sm90_matmul_dw_for<Math, 16>(feature_axis);
    case 32: return sm90_matmul_dw_for<Math, 32>(feature_axis);
    case 64: return sm90_matmul_dw_for<Math, 64>(feature_axis);
    case 128: return sm90_matmul_dw_for<Math, 128>(feature_axis);
  }
  return {};
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_MATMUL_DW_CUH_
