// dw[b] = x[c]^T dy[k] of small batches, for sm_80 and newer: operands go from memory to registers.
//
// There is nothing to hold in shared memory: a block's product takes its x and dy once. mma.sync sums over the batch,
// in whatever order both operands have it, and which feature is which row or column of a product is free, too. So a
// lane loads what lies together in memory: with features first 16 bytes of the batch, whose words are operands as
// they are; with features last as many neighbouring features as it needs of a batch entry, of which 16-bit
// ones are sorted into pairs. And the sums that it is left with are neighbours in dw.
//
// What such a product waits for are copies of x out of L2. So as many warps as registers allow are under way, each
// with a block's operands, and blocks of one output column, which come one after the other in the plan, share
// their dy by way of L1, or, where all of the batch is one stage, in registers. Instructions count: 16 warps or more
// share what an SM issues.
#ifndef BSPARSE_CUDA_SM80_SMALL_DW_CUH_
#define BSPARSE_CUDA_SM80_SMALL_DW_CUH_

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cuda/early_launch.cuh"
#include "cuda/elements.cuh"
#include "cuda/matmul_params.h"
#include "cuda/ptx.cuh"
#include "cuda/sm80/policy.cuh"

namespace bsparse {

template <class MathT, int kBlockSizeT, int kFeatureAxisT>
struct SmallDwTraits {
  using Math = MathT;
  using Element = typename Math::Element;
  static constexpr int kBlockSize = kBlockSizeT;
  static constexpr int kFeatureAxis = kFeatureAxisT;
  static constexpr int kElementBytes = sizeof(Element);
  static constexpr int kCell = small_dw_cell(kBlockSize);  // features along each side of what a warp computes at once
  static constexpr int kSide = kBlockSize / kCell;         // cells of a block
  static constexpr int kWarps = small_dw_warps(kCell);
  static_assert(!small_dw_turns(kBlockSize, kFeatureAxis, kElementBytes), "activations are turned round");

  // A stage of the batch: words of it that a lane has of a feature, and four lanes share.
  static constexpr int kWords = 8;
  static constexpr int kStageBatch = 4 * kWords * 4 / kElementBytes;
  // An operand of x has 16 features: of blocks of 8 those of two.
  static constexpr int kUnitBlocks = small_dw_unit_blocks(kBlockSize);
  static constexpr int kRows = kCell * kUnitBlocks / 8;  // features of x that a lane has words of
  static constexpr int kColumns = kCell / 8;             // likewise, of dy
  static constexpr int kBlockRows = kRows / kUnitBlocks;
  static constexpr int kNeighbours = 2 * kColumns;  // sums of a lane beside each other in dw

  // The feature of x, of a cell's, that a lane of `group` has in `row`, and of dy in `column`.
  static __device__ __forceinline__ int x_feature(int group, int row) {
    return kFeatureAxis == 0 ? 8 * row + group : kBlockRows * group + row;
  }
  static __device__ __forceinline__ int dy_feature(int group, int column) {
    return kColumns * group + column;
  }
};

// x or dy in a stage, as a lane sees it.
struct SmallDwSide {
  const char* data;  // this lane's first bytes of the batch, of feature 0
  uint32_t stride;   // features first: 16-byte chunks from a feature to the next; last: bytes from one batch
                     // entry of this lane to the next
};

template <class Traits>
struct SmallDwStage {
  SmallDwSide x, dy;
  uint32_t exists;  // a bit a chunk of a feature, or a batch entry, of this lane

  SmallDwStage() = default;
  __device__ __forceinline__ SmallDwStage(const SmallMatmulDwParams& params, int32_t stage,
                                          int member) {
    const int pair = params.stages.pair(stage);
    const SmallMatmulDwParams::Operands& operands = params.pairs[pair];
    const auto of_pair = static_cast<uint32_t>(stage - params.stages.first[pair]);
    exists = 0;
    if constexpr (Traits::kFeatureAxis == 0) {
      const uint32_t row = operands.batch * Traits::kElementBytes / 16;
      const uint32_t chunk = of_pair * Traits::kWords + member;
      x = {static_cast<const char*>(operands.x) + int64_t{16} * chunk, row};
      dy = {static_cast<const char*>(operands.dy) + int64_t{16} * chunk, row};
#pragma unroll
      for (int c = 0; c < Traits::kWords / 4; ++c) exists |= (chunk + 4 * c < row ? 1u : 0u) << c;
    } else {
      const uint32_t entry = of_pair * Traits::kStageBatch + member;
      const auto side = [&](const void* data, uint32_t features) {
        const uint32_t row = features * Traits::kElementBytes;
        return SmallDwSide{static_cast<const char*>(data) + int64_t{entry} * row, 4 * row};
      };
      x = side(operands.x, params.in_features);
      dy = side(operands.dy, params.out_features);
#pragma unroll
      for (int i = 0; i < Traits::kStageBatch / 4; ++i) {
        exists |= (entry + 4 * i < operands.batch ? 1u : 0u) << i;
      }
    }
  }
};

// Words in a register each, zeros if they do not exist.
template <int kCount>
__device__ __forceinline__ void load_words(uint32_t (&words)[kCount], const char* from, bool exists) {
  Moved<sizeof(words)> moved = {};
  if (exists) moved = __ldg(reinterpret_cast<const Moved<sizeof(words)>*>(from));
  memcpy(words, &moved, sizeof(words));
}

// The words of features `feature(f)`, f < kCount, which with features last are neighbours.
template <class Traits, int kCount, class Feature>
__device__ __forceinline__ void load_operands(uint32_t (&words)[kCount][Traits::kWords],
                                              const SmallDwSide& side, uint32_t exists,
                                              const Feature& feature) {
  if constexpr (Traits::kFeatureAxis == 0) {
#pragma unroll
    for (int f = 0; f < kCount; ++f) {
      const char* const from = side.data + uint64_t{feature(f) * side.stride} * 16;
#pragma unroll
      for (int c = 0; c < Traits::kWords / 4; ++c) {
        uint32_t chunk[4];
        load_words(chunk, from + 64 * c, (exists >> c & 1) != 0);
#pragma unroll
        for (int i = 0; i < 4; ++i) words[f][4 * c + i] = chunk[i];
      }
    }
  } else {
    const char* from = side.data + uint64_t{feature(0)} * Traits::kElementBytes;
    if constexpr (Traits::kElementBytes == 4) {
#pragma unroll
      for (int w = 0; w < Traits::kWords; ++w, from += side.stride) {
        uint32_t entry[kCount];
        load_words(entry, from, (exists >> w & 1) != 0);
#pragma unroll
        for (int f = 0; f < kCount; ++f) words[f][w] = entry[f];
      }
    } else {
      // Pairs of two batch entries of a feature.
#pragma unroll
      for (int w = 0; w < Traits::kWords; ++w) {
        uint32_t first[kCount / 2], second[kCount / 2];
        load_words(first, from, (exists >> 2 * w & 1) != 0);
        from += side.stride;
        load_words(second, from, (exists >> (2 * w + 1) & 1) != 0);
        from += side.stride;
#pragma unroll
        for (int f = 0; f < kCount; ++f) {
          words[f][w] = __byte_perm(first[f / 2], second[f / 2], f % 2 == 0 ? 0x5410 : 0x7632);
        }
      }
    }
  }
  if constexpr (Traits::kElementBytes == 4) {
#pragma unroll
    for (auto& of_feature : words)
#pragma unroll
      for (auto& word : of_feature) word = ptx::round_to_tf32(word);
  }
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

// Scales, adds, rounds and stores neighbouring sums from element `place` of dw on.
template <class Traits>
__device__ __forceinline__ void store_neighbours(const SmallMatmulDwParams& params, int64_t place,
                                                 int weight_block,
                                                 const float (&sums)[Traits::kNeighbours]) {
  using Element = typename Traits::Element;
  constexpr int kWhole = 16 / Traits::kElementBytes;  // that are stored at once
  constexpr int kCount = Traits::kNeighbours < kWhole ? Traits::kNeighbours : kWhole;
  if (params.is_plain) {
    auto* const to = static_cast<Element*>(params.output.dw) + place;
#pragma unroll
    for (int first = 0; first < Traits::kNeighbours; first += kCount) {
      float some[kCount];
#pragma unroll
      for (int e = 0; e < kCount; ++e) some[e] = sums[first + e];
      store_elements(some, to + first);
    }
    return;
  }
  const float scale = params.output.scale(weight_block);
#pragma unroll
  for (int e = 0; e < Traits::kNeighbours; e += 2) {
    params.output.template store<Element>(place + e, scale, sums[e], sums[e + 1]);
  }
}

template <class Traits>
__global__ void __launch_bounds__(32 * Traits::kWarps, kSmallDwCtas)
    sm80_small_dw_kernel(const __grid_constant__ SmallMatmulDwParams params) {
  using Math = typename Traits::Math;
  constexpr int kBlockSize = Traits::kBlockSize;
  constexpr int kUnitBlocks = Traits::kUnitBlocks;
  constexpr int kRows = Traits::kRows, kBlockRows = Traits::kBlockRows;
  constexpr int kColumns = Traits::kColumns;
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
  if (stages > 0) stage = SmallDwStage<Traits>(params, first_stage, member);
  // Of dw, in a cell, without a row.
  const int64_t lane_place =
      int64_t{split} * params.num_blocks * (kBlockSize * kBlockSize) + member * Traits::kNeighbours;
  follow_kernel_before();

  for (uint32_t first = begin; first < end; first += 32 * stride) {
    SmallDwCell cells[kUnitBlocks];  // of unit first + lane * stride
    const uint32_t mine = first + lane * stride;
#pragma unroll
    for (int b = 0; b < kUnitBlocks; ++b) {
      cells[b] = mine < end ? find_cell<Traits>(params, mine * kUnitBlocks + b)
                            : SmallDwCell{0, 0, -1};
    }
    const int here = min(32u, (end - first - 1) / stride + 1);
    uint32_t dy[kColumns][Traits::kWords];
    uint32_t held = ~0u;  // the first feature of these
#pragma unroll 1
    for (int u = 0; u < here; ++u) {
      float sums[kRows / 2][kColumns][4] = {};
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
        if (!keeps_dy) stage = SmallDwStage<Traits>(params, first_stage + s, member);
        uint32_t x[kUnitBlocks][kBlockRows][Traits::kWords];
#pragma unroll
        for (int b = 0; b < kUnitBlocks; ++b) {
          load_operands<Traits>(x[b], stage.x, stage.exists, [&](int row) {
            return x_features[b] + Traits::x_feature(group, row);
          });
        }
        const auto load_dy = [&](uint32_t feature) {
          load_operands<Traits>(dy, stage.dy, stage.exists, [&](int column) {
            return feature + Traits::dy_feature(group, column);
          });
          held = feature;
        };
        const auto multiply = [&](float (&sum)[4], int m, int n) {
          const auto& top = x[2 * m / kBlockRows][2 * m % kBlockRows];
          const auto& bottom = x[(2 * m + 1) / kBlockRows][(2 * m + 1) % kBlockRows];
#pragma unroll
          for (int w = 0; w < Traits::kWords; w += 2) {
            const uint32_t a[4] = {top[w], bottom[w], top[w + 1], bottom[w + 1]};
            const uint32_t b[2] = {dy[n][w], dy[n][w + 1]};
            Math::mma(sum, a, b);
          }
        };
        if (!keeps_dy || held != dy_features[0]) load_dy(dy_features[0]);
#pragma unroll
        for (int m = 0; m < kRows / 2; ++m)
#pragma unroll
          for (int n = 0; n < kColumns; ++n) multiply(sums[m][n], m, n);
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
        const int b = r / kBlockRows;
        const int weight_block = __shfl_sync(~0u, cells[b].weight_block, u);
        if (weight_block < 0) continue;
        int row = Traits::x_feature(group, r % kBlockRows), column = 0;
        if constexpr (Traits::kSide > 1) {
          row += x_features[b] % kBlockSize;
          column = dy_features[b] % kBlockSize;
        }
        float neighbours[Traits::kNeighbours];
#pragma unroll
        for (int e = 0; e < Traits::kNeighbours; ++e) {
          neighbours[e] = sums[r / 2][e % kColumns][2 * (r % 2) + e / kColumns];
        }
        store_neighbours<Traits>(
            params,
            lane_place + int64_t{weight_block} * (kBlockSize * kBlockSize) + row * kBlockSize + column,
            weight_block, neighbours);
      }
    }
  }
}

template <class Math, int kBlockSize, int kFeatureAxis>
Kernel sm80_small_dw_entry() {
  using Traits = SmallDwTraits<Math, kBlockSize, kFeatureAxis>;
  return {.function = reinterpret_cast<const void*>(&sm80_small_dw_kernel<Traits>),
          .threads = 32 * Traits::kWarps,
          .blocks_per_cta = std::max(1, Traits::kUnitBlocks * Traits::kWarps / (Traits::kSide * Traits::kSide)),
          .depth = Traits::kStageBatch,
          .starts_early = true};
}

template <class Math, int kBlockSize>
Kernel sm80_small_dw_for(int feature_axis) {
  constexpr bool kTurns = small_dw_turns(kBlockSize, 1, sizeof(typename Math::Element));
  return feature_axis == 0 ? sm80_small_dw_entry<Math, kBlockSize, 0>()
                           : sm80_small_dw_entry<Math, kBlockSize, kTurns ? 0 : 1>();
}

// The kernel for a block size; instantiates all for one arithmetic mode.
template <class Math>
Kernel sm80_small_dw_for(int block_size, int feature_axis) {
  switch (block_size) {
    case 8: return sm80_small_dw_for<Math, 8>(feature_axis);
    case 16: return sm80_small_dw_for<Math, 16>(feature_axis);
    case 32: return sm80_small_dw_for<Math, 32>(feature_axis);
    case 64: return sm80_small_dw_for<Math, 64>(feature_axis);
    case 128: return sm80_small_dw_for<Math, 128>(feature_axis);
  }
  return {};
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM80_SMALL_DW_CUH_
