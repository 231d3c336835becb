#include "cc/kernels/recurrent_launch.h"

#include <string>

namespace bsparse {
namespace {

GpuStatus Report(const bsparse_cuda_api& api, bsparse_status code) {
  return code == BSPARSE_OK ? GpuStatus{} : GpuStatus{code, api.last_error()};
}

template <typename Args>
GpuStatus LaunchWithWorkspace(const bsparse_cuda_api& api, Args args,
                              size_t (*workspace)(const Args*),
                              bsparse_status (*launch)(const Args*, void*),
                              const DeviceAllocator& allocate, void* stream) {
  args.workspace_bytes = workspace(&args);
  if (args.workspace_bytes > 0) {
    args.workspace = allocate(args.workspace_bytes);
    if (args.workspace == nullptr) {
      return {BSPARSE_CUDA_ERROR, "no device memory for " + std::to_string(args.workspace_bytes) +
                                      " bytes of workspace"};
    }
  }
  return Report(api, launch(&args, stream));
}

}  // namespace

GpuStatus LaunchLayerNorm(const bsparse_cuda_api& api, bsparse_layer_norm_args args,
                          const DeviceAllocator& allocate, void* stream) {
  return LaunchWithWorkspace(api, args, api.layer_norm_workspace, api.layer_norm, allocate,
                             stream);
}

GpuStatus LaunchLayerNormGrad(const bsparse_cuda_api& api, bsparse_layer_norm_grad_args args,
                              const DeviceAllocator& allocate, void* stream) {
  return LaunchWithWorkspace(api, args, api.layer_norm_grad_workspace, api.layer_norm_grad,
                             allocate, stream);
}

GpuStatus LaunchLstmGates(const bsparse_cuda_api& api, const bsparse_lstm_gates_args& args,
                          bool backward, void* stream) {
  return Report(api, (backward ? api.lstm_gates_grad : api.lstm_gates)(&args, stream));
}

GpuStatus LaunchActivationGrad(const bsparse_cuda_api& api, bsparse_activation_grad_args args,
                               const DeviceAllocator& allocate, void* stream) {
  return LaunchWithWorkspace(api, args, api.activation_grad_workspace, api.activation_grad,
                             allocate, stream);
}

}  // namespace bsparse
