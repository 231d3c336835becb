// The copies of a union tile's producers.
#ifndef BSPARSE_CUDA_SM90_COPY_CUH_
#define BSPARSE_CUDA_SM90_COPY_CUH_

#include "cuda/matmul_params.h"
#include "cuda/sm90_ptx.cuh"

namespace bsparse {

// A box of x into the CTAs of the cluster whose bits are set, this one among them.
template <class Traits>
__device__ __forceinline__ void copy_x(uint32_t to, const UnionMatmulParams& params, int feature,
                                       int batch, uint32_t barrier, uint32_t ranks) {
  const int column = Traits::kFeatureAxis == 1 ? feature : batch;
  const int row = Traits::kFeatureAxis == 1 ? batch : feature;
  if ((ranks & (ranks - 1)) == 0) {
    ptx::copy_box_to_shared(to, &params.x, column, row, barrier);
  } else {
    ptx::copy_box_to_cluster(to, &params.x, column, row, barrier, static_cast<uint16_t>(ranks));
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
