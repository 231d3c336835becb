// Layer norm and LSTM gates on the CPU.

#include <type_traits>

#include "cc/cpu/layer_norm.h"
#include "cc/cpu/lstm_gates.h"
#include "cc/kernels/cpu_context.h"
#include "cc/kernels/layer_norm_ops.h"
#include "cc/kernels/lstm_gates_ops.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace bsparse {
namespace {

using tensorflow::OpKernelContext;

class LayerNormCpuOp final : public LayerNormOpBase {
 public:
  using LayerNormOpBase::LayerNormOpBase;

 protected:
  absl::Status Run(OpKernelContext* ctx, const Call& call) const override {
    CpuLayerNormArgs args;
    args.shape = {dtype_,     param_dtype_,  attrs_.feature_axis, attrs_.relu,
                  call.batch, call.features, attrs_.segments};
    args.epsilon = epsilon_;
    args.x = Data(call.x);
    args.gain = Data(call.gain);
    args.bias = Data(call.bias);
    args.y = MutableData(call.y);
    args.mean = MutableData(call.mean);
    args.rstd = MutableData(call.rstd);
    CpuLayerNorm(args, OverThreadPool(ctx));
    return absl::OkStatus();
  }
};

class LayerNormGradCpuOp final : public LayerNormGradOpBase {
 public:
  using LayerNormGradOpBase::LayerNormGradOpBase;

 protected:
  absl::Status Run(OpKernelContext* ctx, const Call& call) const override {
    CpuLayerNormGradArgs args;
    args.shape = {dtype_,     param_dtype_,  attrs_.feature_axis, attrs_.relu,
                  call.batch, call.features, attrs_.segments};
    args.dy = Data(call.dy);
    args.x = Data(call.x);
    args.gain = Data(call.gain);
    args.bias = Data(call.bias);
    args.mean = Data(call.mean);
    args.rstd = Data(call.rstd);
    args.dx = MutableData(call.dx);
    args.dgain = MutableData(call.dgain);
    args.dbias = MutableData(call.dbias);
    CpuLayerNormGrad(args, OverThreadPool(ctx));
    return absl::OkStatus();
  }
};

// Base: of the forward or of the gradient op.
template <typename Base>
class LstmGatesCpuOp final : public Base {
 public:
  using Base::Base;

 protected:
  absl::Status Run(OpKernelContext* ctx, const typename Base::Call& call) const override {
    CpuLstmGatesArgs args;
    args.dtype = this->dtype_;
    args.cell_dtype = this->cell_dtype_;
    args.bias_dtype = this->bias_dtype_;
    this->Fill(call, &args);
    constexpr bool kBackward = std::is_same_v<Base, LstmGatesGradOpBase>;
    (kBackward ? CpuLstmGatesGrad : CpuLstmGates)(args, OverThreadPool(ctx));
    return absl::OkStatus();
  }
};

REGISTER_KERNEL_BUILDER(Name("Bsparse>LayerNorm").Device(tensorflow::DEVICE_CPU), LayerNormCpuOp);
REGISTER_KERNEL_BUILDER(Name("Bsparse>LayerNormGrad").Device(tensorflow::DEVICE_CPU),
                        LayerNormGradCpuOp);
REGISTER_KERNEL_BUILDER(Name("Bsparse>LstmGates").Device(tensorflow::DEVICE_CPU),
                        LstmGatesCpuOp<LstmGatesForwardOpBase>);
REGISTER_KERNEL_BUILDER(Name("Bsparse>LstmGatesGrad").Device(tensorflow::DEVICE_CPU),
                        LstmGatesCpuOp<LstmGatesGradOpBase>);

}  // namespace
}  // namespace bsparse
