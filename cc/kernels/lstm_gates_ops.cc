#include "cc/kernels/lstm_gates_ops.h"

#include "cc/kernels/product_ops.h"
#include "tensorflow/core/framework/op_requires.h"

namespace bsparse {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;

LstmGatesOpBase::LstmGatesOpBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
  OP_REQUIRES_OK(ctx, attrs_.Read(ctx));
  tensorflow::DataType t, tc, tb;
  OP_REQUIRES_OK(ctx, ctx->GetAttr("T", &t));
  OP_REQUIRES_OK(ctx, ctx->GetAttr("Tc", &tc));
  OP_REQUIRES_OK(ctx, ctx->GetAttr("Tb", &tb));
  dtype_ = ToDType(t);
  cell_dtype_ = ToDType(tc);
  bias_dtype_ = ToDType(tb);
}

absl::Status LstmGatesOpBase::ReadInputs(OpKernelContext* ctx, Call* call) const {
  call->c = &ctx->input(0);
  call->gates = &ctx->input(1);
  call->bias = attrs_.num_biases == 1 ? &ctx->input(2) : nullptr;
  const PartialDims c = Dims(call->c->shape());
  PartialDims bias;
  if (call->bias != nullptr) bias = Dims(call->bias->shape());
  TF_RETURN_IF_ERROR(CheckLstmGates(attrs_, c, Dims(call->gates->shape()), bias));
  call->batch = BatchOf(c, attrs_.feature_axis);
  call->units = FeaturesOf(c, attrs_.feature_axis);
  return absl::OkStatus();
}

void LstmGatesForwardOpBase::Compute(OpKernelContext* ctx) {
  Call call{};
  OP_REQUIRES_OK(ctx, ReadInputs(ctx, &call));
  OP_REQUIRES_OK(ctx, ctx->allocate_output(0, call.c->shape(), &call.c_next));
  OP_REQUIRES_OK(ctx, ctx->allocate_output(1, call.c->shape(), &call.h));
  if (call.c->NumElements() == 0) return;
  OP_REQUIRES_OK(ctx, Run(ctx, call));
}

void LstmGatesGradOpBase::Compute(OpKernelContext* ctx) {
  Call call{};
  OP_REQUIRES_OK(ctx, ReadInputs(ctx, &call));
  call.dc_next = &ctx->input(2 + attrs_.num_biases);
  call.dh = &ctx->input(3 + attrs_.num_biases);
  const PartialDims c = Dims(call.c->shape());
  OP_REQUIRES_OK(ctx,
                 CheckShape("dc_next", Dims(call.dc_next->shape()), c, ", the shape of c"));
  OP_REQUIRES_OK(ctx, CheckShape("dh", Dims(call.dh->shape()), c, ", the shape of c"));
  OP_REQUIRES_OK(ctx, ctx->allocate_output(0, call.c->shape(), &call.dc));
  OP_REQUIRES_OK(ctx, ctx->allocate_output(1, call.gates->shape(), &call.dgates));
  if (call.c->NumElements() == 0) return;
  OP_REQUIRES_OK(ctx, Run(ctx, call));
}

}  // namespace bsparse
