// The small-world LSTM on a GPU.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cc/kernels/device_tables.h"
#include "cc/kernels/float32_math.h"
#include "cc/kernels/gpu_context.h"
#include "cc/kernels/gpu_launch.h"
#include "cc/kernels/gpu_status.h"
#include "cc/kernels/small_world_launch.h"
#include "cc/kernels/small_world_ops.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace bsparse {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

template <bool kBackward>
class SmallWorldGpuOp final : public SmallWorldOpBase {
 public:
  explicit SmallWorldGpuOp(OpKernelConstruction* ctx) : SmallWorldOpBase(ctx, kBackward) {}

 protected:
  absl::Status Run(OpKernelContext* ctx, const Call& call) const override {
    const bsparse_cuda_api* api;
    TF_RETURN_IF_ERROR(FindCudaLibrary(&api));
    const SmallWorldInputs in(attrs_, kBackward);
    const int products = attrs_.products;
    const bool kept = attrs_.kept > 0;
    void* const stream = Stream(ctx);
    GpuSmallWorldNet net;
    net.shape = call.shape;
    net.gains = Addresses<const void*>(call.at.inputs, in.gain, products);
    net.biases = Addresses<const void*>(call.at.inputs, in.bias, products);
    std::vector<Tensor> tables;
    // An empty batch multiplies nothing.
    for (int j = 0; j < products && call.shape.batch > 0; ++j) {
      if (!kBackward || !kept) {
        TF_RETURN_IF_ERROR(AddProduct(ctx, *api, call, j, /*transpose=*/false, stream, &tables,
                                      &net.forward));
      }
      if (kBackward) {
        TF_RETURN_IF_ERROR(AddProduct(ctx, *api, call, j, /*transpose=*/true, stream, &tables,
                                      &net.transposed));
      }
    }
    Scratch scratch(ctx);
    void* memory = nullptr;
    const size_t bytes = kBackward ? SmallWorldGradScratchBytes(*api, net, kept)
                                   : SmallWorldScratchBytes(*api, net, kept);
    if (bytes > 0) {
      memory = scratch.Allocator()(bytes);
      if (memory == nullptr) {
        return scratch.Resolve({BSPARSE_CUDA_ERROR, "no device memory for scratch"});
      }
    }
    if (!kBackward) {
      return ToStatus(LaunchSmallWorld(
          *api, net, kept, ForwardStates(attrs_, call.shape, call.at), memory, stream));
    }
    return ToStatus(LaunchSmallWorldGrad(
        *api, net, kept, BackwardStates(attrs_, call.shape, call.at),
        Gradients(attrs_, call.shape, call.at),
        Addresses<void*>(call.at.outputs, FirstDgain(), products),
        Addresses<void*>(call.at.outputs, FirstDbias(attrs_), products), memory, stream));
  }

 private:
  absl::Status AddProduct(OpKernelContext* ctx, const bsparse_cuda_api& api, const Call& call,
                          int product, bool transpose, void* stream, std::vector<Tensor>* tables,
                          std::vector<bsparse_matmul_args>* all) const {
    const ProductAttrs attrs = attrs_.Product(product, call.shape.units);
    const bsparse_float32_math float32_math = Float32Math(Precision::kDefault);
    PlanTarget target;
    TF_RETURN_IF_ERROR(ToStatus(
        GetPlanTarget(api,
                      {dtype_, attrs.block_size, attrs.feature_axis, call.shape.batch,
                       /*is_dw=*/false, float32_math, /*gated=*/false, Aligned(call.at),
                       transpose ? attrs.out_blocks : attrs.in_blocks,
                       transpose ? attrs.in_blocks : attrs.out_blocks,
                       call.plans[product]->statistics(transpose, attrs.block_size)},
                      &target)));
    const auto plan = call.plans[product]->matmul_plan(transpose, call.shape.batch, target);
    tables->emplace_back();
    TF_RETURN_IF_ERROR(
        FindDeviceTables(ctx, api, plan, plan->tables(), stream, &tables->back()));
    const int w = SmallWorldInputs(attrs_, kBackward).w + product;
    bsparse_matmul_args args;
    TF_RETURN_IF_ERROR(ToStatus(SmallWorldProduct(call.shape, attrs_.block_size, product,
                                                  transpose, float32_math, &args)));
    args.w = call.at.inputs[w];
    args.plan =
        DevicePlan(*plan, ctx->input(w).dim_size(0), Data<int32_t>(&tables->back()));
    all->push_back(args);
    return absl::OkStatus();
  }

  // For the copy engine. A slice of a tensor may begin anywhere; what the op allocates does not.
  static bool Aligned(const SmallWorldAddresses& at) {
    return std::all_of(at.inputs.begin(), at.inputs.end(), [](const void* address) {
      return reinterpret_cast<uintptr_t>(address) % 16 == 0;
    });
  }
};

REGISTER_KERNEL_BUILDER(
    Name("Bsparse>SmallWorldLstm").Device(tensorflow::DEVICE_GPU).HostMemory("coords"),
    SmallWorldGpuOp<false>);
REGISTER_KERNEL_BUILDER(
    Name("Bsparse>SmallWorldLstmGrad").Device(tensorflow::DEVICE_GPU).HostMemory("coords"),
    SmallWorldGpuOp<true>);

}  // namespace
}  // namespace bsparse
