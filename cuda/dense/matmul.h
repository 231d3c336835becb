// Products by way of the dense matrix, for layouts too dense for sparsity to pay.
#ifndef BSPARSE_CUDA_DENSE_MATMUL_H_
#define BSPARSE_CUDA_DENSE_MATMUL_H_

#include <cuda_runtime.h>

#include <cstddef>

#include "cuda/bsparse_cuda.h"

namespace bsparse {

// w is laid out as a dense matrix; absent blocks are zeros, and count as such.
size_t dense_matmul_workspace(const bsparse_matmul_args& args);
bsparse_status launch_dense_matmul(const bsparse_matmul_args& args, cudaStream_t stream);

// The dense gradient is computed, and its stored blocks are kept.
size_t dense_matmul_dw_workspace(const bsparse_matmul_dw_args& args);
bsparse_status launch_dense_matmul_dw(const bsparse_matmul_dw_args& args, cudaStream_t stream);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_DENSE_MATMUL_H_
