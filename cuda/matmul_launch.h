// From checked arguments to launches, one function a family of kernels.
#ifndef BSPARSE_CUDA_MATMUL_LAUNCH_H_
#define BSPARSE_CUDA_MATMUL_LAUNCH_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <vector>

#include "cuda/bsparse_cuda.h"
#include "cuda/matmul_params.h"

namespace bsparse {

// Bytes of x that a batch tile reads.
int64_t tile_bytes(const bsparse_matmul_args& args, const Kernel& kernel);

// Items of one block column: one CTA an item and batch tile.
bsparse_status launch_column_matmul(const bsparse_matmul_args& args, const Kernel& kernel,
                                    cudaStream_t stream);

// Items of several: a CTA a multiprocessor, which takes tile after tile.
bsparse_status launch_union_matmul(const bsparse_matmul_args& args, const Kernel& kernel,
                                   cudaStream_t stream);

// Lists of equal length: a CTA a list and batch tile.
bsparse_status launch_stream_matmul(const bsparse_matmul_args& args, const Kernel& kernel,
                                    cudaStream_t stream);

// Many columns, by which all of x passes: a CTA a multiprocessor, which takes tile after tile.
bsparse_status launch_sweep_matmul(const bsparse_matmul_args& args, const Kernel& kernel,
                                   cudaStream_t stream);

// The pairs of dw that have a batch.
std::vector<bsparse_dw_pair> filled_pairs(const bsparse_matmul_dw_args& args);

DwOutput dw_output(const bsparse_matmul_dw_args& args);

// Of sums that several splits or launches leave, and of x and dy turned round.
size_t matmul_dw_workspace_bytes(const bsparse_matmul_dw_args& args, const Kernel& kernel);

bsparse_status launch_matmul_dw(const bsparse_matmul_dw_args& args, const Kernel& kernel,
                                cudaStream_t stream);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_MATMUL_LAUNCH_H_
