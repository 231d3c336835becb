#include "cuda/choose_kernel.h"

#include <algorithm>
#include <cstdint>

#include "cuda/check.h"
#include "cuda/dense/cublas.h"
#include "cuda/sm80/policy.cuh"
#include "cuda/sm90/dw_choice.h"
#include "cuda/sm90/policy.cuh"

namespace bsparse {
namespace {

// cuBLAS counts in 32 bits.
bsparse_dense_reason why_dense(const bsparse_tile_request& request, const ProductSeconds& seconds,
                               bool assume_cublas) {
  if (request.density <= 0.0f || !dense_is_faster(seconds)) return BSPARSE_SPARSE_IS_FASTER;
  if (request.batch <= 0 || request.batch > INT32_MAX) return BSPARSE_DENSE_NEEDS_OTHER_BATCH;
  // A gated block may hold NaN. dw only scales by the gate.
  if (request.gated && !request.is_dw) return BSPARSE_DENSE_NEEDS_NO_GATE;
  return assume_cublas || has_cublas() ? BSPARSE_DENSE_IS_FASTER : BSPARSE_DENSE_NEEDS_CUBLAS;
}

// A TF32 product of so few multiplications that cuBLAS's errs no more than one in float32: sums in the tensor cores err
// two to four times as much, which from here on cuBLAS's do, too. `sm80 small` and streams add outside of them.
bool is_small_tf32_product(const bsparse_tile_request& request) {
  constexpr double kLarge = 512.0 * 1024 * 1024;
  const double bs = request.block_size;
  const double dense_products =
      request.in_blocks * bs * request.out_blocks * bs * static_cast<double>(request.batch);
  return !request.is_dw && request.dtype == BSPARSE_FLOAT32 &&
         request.float32_math == BSPARSE_FLOAT32_TF32 && dense_products < kLarge;
}

// Small batches stream, and larger ones where that is faster than union tiles, or those may not be taken.
bool is_stream(const bsparse_tile_request& request) {
  const bool tensor_cores = request.dtype != BSPARSE_FLOAT32 ||
                            request.float32_math == BSPARSE_FLOAT32_TF32;
  const auto size = static_cast<int>(element_size(request.dtype));
  if (request.is_dw || !tensor_cores) return false;
  if (request.batch <= always_streamed_batch(size)) return true;
  return request.density > 0.0f && request.batch <= kMaxStreamedBatch &&
         request.block_size >= smallest_product_block(size) &&
         (is_small_tf32_product(request) || stream_is_faster(request));
}

bool is_sweep(const bsparse_tile_request& request) {
  return may_sweep(request.block_size, static_cast<int>(element_size(request.dtype)),
                   int64_t{request.in_blocks} * request.block_size,
                   int64_t{request.out_blocks} * request.block_size, request.batch) &&
         sweep_is_faster(request);
}

// What a product would go by if the Hopper families suit it.
bsparse_kernel hopper_family(const bsparse_tile_request& request) {
  if (request.is_dw) return dw_goes_by_tiles(hopper_dw(request)) ? BSPARSE_SM90_DW_TILES : BSPARSE_SM90;
  if (is_stream(request)) return BSPARSE_SM90_STREAM;
  return is_sweep(request) ? BSPARSE_SM90_SWEEP : BSPARSE_SM90;
}

// Tensor maps want strides of 16 bytes, and count the batch in 32 bits.
bsparse_hopper_reason why_hopper(const bsparse_tile_request& request, bsparse_kernel family,
                                 int compute_capability) {
  if (compute_capability != 90) return BSPARSE_HOPPER_NEEDS_CAPABILITY_90;
  if (request.dtype == BSPARSE_FLOAT32 && request.float32_math != BSPARSE_FLOAT32_TF32) {
    return BSPARSE_HOPPER_NEEDS_16_BIT;
  }
  const auto size = static_cast<int>(element_size(request.dtype));
  if (!request.is_dw && request.block_size < smallest_product_block(size) &&
      family != BSPARSE_SM90_SWEEP) {
    return BSPARSE_HOPPER_NEEDS_LARGER_BLOCKS;
  }
  if (!request.aligned) return BSPARSE_HOPPER_NEEDS_ALIGNMENT;
  if (request.batch <= 0 || request.batch > INT32_MAX - 256 ||
      (request.feature_axis == 0 && request.batch * size % 16 != 0)) {
    return BSPARSE_HOPPER_NEEDS_OTHER_BATCH;
  }
  if (family != BSPARSE_SM90_STREAM && is_small_tf32_product(request)) {
    return BSPARSE_HOPPER_NEEDS_LARGER_PRODUCT;
  }
  return BSPARSE_HOPPER_SUITS;
}

// Whether dw goes out of registers and not by the `other` family. Rows of x and dy are read 16 bytes at once. Turned round a
// row has up to 7 entries more.
bool is_small_dw(const bsparse_tile_request& request, bsparse_kernel other) {
  if (request.dtype == BSPARSE_FLOAT32 && request.float32_math != BSPARSE_FLOAT32_TF32) return false;
  const auto size = static_cast<int>(element_size(request.dtype));
  const bool is_dense = request.density > 0.25f;  // large blocks are soon faster otherwise
  const bool always = request.batch <= small_dw_batch(request.feature_axis, size) / (is_dense ? 2 : 1);
  const bool is_small = always || (request.density > 0.0f &&
                                   request.batch <= most_small_dw_batch(request.feature_axis, size) &&
                                   small_dw_is_faster(request, other));
  if (request.batch <= 0 || !is_small) return false;
  const int64_t features =
      int64_t{std::max(request.in_blocks, request.out_blocks)} * request.block_size;
  return request.aligned && (request.feature_axis == 1 || request.batch * size % 16 == 0) &&
         small_dw_counts(features, request.batch + 7, size);
}

// Of fprop and dx where the Hopper families do not suit.
bsparse_kernel sm80_family(const bsparse_tile_request& request) {
  return request.batch <= kSmallBatch || is_small_tf32_product(request) ? BSPARSE_SM80_SMALL
                                                                        : BSPARSE_SM80;
}

// `on_hopper`: by which it goes if `suits`.
bsparse_kernel sparse_family(const bsparse_tile_request& request, bsparse_kernel on_hopper, bool suits) {
  if (!request.is_dw) return suits ? on_hopper : sm80_family(request);
  const bsparse_kernel other = suits ? on_hopper : BSPARSE_SM80;
  return is_small_dw(request, other) ? BSPARSE_SM80_SMALL : other;
}

}  // namespace

Choice choose_kernel(const bsparse_tile_request& request, int compute_capability,
                     bool assume_cublas) {
  Choice choice{};
  const bsparse_kernel on_hopper = hopper_family(request);
  choice.hopper = why_hopper(request, on_hopper, compute_capability);
  const bsparse_kernel sparse =
      sparse_family(request, on_hopper, choice.hopper == BSPARSE_HOPPER_SUITS);
  choice.seconds = product_seconds(request, sparse);
  choice.dense = why_dense(request, choice.seconds, assume_cublas);
  choice.family = choice.dense == BSPARSE_DENSE_IS_FASTER ? BSPARSE_DENSE : sparse;
  return choice;
}

}  // namespace bsparse
