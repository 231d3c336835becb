// The kernels of every family. A new one is added here.
#ifndef BSPARSE_CUDA_KERNEL_TABLE_H_
#define BSPARSE_CUDA_KERNEL_TABLE_H_

#include <cstdint>

#include "cuda/bsparse_cuda.h"
#include "cuda/matmul_params.h"
#include "cuda/sm90/policy.cuh"

namespace bsparse {

// How elements are multiplied: "bf16", "fp16", "tf32", "tf32x3" or "fp32".
const char* math_name(bsparse_dtype dtype, bsparse_float32_math float32_math);

// The family for Hopper whose items are unions; its partials lie outputs first.
__host__ __device__ constexpr bool is_union(int32_t family) { return family == BSPARSE_SM90; }

// Families that need a Hopper.
constexpr bool is_hopper(int32_t family) {
  return family != BSPARSE_SM80 && family != BSPARSE_SM80_SMALL && family != BSPARSE_DENSE;
}

// Features of a column of such a family's items, or of another's.
__host__ __device__ constexpr int column_features(int32_t family, int block_size) {
  return is_union(family)                 ? block_size * column_blocks(block_size)
         : family == BSPARSE_SM90_STREAM ? stream_cell(block_size)
                                         : block_size;
}

Kernel find_matmul(bsparse_dtype dtype, bsparse_float32_math float32_math,
                   const MatmulVariant& variant);
// `feature_axis`: as the kernel finds x and dy, which may have been turned round for it (hopper_dw_turns).
Kernel find_matmul_dw(bsparse_kernel family, bsparse_dtype dtype,
                      bsparse_float32_math float32_math, int block_size, int feature_axis);

// The kernel that the plan of `args` was cut for, or a failure if there is none.
bsparse_status find_planned_matmul(const bsparse_matmul_args& args, Kernel* kernel);
bsparse_status find_planned_matmul_dw(const bsparse_matmul_dw_args& args, Kernel* kernel);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_KERNEL_TABLE_H_
