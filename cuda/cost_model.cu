#include "cuda/cost_model.h"

#include <algorithm>
#include <cmath>

#include "cuda/check.h"
#include "cuda/cost_rates.h"
#include "cuda/kernel_table.h"
#include "cuda/sm80/policy.cuh"
#include "cuda/sm90/dw_choice.h"
#include "cuda/sm90/policy.cuh"

namespace bsparse {
namespace {

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

// A request in numbers that formulas are made of.
struct Product {
  const bsparse_tile_request& request;
  int row;   // of the tables, by block size
  int axis;  // of the features
  bool is_tf32;
  double size;  // bytes of an element
  double in, out, batch;
  double weights;         // of the dense matrix
  double stored_weights;  // of its blocks
  double flops;           // of the dense product

  explicit Product(const bsparse_tile_request& request)
      : request(request),
        row(0),
        axis(request.feature_axis == 1 ? 1 : 0),
        is_tf32(request.dtype == BSPARSE_FLOAT32 && request.float32_math == BSPARSE_FLOAT32_TF32),
        size(static_cast<double>(element_size(request.dtype))),
        in(static_cast<double>(request.in_blocks) * request.block_size),
        out(static_cast<double>(request.out_blocks) * request.block_size),
        batch(static_cast<double>(request.batch)),
        weights(in * out),
        stored_weights(request.density * weights),
        flops(2.0 * weights * batch) {
    while (8 << row < request.block_size) ++row;
  }

  double useful_flops() const { return request.density * flops; }
  double activation_bytes() const { return (in + out) * batch * size; }
};

// What passes through memory, or stays in the L2 cache.
double copy_seconds(double bytes) { return bytes / (bytes < kCacheBytes ? kCachedRate : kMemoryRate); }

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

double turning_seconds(const Product& product) {
  const double features = product.in + (product.request.is_dw ? product.out : 0.0);
  return copy_seconds(2.0 * features * product.batch * product.size);
}

// TFLOP/s of large products.
double sparse_rate(const Product& product, bsparse_kernel family) {
  const bsparse_tile_request& request = product.request;
  const int row = product.row;
  const int axis = (product.axis == 1) != turns(request, family) ? 1 : 0;
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

double seconds_by_rate(const Product& product, bsparse_kernel family) {
  const double seconds = product.useful_flops() / (sparse_rate(product, family) * 1e12);
  return turns(product.request, family) ? seconds + turning_seconds(product) : seconds;
}

double sm80_seconds(const Product& product, bsparse_kernel family) {
  return kStart + seconds_by_rate(product, family);
}

// A round of tiles takes as long as a full one, however few they are.
double union_seconds(const Product& product) {
  constexpr double kSms = 132;
  constexpr double kBatchTile = 256;
  constexpr double kMeasured = 16 / (2048 / kSms);  // of the products that rates are of
  const double tiles = std::ceil(product.out / kUnionOutputs) * std::ceil(product.batch / kBatchTile);
  const double rounds = std::max(1.0, tiles) / kSms;
  const bool packs = packs_weights(product.request.block_size, static_cast<int>(product.size));
  const double start = product.is_tf32 ? kUnionStartTf32 : packs ? kPackedUnionStart : kUnionStart16;
  return start + seconds_by_rate(product, BSPARSE_SM90) * std::ceil(rounds) / rounds / kMeasured;
}

// Every block takes its x, a large one that of each of its cells, and every batch tile the weights.
double stream_seconds(const Product& product) {
  constexpr int kSms = 132;
  const bsparse_tile_request& request = product.request;
  const auto size = static_cast<int>(product.size);
  const int tile = stream_batch_tile(request.batch, size), cell = stream_cell(request.block_size);
  const double tiles = std::max(1.0, std::ceil(product.batch / tile));
  const double bytes = product.stored_weights * (product.batch / cell + tiles) * product.size;
  const double rate = (product.is_tf32 ? kStreamRateTf32 : kStreamRate16)[product.axis][product.row];
  // Lists are made for powers of two of batch tiles.
  const double lists = std::max(1.0, std::floor(kSms / std::exp2(std::ceil(std::log2(tiles)))));
  const double rounds = lists * tiles / kSms;
  double seconds = kStreamStart + bytes / rate * std::ceil(rounds) / rounds;
  if (stream_turns_inputs(cell, request.feature_axis, tile, size)) {
    seconds += kTurningStart + turning_seconds(product);
  }
  return seconds;
}

// Of union tiles of blocks of 8 and 16, if nobody said: that of a random layout.
double union_density(const bsparse_tile_request& request) {
  if (request.union_density > 0.0f) return request.union_density;
  constexpr double kGrouping = 0.95;  // what putting similar columns together leaves
  const double blocks = 4 * std::pow(16.0 / request.block_size, 2);  // of a product
  return kGrouping * (1.0 - std::pow(1.0 - request.density, blocks));
}

const SmallBlocks& small_blocks(const bsparse_tile_request& request) {
  const auto& blocks = request.dtype == BSPARSE_FLOAT32 ? kSmallBlocksTf32 : kSmallBlocks16;
  return blocks[request.block_size == 8 ? 0 : 1];
}

// Of large products, and no start.
double sweep_seconds(const Product& product) {
  const bsparse_tile_request& request = product.request;
  const SmallBlocks& blocks = small_blocks(request);
  const int tile =
      wanted_sweep_batch_tile(static_cast<int64_t>(product.out), request.block_size,
                              static_cast<int>(product.size), request.density);
  const double microseconds =
      tile == kWideSweepBatchTile
          ? blocks.wide[product.axis].at(request.density)
          : std::max(blocks.sweep[0].at(request.density), blocks.sweep[1].at(request.density));
  return 1e-6 * microseconds * product.flops / 0x1p40;
}

// A block's x, or that of each of its cells: neighbours share dy.
double small_dw_seconds(const Product& product) {
  const double x_elements = product.batch / small_dw_cell(product.request.block_size);
  const double rate = (product.is_tf32 ? kSmallDwRateTf32 : kSmallDwRate16)[product.axis][product.row];
  const double start = kSmallDwStart + std::min(kSmallDwEntry * product.batch, kMostOfSmallDwEntries);
  return start + product.stored_weights * x_elements * product.size / rate;
}

// Short ones do not fill the GPU, or only with splits.
double dw_tiles_seconds(const Product& product) {
  const double seconds = seconds_by_rate(product, BSPARSE_SM90_DW_TILES);
  return kDwTilesStart + seconds + std::min(seconds, 5e-6) + std::min(0.15 * seconds, 15e-6);
}

// Rounds of items, which are split where that costs less (cc/plan/matmul_plan.cc).
double dw_columns_seconds(const Product& product) {
  constexpr double kSms = 132;
  const bsparse_tile_request& request = product.request;
  const double blocks = static_cast<double>(request.density) * request.in_blocks;  // of a column
  const double items = request.out_blocks * (blocks / dw_item_blocks(request.block_size) + 0.5);
  const double steps = std::max(1.0, product.batch / line_elements(static_cast<int>(product.size)));
  const double rounds = items / kSms;
  double taken = std::ceil(rounds);
  for (int splits = 2; splits <= 8; ++splits) {
    taken = std::min(taken, std::ceil(rounds * splits) / splits + kStepsOfDwSplit / steps * splits * rounds);
  }
  return kDwColumnsStart + seconds_by_rate(product, BSPARSE_SM90) * taken / rounds;
}

double sparse_seconds(const Product& product, bsparse_kernel family) {
  const bool is_dw = product.request.is_dw != 0;
  switch (family) {
    case BSPARSE_SM90: return is_dw ? dw_columns_seconds(product) : union_seconds(product);
    case BSPARSE_SM90_STREAM: return stream_seconds(product);
    case BSPARSE_SM90_SWEEP: return kSweepStart + sweep_seconds(product);
    case BSPARSE_SM90_DW_TILES: return dw_tiles_seconds(product);
    case BSPARSE_SM80_SMALL:
      return is_dw ? small_dw_seconds(product) : sm80_seconds(product, family);
    default: return sm80_seconds(product, family);
  }
}

double dense_seconds(const Product& product) {
  const bsparse_tile_request& request = product.request;
  const double rate = request.dtype != BSPARSE_FLOAT32 ? kDense16
                      : !product.is_tf32                ? kDenseFloat32
                      : request.is_dw                 ? kDenseDwTf32
                                                      : kDenseTf32;
  // The dense matrix is written out of the stored blocks; of dw these are picked out of it.
  const double matrix_bytes = product.weights * product.size;
  const double blocks_bytes = product.stored_weights * product.size;
  // Float32 sums that further pairs are added to.
  const double sums_bytes = product.weights * 4 * 2 * std::max(0, request.num_pairs - 1);
  const double multiplied = product.flops / (rate * 1e12);
  const double copied = copy_seconds(matrix_bytes + product.activation_bytes());
  const double exposed = request.is_dw ? kExposedOfDenseDw : kExposedOfDense;
  double seconds = std::max(multiplied, copied) +
                   std::min(exposed * std::min(multiplied, copied), kMostExposedOfDense);
  seconds += copy_seconds(request.is_dw ? 2.0 * blocks_bytes : matrix_bytes + blocks_bytes);
  seconds += copy_seconds(sums_bytes);
  // What dense/matmul.cu turns round: blocks of fprop with features first, x or dy with features last.
  if (product.is_tf32 && !request.is_dw && product.axis == 0) seconds += copy_seconds(2.0 * blocks_bytes);
  if (product.is_tf32 && request.is_dw && product.axis == 1) {
    seconds += copy_seconds(product.activation_bytes());
  }
  return seconds + (request.dtype == BSPARSE_FLOAT32 ? kDenseStart32 : kDenseStart16);
}

}  // namespace

bool sweep_is_faster(const bsparse_tile_request& request) {
  const SmallBlocks& blocks = small_blocks(request);
  if (request.density <= 0.0f || request.density > blocks.densest_sweep) return false;
  if (request.block_size < smallest_product_block(static_cast<int>(element_size(request.dtype)))) {
    return true;  // no union tiles
  }
  const Product product(request);
  constexpr double kClearly = 0.97;
  return sweep_seconds(product) < kClearly * 1e-6 * blocks.unions[product.axis].at(union_density(request)) *
                                      product.flops / 0x1p40;
}

bool stream_is_faster(const bsparse_tile_request& request) {
  const Product product(request);
  return stream_seconds(product) < union_seconds(product);
}

bool small_dw_is_faster(const bsparse_tile_request& request, bsparse_kernel other) {
  const Product product(request);
  return small_dw_seconds(product) < sparse_seconds(product, other);
}

ProductSeconds product_seconds(const bsparse_tile_request& request, bsparse_kernel family) {
  const Product product(request);
  // However it is done, stored blocks come from memory, or go there, and activations pass once.
  const double least = kStart + copy_seconds(product.activation_bytes()) +
                       product.stored_weights * product.size / kMemoryRate;
  return {std::max(sparse_seconds(product, family), least), dense_seconds(product)};
}

bool dense_is_faster(const ProductSeconds& seconds) {
  return seconds.dense < kMargin * seconds.sparse;
}

}  // namespace bsparse
