#include "cc/kernels/small_world_ops.h"

#include "cc/kernels/tensor_data.h"
#include "tensorflow/core/framework/op_requires.h"

namespace bsparse {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

SmallWorldOpBase::SmallWorldOpBase(OpKernelConstruction* ctx, bool backward)
    : OpKernel(ctx), backward_(backward) {
  OP_REQUIRES_OK(ctx, attrs_.Read(ctx));
  tensorflow::DataType t, tc, tp;
  OP_REQUIRES_OK(ctx, ctx->GetAttr("T", &t));
  OP_REQUIRES_OK(ctx, ctx->GetAttr("Tc", &tc));
  OP_REQUIRES_OK(ctx, ctx->GetAttr("Tp", &tp));
  dtype_ = ToDType(t);
  cell_dtype_ = ToDType(tc);
  param_dtype_ = ToDType(tp);
  for (int j = 0; j < attrs_.products; ++j) memos_.push_back(std::make_unique<LayoutMemo>());
}

void SmallWorldOpBase::Compute(OpKernelContext* ctx) {
  OP_REQUIRES_OK(ctx, CheckSmallWorld(attrs_,
                                      AllDims(ctx->num_inputs(),
                                              [ctx](int i) { return Dims(ctx->input(i).shape()); }),
                                      backward_));
  const SmallWorldInputs in(attrs_, backward_);
  const TensorShape& h = ctx->input(in.h).shape();
  Call call;
  call.shape = SmallWorldShapeOf(attrs_, dtype_, cell_dtype_, param_dtype_,
                                 ctx->input(in.m).dim_size(0), h.dim_size(0), h.dim_size(1));
  for (int j = 0; j < attrs_.products; ++j) {
    call.plans.emplace_back();
    OP_REQUIRES_OK(ctx, memos_[j]->Find(ctx->input(in.coords + j),
                                        attrs_.Product(j, call.shape.units), &call.plans.back()));
  }
  std::vector<Tensor*> outputs;
  OP_REQUIRES_OK(ctx, AllocateOutputs(ctx, call, &outputs));
  for (int i = 0; i < ctx->num_inputs(); ++i) {
    call.at.inputs.push_back(const_cast<void*>(Data(&ctx->input(i))));
  }
  for (Tensor* output : outputs) call.at.outputs.push_back(MutableData(output));
  OP_REQUIRES_OK(ctx, Run(ctx, call));
}

absl::Status SmallWorldOpBase::AllocateOutputs(OpKernelContext* ctx, const Call& call,
                                               std::vector<Tensor*>* outputs) const {
  const SmallWorldShape& shape = call.shape;
  const auto over_time = [&](int64_t width) {
    return TensorShape({shape.steps, shape.batch, width});
  };
  const SmallWorldInputs in(attrs_, backward_);
  std::vector<TensorShape> shapes;
  if (backward_) {
    for (int like : {in.m, in.a, in.h, in.c}) shapes.push_back(ctx->input(like).shape());
    for (int first : {in.gain, in.bias}) {
      for (int j = 0; j < attrs_.products; ++j) shapes.push_back(ctx->input(first + j).shape());
    }
    for (int j = 0; j < attrs_.products; ++j) shapes.push_back(over_time(shape.width(j)));
    while (static_cast<int>(shapes.size()) < ctx->num_outputs()) {
      shapes.push_back(over_time(shape.units));
    }
  } else {
    const TensorShape statistics(
        {attrs_.kept == 0 ? 0 : shape.steps, attrs_.depth() + kGates, shape.batch});
    shapes = {over_time(shape.units), over_time(shape.units), statistics, statistics};
    for (int i = 0; i < attrs_.kept; ++i) {
      shapes.push_back(over_time(i == attrs_.depth() ? kGates * shape.units : shape.units));
    }
  }
  for (size_t i = 0; i < shapes.size(); ++i) {
    Tensor* output;
    TF_RETURN_IF_ERROR(ctx->allocate_output(static_cast<int>(i), shapes[i], &output));
    outputs->push_back(output);
  }
  return absl::OkStatus();
}

}  // namespace bsparse
