// The ops on the CPU: cc/cpu's kernels over TensorFlow's thread pool.

#include "cc/cpu/matmul.h"
#include "cc/kernels/product_ops.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/lib/core/threadpool.h"

namespace bsparse {
namespace {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;

ParallelFor OverThreadPool(OpKernelContext* ctx) {
  tensorflow::thread::ThreadPool* const pool =
      ctx->device()->tensorflow_cpu_worker_threads()->workers;
  return [pool](int64_t total, int64_t cost_per_unit,
                const std::function<void(int64_t, int64_t)>& body) {
    using Pool = tensorflow::thread::ThreadPool;
    pool->ParallelFor(total, Pool::SchedulingParams::Adaptive(cost_per_unit), body);
  };
}

const void* Data(const Tensor* tensor) {
  return tensor == nullptr ? nullptr : tensor->tensor_data().data();
}

void* MutableData(Tensor* tensor) { return const_cast<char*>(tensor->tensor_data().data()); }

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
    args.batch = call.batch;
    args.index = &call.plans->index(/*transpose=*/false);
    args.x = Data(call.x);
    args.dy = Data(call.dy);
    args.gate = static_cast<const float*>(Data(call.gate));
    args.dw = MutableData(call.dw);
    CpuMatmulDw(args, OverThreadPool(ctx));
    return absl::OkStatus();
  }
};

REGISTER_KERNEL_BUILDER(Name("Bsparse>Matmul").Device(tensorflow::DEVICE_CPU), MatmulCpuOp);
REGISTER_KERNEL_BUILDER(Name("Bsparse>MatmulDw").Device(tensorflow::DEVICE_CPU), MatmulDwCpuOp);

}  // namespace
}  // namespace bsparse
