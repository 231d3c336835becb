// Bsparse>ActivationGrad on a GPU.

#include "cc/kernels/activation_grad_op.h"
#include "cc/kernels/gpu_context.h"
#include "cc/kernels/gpu_launch.h"
#include "cc/kernels/gpu_status.h"
#include "cc/kernels/recurrent_launch.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace bsparse {
namespace {

using tensorflow::OpKernelContext;

class ActivationGradGpuOp final : public ActivationGradOpBase {
 public:
  using ActivationGradOpBase::ActivationGradOpBase;

 protected:
  absl::Status Run(OpKernelContext* ctx, const Call& call) const override {
    const bsparse_cuda_api* api;
    TF_RETURN_IF_ERROR(FindCudaLibrary(&api));
    bsparse_activation_grad_args args{};
    TF_RETURN_IF_ERROR(ToStatus(ToCudaDType(dtype_, &args.dtype)));
    TF_RETURN_IF_ERROR(ToStatus(ToCudaDType(bias_dtype_, &args.bias_dtype)));
    args.activation = ToCudaActivation(attrs_.activation);
    Fill(call, &args);
    Scratch scratch(ctx);
    return scratch.Resolve(LaunchActivationGrad(*api, args, scratch.Allocator(), Stream(ctx)));
  }
};

REGISTER_KERNEL_BUILDER(Name("Bsparse>ActivationGrad").Device(tensorflow::DEVICE_GPU),
                        ActivationGradGpuOp);

}  // namespace
}  // namespace bsparse
