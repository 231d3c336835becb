// Dense products by cuBLAS, where it is installed. The library is opened at run time, so that
// nothing here is linked to it.
#ifndef BSPARSE_CUDA_DENSE_CUBLAS_H_
#define BSPARSE_CUDA_DENSE_CUBLAS_H_

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda/bsparse_cuda.h"

namespace bsparse {

// Scratch memory that a product is given: what cuBLAS asks for on Hopper.
inline constexpr size_t kCublasWorkspaceBytes = 32 << 20;

// Whether this process has cuBLAS.
bool has_cublas();

// A matrix as cuBLAS sees it: column-major, or its transpose.
struct DenseOperand {
  const void* data;
  int64_t leading;
  bool transposed;
};

// c (m, n) = a (m, k) b (k, n), column-major, accumulated in float32.
struct DenseProduct {
  bsparse_dtype dtype;
  bsparse_dtype out_dtype;
  bsparse_float32_math float32_math;
  int64_t m, n, k;
  DenseOperand a, b;
  void* c;
  bool accumulates;  // adds to what c holds
};
bsparse_status launch_dense_product(const DenseProduct& product, void* workspace,
                                    cudaStream_t stream);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_DENSE_CUBLAS_H_
