#include "cuda/choose_kernel.h"

#include <cstdint>

#include "cuda/cost_model.h"
#include "cuda/cublas.h"
#include "cuda/policy.cuh"
#include "cuda/sm90_policy.cuh"

namespace bsparse {
namespace {

// Whether the Hopper kernels have a place for a product. Tensor maps want strides of 16 bytes, and
// count the batch in 32 bits.
bool suits_sm90(const bsparse_tile_request& request, int compute_capability) {
  return compute_capability == 90 && request.dtype != BSPARSE_FLOAT32 &&
         request.aligned && request.batch > 0 &&
         request.batch <= INT32_MAX - 256 &&
         (request.feature_axis == 1 || request.batch % 8 == 0);
}

// cuBLAS counts in 32 bits.
bool suits_dense(const bsparse_tile_request& request) {
  return request.batch > 0 && request.batch <= INT32_MAX && request.density > 0.0f &&
         dense_is_faster(request) && has_cublas();
}

}  // namespace

bsparse_kernel choose_matmul(const bsparse_tile_request& request, int compute_capability) {
  if (suits_dense(request) && !request.gated) return BSPARSE_DENSE;
  // Gates leave out entries, which unions do not do.
  if (suits_sm90(request, compute_capability) && request.block_size >= 32 && !request.gated) {
    if (request.batch <= kUnionSmallBatch) return BSPARSE_SM90_SMALL;
    return pairs_pay(request.block_size, request.feature_axis, request.density)
               ? BSPARSE_SM90_PAIR
               : BSPARSE_SM90;
  }
  return request.batch <= kSmallBatch ? BSPARSE_SM80_SMALL : BSPARSE_SM80;
}

bsparse_kernel choose_matmul_dw(const bsparse_tile_request& request, int compute_capability) {
  if (suits_dense(request)) return BSPARSE_DENSE;
  const int smallest = request.feature_axis == 0 ? 16 : 32;
  return suits_sm90(request, compute_capability) && request.block_size >= smallest ? BSPARSE_SM90
                                                                                   : BSPARSE_SM80;
}

}  // namespace bsparse
