// What the CPU and GPU kernels of Bsparse>ActivationGrad have in common. A device adds Run().
#ifndef BSPARSE_CC_KERNELS_ACTIVATION_GRAD_OP_H_
#define BSPARSE_CC_KERNELS_ACTIVATION_GRAD_OP_H_

#include <cstdint>

#include "cc/kernels/tensor_data.h"
#include "cc/ops/activation_grad.h"
#include "cc/plan/types.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace bsparse {

class ActivationGradOpBase : public tensorflow::OpKernel {
 public:
  explicit ActivationGradOpBase(tensorflow::OpKernelConstruction* ctx);
  void Compute(tensorflow::OpKernelContext* ctx) final;

 protected:
  struct Call {
    int64_t batch;
    int64_t features;
    const tensorflow::Tensor* dy;
    const tensorflow::Tensor* values;  // or null
    tensorflow::Tensor* dz;            // or null: it is dy
    tensorflow::Tensor* dbias;         // or null
  };

  // What a device's arguments take from a call, but for dtypes and activation.
  template <typename Args>
  void Fill(const Call& call, Args* args) const {
    args->feature_axis = attrs_.feature_axis;
    args->batch = call.batch;
    args->features = call.features;
    args->dy = Data(call.dy);
    args->values = Data(call.values);
    args->dz = MutableData(call.dz);
    args->dbias = MutableData(call.dbias);
  }

  // Called only with features; the batch may be empty.
  virtual absl::Status Run(tensorflow::OpKernelContext* ctx, const Call& call) const = 0;

  ActivationGradAttrs attrs_;
  DType dtype_;
  DType bias_dtype_;
};

}  // namespace bsparse

#endif  // BSPARSE_CC_KERNELS_ACTIVATION_GRAD_OP_H_
