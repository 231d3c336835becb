// The small-world LSTM on the CPU.

#include "cc/cpu/small_world.h"
#include "cc/kernels/cpu_context.h"
#include "cc/kernels/small_world_ops.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace bsparse {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;

template <bool kBackward>
class SmallWorldCpuOp final : public SmallWorldOpBase {
 public:
  explicit SmallWorldCpuOp(OpKernelConstruction* ctx) : SmallWorldOpBase(ctx, kBackward) {}

 protected:
  absl::Status Run(OpKernelContext* ctx, const Call& call) const override {
    const SmallWorldInputs in(attrs_, kBackward);
    const int products = attrs_.products;
    CpuSmallWorldNet net;
    net.shape = call.shape;
    net.block_size = attrs_.block_size;
    net.plans = call.plans;
    net.weights = Addresses<const void*>(call.at.inputs, in.w, products);
    net.gains = Addresses<const void*>(call.at.inputs, in.gain, products);
    net.biases = Addresses<const void*>(call.at.inputs, in.bias, products);
    const bool kept = attrs_.kept > 0;
    if (!kBackward) {
      CpuSmallWorld(net, kept, ForwardStates(attrs_, call.shape, call.at), OverThreadPool(ctx));
    } else {
      CpuSmallWorldGrad(net, kept, BackwardStates(attrs_, call.shape, call.at),
                        Gradients(attrs_, call.shape, call.at),
                        Addresses<void*>(call.at.outputs, FirstDgain(), products),
                        Addresses<void*>(call.at.outputs, FirstDbias(attrs_), products),
                        OverThreadPool(ctx));
    }
    return absl::OkStatus();
  }
};

REGISTER_KERNEL_BUILDER(Name("Bsparse>SmallWorldLstm").Device(tensorflow::DEVICE_CPU),
                        SmallWorldCpuOp<false>);
REGISTER_KERNEL_BUILDER(Name("Bsparse>SmallWorldLstmGrad").Device(tensorflow::DEVICE_CPU),
                        SmallWorldCpuOp<true>);

}  // namespace
}  // namespace bsparse
