// y = x W for sm_80 and newer: mma.sync fed by ldmatrix from a cp.async ring.
//
// A CTA computes one item (an output block column, or a segment of one) for one batch tile. It
// walks the item's stored blocks; a stage of the ring holds `kDepth` terms of the sum, from one
// block or, where blocks are smaller, from several, each at its place in the x and w tiles.
#ifndef BSPARSE_CUDA_SM80_MATMUL_CUH_
#define BSPARSE_CUDA_SM80_MATMUL_CUH_

#include <type_traits>

#include "cuda/epilogue.cuh"
#include "cuda/matmul_params.h"
#include "cuda/policy.cuh"

namespace bsparse {

template <class MathT, int kBlockSizeT, int kFeatureAxisT, bool kTransposeT, bool kSmallBatchT>
struct Sm80MatmulTraits {
  using Math = MathT;
  using Element = typename Math::Element;
  static constexpr int kBlockSize = kBlockSizeT;
  static constexpr int kFeatureAxis = kFeatureAxisT;
  static constexpr bool kTranspose = kTransposeT;
  static constexpr MatmulTile kTile = matmul_tile(kBlockSize, kSmallBatchT);
  static constexpr int kBatchTile = kTile.batch_tile;
  static constexpr int kStages = kTile.stages;
  static constexpr int kDepth = kTile.depth_bytes / static_cast<int>(sizeof(Element));
  static constexpr int kWarpBatch = kBatchTile / kTile.warps_batch;
  static constexpr int kWarpOutputs = kBlockSize / kTile.warps_out;

  // Blocks a stage draws from, or stages a block fills.
  static constexpr int kStageEntries = kDepth > kBlockSize ? kDepth / kBlockSize : 1;
  static constexpr int kEntryStages = kDepth > kBlockSize ? 1 : kBlockSize / kDepth;

  static constexpr Major kMajorX = kFeatureAxis == 1 ? Major::kReduction : Major::kOutput;
  static constexpr Major kMajorW = kTranspose ? Major::kReduction : Major::kOutput;
  using TileX = OperandTile<Element, kMajorX, kBatchTile, kDepth>;
  using TileW = OperandTile<Element, kMajorW, kBlockSize, kDepth>;
  static constexpr int kStageBytes = TileX::kBytes + TileW::kBytes;

  // The entries of a stage are fetched kStages - 1 stages before its tiles are, so the ring of
  // entries is twice as long.
  static constexpr int kEntryRing = 2 * kStages;
  static constexpr int kSharedBytes =
      kStages * kStageBytes + kEntryRing * kStageEntries * static_cast<int>(sizeof(int2));

  static_assert(kTile.warps_batch * kTile.warps_out == kWarps, "every warp has a place");
  static_assert(kStageBytes * kStages == kTile.shared_bytes(kBlockSize), "policy counts bytes");
  static_assert(kStages * kStageBytes >=
                    kBatchTile * kBlockSize * static_cast<int>(sizeof(Element)),
                "the output tile is staged where the ring was");
};

// The item and batch tile of a CTA: see kItemChunk in policy.cuh for the order.
struct Sm80MatmulWork {
  uint32_t item;
  uint32_t batch_tile;

  static __device__ __forceinline__ Sm80MatmulWork of(uint32_t cta, const MatmulParams& params) {
    const uint32_t per_group = params.num_items * params.batch_group;
    const uint32_t group = cta / per_group;
    uint32_t rest = cta % per_group;
    const uint32_t first_tile = group * params.batch_group;
    const uint32_t tiles = min(params.batch_group, params.batch_tiles - first_tile);
    const uint32_t chunk = rest / (kItemChunk * tiles);
    rest -= chunk * kItemChunk * tiles;
    const uint32_t items = min(static_cast<uint32_t>(kItemChunk),
                               params.num_items - chunk * kItemChunk);
    return {chunk * kItemChunk + rest % items, first_tile + rest / items};
  }
};

// Brings x into shared memory: the tile rows of one batch tile, for any stored block.
template <class Traits>
struct XLoader {
  using Element = typename Traits::Element;
  using Tile = typename Traits::TileX;
  static constexpr int kPerChunk = kChunkElements<Element>;
  static constexpr int kRowStep = kThreads / Tile::kRowChunks;
  static_assert(kThreads % Tile::kRowChunks == 0 && Tile::kRows % kRowStep == 0,
                "threads cover the tile evenly");

  const Element* source;  // this thread's first element, for in_block 0
  int64_t features;
  int64_t batch;
  int valid;  // rows (feature axis 1) or elements (0) left from this thread's first one on
  int row;
  int chunk;
  bool aligned;

  __device__ __forceinline__ XLoader(const MatmulParams& params, int64_t batch_begin)
      : features(params.in_features),
        batch(params.batch),
        row(threadIdx.x / Tile::kRowChunks),
        chunk(threadIdx.x % Tile::kRowChunks),
        aligned(params.x_aligned) {
    const auto* x = static_cast<const Element*>(params.x);
    const int64_t first =
        batch_begin + (Traits::kFeatureAxis == 1 ? row : chunk * kPerChunk);
    const int64_t left = batch - first;
    valid = left < 0 ? 0 : left > Traits::kBatchTile ? Traits::kBatchTile : static_cast<int>(left);
    source = Traits::kFeatureAxis == 1 ? x + first * features : x + first;
  }

  // `entries`: those of the stage; `part`: which kDepth inputs of a larger block.
  __device__ __forceinline__ void load(uint32_t to, const int2* entries, int part) const {
    if constexpr (Traits::kFeatureAxis == 1) {
      const int input = chunk * kPerChunk;
      const int in_block = entries[input / Traits::kBlockSize].x;
      const Element* from = source + static_cast<int64_t>(in_block) * Traits::kBlockSize +
                            part * Traits::kDepth + input % Traits::kBlockSize;
      const int rows = in_block < 0 ? 0 : valid;
#pragma unroll
      for (int r = 0; r < Tile::kRows; r += kRowStep) {
        load_chunk(to + Tile::offset(row + r, chunk), from, r < rows ? kPerChunk : 0, aligned);
        from += kRowStep * features;
      }
    } else {
#pragma unroll
      for (int r = 0; r < Tile::kRows; r += kRowStep) {
        const int input = row + r;
        const int in_block = entries[input / Traits::kBlockSize].x;
        const Element* from = source + (static_cast<int64_t>(in_block) * Traits::kBlockSize +
                                        part * Traits::kDepth + input % Traits::kBlockSize) *
                                           batch;
        load_chunk(to + Tile::offset(input, chunk), from, in_block < 0 ? 0 : valid, aligned);
      }
    }
  }
};

// Brings kDepth terms of the stored blocks of a stage into shared memory.
template <class Traits>
struct WLoader {
  using Element = typename Traits::Element;
  using Tile = typename Traits::TileW;
  static constexpr int kPerChunk = kChunkElements<Element>;

  const Element* w;

  __device__ __forceinline__ void load(uint32_t to, const int2* entries, int part) const {
    constexpr int kBlockSize = Traits::kBlockSize;
#pragma unroll
    for (int c = threadIdx.x; c < Tile::kChunks; c += kThreads) {
      const int row = c / Tile::kRowChunks;
      const int chunk = c % Tile::kRowChunks;
      // The term of the sum that this chunk belongs to, or begins with.
      const int term = Traits::kTranspose ? chunk * kPerChunk : row;
      const int weight_block = entries[term / kBlockSize].y;
      const int inner = part * Traits::kDepth + term % kBlockSize;
      const int element = Traits::kTranspose ? row * kBlockSize + inner
                                             : inner * kBlockSize + chunk * kPerChunk;
      load_chunk(to + Tile::offset(row, chunk),
                 w + static_cast<int64_t>(weight_block) * (kBlockSize * kBlockSize) + element,
                 weight_block < 0 ? 0 : kPerChunk, true);
    }
  }
};

template <class Traits>
__global__ void __launch_bounds__(kThreads, Traits::kTile.ctas_per_sm)
    sm80_matmul_kernel(const __grid_constant__ MatmulParams params) {
  using Element = typename Traits::Element;
  constexpr int kStages = Traits::kStages;
  constexpr int kStageEntries = Traits::kStageEntries;
  extern __shared__ __align__(128) char shared[];
  const uint32_t ring = ptx::shared_address(shared);
  auto* const entry_ring = reinterpret_cast<int2*>(shared + kStages * Traits::kStageBytes);

  const auto work = Sm80MatmulWork::of(blockIdx.x, params);
  const int4 item = params.items[work.item];  // out_block, first, last, partial
  const int64_t batch_begin =
      (params.first_batch_tile + work.batch_tile) * static_cast<int64_t>(Traits::kBatchTile);
  const int num_entries = item.z - item.y;
  const int steps = Traits::kStageEntries > 1 ? (num_entries + kStageEntries - 1) / kStageEntries
                                              : num_entries * Traits::kEntryStages;

  // Entry e of a step, or a place holder that loads zeros behind the last.
  const auto fetch_entry = [&](int step, int e, bool now) {
    int2* const to = entry_ring + step % Traits::kEntryRing * kStageEntries + e;
    const int entry = kStageEntries > 1 ? step * kStageEntries + e : step / Traits::kEntryStages;
    if (entry >= num_entries) {
      *to = make_int2(-1, -1);
    } else if (now) {
      *to = params.entries[item.y + entry];
    } else {
      ptx::cp_async_8(ptx::shared_address(to), params.entries + item.y + entry);
    }
  };
  if (threadIdx.x < (kStages - 1) * kStageEntries) {
    fetch_entry(threadIdx.x / kStageEntries, threadIdx.x % kStageEntries, true);
  }
  __syncthreads();

  const XLoader<Traits> x_loader(params, batch_begin);
  const WLoader<Traits> w_loader{static_cast<const Element*>(params.w)};
  const auto load_stage = [&](int step) {
    if (step < steps) {
      const int2* entries = entry_ring + step % Traits::kEntryRing * kStageEntries;
      const uint32_t stage = ring + step % kStages * Traits::kStageBytes;
      const int part = step % Traits::kEntryStages;
      x_loader.load(stage, entries, part);
      w_loader.load(stage + Traits::TileX::kBytes, entries, part);
      if (threadIdx.x < kStageEntries) fetch_entry(step + kStages - 1, threadIdx.x, false);
    }
    ptx::cp_async_commit();
  };
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) load_stage(step);

  const int warp = threadIdx.x / 32;
  const WarpPosition position = {warp / Traits::kTile.warps_out * Traits::kWarpBatch,
                                 warp % Traits::kTile.warps_out * Traits::kWarpOutputs};
  Accumulator<Traits::kWarpBatch, Traits::kWarpOutputs> accumulator;
  accumulator.clear();
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    ptx::cp_async_wait<kStages - 2>();
    // Tiles of this step have arrived, and everyone has finished with those of the last one.
    __syncthreads();
    load_stage(step + kStages - 1);
    const uint32_t stage = ring + step % kStages * Traits::kStageBytes;
    multiply_tiles<typename Traits::Math, Traits::kMajorX, Traits::kMajorW, typename Traits::TileX,
                   typename Traits::TileW, Traits::kDepth>(
        accumulator, stage, position.batch, stage + Traits::TileX::kBytes, position.output);
  }

  const int64_t batch_end = min(params.batch, batch_begin + Traits::kBatchTile);
  const OutputTile place = {batch_begin, batch_end, params.batch, params.out_features,
                            static_cast<int64_t>(item.x) * Traits::kBlockSize};
  if (item.w >= 0) {
    store_partial<Traits::kFeatureAxis, Traits::kBlockSize>(
        accumulator, position, place,
        params.partials + item.w * (params.batch * Traits::kBlockSize));
    return;
  }
  ptx::cp_async_wait<0>();
  __syncthreads();
  store_output<Element, Traits::kFeatureAxis, Traits::kBatchTile, Traits::kBlockSize, kThreads>(
      accumulator, position, place, static_cast<const Element*>(params.bias), params.activation,
      static_cast<Element*>(params.y), params.y_aligned, shared);
}

template <class Traits>
Kernel sm80_matmul_entry() {
  return {.function = reinterpret_cast<const void*>(&sm80_matmul_kernel<Traits>),
          .threads = kThreads,
          .shared_bytes = Traits::kSharedBytes,
          .batch_tile = Traits::kBatchTile};
}

// The kernel for a variant; instantiates all of them for one arithmetic mode.
template <class Math, int kBlockSize, int kFeatureAxis, bool kTranspose>
Kernel sm80_matmul_for(bool small_batch) {
  return small_batch
             ? sm80_matmul_entry<
                   Sm80MatmulTraits<Math, kBlockSize, kFeatureAxis, kTranspose, true>>()
             : sm80_matmul_entry<
                   Sm80MatmulTraits<Math, kBlockSize, kFeatureAxis, kTranspose, false>>();
}

template <class Math, int kBlockSize>
Kernel sm80_matmul_for(const MatmulVariant& variant) {
  if (variant.feature_axis == 0) {
    return variant.transpose ? sm80_matmul_for<Math, kBlockSize, 0, true>(variant.small_batch)
                             : sm80_matmul_for<Math, kBlockSize, 0, false>(variant.small_batch);
  }
  return variant.transpose ? sm80_matmul_for<Math, kBlockSize, 1, true>(variant.small_batch)
                           : sm80_matmul_for<Math, kBlockSize, 1, false>(variant.small_batch);
}

template <class Math>
Kernel sm80_matmul_for(const MatmulVariant& variant) {
  switch (variant.block_size) {
    case 8: return sm80_matmul_for<Math, 8>(variant);
    case 16: return sm80_matmul_for<Math, 16>(variant);
    case 32: return sm80_matmul_for<Math, 32>(variant);
    case 64: return sm80_matmul_for<Math, 64>(variant);
    case 128: return sm80_matmul_for<Math, 128>(variant);
  }
  return {};
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM80_MATMUL_CUH_
