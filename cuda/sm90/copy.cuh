// The copies of a union tile's producers.
#ifndef BSPARSE_CUDA_SM90_COPY_CUH_
#define BSPARSE_CUDA_SM90_COPY_CUH_

#include "cuda/matmul_params.h"
#include "cuda/sm90/ptx.cuh"

namespace bsparse {

// The x tile of an entry, or a part of it, into the CTAs of the cluster whose bits are set, this one among
// them. With features first it is several boxes, each kLineBatch wide, unless `deep_x`.
template <class Traits>
__device__ __forceinline__ void copy_x(uint32_t to, const UnionMatmulParams& params, int feature,
                                       int batch, uint32_t barrier, uint32_t ranks) {
  const bool alone = (ranks & (ranks - 1)) == 0;
  const auto receivers = static_cast<uint16_t>(ranks);
  if (Traits::kInputAxis == 0 && params.deep_x) {
    const int line = batch / Traits::kLineBatch;
    if (alone) {
      ptx::copy_deep_box_to_shared(to, &params.x, feature, line, barrier);
    } else {
      ptx::copy_deep_box_to_cluster(to, &params.x, feature, line, barrier, receivers);
    }
    return;
  }
#pragma unroll
  for (int b = 0; b < Traits::kBoxesX; ++b) {
    const uint32_t place = to + b * Traits::kBoxBytesX;
    const int first = batch + b * Traits::kBoxBatch;
    const int column = Traits::kInputAxis == 1 ? feature : first;
    const int row = Traits::kInputAxis == 1 ? first : feature;
    if (alone) {
      ptx::copy_box_to_shared(place, &params.x, column, row, barrier);
    } else {
      ptx::copy_box_to_cluster(place, &params.x, column, row, barrier, receivers);
    }
  }
}

// A box of w.
__device__ __forceinline__ void copy_w(uint32_t to, const UnionMatmulParams& params, int column,
                                       int row, uint32_t barrier) {
  if (params.keeps_weights) {
    ptx::copy_box_to_shared(to, &params.w, column, row, barrier, ptx::policy_keep());
  } else {
    ptx::copy_box_to_shared(to, &params.w, column, row, barrier);
  }
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_COPY_CUH_
