// From a call to a launch: what OpKernels do for layer norm, LSTM gates and the gradient of an
// activation on a GPU. No TensorFlow here.
#ifndef BSPARSE_CC_KERNELS_RECURRENT_LAUNCH_H_
#define BSPARSE_CC_KERNELS_RECURRENT_LAUNCH_H_

#include "cc/kernels/gpu_launch.h"
#include "cuda/bsparse_cuda.h"

namespace bsparse {

// Each enqueues what `args` describes, all but its workspace set.
GpuStatus LaunchLayerNorm(const bsparse_cuda_api& api, bsparse_layer_norm_args args,
                          const DeviceAllocator& allocate, void* stream);
GpuStatus LaunchLayerNormGrad(const bsparse_cuda_api& api, bsparse_layer_norm_grad_args args,
                              const DeviceAllocator& allocate, void* stream);
GpuStatus LaunchLstmGates(const bsparse_cuda_api& api, const bsparse_lstm_gates_args& args,
                          bool backward, void* stream);
GpuStatus LaunchActivationGrad(const bsparse_cuda_api& api, bsparse_activation_grad_args args,
                               const DeviceAllocator& allocate, void* stream);

}  // namespace bsparse

#endif  // BSPARSE_CC_KERNELS_RECURRENT_LAUNCH_H_
