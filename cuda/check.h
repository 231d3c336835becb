// Every argument is looked at before anything is launched: a kernel trusts what it gets.
#ifndef BSPARSE_CUDA_CHECK_H_
#define BSPARSE_CUDA_CHECK_H_

#include <cstddef>
#include <cstdint>

#include "cuda/bsparse_cuda.h"

namespace bsparse {

constexpr size_t element_size(bsparse_dtype dtype) { return dtype == BSPARSE_FLOAT32 ? 4 : 2; }

bool is_aligned(const void* pointer, size_t bytes);

bsparse_status check_range(const char* name, int64_t value, int64_t low, int64_t high);
// A device pointer, not null.
bsparse_status check_pointer(const char* name, const void* pointer, size_t alignment);
// A tensor (a, b, c) whose byte offsets fit in 63 bits.
bsparse_status check_size(const char* name, int64_t a, int64_t b, int64_t c, size_t bytes);
bsparse_status check_dtype(const char* name, bsparse_dtype dtype);
bsparse_status check_block_size(int32_t block_size);

// Of all pairs, which have been checked.
int64_t total_batch(const bsparse_matmul_dw_args& args);

// All but the workspace. A batch of 0 needs no x and no y.
bsparse_status check_matmul(const bsparse_matmul_args& args);
bsparse_status check_matmul_dw(const bsparse_matmul_dw_args& args);
bsparse_status check_prepare_weights(const bsparse_prepare_weights_args& args);

bsparse_status check_workspace(const void* workspace, size_t bytes, size_t needed);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_CHECK_H_
