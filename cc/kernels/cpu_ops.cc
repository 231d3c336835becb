// The ops on the CPU: cc/cpu's kernels over TensorFlow's thread pool.

#include "cc/cpu/matmul.h"
#include "cc/kernels/cpu_context.h"
#include "cc/kernels/product_ops.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace bsparse {
namespace {

using tensorflow::OpKernelContext;

class MatmulCpuOp final : public MatmulOpBase {
 public:
  using MatmulOpBase::MatmulOpBase;

 protected:
  absl::Status Run(OpKernelContext* ctx, const Call& call) const override {
    CpuMatmulArgs args;
    args.dtype = dtype_;
    args.weight_dtype = weight_dtype_;
    args.activation = activation_;
    args.block_size = attrs_.block_size;
    args.feature_axis = attrs_.feature_axis;
    args.transpose = transpose_;
    args.batch = call.batch;
    args.index = &call.plans->index(transpose_);
    args.x = Data(call.x);
    args.w = Data(call.w);
    args.gate = static_cast<const float*>(Data(call.gate));
    args.bias = Data(call.bias);
    args.residual = Data(call.residual);
    args.y = MutableData(call.y);
    CpuMatmul(args, OverThreadPool(ctx));
    return absl::OkStatus();
  }
};

class MatmulDwCpuOp final : public MatmulDwOpBase {
 public:
  using MatmulDwOpBase::MatmulDwOpBase;

 protected:
  absl::Status Run(OpKernelContext* ctx, const Call& call) const override {
    CpuMatmulDwArgs args;
    args.dtype = dtype_;
    args.out_dtype = out_dtype_;
    args.block_size = attrs_.block_size;
    args.feature_axis = attrs_.feature_axis;
    args.index = &call.plans->index(/*transpose=*/false);
    for (const Pair& pair : call.pairs) {
      args.pairs.push_back({Data(pair.x), Data(pair.dy), pair.batch});
    }
    args.gate = static_cast<const float*>(Data(call.gate));
    args.addend = Data(call.addend);
    args.dw = MutableData(call.dw);
    CpuMatmulDw(args, OverThreadPool(ctx));
    return absl::OkStatus();
  }
};

REGISTER_KERNEL_BUILDER(Name("Bsparse>Matmul").Device(tensorflow::DEVICE_CPU), MatmulCpuOp);
REGISTER_KERNEL_BUILDER(Name("Bsparse>MatmulDw").Device(tensorflow::DEVICE_CPU), MatmulDwCpuOp);

}  // namespace
}  // namespace bsparse
