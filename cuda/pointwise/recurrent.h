// The functions of bsparse_cuda.h between the products of a recurrent net: each checks its
// arguments and launches.
#ifndef BSPARSE_CUDA_POINTWISE_RECURRENT_H_
#define BSPARSE_CUDA_POINTWISE_RECURRENT_H_

#include <cstddef>

#include "cuda/bsparse_cuda.h"

namespace bsparse {

size_t layer_norm_workspace(const bsparse_layer_norm_args* args);
bsparse_status layer_norm(const bsparse_layer_norm_args* args, void* stream);
size_t layer_norm_grad_workspace(const bsparse_layer_norm_grad_args* args);
bsparse_status layer_norm_grad(const bsparse_layer_norm_grad_args* args, void* stream);
bsparse_status lstm_gates(const bsparse_lstm_gates_args* args, void* stream);
bsparse_status lstm_gates_grad(const bsparse_lstm_gates_args* args, void* stream);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_POINTWISE_RECURRENT_H_
