// What the CPU and GPU kernels of the small-world LSTM have in common. A device adds Run().
#ifndef BSPARSE_CC_KERNELS_SMALL_WORLD_OPS_H_
#define BSPARSE_CC_KERNELS_SMALL_WORLD_OPS_H_

#include <memory>
#include <vector>

#include "cc/kernels/product_ops.h"
#include "cc/kernels/small_world_states.h"
#include "cc/ops/small_world.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace bsparse {

// Of Bsparse>SmallWorldLstm and Bsparse>SmallWorldLstmGrad.
class SmallWorldOpBase : public tensorflow::OpKernel {
 public:
  SmallWorldOpBase(tensorflow::OpKernelConstruction* ctx, bool backward);
  void Compute(tensorflow::OpKernelContext* ctx) final;

 protected:
  struct Call {
    SmallWorldShape shape;
    std::vector<std::shared_ptr<const LayoutPlans>> plans;
    SmallWorldAddresses at;
  };

  virtual absl::Status Run(tensorflow::OpKernelContext* ctx, const Call& call) const = 0;

  const bool backward_;
  SmallWorldAttrs attrs_;
  DType dtype_, cell_dtype_, param_dtype_;

 private:
  absl::Status AllocateOutputs(tensorflow::OpKernelContext* ctx, const Call& call,
                               std::vector<tensorflow::Tensor*>* outputs) const;

  std::vector<std::unique_ptr<LayoutMemo>> memos_;
};

}  // namespace bsparse

#endif  // BSPARSE_CC_KERNELS_SMALL_WORLD_OPS_H_
