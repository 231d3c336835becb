// Which of Hopper's weight gradients serves a product: tiles of the layout (sm90/dw_tiles.cuh) or items of one
// column (sm90/matmul_dw.cuh), and whether its activations are turned round before. Measured on an H200, in 16 bit
// above 5 % on an H100 (docs/kernel-notes.md).
#ifndef BSPARSE_CUDA_SM90_DW_CHOICE_H_
#define BSPARSE_CUDA_SM90_DW_CHOICE_H_

#include <cstdint>

#include "cuda/bsparse_cuda.h"

namespace bsparse {

// What decides between Hopper's weight gradients.
struct HopperDw {
  bsparse_dtype dtype;
  int block_size;
  int feature_axis;
  double density;              // 0: not known
  double weights_per_feature;  // stored weights over inputs and outputs
};

// Of a request (bsparse_tile_request) or of a product's arguments, which have a plan.
inline HopperDw hopper_dw(bsparse_dtype dtype, int block_size, int feature_axis, double density,
                          int64_t in_blocks, int64_t out_blocks) {
  const double blocks = density * static_cast<double>(in_blocks) * static_cast<double>(out_blocks);
  return {dtype, block_size, feature_axis, density,
          blocks * block_size / static_cast<double>(in_blocks + out_blocks)};
}
inline HopperDw hopper_dw(const bsparse_tile_request& request) {
  return hopper_dw(request.dtype, request.block_size, request.feature_axis, request.density,
                   request.in_blocks, request.out_blocks);
}
inline HopperDw hopper_dw(const bsparse_matmul_dw_args& args) {
  const double all = static_cast<double>(args.in_blocks) * static_cast<double>(args.out_blocks);
  return hopper_dw(args.dtype, args.block_size, args.feature_axis, args.plan.num_blocks / all,
                   args.in_blocks, args.out_blocks);
}

// Up to which density columns are the better choice, by block size 16, 32, 64, 128: large blocks repay copies of their
// own, and warpgroup products; small ones do where a tile's chunks would hold next to nothing, unless their rows
// are short (block 16 with features last).
using DwColumns = double[4];
inline constexpr DwColumns kDwColumns16[2] = {{0.025, 0.04, 1, 1}, {0, 0.035, 1, 1}};
inline constexpr DwColumns kDwColumnsTf32[2] = {{0.02, 0.02, 0.2, 1}, {0, 0.02, 0.5, 1}};

constexpr bool dw_goes_by_tiles(const HopperDw& dw) {
  if (dw.block_size < 16) return true;
  const bool tf32 = dw.dtype == BSPARSE_FLOAT32;
  if (dw.density <= 0) return tf32 || dw.block_size < 64;
  const DwColumns& columns = (tf32 ? kDwColumnsTf32 : kDwColumns16)[dw.feature_axis == 1 ? 1 : 0];
  int row = 0;
  while (16 << row < dw.block_size) ++row;
  return dw.density > columns[row];
}

// Whether x and dy in TF32 with features last are turned round before: by tiles, which then need no moves between loads
// and products, where that saves more than it takes.
constexpr bool hopper_dw_turns(const HopperDw& dw, int32_t family) {
  return dw.dtype == BSPARSE_FLOAT32 && dw.feature_axis == 1 && family == BSPARSE_SM90_DW_TILES &&
         dw.block_size >= 16 && dw.weights_per_feature >= 600;
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_DW_CHOICE_H_
