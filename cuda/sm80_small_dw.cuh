// dw[b] = x[c]^T dy[k] of small batches, for sm_80 and newer: operands go from memory to registers.
//
// There is nothing to hold in shared memory: a block's product takes its x and dy once, and both lie along the batch,
// which mma.sync sums over. In what order it does so is free, so a lane takes 16 bytes of a row as they are: its words
// are the operands of two steps. The same holds for dy's features: they are dealt to the lanes such that the sums
// that a lane is left with are neighbours in dw. What such a product waits for are copies of x out of L2. So as
// many warps as registers allow are under way, each with a block's operands, and blocks of one output column, which
// come one after the other in the plan, share their dy by way of L1, or, where all of the batch is one stage, in registers.
#ifndef BSPARSE_CUDA_SM80_SMALL_DW_CUH_
#define BSPARSE_CUDA_SM80_SMALL_DW_CUH_

#include <cstdint>

#include "cuda/elements.cuh"
#include "cuda/matmul_params.h"
#include "cuda/policy.cuh"
#include "cuda/ptx.cuh"

namespace bsparse {

template <class MathT, int kBlockSizeT>
struct SmallDwTraits {
  using Math = MathT;
  using Element = typename Math::Element;
  static constexpr int kBlockSize = kBlockSizeT;
  static constexpr int kCell = small_dw_cell(kBlockSize);  // features along each side of what a warp computes at once
  static constexpr int kSide = kBlockSize / kCell;         // cells of a block
  static constexpr int kWarps = small_dw_warps(kCell);
  static constexpr int kChunkElements = 16 / static_cast<int>(sizeof(Element));
  static constexpr int kRowChunks = 2;                 // of a row, that a lane takes in a stage
  static constexpr int kStageChunks = 4 * kRowChunks;  // the lanes beside it as many
  // An operand of x has 16 features: of blocks of 8 those of two.
  static constexpr int kUnitBlocks = kCell < 16 ? 16 / kCell : 1;
  static constexpr int kRows = kCell * kUnitBlocks / 8;  // of 8 features, of x
  static constexpr int kPieces = kCell / 8;              // likewise, of dy
  // Sums that a lane has beside each other in dw: four of 16 bits, or as many bytes of float32.
  static constexpr int kNeighbours = kPieces > 1 && sizeof(Element) == 2 ? 4 : 2;
  static constexpr int kNeighbourPieces = kNeighbours / 2;
};

// 16 bytes of the batch.
struct Chunk {
  uint32_t words[4];
};

__device__ __forceinline__ Chunk load_chunk(const Chunk* from, bool exists) {
  Chunk chunk = {};
  if (exists) {
    const uint4 words = __ldg(reinterpret_cast<const uint4*>(from));
    chunk = {{words.x, words.y, words.z, words.w}};
  }
  return chunk;
}

// As the tensor cores take them.
template <class Math>
__device__ __forceinline__ void round_chunk(Chunk& chunk) {
  if constexpr (sizeof(typename Math::Element) == 4) {
#pragma unroll
    for (auto& word : chunk.words) word = ptx::round_to_tf32(word);
  }
}

// The feature of dy, from the first of a cell on, that is column `group` of the tensor cores' piece `piece`. A
// lane gets the sums of columns 2 t and 2 t + 1 of every piece: kNeighbours of them are neighbours.
template <class Traits>
__device__ __forceinline__ int dy_feature(int group, int piece) {
  constexpr int kNeighbours = Traits::kNeighbours, kPieces = Traits::kNeighbourPieces;
  return piece / kPieces * (4 * kNeighbours) + group / 2 * kNeighbours + piece % kPieces * 2 +
         group % 2;
}

// What a lane knows of a cell that its warp will compute.
struct SmallDwCell {
  uint32_t x_feature, dy_feature;
  int32_t weight_block;  // or -1
};

template <class Traits>
__device__ __forceinline__ SmallDwCell find_cell(const SmallMatmulDwParams& params,
                                                 uint32_t number) {
  constexpr uint32_t kSide = Traits::kSide;
  const uint32_t block = number / (kSide * kSide), place = number % (kSide * kSide);
  if (block >= static_cast<uint32_t>(params.num_blocks)) return {0, 0, -1};
  const int32_t* const entry = params.blocks + 3 * int64_t{block};
  // Cells above each other share their dy.
  return {entry[0] * Traits::kBlockSize + place % kSide * Traits::kCell,
          entry[1] * Traits::kBlockSize + place / kSide * Traits::kCell, entry[2]};
}

// A stage as a lane sees it: x and dy from its own part of their first rows on.
template <class Traits>
struct SmallDwStage {
  const Chunk* x;
  const Chunk* dy;
  uint32_t row;     // chunks from a feature to the next
  uint32_t exists;  // a bit a chunk

  SmallDwStage() = default;
  __device__ __forceinline__ SmallDwStage(const SmallMatmulDwParams& params, int32_t stage,
                                          int group, int member) {
    const int pair = params.stages.pair(stage);
    const SmallMatmulDwParams::Operands& operands = params.pairs[pair];
    const auto of_pair = static_cast<uint32_t>(stage - params.stages.first[pair]);
    const uint32_t chunk = of_pair * Traits::kStageChunks + member;
    row = operands.row_chunks;
    x = static_cast<const Chunk*>(operands.x) + (group * row + chunk);
    dy = static_cast<const Chunk*>(operands.dy) + chunk;
    exists = 0;
#pragma unroll
    for (int c = 0; c < Traits::kRowChunks; ++c) exists |= (chunk + 4 * c < row ? 1u : 0u) << c;
  }
};

// Rounds, scales and stores the sums of a row of a cell from element `place` of dw on.
template <class Traits, class Sums>
__device__ __forceinline__ void store_row(const SmallMatmulDwParams& params, int64_t place,
                                          int weight_block, const Sums& sums, int half) {
  using Element = typename Traits::Element;
  constexpr int kNeighbours = Traits::kNeighbours;
  const float scale = params.output.scale(weight_block);
#pragma unroll
  for (int n = 0; n < Traits::kPieces; n += Traits::kNeighbourPieces) {
    float values[kNeighbours];
#pragma unroll
    for (int e = 0; e < kNeighbours; ++e) values[e] = sums[n + e / 2][2 * half + e % 2];
    const int64_t output = place + n * 8;
    if (params.is_plain) {
      store_elements(values, static_cast<Element*>(params.output.dw) + output);
      continue;
    }
#pragma unroll
    for (int e = 0; e < kNeighbours; e += 2) {
      params.output.template store<Element>(output + e, scale, values[e], values[e + 1]);
    }
  }
}

template <class Traits>
__global__ void __launch_bounds__(32 * Traits::kWarps, kSmallDwCtas)
    sm80_small_dw_kernel(const __grid_constant__ SmallMatmulDwParams params) {
  using Math = typename Traits::Math;
  constexpr int kBlockSize = Traits::kBlockSize;
  constexpr int kUnitBlocks = Traits::kUnitBlocks;
  constexpr int kRows = Traits::kRows, kPieces = Traits::kPieces;
  constexpr int kRowChunks = Traits::kRowChunks;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int group = lane / 4, member = lane % 4;
  const uint32_t split = blockIdx.y;
  const auto first_stage = static_cast<int32_t>(params.stages.begin(split));
  const auto stages = static_cast<int32_t>(params.stages.size(split));
  // dy of a column stays in registers if that is all of it: then a warp's units are neighbours.
  const bool keeps_dy = stages == 1;
  const uint32_t cta_begin = static_cast<uint64_t>(params.units) * blockIdx.x / gridDim.x;
  const uint32_t cta_end = static_cast<uint64_t>(params.units) * (blockIdx.x + 1) / gridDim.x;
  const uint32_t of_cta = cta_end - cta_begin;
  const uint32_t stride = keeps_dy ? 1 : Traits::kWarps;
  const uint32_t begin = cta_begin + (keeps_dy ? of_cta * warp / Traits::kWarps : warp);
  const uint32_t end = keeps_dy ? cta_begin + of_cta * (warp + 1) / Traits::kWarps : cta_end;
  SmallDwStage<Traits> stage{};
  if (stages > 0) stage = SmallDwStage<Traits>(params, first_stage, group, member);
  // Of dw, in a cell.
  const int64_t lane_place = int64_t{split} * params.num_blocks * (kBlockSize * kBlockSize) +
                             group * kBlockSize + member * Traits::kNeighbours;
  ptx::wait_for_kernel_before();
  ptx::launch_dependents();

  for (uint32_t first = begin; first < end; first += 32 * stride) {
    SmallDwCell cells[kUnitBlocks];  // of unit first + lane * stride
    const uint32_t mine = first + lane * stride;
#pragma unroll
    for (int b = 0; b < kUnitBlocks; ++b) {
      cells[b] = mine < end ? find_cell<Traits>(params, mine * kUnitBlocks + b)
                            : SmallDwCell{0, 0, -1};
    }
    const int here = min(32u, (end - first - 1) / stride + 1);
    Chunk dy[kPieces][kRowChunks];
    uint32_t held = ~0u;  // the feature of dy that these are from
#pragma unroll 1
    for (int u = 0; u < here; ++u) {
      float sums[(kRows + 1) / 2][kPieces][4] = {};
      float second_sums[4] = {};  // of two blocks of 8 the second's, if its outputs are others
      uint32_t x_features[kUnitBlocks], dy_features[kUnitBlocks];
#pragma unroll
      for (int b = 0; b < kUnitBlocks; ++b) {
        x_features[b] = __shfl_sync(~0u, cells[b].x_feature, u);
        dy_features[b] = __shfl_sync(~0u, cells[b].dy_feature, u);
      }
      const bool is_apart = dy_features[kUnitBlocks - 1] != dy_features[0];
#pragma unroll 1
      for (int s = 0; s < stages; ++s) {
        if (!keeps_dy) stage = SmallDwStage<Traits>(params, first_stage + s, group, member);
        const auto load_rows = [&](Chunk (&to)[kRowChunks], const Chunk* from) {
#pragma unroll
          for (int c = 0; c < kRowChunks; ++c) {
            to[c] = load_chunk(from + 4 * c, (stage.exists >> c & 1) != 0);
          }
        };
        Chunk x[kRows][kRowChunks];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const int b = kUnitBlocks > 1 ? r : 0;
          load_rows(x[r], stage.x + (x_features[b] + 8 * (r - b)) * stage.row);
        }
        const auto load_dy = [&](uint32_t feature) {
#pragma unroll
          for (int n = 0; n < kPieces; ++n) {
            load_rows(dy[n], stage.dy + (feature + dy_feature<Traits>(group, n)) * stage.row);
          }
#pragma unroll
          for (auto& piece : dy)
#pragma unroll
            for (Chunk& chunk : piece) round_chunk<Math>(chunk);
          held = feature;
        };
        const auto multiply = [&](float (&sum)[4], int m, int n) {
#pragma unroll
          for (int c = 0; c < kRowChunks; ++c)
#pragma unroll
            for (int half = 0; half < 4; half += 2) {
              const uint32_t(&top)[4] = x[2 * m][c].words;
              const uint32_t(&bottom)[4] = x[2 * m + 1][c].words;
              const uint32_t a[4] = {top[half], bottom[half], top[half + 1], bottom[half + 1]};
              const uint32_t b[2] = {dy[n][c].words[half], dy[n][c].words[half + 1]};
              Math::mma(sum, a, b);
            }
        };
        if (!keeps_dy || held != dy_features[0]) load_dy(dy_features[0]);
#pragma unroll
        for (auto& of_row : x)
#pragma unroll
          for (Chunk& chunk : of_row) round_chunk<Math>(chunk);
#pragma unroll
        for (int m = 0; m < kRows / 2; ++m)
#pragma unroll
          for (int n = 0; n < kPieces; ++n) multiply(sums[m][n], m, n);
        if (kUnitBlocks > 1 && is_apart) {
          load_dy(dy_features[kUnitBlocks - 1]);
          multiply(second_sums, 0, 0);
        }
      }
      if (kUnitBlocks > 1 && is_apart) {
#pragma unroll
        for (int e = 2; e < 4; ++e) sums[0][0][e] = second_sums[e];
      }

#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int b = kUnitBlocks > 1 ? r : 0;
        const int weight_block = __shfl_sync(~0u, cells[b].weight_block, u);
        if (weight_block < 0) continue;
        // Inside its block.
        const int cell_place = Traits::kSide == 1 ? 0
                                                  : x_features[b] % kBlockSize * kBlockSize +
                                                        dy_features[b] % kBlockSize;
        const int64_t place = lane_place + int64_t{weight_block} * (kBlockSize * kBlockSize) +
                              (cell_place + 8 * (r - b) * kBlockSize);
        store_row<Traits>(params, place, weight_block, sums[r / 2], r % 2);
      }
    }
  }
}

template <class Math, int kBlockSize>
Kernel sm80_small_dw_entry() {
  using Traits = SmallDwTraits<Math, kBlockSize>;
  return {.function = reinterpret_cast<const void*>(&sm80_small_dw_kernel<Traits>),
          .threads = 32 * Traits::kWarps,
          .blocks_per_cta = Traits::kUnitBlocks * Traits::kWarps,
          .depth = Traits::kStageChunks * Traits::kChunkElements,
          .starts_early = true};
}

// The kernel for a block size: x and dy have their features first. Instantiates all for one arithmetic mode.
template <class Math>
Kernel sm80_small_dw_for(int block_size) {
  switch (block_size) {
    case 8: return sm80_small_dw_entry<Math, 8>();
    case 16: return sm80_small_dw_entry<Math, 16>();
    case 32: return sm80_small_dw_entry<Math, 32>();
    case 64: return sm80_small_dw_entry<Math, 64>();
    case 128: return sm80_small_dw_entry<Math, 128>();
  }
  return {};
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM80_SMALL_DW_CUH_
