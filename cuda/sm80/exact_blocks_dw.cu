// dw[b] = x[c]^T dy[k] in exact float32, by fused multiply-adds, for blocks of 32 to 128: a CTA computes a block, or
// a cell of 64 by 64 of one of 128, out of shared memory.
//
// A thread computes 8 inputs by 8 outputs. As these tiles are fewer than threads, groups of threads that have all of
// them take the steps of the sum in turn, and at the end they add up. Operands come by cp.async in the order that they
// have in memory: with features first a thread reads four batch entries of a feature at once, with features last four
// features of a batch entry. What limits is the instructions beside the multiplications, so stages are deep.
#include <algorithm>

#include "cuda/matmul_params.h"
#include "cuda/pipeline.cuh"
#include "cuda/sm80/exact_sums.cuh"
#include "cuda/sm80/matmul_dw.cuh"

namespace bsparse {
namespace {

template <int kBlockSizeT, int kFeatureAxisT>
struct ExactBlocksTraits {
  using Element = float;
  static constexpr int kBlockSize = kBlockSizeT;
  static constexpr int kFeatureAxis = kFeatureAxisT;
  static constexpr int kSlots = 1;  // for DwLoader
  static constexpr int kCell = std::min(kBlockSize, 64);
  static constexpr int kCellsAcross = kBlockSize / kCell;
  static constexpr int kTiles = kCell / 8;  // of a thread, along a cell
  static constexpr int kGroups = kThreads / (kTiles * kTiles);
  static constexpr int kDepth = 2048 / kCell;  // 8 KB of x
  static constexpr int kStages = 2;  // leave room for three CTAs on an SM
  static constexpr int kChain = 256 * kGroups;  // batch entries after which sums are added to others
  static_assert(kChain % kDepth == 0);

  static constexpr Major kMajor = kFeatureAxis == 1 ? Major::kOutput : Major::kReduction;
  using Tile = OperandTile<float, kMajor, kCell, kDepth>;
  static constexpr int kStageBytes = 2 * Tile::kBytes;
  static constexpr int kSumsBytes = kThreads / 32 * ExactSumStore::kBytes;
  static_assert(kSumsBytes == kGroups * kCell * kCell * 4);
  static constexpr int kSharedBytes = kSumsBytes + kStages * kStageBytes;
};

// Which of a cell's tiles a thread has, and in which group. Lanes are laid out so that of each 16 those side by side, or
// two apart, read the same: shared memory then takes two turns for a load of 16 bytes a lane, not four.
template <class Traits>
struct ExactThread {
  int group, row, column;

  __device__ __forceinline__ ExactThread() {
    constexpr int kTiles = Traits::kTiles;
    const int place = threadIdx.x % (kTiles * kTiles);
    group = threadIdx.x / (kTiles * kTiles);
    column = place / 2 % kTiles;
    row = place % 2 + 2 * (place / 2 / kTiles);
  }

  // The i-th of the features of a tile at `place`.
  static __device__ __forceinline__ int feature(int place, int i) {
    return Traits::kFeatureAxis == 0 ? place + Traits::kTiles * i
                                     : 4 * (place + Traits::kTiles * (i / 4)) + i % 4;
  }
};

// sums += x dy^T, of the group's steps of a stage.
template <class Traits>
__device__ __forceinline__ void multiply_stage(ExactSums& sums, const ExactThread<Traits>& thread,
                                               uint32_t x_tile, uint32_t dy_tile) {
  using Tile = typename Traits::Tile;
  if constexpr (Traits::kFeatureAxis == 0) {
#pragma unroll 1  // or registers run out
    for (int first = 0; first < Traits::kDepth / 4; first += Traits::kGroups) {
      const int chunk = first + thread.group;
      float4 x[8];
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        x[i] = ptx::load_shared_float4(x_tile + Tile::offset(thread.feature(thread.row, i), chunk));
      }
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float4 dy =
            ptx::load_shared_float4(dy_tile + Tile::offset(thread.feature(thread.column, j), chunk));
        const auto add = [&](float float4::*entry) {
#pragma unroll
          for (int i = 0; i < 8; ++i) sums[i][j] = fmaf(x[i].*entry, dy.*entry, sums[i][j]);
        };
        add(&float4::x);
        add(&float4::y);
        add(&float4::z);
        add(&float4::w);
      }
    }
  } else {
#pragma unroll
    for (int first = 0; first < Traits::kDepth; first += Traits::kGroups) {
      const int entry = first + thread.group;
      float x[8], dy[8];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const auto read = [&](uint32_t tile, int place, float* to) {
          const float4 four =
              ptx::load_shared_float4(tile + Tile::offset(entry, place + Traits::kTiles * half));
          to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
        };
        read(x_tile, thread.row, x + 4 * half);
        read(dy_tile, thread.column, dy + 4 * half);
      }
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int j = 0; j < 8; ++j) sums[i][j] = fmaf(x[i], dy[j], sums[i][j]);
    }
  }
}

template <class Traits>
__global__ void __launch_bounds__(kThreads, 3)
    sm80_exact_blocks_dw_kernel(const __grid_constant__ MatmulDwParams params) {
  constexpr int kCell = Traits::kCell, kBlockSize = Traits::kBlockSize;
  constexpr int kCells = Traits::kCellsAcross * Traits::kCellsAcross;
  extern __shared__ __align__(128) char shared[];
  const uint32_t sums_at = ptx::shared_address(shared);
  const uint32_t ring = sums_at + Traits::kSumsBytes;
  const int split = blockIdx.x % params.splits;
  const int64_t number = blockIdx.x / params.splits;  // of a cell
  const int32_t* const block = params.blocks + 3 * (number / kCells);
  const int in_block = block[0], out_block = block[1], weight_block = block[2];
  const auto cell = static_cast<int>(number % kCells);
  const int cell_input = cell / Traits::kCellsAcross * kCell;
  const int cell_output = cell % Traits::kCellsAcross * kCell;
  const bool partial = params.partials != nullptr;
  const float gate = params.output.scale(weight_block);

  const ExactThread<Traits> thread;
  ExactSums sums = {};
  if (gate != 0.0f) {
    const ExactSumStore store(sums_at + threadIdx.x / 32 * ExactSumStore::kBytes);
    DwLoader<Traits> x_loader, dy_loader;
    const int64_t steps = params.stages.size(split);
    DwStageWalk walk(params, split);  // of stages to load
    const auto load = [&](int place) {
      const auto begin = [&](const MatmulDwParams::Operands& of, int64_t batch_begin) {
        const int64_t feature = Traits::kFeatureAxis == 1 ? 1 : of.batch;  // elements from one to the next
        x_loader.begin(static_cast<const float*>(of.x) + cell_input * feature, params.in_features,
                       of.batch, batch_begin, of.x_aligned);
        dy_loader.begin(static_cast<const float*>(of.dy) + cell_output * feature, params.out_features,
                        of.batch, batch_begin, of.dy_aligned);
      };
      if (!walk.advance(Traits::kDepth, begin)) return;
      const uint32_t stage = ring + place * Traits::kStageBytes;
      x_loader.load(stage, [&](int) { return in_block; });
      dy_loader.load(stage + Traits::Tile::kBytes, [&](int) { return out_block; });
    };
    constexpr int kChainStages = Traits::kChain / Traits::kDepth;
    int left = kChainStages;  // until sums are added to others
    bool first = true;
    run_simple_pipeline<Traits::kStages>(steps, load, [&](int place) {
      if (left == 0) {
        store.take(sums, first);
        first = false;
        left = kChainStages;
      }
      --left;
      const uint32_t stage = ring + place * Traits::kStageBytes;
      multiply_stage<Traits>(sums, thread, stage, stage + Traits::Tile::kBytes);
    });
    if (!first) store.give(sums);
  }

  // Each group's sums lie as in the block; the groups are added in order.
  __syncthreads();
  auto* const all = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int i = 0; i < 8; ++i)
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      all[(thread.group * kCell + thread.feature(thread.row, i)) * kCell +
          thread.feature(thread.column, j)] = sums[i][j];
    }
  __syncthreads();
  constexpr int64_t kBlockElements = kBlockSize * kBlockSize;
  for (int at = 4 * static_cast<int>(threadIdx.x); at < kCell * kCell; at += 4 * kThreads) {
    float total[4] = {};
#pragma unroll
    for (int group = 0; group < Traits::kGroups; ++group) {
      const float4 more = *reinterpret_cast<const float4*>(all + group * kCell * kCell + at);
      total[0] += more.x, total[1] += more.y, total[2] += more.z, total[3] += more.w;
    }
    const int64_t element =
        (cell_input + at / kCell) * kBlockSize + cell_output + at % kCell;
    if (partial) {
      float* const to = params.partials +
                        (int64_t{split} * params.num_blocks + weight_block) * kBlockElements + element;
      *reinterpret_cast<float4*>(to) = {total[0], total[1], total[2], total[3]};
    } else {
      const int64_t place = weight_block * kBlockElements + element;
      params.output.store<float>(place, gate, total[0], total[1]);
      params.output.store<float>(place + 2, gate, total[2], total[3]);
    }
  }
}

template <int kBlockSize, int kFeatureAxis>
Kernel exact_blocks_dw_for() {
  using Traits = ExactBlocksTraits<kBlockSize, kFeatureAxis>;
  return {.function = reinterpret_cast<const void*>(&sm80_exact_blocks_dw_kernel<Traits>),
          .threads = kThreads,
          .shared_bytes = Traits::kSharedBytes,
          .blocks_per_cta = 1,
          .ctas_per_block = Traits::kCellsAcross * Traits::kCellsAcross,
          .depth = Traits::kDepth};
}

}  // namespace

Kernel sm80_exact_blocks_dw(int block_size, int feature_axis) {
  switch (block_size) {
    case 32:
      return feature_axis == 0 ? exact_blocks_dw_for<32, 0>() : exact_blocks_dw_for<32, 1>();
    case 64:
      return feature_axis == 0 ? exact_blocks_dw_for<64, 0>() : exact_blocks_dw_for<64, 1>();
    case 128:
      return feature_axis == 0 ? exact_blocks_dw_for<128, 0>() : exact_blocks_dw_for<128, 1>();
  }
  return {};
}

}  // namespace bsparse
