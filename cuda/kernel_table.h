// Which kernel serves a request, and how kernels are launched. A new family is added here.
#ifndef BSPARSE_CUDA_KERNEL_TABLE_H_
#define BSPARSE_CUDA_KERNEL_TABLE_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/bsparse_cuda.h"
#include "cuda/matmul_params.h"

namespace bsparse {

// How elements of a dtype are multiplied: "bf16", "fp16", "tf32" or "fp32".
const char* math_name(bsparse_dtype dtype, bool allow_tf32);

// The family that should serve a product on a device of this compute capability.
bsparse_kernel choose_matmul(const bsparse_tile_request& request, int compute_capability);

Kernel find_matmul(bsparse_kernel family, bsparse_dtype dtype, bool allow_tf32, int block_size,
                   int feature_axis, bool transpose);
bsparse_kernel choose_matmul_dw(const bsparse_tile_request& request, int compute_capability);
Kernel find_matmul_dw(bsparse_kernel family, bsparse_dtype dtype, bool allow_tf32, int block_size,
                      int feature_axis);

// The kernel that the plan of `args` was cut for, or a failure if there is none.
bsparse_status find_planned_matmul(const bsparse_matmul_args& args, Kernel* kernel);
bsparse_status find_planned_matmul_dw(const bsparse_matmul_dw_args& args, Kernel* kernel);

// CTAs of a kernel that fit on one SM of the current device.
bsparse_status get_ctas_per_sm(const Kernel& kernel, int32_t* ctas);

bsparse_status get_multiprocessors(int32_t* count);

// Launches a kernel that takes one struct of parameters.
bsparse_status launch(const Kernel& kernel, const char* name, uint32_t ctas, void* params,
                      cudaStream_t stream);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_KERNEL_TABLE_H_
