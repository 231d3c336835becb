#include "cc/kernels/layer_norm_ops.h"

#include "cc/kernels/product_ops.h"
#include "tensorflow/core/framework/op_requires.h"

namespace bsparse {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;

namespace {

absl::Status ReadDTypes(OpKernelConstruction* ctx, DType* dtype, DType* param_dtype) {
  tensorflow::DataType t, tp;
  TF_RETURN_IF_ERROR(ctx->GetAttr("T", &t));
  TF_RETURN_IF_ERROR(ctx->GetAttr("Tp", &tp));
  *dtype = ToDType(t);
  *param_dtype = ToDType(tp);
  return absl::OkStatus();
}

PartialDims InputDims(OpKernelContext* ctx, int index) { return Dims(ctx->input(index).shape()); }

}  // namespace

LayerNormOpBase::LayerNormOpBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
  OP_REQUIRES_OK(ctx, attrs_.Read(ctx));
  OP_REQUIRES_OK(ctx, ctx->GetAttr("epsilon", &epsilon_));
  OP_REQUIRES_OK(ctx, ReadDTypes(ctx, &dtype_, &param_dtype_));
}

void LayerNormOpBase::Compute(OpKernelContext* ctx) {
  const PartialDims x = InputDims(ctx, 0);
  OP_REQUIRES_OK(ctx, CheckLayerNorm(attrs_, x, InputDims(ctx, 1), InputDims(ctx, 2)));
  tensorflow::TensorShape statistics = ctx->input(0).shape();
  OP_REQUIRES_OK(ctx, statistics.SetDimWithStatus(
                          attrs_.feature_axis == 0 ? 0 : statistics.dims() - 1, attrs_.segments));
  Call call{};
  OP_REQUIRES_OK(ctx, ctx->allocate_output(0, ctx->input(0).shape(), &call.y));
  OP_REQUIRES_OK(ctx, ctx->allocate_output(1, statistics, &call.mean));
  OP_REQUIRES_OK(ctx, ctx->allocate_output(2, statistics, &call.rstd));
  if (call.y->NumElements() == 0) return;
  call.batch = BatchOf(x, attrs_.feature_axis);
  call.features = FeaturesOf(x, attrs_.feature_axis);
  call.x = &ctx->input(0);
  call.gain = &ctx->input(1);
  call.bias = &ctx->input(2);
  OP_REQUIRES_OK(ctx, Run(ctx, call));
}

LayerNormGradOpBase::LayerNormGradOpBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
  OP_REQUIRES_OK(ctx, attrs_.Read(ctx));
  OP_REQUIRES_OK(ctx, ReadDTypes(ctx, &dtype_, &param_dtype_));
}

void LayerNormGradOpBase::Compute(OpKernelContext* ctx) {
  const PartialDims x = InputDims(ctx, 1);
  OP_REQUIRES_OK(ctx,
                 CheckLayerNormGrad(attrs_, InputDims(ctx, 0), x, InputDims(ctx, 2),
                                    InputDims(ctx, 3), InputDims(ctx, 4), InputDims(ctx, 5)));
  Call call{};
  OP_REQUIRES_OK(ctx, ctx->allocate_output(0, ctx->input(1).shape(), &call.dx));
  OP_REQUIRES_OK(ctx, ctx->allocate_output(1, ctx->input(2).shape(), &call.dgain));
  OP_REQUIRES_OK(ctx, ctx->allocate_output(2, ctx->input(3).shape(), &call.dbias));
  call.batch = BatchOf(x, attrs_.feature_axis);
  call.features = FeaturesOf(x, attrs_.feature_axis);
  call.dy = &ctx->input(0);
  call.x = &ctx->input(1);
  call.gain = &ctx->input(2);
  call.bias = &ctx->input(3);
  call.mean = &ctx->input(4);
  call.rstd = &ctx->input(5);
  OP_REQUIRES_OK(ctx, Run(ctx, call));
}

}  // namespace bsparse
