#include "cc/kernels/activation_grad_op.h"

#include "cc/kernels/product_ops.h"
#include "tensorflow/core/framework/op_requires.h"

namespace bsparse {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

ActivationGradOpBase::ActivationGradOpBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
  OP_REQUIRES_OK(ctx, attrs_.Read(ctx));
  tensorflow::DataType t, tb;
  OP_REQUIRES_OK(ctx, ctx->GetAttr("T", &t));
  OP_REQUIRES_OK(ctx, ctx->GetAttr("Tb", &tb));
  dtype_ = ToDType(t);
  bias_dtype_ = ToDType(tb);
}

void ActivationGradOpBase::Compute(OpKernelContext* ctx) {
  Call call{};
  const Tensor& dy = ctx->input(0);
  const PartialDims dims = Dims(dy.shape());
  call.dy = &dy;
  PartialDims values;
  if (attrs_.num_values == 1) {
    call.values = &ctx->input(1);
    values = Dims(call.values->shape());
  }
  OP_REQUIRES_OK(ctx, CheckActivationGrad(attrs_, dims, values));
  call.batch = BatchOf(dims, attrs_.feature_axis);
  call.features = FeaturesOf(dims, attrs_.feature_axis);
  if (attrs_.activation == Activation::kNone) {
    ctx->set_output(0, dy);
  } else {
    // In dy's memory if nobody else reads it.
    OP_REQUIRES_OK(ctx, ctx->forward_input_or_allocate_output({0}, 0, dy.shape(), &call.dz));
  }
  if (attrs_.num_biases == 1) {
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, {call.features}, &call.dbias));
  }
  const bool has_output = call.dbias != nullptr || (call.dz != nullptr && call.batch > 0);
  if (call.features > 0 && has_output) OP_REQUIRES_OK(ctx, Run(ctx, call));
}

}  // namespace bsparse
