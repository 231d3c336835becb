// Opens libbsparse_cuda.so, which lies beside this library when the build had a CUDA compiler.
#ifndef BSPARSE_CC_KERNELS_CUDA_LIBRARY_H_
#define BSPARSE_CC_KERNELS_CUDA_LIBRARY_H_

#include <string>

#include "cuda/bsparse_cuda.h"

namespace bsparse {

// The library's functions, opened on the first call; null if there is none to be had, and then
// *why (if not null) holds a sentence that says so and what to do.
const bsparse_cuda_api* CudaLibrary(std::string* why);

}  // namespace bsparse

#endif  // BSPARSE_CC_KERNELS_CUDA_LIBRARY_H_
