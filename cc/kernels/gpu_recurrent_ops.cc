// Layer norm and LSTM gates on a GPU.

#include <type_traits>

#include "cc/kernels/gpu_context.h"
#include "cc/kernels/gpu_launch.h"
#include "cc/kernels/gpu_status.h"
#include "cc/kernels/layer_norm_ops.h"
#include "cc/kernels/lstm_gates_ops.h"
#include "cc/kernels/recurrent_launch.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace bsparse {
namespace {

using tensorflow::OpKernelContext;

class LayerNormGpuOp final : public LayerNormOpBase {
 public:
  using LayerNormOpBase::LayerNormOpBase;

 protected:
  absl::Status Run(OpKernelContext* ctx, const Call& call) const override {
    const bsparse_cuda_api* api;
    TF_RETURN_IF_ERROR(FindCudaLibrary(&api));
    bsparse_layer_norm_args args{};
    TF_RETURN_IF_ERROR(ToStatus(ToCudaDType(dtype_, &args.dtype)));
    TF_RETURN_IF_ERROR(ToStatus(ToCudaDType(param_dtype_, &args.param_dtype)));
    args.feature_axis = attrs_.feature_axis;
    args.relu = attrs_.relu;
    args.batch = call.batch;
    args.features = call.features;
    args.segments = attrs_.segments;
    args.epsilon = epsilon_;
    args.x = Data(call.x);
    args.gain = Data(call.gain);
    args.bias = Data(call.bias);
    args.y = MutableData(call.y);
    args.mean = MutableData<float>(call.mean);
    args.rstd = MutableData<float>(call.rstd);
    Scratch scratch(ctx);
    return scratch.Resolve(LaunchLayerNorm(*api, args, scratch.Allocator(), Stream(ctx)));
  }
};

class LayerNormGradGpuOp final : public LayerNormGradOpBase {
 public:
  using LayerNormGradOpBase::LayerNormGradOpBase;

 protected:
  absl::Status Run(OpKernelContext* ctx, const Call& call) const override {
    const bsparse_cuda_api* api;
    TF_RETURN_IF_ERROR(FindCudaLibrary(&api));
    bsparse_layer_norm_grad_args args{};
    TF_RETURN_IF_ERROR(ToStatus(ToCudaDType(dtype_, &args.dtype)));
    TF_RETURN_IF_ERROR(ToStatus(ToCudaDType(param_dtype_, &args.param_dtype)));
    args.feature_axis = attrs_.feature_axis;
    args.relu = attrs_.relu;
    args.batch = call.batch;
    args.features = call.features;
    args.segments = attrs_.segments;
    args.dy = Data(call.dy);
    args.x = Data(call.x);
    args.gain = Data(call.gain);
    args.bias = Data(call.bias);
    args.mean = Data<float>(call.mean);
    args.rstd = Data<float>(call.rstd);
    args.dx = MutableData(call.dx);
    args.dgain = MutableData(call.dgain);
    args.dbias = MutableData(call.dbias);
    Scratch scratch(ctx);
    return scratch.Resolve(LaunchLayerNormGrad(*api, args, scratch.Allocator(), Stream(ctx)));
  }
};

// Base: of the forward or of the gradient op.
template <typename Base>
class LstmGatesGpuOp final : public Base {
 public:
  using Base::Base;

 protected:
  absl::Status Run(OpKernelContext* ctx, const typename Base::Call& call) const override {
    const bsparse_cuda_api* api;
    TF_RETURN_IF_ERROR(FindCudaLibrary(&api));
    bsparse_lstm_gates_args args{};
    TF_RETURN_IF_ERROR(ToStatus(ToCudaDType(this->dtype_, &args.dtype)));
    TF_RETURN_IF_ERROR(ToStatus(ToCudaDType(this->cell_dtype_, &args.cell_dtype)));
    TF_RETURN_IF_ERROR(ToStatus(ToCudaDType(this->bias_dtype_, &args.bias_dtype)));
    this->Fill(call, &args);
    constexpr bool kBackward = std::is_same_v<Base, LstmGatesGradOpBase>;
    return ToStatus(LaunchLstmGates(*api, args, kBackward, Stream(ctx)));
  }
};

REGISTER_KERNEL_BUILDER(Name("Bsparse>LayerNorm").Device(tensorflow::DEVICE_GPU), LayerNormGpuOp);
REGISTER_KERNEL_BUILDER(Name("Bsparse>LayerNormGrad").Device(tensorflow::DEVICE_GPU),
                        LayerNormGradGpuOp);
REGISTER_KERNEL_BUILDER(Name("Bsparse>LstmGates").Device(tensorflow::DEVICE_GPU),
                        LstmGatesGpuOp<LstmGatesForwardOpBase>);
REGISTER_KERNEL_BUILDER(Name("Bsparse>LstmGatesGrad").Device(tensorflow::DEVICE_GPU),
                        LstmGatesGpuOp<LstmGatesGradOpBase>);

}  // namespace
}  // namespace bsparse
