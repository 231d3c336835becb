// The checks of layer norm's arguments.
#ifndef BSPARSE_CUDA_POINTWISE_LAYER_NORM_CHECK_H_
#define BSPARSE_CUDA_POINTWISE_LAYER_NORM_CHECK_H_

#include "cuda/bsparse_cuda.h"

namespace bsparse {

// All but the workspace. A batch of 0 needs no activations.
bsparse_status check_layer_norm(const bsparse_layer_norm_args& args);
bsparse_status check_layer_norm_grad(const bsparse_layer_norm_grad_args& args);

// The dtype of what goes with activations of `dtype`: the same, or float32.
bsparse_status check_stored_dtype(const char* name, bsparse_dtype stored, bsparse_dtype dtype);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_POINTWISE_LAYER_NORM_CHECK_H_
