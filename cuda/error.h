// The sentence that last_error() gives: one for each thread.
#ifndef BSPARSE_CUDA_ERROR_H_
#define BSPARSE_CUDA_ERROR_H_

#include <cuda_runtime.h>

#include "cuda/bsparse_cuda.h"

#define RETURN_IF_FAILED(expression)                       \
  do {                                                     \
    const bsparse_status status = (expression);            \
    if (status != BSPARSE_OK) return status;               \
  } while (false)

namespace bsparse {

// Keeps the formatted sentence for last_error() and returns `status`.
bsparse_status fail(bsparse_status status, const char* format, ...)
    __attribute__((format(printf, 2, 3)));

// BSPARSE_OK, or the failure of what `doing` names.
bsparse_status check_cuda(cudaError_t error, const char* doing);

const char* last_error();

}  // namespace bsparse

#endif  // BSPARSE_CUDA_ERROR_H_
