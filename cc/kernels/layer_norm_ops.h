// What the CPU and GPU kernels of layer norm have in common. A device adds Run().
#ifndef BSPARSE_CC_KERNELS_LAYER_NORM_OPS_H_
#define BSPARSE_CC_KERNELS_LAYER_NORM_OPS_H_

#include <cstdint>

#include "cc/ops/layer_norm.h"
#include "cc/plan/types.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace bsparse {

class LayerNormOpBase : public tensorflow::OpKernel {
 public:
  explicit LayerNormOpBase(tensorflow::OpKernelConstruction* ctx);
  void Compute(tensorflow::OpKernelContext* ctx) final;

 protected:
  struct Call {
    int64_t batch;
    int64_t features;
    const tensorflow::Tensor* x;
    const tensorflow::Tensor* gain;
    const tensorflow::Tensor* bias;
    tensorflow::Tensor* y;
    tensorflow::Tensor* mean;
    tensorflow::Tensor* rstd;
  };
  // Called only when y has elements.
  virtual absl::Status Run(tensorflow::OpKernelContext* ctx, const Call& call) const = 0;

  LayerNormAttrs attrs_;
  float epsilon_ = 0;
  DType dtype_;
  DType param_dtype_;
};

class LayerNormGradOpBase : public tensorflow::OpKernel {
 public:
  explicit LayerNormGradOpBase(tensorflow::OpKernelConstruction* ctx);
  void Compute(tensorflow::OpKernelContext* ctx) final;

 protected:
  struct Call {
    int64_t batch;
    int64_t features;
    const tensorflow::Tensor* dy;
    const tensorflow::Tensor* x;
    const tensorflow::Tensor* gain;
    const tensorflow::Tensor* bias;
    const tensorflow::Tensor* mean;
    const tensorflow::Tensor* rstd;
    tensorflow::Tensor* dx;
    tensorflow::Tensor* dgain;
    tensorflow::Tensor* dbias;
  };
  // The batch may be empty.
  virtual absl::Status Run(tensorflow::OpKernelContext* ctx, const Call& call) const = 0;

  LayerNormAttrs attrs_;
  DType dtype_;
  DType param_dtype_;
};

}  // namespace bsparse

#endif  // BSPARSE_CC_KERNELS_LAYER_NORM_OPS_H_
