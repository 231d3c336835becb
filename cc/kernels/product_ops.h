// What the CPU and GPU kernels of an op have in common: attributes, checks, the layout, outputs.
// A device adds Run().
#ifndef BSPARSE_CC_KERNELS_PRODUCT_OPS_H_
#define BSPARSE_CC_KERNELS_PRODUCT_OPS_H_

#include <cstdint>
#include <memory>

#include "absl/container/inlined_vector.h"
#include "absl/synchronization/mutex.h"
#include "cc/ops/checks.h"
#include "cc/plan/layout_plans.h"
#include "cc/plan/types.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace bsparse {

// The shape of a tensor that has arrived.
PartialDims Dims(const tensorflow::TensorShape& shape);

// The ops' dtype of a TensorFlow dtype that their registration allows.
DType ToDType(tensorflow::DataType dtype);

// Finds the plans of a coords tensor. Remembers the last one by identity: the tensor is kept, so
// its buffer can neither be freed nor reused, and the usual lookup is a pointer comparison.
class LayoutMemo {
 public:
  absl::Status Find(const tensorflow::Tensor& coords, const ProductAttrs& attrs,
                    std::shared_ptr<const LayoutPlans>* plans);

 private:
  absl::Mutex mutex_;
  tensorflow::Tensor last_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const LayoutPlans> plans_ ABSL_GUARDED_BY(mutex_);
};

class MatmulOpBase : public tensorflow::OpKernel {
 public:
  explicit MatmulOpBase(tensorflow::OpKernelConstruction* ctx);
  void Compute(tensorflow::OpKernelContext* ctx) final;

 protected:
  struct Call {
    std::shared_ptr<const LayoutPlans> plans;
    int64_t batch;
    const tensorflow::Tensor* x;
    const tensorflow::Tensor* w;
    const tensorflow::Tensor* gate;      // or null
    const tensorflow::Tensor* bias;      // or null
    const tensorflow::Tensor* residual;  // or null; y may be in its memory
    tensorflow::Tensor* y;
  };
  // Called only when y has elements.
  virtual absl::Status Run(tensorflow::OpKernelContext* ctx, const Call& call) const = 0;

  ProductAttrs attrs_;
  bool transpose_ = false;
  Activation activation_ = Activation::kNone;
  DType dtype_;
  DType weight_dtype_;

 private:
  absl::Status Check(tensorflow::OpKernelContext* ctx) const;

  int num_gates_ = 0;
  int num_biases_ = 0;
  int num_residuals_ = 0;
  LayoutMemo memo_;
};

class MatmulDwOpBase : public tensorflow::OpKernel {
 public:
  explicit MatmulDwOpBase(tensorflow::OpKernelConstruction* ctx);
  void Compute(tensorflow::OpKernelContext* ctx) final;

 protected:
  struct Pair {
    const tensorflow::Tensor* x;
    const tensorflow::Tensor* dy;
    int64_t batch;
  };
  struct Call {
    std::shared_ptr<const LayoutPlans> plans;
    absl::InlinedVector<Pair, 1> pairs;
    int64_t batch;  // of all pairs
    const tensorflow::Tensor* gate;    // or null
    const tensorflow::Tensor* addend;  // or null; dw may be in its memory
    tensorflow::Tensor* dw;
  };
  // Called only when dw has elements; the batch may be empty.
  virtual absl::Status Run(tensorflow::OpKernelContext* ctx, const Call& call) const = 0;

  ProductAttrs attrs_;
  DType dtype_;
  DType out_dtype_;

 private:
  absl::Status Check(tensorflow::OpKernelContext* ctx) const;

  int num_pairs_ = 1;
  int num_gates_ = 0;
  int num_addends_ = 0;
  LayoutMemo memo_;
};

}  // namespace bsparse

#endif  // BSPARSE_CC_KERNELS_PRODUCT_OPS_H_
