// The ops on a GPU: plan, tables on the device, launch on TensorFlow's stream.

#include <memory>
#include <string>
#include <vector>

#include "cc/kernels/device_tables.h"
#include "cc/kernels/gpu_launch.h"
#include "cc/kernels/gpu_status.h"
#include "cc/kernels/product_ops.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/platform/tensor_float_32_utils.h"
#include "xla/stream_executor/stream.h"

namespace bsparse {
namespace {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;

void* Stream(OpKernelContext* ctx) {
  return ctx->op_device_context()->stream()->platform_specific_handle().stream;
}

template <typename T = void>
const T* Data(const Tensor* tensor) {
  return tensor == nullptr ? nullptr
                           : reinterpret_cast<const T*>(tensor->tensor_data().data());
}

// Scratch tensors of one call. TensorFlow reuses their memory only for work enqueued later on the
// same stream, so they may be dropped when the launches have been made.
class Scratch {
 public:
  explicit Scratch(OpKernelContext* ctx) : ctx_(ctx) {}

  DeviceAllocator Allocator() {
    return [this](size_t bytes) -> void* {
      Tensor tensor;
      status_ = ctx_->allocate_temp(tensorflow::DT_UINT8, {static_cast<int64_t>(bytes)}, &tensor);
      if (!status_.ok()) return nullptr;
      tensors_.push_back(tensor);
      return tensor.flat<uint8_t>().data();
    };
  }

  // An allocation's failure rather than what the launcher made of it: TensorFlow's message says
  // which allocator ran out, and has the code ResourceExhausted.
  absl::Status Resolve(const GpuStatus& launch) const {
    return status_.ok() ? ToStatus(launch) : status_;
  }

 private:
  OpKernelContext* const ctx_;
  absl::Status status_;
  std::vector<Tensor> tensors_;
};

class MatmulGpuOp final : public MatmulOpBase {
 public:
  using MatmulOpBase::MatmulOpBase;

 protected:
  absl::Status Run(OpKernelContext* ctx, const Call& call) const override {
    const bsparse_cuda_api* api;
    TF_RETURN_IF_ERROR(FindCudaLibrary(&api));
    PlanTarget target;
    TF_RETURN_IF_ERROR(ToStatus(
        GetPlanTarget(*api, dtype_, attrs_.block_size, call.batch, /*is_dw=*/false, &target)));
    const auto plan = call.plans->matmul_plan(transpose_, call.batch, target);
    void* const stream = Stream(ctx);
    Tensor tables;
    TF_RETURN_IF_ERROR(FindDeviceTables(ctx, *api, plan, plan->tables(), stream, &tables));

    bsparse_matmul_args args{};
    bsparse_dtype weight_dtype;
    TF_RETURN_IF_ERROR(ToStatus(ToCudaDType(dtype_, &args.dtype)));
    TF_RETURN_IF_ERROR(ToStatus(ToCudaDType(weight_dtype_, &weight_dtype)));
    args.activation = ToCudaActivation(activation_);
    args.block_size = attrs_.block_size;
    args.feature_axis = attrs_.feature_axis;
    args.transpose = transpose_;
    args.in_blocks = transpose_ ? attrs_.out_blocks : attrs_.in_blocks;
    args.out_blocks = transpose_ ? attrs_.in_blocks : attrs_.out_blocks;
    args.allow_tf32 = tensorflow::tensor_float_32_execution_enabled();
    args.batch = call.batch;
    args.x = Data(call.x);
    args.w = Data(call.w);
    args.gate = Data<float>(call.gate);
    args.bias = Data(call.bias);
    args.y = const_cast<void*>(Data(call.y));
    args.plan = DevicePlan(*plan, Data<int32_t>(&tables));
    Scratch scratch(ctx);
    return scratch.Resolve(LaunchMatmul(*api, args, weight_dtype, call.w->dim_size(0),
                                        scratch.Allocator(), stream));
  }
};

class MatmulDwGpuOp final : public MatmulDwOpBase {
 public:
  using MatmulDwOpBase::MatmulDwOpBase;

 protected:
  absl::Status Run(OpKernelContext* ctx, const Call& call) const override {
    const bsparse_cuda_api* api;
    TF_RETURN_IF_ERROR(FindCudaLibrary(&api));
    PlanTarget target;
    TF_RETURN_IF_ERROR(ToStatus(
        GetPlanTarget(*api, dtype_, attrs_.block_size, call.batch, /*is_dw=*/true, &target)));
    const auto plan = call.plans->matmul_dw_plan(call.batch, target);
    void* const stream = Stream(ctx);
    Tensor tables;
    TF_RETURN_IF_ERROR(FindDeviceTables(ctx, *api, plan, plan->tables(), stream, &tables));

    bsparse_matmul_dw_args args{};
    TF_RETURN_IF_ERROR(ToStatus(ToCudaDType(dtype_, &args.dtype)));
    TF_RETURN_IF_ERROR(ToStatus(ToCudaDType(out_dtype_, &args.out_dtype)));
    args.block_size = attrs_.block_size;
    args.feature_axis = attrs_.feature_axis;
    args.in_blocks = attrs_.in_blocks;
    args.out_blocks = attrs_.out_blocks;
    args.allow_tf32 = tensorflow::tensor_float_32_execution_enabled();
    args.batch = call.batch;
    args.x = Data(call.x);
    args.dy = Data(call.dy);
    args.gate = Data<float>(call.gate);
    args.dw = const_cast<void*>(Data(call.dw));
    args.plan = DevicePlan(*plan, Data<int32_t>(&tables));
    Scratch scratch(ctx);
    return scratch.Resolve(LaunchMatmulDw(*api, args, scratch.Allocator(), stream));
  }
};

REGISTER_KERNEL_BUILDER(
    Name("Bsparse>Matmul").Device(tensorflow::DEVICE_GPU).HostMemory("coords"), MatmulGpuOp);
REGISTER_KERNEL_BUILDER(
    Name("Bsparse>MatmulDw").Device(tensorflow::DEVICE_GPU).HostMemory("coords"), MatmulDwGpuOp);

}  // namespace
}  // namespace bsparse
