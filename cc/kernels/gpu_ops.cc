// The ops on a GPU: plan, tables on the device, launch on TensorFlow's stream.

#include <memory>

#include "absl/algorithm/container.h"
#include "absl/types/span.h"
#include "cc/kernels/device_tables.h"
#include "cc/kernels/float32_math.h"
#include "cc/kernels/gpu_context.h"
#include "cc/kernels/gpu_launch.h"
#include "cc/kernels/gpu_status.h"
#include "cc/kernels/plan_memo.h"
#include "cc/kernels/product_ops.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace bsparse {
namespace {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;

// For the copy engine. A slice of a tensor may begin anywhere.
bool IsAligned(const Tensor* tensor) {
  return tensor == nullptr || reinterpret_cast<uintptr_t>(tensor->tensor_data().data()) % 16 == 0;
}

class MatmulGpuOp final : public MatmulOpBase {
 public:
  using MatmulOpBase::MatmulOpBase;

 protected:
  absl::Status Run(OpKernelContext* ctx, const Call& call) const override {
    const bsparse_cuda_api* api;
    TF_RETURN_IF_ERROR(FindCudaLibrary(&api));
    std::shared_ptr<const MatmulPlan> plan;
    TF_RETURN_IF_ERROR(FindPlan(*api, call, &plan));
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
    args.float32_math = Float32Math(attrs_.precision);
    args.batch = call.batch;
    args.settled = BSPARSE_SETTLED_PLAN;  // its tables came by a copy
    args.x = Data(call.x);
    args.w = Data(call.w);
    args.gate = Data<float>(call.gate);
    args.bias = Data(call.bias);
    args.residual = Data(call.residual);
    args.y = const_cast<void*>(Data(call.y));
    args.plan = DevicePlan(*plan, call.w->dim_size(0), Data<int32_t>(&tables));
    Scratch scratch(ctx);
    return scratch.Resolve(LaunchMatmul(*api, args, weight_dtype, call.w->dim_size(0),
                                        scratch.Allocator(), stream));
  }

 private:
  absl::Status FindPlan(const bsparse_cuda_api& api, const Call& call,
                        std::shared_ptr<const MatmulPlan>* plan) const {
    const PlanRequest request = {call.plans, call.batch, Float32Math(attrs_.precision), call.gate != nullptr,
                                 IsAligned(call.x) && IsAligned(call.y) && IsAligned(call.residual)};
    const auto choose = [&](std::shared_ptr<const MatmulPlan>* chosen) {
      PlanTarget target;
      const GpuStatus status = GetPlanTarget(
          api,
          {dtype_, attrs_.block_size, attrs_.feature_axis, request.batch, /*is_dw=*/false,
           request.float32_math, request.gated, request.aligned,
           transpose_ ? attrs_.out_blocks : attrs_.in_blocks,
           transpose_ ? attrs_.in_blocks : attrs_.out_blocks,
           call.plans->statistics(transpose_, attrs_.block_size)},
          &target);
      if (status.ok()) *chosen = call.plans->matmul_plan(transpose_, request.batch, target);
      return status;
    };
    return ToStatus(memo_.Find(request, choose, plan));
  }

  mutable PlanMemo<MatmulPlan> memo_;
};

class MatmulDwGpuOp final : public MatmulDwOpBase {
 public:
  using MatmulDwOpBase::MatmulDwOpBase;

 protected:
  absl::Status Run(OpKernelContext* ctx, const Call& call) const override {
    const bsparse_cuda_api* api;
    TF_RETURN_IF_ERROR(FindCudaLibrary(&api));
    std::shared_ptr<const MatmulDwPlan> plan;
    TF_RETURN_IF_ERROR(FindPlan(*api, call, &plan));
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
    args.float32_math = Float32Math(attrs_.precision);
    absl::InlinedVector<bsparse_dw_pair, 1> pairs;
    for (const Pair& pair : call.pairs) {
      pairs.push_back({Data(pair.x), Data(pair.dy), pair.batch});
    }
    args.num_pairs = static_cast<int32_t>(pairs.size());
    args.pairs = pairs.data();
    args.gate = Data<float>(call.gate);
    args.addend = Data(call.addend);
    args.dw = const_cast<void*>(Data(call.dw));
    args.plan = DevicePlan(*plan, Data<int32_t>(&tables));
    Scratch scratch(ctx);
    return scratch.Resolve(LaunchMatmulDw(*api, args, scratch.Allocator(), stream));
  }

 private:
  absl::Status FindPlan(const bsparse_cuda_api& api, const Call& call,
                        std::shared_ptr<const MatmulDwPlan>* plan) const {
    const PlanRequest request = {call.plans, call.batch, Float32Math(attrs_.precision), call.gate != nullptr,
                                 AllAligned(call.pairs)};
    const auto choose = [&](std::shared_ptr<const MatmulDwPlan>* chosen) {
      PlanTarget target;
      const GpuStatus status = GetPlanTarget(
          api,
          {dtype_, attrs_.block_size, attrs_.feature_axis, request.batch, /*is_dw=*/true,
           request.float32_math, request.gated, request.aligned, attrs_.in_blocks, attrs_.out_blocks,
           call.plans->statistics(/*transpose=*/false, attrs_.block_size),
           static_cast<int>(call.pairs.size())},
          &target);
      if (status.ok()) *chosen = call.plans->matmul_dw_plan(request.batch, target);
      return status;
    };
    return ToStatus(memo_.Find(request, choose, plan));
  }

  bool AllAligned(absl::Span<const Pair> pairs) const {
    return absl::c_all_of(pairs, [this, pairs](const Pair& pair) {
      return BatchIsAligned(pair.batch, static_cast<int>(pairs.size()), attrs_.feature_axis) &&
             IsAligned(pair.x) && IsAligned(pair.dy);
    });
  }

  mutable PlanMemo<MatmulDwPlan> memo_;
};

REGISTER_KERNEL_BUILDER(
    Name("Bsparse>Matmul").Device(tensorflow::DEVICE_GPU).HostMemory("coords"), MatmulGpuOp);
REGISTER_KERNEL_BUILDER(
    Name("Bsparse>MatmulDw").Device(tensorflow::DEVICE_GPU).HostMemory("coords"), MatmulDwGpuOp);

}  // namespace
}  // namespace bsparse
