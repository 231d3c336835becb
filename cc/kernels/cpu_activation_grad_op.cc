// Bsparse>ActivationGrad on the CPU.

#include "cc/cpu/activation_grad.h"
#include "cc/kernels/activation_grad_op.h"
#include "cc/kernels/cpu_context.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace bsparse {
namespace {

using tensorflow::OpKernelContext;

class ActivationGradCpuOp final : public ActivationGradOpBase {
 public:
  using ActivationGradOpBase::ActivationGradOpBase;

 protected:
  absl::Status Run(OpKernelContext* ctx, const Call& call) const override {
    CpuActivationGradArgs args;
    args.dtype = dtype_;
    args.bias_dtype = bias_dtype_;
    args.activation = attrs_.activation;
    Fill(call, &args);
    CpuActivationGrad(args, OverThreadPool(ctx));
    return absl::OkStatus();
  }
};

REGISTER_KERNEL_BUILDER(Name("Bsparse>ActivationGrad").Device(tensorflow::DEVICE_CPU),
                        ActivationGradCpuOp);

}  // namespace
}  // namespace bsparse
