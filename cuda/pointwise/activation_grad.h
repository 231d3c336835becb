// The gradient of an activation and of the bias before it, of bsparse_cuda.h.
#ifndef BSPARSE_CUDA_POINTWISE_ACTIVATION_GRAD_H_
#define BSPARSE_CUDA_POINTWISE_ACTIVATION_GRAD_H_

#include <cstddef>

#include "cuda/bsparse_cuda.h"

namespace bsparse {

size_t activation_grad_workspace(const bsparse_activation_grad_args* args);
bsparse_status activation_grad(const bsparse_activation_grad_args* args, void* stream);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_POINTWISE_ACTIVATION_GRAD_H_
