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
#include "cuda/pipeline.cuh"
#include "cuda/sm80/policy.cuh"

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
  // entries is at least twice as long. A power of two: the step's number gives the place.
  static constexpr int kEntryRing = kStages <= 2 ? 4 : kStages <= 4 ? 8 : 16;
  static constexpr int kSharedBytes =
      kStages * kStageBytes + kEntryRing * kStageEntries * static_cast<int>(sizeof(int2));

  static_assert(kTile.warps_batch * kTile.warps_out == kWarps, "every warp has a place");
  static_assert(kStageBytes * kStages == kTile.shared_bytes(kBlockSize), "policy counts bytes");
  static_assert(kStages * kStageBytes >=
                    kBatchTile * kBlockSize * static_cast<int>(sizeof(Element)),
                "the output tile is staged where the ring was");
};

// Brings x into shared memory: the tile rows of one batch tile, for any stored block.
template <class Traits>
struct XLoader {
  using Element = typename Traits::Element;
  using Tile = typename Traits::TileX;
  using Share = ChunkShare<Tile, kThreads>;
  static constexpr int kBlockSize = Traits::kBlockSize;
  static constexpr int kPerChunk = kChunkElements<Element>;
  static_assert(Share::kEven, "threads cover the x tile evenly");

  // This thread's first element, at input feature `feature`. It walks from stage to stage by
  // differences: computed afresh from thread index and parameters it would be, by the compiler, in
  // every stage, and take some forty instructions.
  const Element* source;
  int feature = 0;
  int64_t feature_stride;  // elements from one feature to the next
  int64_t row_stride;      // elements from one of this thread's rows to its next
  int left;                // batch entries of the tile
  bool aligned;

  __device__ __forceinline__ XLoader(const MatmulParams& params, int64_t batch_begin)
      : feature_stride(Traits::kFeatureAxis == 1 ? 1 : params.batch),
        left(static_cast<int>(min(params.batch - batch_begin, int64_t{Traits::kBatchTile}))),
        aligned(params.x_aligned) {
    const auto* x = static_cast<const Element*>(params.x);
    const int chunk = Share::chunk() * kPerChunk;
    if constexpr (Traits::kFeatureAxis == 1) {
      source = x + (batch_begin + Share::row()) * params.in_features + chunk % kBlockSize;
      row_stride = Share::kRowStep * params.in_features;
    } else {
      source = x + Share::row() % kBlockSize * params.batch + batch_begin + chunk;
      row_stride = Share::kRowStep * params.batch;
    }
  }

  // `entries`: those of the stage; `part`: which kDepth inputs of a larger block.
  __device__ __forceinline__ void load(uint32_t to, const int2* entries, int part) {
    constexpr bool kOneBlock = Traits::kFeatureAxis == 1 || Traits::kStageEntries == 1;
    if constexpr (kOneBlock) {
      const int in_block =
          entries[Traits::kStageEntries > 1 ? Share::chunk() * kPerChunk / kBlockSize : 0].x;
      const int next = in_block * kBlockSize + part * Traits::kDepth;
      source += (next - feature) * feature_stride;
      feature = next;
    }
    if (aligned) {
      each_chunk<true>(to, entries, [](uint32_t place, const Element* from, int elements) {
        ptx::cp_async_16(place, from,
                         max(min(elements, kPerChunk), 0) * static_cast<int>(sizeof(Element)));
      });
    } else {
      each_chunk<false>(to, entries, [](uint32_t place, const Element* from, int elements) {
        load_chunk_by_elements(place, from, elements);
      });
    }
  }

  // Calls copy(place, source, number of elements to copy) for each of this thread's chunks.
  template <bool kUnroll, class Copy>
  __device__ __forceinline__ void each_chunk(uint32_t to, const int2* entries,
                                             const Copy& copy) const {
    constexpr int kUnrolled = kUnroll ? Share::kRowsPerThread : 1;
    const int row = Share::row();
    if constexpr (Traits::kFeatureAxis == 1) {
      const bool present = Traits::kStageEntries == 1 || feature >= 0;
      const int valid = present ? left - row : 0;
      const Element* from = source;
#pragma unroll kUnrolled
      for (int r = 0; r < Share::kRowsPerThread; ++r) {
        const int ahead = r * Share::kRowStep;
        copy(to + Tile::offset(row + ahead, Share::chunk()), from, ahead < valid ? kPerChunk : 0);
        from += row_stride;
      }
    } else if constexpr (Traits::kStageEntries == 1) {
      const Element* from = source;
#pragma unroll kUnrolled
      for (int r = 0; r < Share::kRowsPerThread; ++r) {
        copy(to + Tile::offset(row + r * Share::kRowStep, Share::chunk()), from,
             left - Share::chunk() * kPerChunk);
        from += row_stride;
      }
    } else {
      // A thread's rows lie kRowStep apart: in one block, or at the same place in several.
      static_assert(kBlockSize % Share::kRowStep == 0 || Share::kRowStep % kBlockSize == 0,
                    "rows keep their place in a block");
#pragma unroll kUnrolled
      for (int r = 0; r < Share::kRowsPerThread; ++r) {
        const int ahead = r * Share::kRowStep;
        const int in_block = entries[(row + ahead) / kBlockSize].x;
        const Element* from = source + in_block * (kBlockSize * feature_stride) +
                              ahead % kBlockSize / Share::kRowStep * row_stride;
        copy(to + Tile::offset(row + ahead, Share::chunk()), from,
             in_block < 0 ? 0 : left - Share::chunk() * kPerChunk);
      }
    }
  }
};

// Brings kDepth terms of the stored blocks of a stage into shared memory.
template <class Traits>
struct WLoader {
  using Element = typename Traits::Element;
  using Tile = typename Traits::TileW;
  using Share = ChunkShare<Tile, kThreads>;
  static constexpr int kPerChunk = kChunkElements<Element>;
  static constexpr int kBlockSize = Traits::kBlockSize;

  const Element* source;  // this thread's first element, of weight block 0

  __device__ __forceinline__ explicit WLoader(const void* w)
      : source(static_cast<const Element*>(w) + Share::row() % kBlockSize * kBlockSize +
               Share::chunk() * kPerChunk % kBlockSize) {}

  __device__ __forceinline__ void load(uint32_t to, const int2* entries, int part) const {
    const int row = Share::row();
    const Element* first = source + part * Traits::kDepth * (Traits::kTranspose ? 1 : kBlockSize);
    const auto block_of = [&](int ahead) {
      const int term = Traits::kTranspose ? Share::chunk() * kPerChunk : row + ahead;
      return entries[min(term / kBlockSize, Traits::kStageEntries - 1)].y;
    };
    int block = block_of(0);
#pragma unroll
    for (int r = 0; r < Share::kRowsPerThread; ++r) {
      if (!Share::has(r)) continue;
      const int ahead = r * Share::kRowStep;
      // Terms of several blocks lie below each other, unless w is used transposed.
      if (r > 0 && Traits::kStageEntries > 1 && !Traits::kTranspose) block = block_of(ahead);
      const Element* from = first + static_cast<int64_t>(block) * (kBlockSize * kBlockSize) +
                            ahead % kBlockSize * kBlockSize;
      const bool present = Traits::kStageEntries == 1 || block >= 0;
      ptx::cp_async_16(to + Tile::offset(row + ahead, Share::chunk()), from,
                       present ? kChunkBytes : 0);
    }
  }
};

template <class Traits>
__global__ void __launch_bounds__(kThreads, Traits::kTile.ctas_per_sm)
    sm80_matmul_kernel(const __grid_constant__ MatmulParams params) {
  using Element = typename Traits::Element;
  using Math = typename Traits::Math;
  using Product = WarpProduct<Math, Traits::kMajorX, Traits::kMajorW, typename Traits::TileX,
                              typename Traits::TileW, Traits::kDepth, Traits::kWarpBatch,
                              Traits::kWarpOutputs>;
  constexpr int kStages = Traits::kStages;
  constexpr int kStageEntries = Traits::kStageEntries;
  extern __shared__ __align__(128) char shared[];
  const uint32_t ring = ptx::shared_address(shared);
  auto* const entry_ring = reinterpret_cast<int2*>(shared + kStages * Traits::kStageBytes);

  const TilePlace work = params.raster.place(blockIdx.x);
  const int4 item = params.items[work.item];  // out_block, first, end of entries, partial
  const int64_t batch_begin =
      (params.first_batch_tile + work.batch_tile) * static_cast<int64_t>(Traits::kBatchTile);
  const int num_entries = item.z - item.y;
  const int steps = kStageEntries > 1 ? (num_entries + kStageEntries - 1) / kStageEntries
                                      : num_entries * Traits::kEntryStages;

  // Entry e of a step, or behind the last a place holder that loads zeros.
  const auto fetch_entry = [&](int2* to, unsigned step, int e, bool now) {
    const int entry = kStageEntries > 1 ? step * kStageEntries + e
                                        : step / static_cast<unsigned>(Traits::kEntryStages);
    if (entry >= num_entries) {
      *to = make_int2(-1, -1);
    } else if (now) {
      *to = params.entries[item.y + entry];
    } else {
      ptx::cp_async_8(ptx::shared_address(to), params.entries + item.y + entry);
    }
  };
  if (threadIdx.x < (kStages - 1) * kStageEntries) {
    fetch_entry(entry_ring + threadIdx.x, threadIdx.x / kStageEntries,
                threadIdx.x % kStageEntries, true);
  }
  __syncthreads();

  XLoader<Traits> x_loader(params, batch_begin);
  WLoader<Traits> w_loader(params.w);
  const auto entries_of = [&](int step) {
    return entry_ring + (step & (Traits::kEntryRing - 1)) * kStageEntries;
  };
  int next = 0;  // step to load
  const auto load = [&](int place) {
    if (next >= steps) return;
    const uint32_t stage = ring + place * Traits::kStageBytes;
    const int part = next & (Traits::kEntryStages - 1);  // a power of two
    const int2* const now = entries_of(next);
    x_loader.load(stage, now, part);
    w_loader.load(stage + Traits::TileX::kBytes, now, part);
    if (threadIdx.x < kStageEntries) {
      const int later = next + kStages - 1;
      fetch_entry(entries_of(later) + threadIdx.x, later, threadIdx.x, false);
    }
    ++next;
  };

  const int warp = threadIdx.x / 32;
  const WarpPosition position = {warp / Traits::kTile.warps_out * Traits::kWarpBatch,
                                 warp % Traits::kTile.warps_out * Traits::kWarpOutputs};
  Accumulator<Traits::kWarpBatch, Traits::kWarpOutputs> accumulator;
  accumulator.clear();
  const auto tile_x = [&](int place) { return ring + place * Traits::kStageBytes; };
  const auto tile_w = [&](int place) { return tile_x(place) + Traits::TileX::kBytes; };
  if constexpr (Math::kMultiplier == Multiplier::kMma) {
    typename Product::Fragments fragments[2];
    run_pipeline<kStages, Product::kSteps>(
        steps, load,
        [&](int place, int step) {
          Product::load(fragments[step % 2], tile_x(place), position.batch, tile_w(place),
                        position.output, step);
        },
        [&](int step) { Product::multiply(accumulator, fragments[step % 2]); });
  } else {
    run_simple_pipeline<kStages>(steps, load, [&](int place) {
      Product::multiply_tile(accumulator, tile_x(place), position.batch, tile_w(place),
                                position.output);
    });
  }

  // Found again: registers are too few to keep it through the main loop.
  const TilePlace done_work = params.raster.place(ptx::kept(blockIdx.x));
  const int4 done = params.items[done_work.item];
  const int64_t first =
      (params.first_batch_tile + done_work.batch_tile) * static_cast<int64_t>(Traits::kBatchTile);
  const OutputTile place = {first, min(params.batch, first + Traits::kBatchTile), params.batch,
                            params.out_features,
                            static_cast<int64_t>(done.x) * Traits::kBlockSize};
  if (done.w >= 0) {
    store_partial<Traits::kFeatureAxis, Traits::kBlockSize>(
        accumulator, position, place,
        params.partials + done.w * (params.batch * Traits::kBlockSize));
    return;
  }
  store_output<Element, Traits::kFeatureAxis, Traits::kBatchTile, Traits::kBlockSize, kThreads>(
      accumulator, position, place,
      {static_cast<const Element*>(params.bias), params.activation,
       static_cast<const Element*>(params.residual), params.residual_aligned},
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
Kernel sm80_matmul_for(bsparse_kernel family) {
  // Small products are where cuBLAS's sums in TF32 err as little as those in float32.
  using Small = std::conditional_t<std::is_same_v<Math, Tf32>, Tf32AddedOutside, Math>;
  if (family == BSPARSE_SM80_SMALL) {
    return sm80_matmul_entry<
        Sm80MatmulTraits<Small, kBlockSize, kFeatureAxis, kTranspose, true>>();
  }
  if constexpr (Math::kMultiplier == Multiplier::kFma) {
    return {};  // exact_matmul.cu
  } else {
    return sm80_matmul_entry<
        Sm80MatmulTraits<Math, kBlockSize, kFeatureAxis, kTranspose, false>>();
  }
}

template <class Math, int kBlockSize>
Kernel sm80_matmul_for(const MatmulVariant& variant) {
  if (variant.feature_axis == 0) {
    return variant.transpose ? sm80_matmul_for<Math, kBlockSize, 0, true>(variant.family)
                             : sm80_matmul_for<Math, kBlockSize, 0, false>(variant.family);
  }
  return variant.transpose ? sm80_matmul_for<Math, kBlockSize, 1, true>(variant.family)
                           : sm80_matmul_for<Math, kBlockSize, 1, false>(variant.family);
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
