// From a dtype to the type that stores it: the one place where a kernel template meets its types.
#ifndef BSPARSE_CUDA_WITH_ELEMENT_CUH_
#define BSPARSE_CUDA_WITH_ELEMENT_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/bsparse_cuda.h"

namespace bsparse {

template <class T>
struct ElementOf {
  using Type = T;
};

// Calls `function` with the ElementOf a dtype that has been checked.
template <class Function>
auto with_element(bsparse_dtype dtype, Function function) {
  switch (dtype) {
    case BSPARSE_FLOAT16: return function(ElementOf<__half>());
    case BSPARSE_BFLOAT16: return function(ElementOf<__nv_bfloat16>());
    case BSPARSE_FLOAT32: break;
  }
  return function(ElementOf<float>());
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_WITH_ELEMENT_CUH_
