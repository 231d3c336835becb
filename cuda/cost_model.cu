#include "cuda/cost_model.h"

#include <algorithm>
#include <cmath>

#include "cuda/check.h"
#include "cuda/kernel_table.h"
#include "cuda/sm80/policy.cuh"
#include "cuda/sm90/dw_choice.h"
#include "cuda/sm90/policy.cuh"

namespace bsparse {
namespace {

// Useful TFLOP/s on an H100, uniform random layouts (benchmarks/results). 16 bit: measured at
// C = K = N = 8192, at clocks that such products keep up; where the dense product ran instead, so at
// density 1, reckoned from 0.5, or from 0.1 for dw of blocks of 8, or from 0.25 and the padding for TF32
// products of blocks of 16. TF32 likewise. TF32 by sm80: blocks 32 and 128
// measured at density 0.1 and C = K = 4096, the other blocks reckoned from them by the 16-bit rates, and all
// densities taken to be alike. Three TF32 products: measured likewise, but for blocks of 8, which are
// guessed. Float32: measured on an H200 at 0.05 to 0.25, which are about alike. A GPU with
// other proportions is served less well, but never wrongly.
constexpr double kDensities[] = {0.05, 0.25, 1.0};

struct Rates {
  double at[3];  // of kDensities
};

// [block size 8, 16, 32, 64, 128][feature axis]
constexpr Rates kMatmul16[5][2] = {
    {{{63, 184, 480}}, {{55, 180, 460}}},
    {{{153, 257, 500}}, {{110, 240, 485}}},
    {{{236, 335, 510}}, {{215, 322, 520}}},
    {{{345, 455, 660}}, {{345, 455, 660}}},
    {{{390, 505, 660}}, {{390, 505, 660}}},
};
// Microseconds of products of 2^40 FLOP at density 1, C = K = N = 8192, on an H200: lines fitted to what uniform random
// layouts of densities from 0.01 to 0.2 took. [block size 8, 16]
struct Line {
  double at_0, slope;
  constexpr double at(double x) const { return at_0 + slope * x; }
};
struct SmallBlocks {
  Line sweep[2];   // over the density: by normal tiles their maximum
  Line wide[2];    // by wide ones [feature axis]
  Line unions[2];  // over their own density, as it is estimated (cc/plan/union_density). [feature axis]
  float densest_sweep;  // above which nothing was measured, or the dense matrix is faster
};
constexpr SmallBlocks kSmallBlocks16[2] = {
    {{{160, 4600}, {100, 6050}}, {}, {{136, 1407}, {232, 1377}}, 0.2f},
    {{{175, 2750}, {120, 3400}}, {{145, 2900}, {95, 5000}}, {{81, 1745}, {120, 2066}}, 0.2f},
};
constexpr SmallBlocks kSmallBlocksTf32[2] = {
    {{{190, 11900}, {}}, {{200, 13500}, {200, 13500}}, {}, 0.2f},  // no union tiles
    {{{280, 7200}, {}}, {{230, 7300}, {215, 7300}}, {{135, 4750}, {185, 4500}}, 0.3f},
};
constexpr Rates kMatmulDw16[5][2] = {
    {{{102, 115, 120}}, {{102, 115, 120}}},
    {{{160, 207, 215}}, {{160, 207, 215}}},
    {{{156, 304, 345}}, {{174, 323, 345}}},
    {{{270, 370, 370}}, {{270, 370, 370}}},  // on an H200
    {{{430, 570, 590}}, {{430, 570, 590}}},
};
constexpr Rates kMatmulTf32[5][2] = {
    {},  // no such kernels
    {{{63, 98, 132}}, {{57, 100, 190}}},
    {{{97, 152, 225}}, {{110, 160, 250}}},
    {{{121, 171, 250}}, {{129, 224, 290}}},
    {{{150, 202, 255}}, {{161, 244, 260}}},
};
constexpr Rates kMatmulDwTilesTf32[5][2] = {
    {{{54, 66, 66}}, {{47, 56, 56}}},
    {{{78, 105, 106}}, {{75, 86, 86}}},
    {{{94, 168, 190}}, {{99, 134, 137}}},
    {{{110, 163, 190}}, {{95, 126, 128}}},
    {{{148, 201, 205}}, {{109, 145, 148}}},
};
// On an H200. Blocks of 16 and 32: at 0.01, above which tiles are chosen soon.
constexpr Rates kMatmulDwColumnsTf32[5][2] = {
    {},
    {{{45, 45, 45}}, {}},
    {{{75, 75, 75}}, {{57, 57, 57}}},
    {{{154, 190, 190}}, {{132, 168, 178}}},
    {{{291, 307, 310}}, {{201, 220, 265}}},
};
// [block size], at any density. TF32 by sm80: of blocks of 8, unaligned memory, other GPUs.
constexpr double kMatmulTf32Sm80[5] = {8, 27, 80, 110, 115};
constexpr double kMatmulDwTf32Sm80[5] = {6, 21, 42, 68, 96};
constexpr double kMatmulTf32x3[5] = {8, 31, 42, 54, 54};
constexpr double kMatmulDwTf32x3[5] = {5, 13, 26, 42, 46};
constexpr double kMatmulFloat32[5] = {35, 38, 38, 38, 38};
constexpr double kMatmulDwFloat32[5] = {18, 23, 32, 34, 36};
constexpr double kDense16 = 750, kDenseFloat32 = 50;
// In TF32, of operands of which at least one lies along the sum (dense/matmul.cu turns those round that do not).
constexpr double kDenseTf32 = 400, kDenseDwTf32 = 356;

// Bytes a second that streams take out of L2, by block size (docs/kernel-notes.md, 8192 x 8192 at a density of 0.25).
constexpr double kStreamRate16[5] = {1.1e13, 8e12, 8e12, 8e12, 8e12};
constexpr double kStreamRateTf32[5] = {1, 5e12, 7e12, 7e12, 7e12};  // no streams of blocks of 8

// The same of dw out of registers, 4096 x 4096 at a density of 0.25. [feature axis]
constexpr double kSmallDwRate16[2][5] = {{9.5e12, 7e12, 7e12, 7e12, 7e12},
                                         {6.5e12, 5e12, 4e12, 4e12, 4e12}};
constexpr double kSmallDwRateTf32[2][5] = {{6.9e12, 5.6e12, 4.1e12, 4.1e12, 4.1e12},
                                           {3.5e12, 2.9e12, 2.8e12, 2.8e12, 2.8e12}};

// Bytes a second that copies reach.
constexpr double kMemoryRate = 2.8e12;

// What a product takes that has next to nothing to do; the blocks' map and the dense matrix take launches
// of their own.
constexpr double kLaunch = 4e-6;
constexpr double kDenseLaunches = 5e-6;

// Dense is chosen when it wins clearly.
constexpr double kMargin = 0.95;

double interpolate(const Rates& rates, double density) {
  const double x = std::log(std::clamp(density, kDensities[0], kDensities[2]));
  for (int i = 0;; ++i) {
    const double left = std::log(kDensities[i]), right = std::log(kDensities[i + 1]);
    if (x <= right || i == 1) {
      return rates.at[i] + (rates.at[i + 1] - rates.at[i]) * (x - left) / (right - left);
    }
  }
}

// Whether activations are turned round before the product, which is not in its kernel's rate.
bool turns(const bsparse_tile_request& request, bsparse_kernel family) {
  // Exact float32 by warps on their own wants x, and for dw dy, with features first.
  const bool exact = family == BSPARSE_SM80 && request.dtype == BSPARSE_FLOAT32 &&
                     request.float32_math == BSPARSE_FLOAT32_EXACT &&
                     (!request.is_dw || request.block_size <= kMaxExactDwBlock);
  if (exact) return request.feature_axis == 1;
  return request.is_dw ? hopper_dw_turns(hopper_dw(request), family)
                       : family == BSPARSE_SM90 && union_turns_inputs(request);
}

// `row`: of the tables.
double sparse_rate(const bsparse_tile_request& request, bsparse_kernel family, int row) {
  const bool last = request.feature_axis == 1;
  const int axis = last != turns(request, family) ? 1 : 0;
  if (request.dtype != BSPARSE_FLOAT32) {
    return interpolate((request.is_dw ? kMatmulDw16 : kMatmul16)[row][axis], request.density);
  }
  if (request.float32_math == BSPARSE_FLOAT32_EXACT) {
    return request.is_dw ? kMatmulDwFloat32[row] : kMatmulFloat32[row];
  }
  if (request.float32_math == BSPARSE_FLOAT32_TF32X3) {
    return request.is_dw ? kMatmulDwTf32x3[row] : kMatmulTf32x3[row];
  }
  if (!is_hopper(family)) return (request.is_dw ? kMatmulDwTf32Sm80 : kMatmulTf32Sm80)[row];
  if (!request.is_dw) return interpolate(kMatmulTf32[row][axis], request.density);
  return interpolate((family == BSPARSE_SM90 ? kMatmulDwColumnsTf32 : kMatmulDwTilesTf32)[row][axis],
                     request.density);
}

// Of union tiles of blocks of 8 and 16, if nobody said: that of a random layout.
double union_density(const bsparse_tile_request& request) {
  if (request.union_density > 0.0f) return request.union_density;
  constexpr double kGrouping = 0.95;  // what putting similar columns together leaves
  const double blocks = 4 * std::pow(16.0 / request.block_size, 2);  // of a product
  return kGrouping * (1.0 - std::pow(1.0 - request.density, blocks));
}

double flops_of(const bsparse_tile_request& request) {
  const double bs = request.block_size;
  return 2.0 * request.in_blocks * bs * request.out_blocks * bs * static_cast<double>(request.batch);
}

const SmallBlocks& small_blocks(const bsparse_tile_request& request) {
  const auto& blocks = request.dtype == BSPARSE_FLOAT32 ? kSmallBlocksTf32 : kSmallBlocks16;
  return blocks[request.block_size == 8 ? 0 : 1];
}

double sweep_seconds(const bsparse_tile_request& request) {
  const SmallBlocks& blocks = small_blocks(request);
  const int64_t outputs = int64_t{request.out_blocks} * request.block_size;
  const int tile = wanted_sweep_batch_tile(outputs, request.block_size,
                                           static_cast<int>(element_size(request.dtype)), request.density);
  const double microseconds =
      tile == kWideSweepBatchTile
          ? blocks.wide[request.feature_axis == 1 ? 1 : 0].at(request.density)
          : std::max(blocks.sweep[0].at(request.density), blocks.sweep[1].at(request.density));
  return 1e-6 * microseconds * flops_of(request) / 0x1p40;
}

}  // namespace

bool sweep_is_faster(const bsparse_tile_request& request) {
  const SmallBlocks& blocks = small_blocks(request);
  if (request.density <= 0.0f || request.density > blocks.densest_sweep) return false;
  if (request.block_size < smallest_product_block(static_cast<int>(element_size(request.dtype)))) {
    return true;  // no union tiles
  }
  const Line& unions = blocks.unions[request.feature_axis == 1 ? 1 : 0];
  constexpr double kClearly = 0.97;
  return sweep_seconds(request) < kClearly * 1e-6 * unions.at(union_density(request)) *
                                      flops_of(request) / 0x1p40;
}

ProductSeconds product_seconds(const bsparse_tile_request& request, bsparse_kernel family) {
  int row = 0;
  while (8 << row < request.block_size) ++row;
  const int axis = request.feature_axis == 1 ? 1 : 0;
  const double dense_rate =
      request.dtype != BSPARSE_FLOAT32                 ? kDense16
      : request.float32_math == BSPARSE_FLOAT32_TF32 ? (request.is_dw ? kDenseDwTf32 : kDenseTf32)
                                                       : kDenseFloat32;
  const double size = static_cast<double>(element_size(request.dtype));
  const double bs = request.block_size;
  const double elements = request.in_blocks * bs * request.out_blocks * bs;
  const double flops = flops_of(request);
  const double density = request.density;
  // The dense matrix is written out of the stored blocks; of dw these are picked out of it.
  const double dense_bytes = elements * size * (request.is_dw ? 2.0 * density : 1.0 + density);
  // Float32 sums that further pairs are added to.
  const double sums_bytes = elements * 4 * 2 * std::max(0, request.num_pairs - 1);
  // Activations and stored blocks pass through memory once, however it is done.
  const double blocks_seconds = density * elements * size / kMemoryRate;
  const double activations_seconds =
      (request.in_blocks + request.out_blocks) * bs * size * request.batch / kMemoryRate;
  // What dense/matmul.cu turns round in TF32: blocks of fprop with features first, x or dy with features last.
  const bool tf32 = request.dtype == BSPARSE_FLOAT32 && request.float32_math == BSPARSE_FLOAT32_TF32;
  double turned_seconds = 0.0;
  if (tf32 && !request.is_dw && axis == 0) turned_seconds = 2.0 * blocks_seconds;
  if (tf32 && request.is_dw && axis == 1) turned_seconds = activations_seconds;
  const double dense = std::max(flops / (dense_rate * 1e12), activations_seconds) + turned_seconds +
                       (dense_bytes + sums_bytes) / kMemoryRate + kLaunch + kDenseLaunches;
  double kernel_seconds = density * flops / (sparse_rate(request, family, row) * 1e12);
  if (family == BSPARSE_SM90_SWEEP) kernel_seconds = sweep_seconds(request);
  if (family == BSPARSE_SM90_STREAM) {
    // Every block takes its x, a large one that of each of its cells, and every batch tile the weights.
    const int tile = stream_batch_tile(request.batch, static_cast<int>(size));
    const double x_elements = request.batch / static_cast<double>(stream_cell(request.block_size));
    const double tiles = std::ceil(static_cast<double>(request.batch) / tile);
    kernel_seconds = density * elements * (x_elements + tiles) * size /
                     (request.dtype == BSPARSE_FLOAT32 ? kStreamRateTf32 : kStreamRate16)[row];
  }
  if (request.is_dw && family == BSPARSE_SM80_SMALL) {  // a block's x, or that of each of its cells: neighbours share dy
    const double x_elements = request.batch / static_cast<double>(small_dw_cell(request.block_size));
    kernel_seconds =
        density * elements * x_elements * size /
        (request.dtype == BSPARSE_FLOAT32 ? kSmallDwRateTf32 : kSmallDwRate16)[axis][row];
  }
  if (turns(request, family)) {
    const double features = (request.in_blocks + (request.is_dw ? request.out_blocks : 0)) * bs;
    kernel_seconds += 2.0 * features * size * static_cast<double>(request.batch) / kMemoryRate;
  }
  const double sparse =
      std::max(kernel_seconds, activations_seconds + blocks_seconds) + kLaunch;
  return {sparse, dense};
}

bool dense_is_faster(const ProductSeconds& seconds) {
  return seconds.dense < kMargin * seconds.sparse;
}

}  // namespace bsparse
