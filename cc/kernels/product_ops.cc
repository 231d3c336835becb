#include "cc/kernels/product_ops.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cc/ops/addend.h"
#include "tensorflow/core/framework/op_requires.h"

namespace bsparse {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

PartialDims Dims(const tensorflow::TensorShape& shape) {
  PartialDims dims(std::in_place);
  for (int i = 0; i < shape.dims(); ++i) dims->push_back(shape.dim_size(i));
  return dims;
}

DType ToDType(tensorflow::DataType dtype) {
  switch (dtype) {
    case tensorflow::DT_HALF:
      return DType::kFloat16;
    case tensorflow::DT_BFLOAT16:
      return DType::kBFloat16;
    case tensorflow::DT_DOUBLE:
      return DType::kFloat64;
    default:
      return DType::kFloat32;
  }
}

absl::Status LayoutMemo::Find(const Tensor& coords, const ProductAttrs& attrs,
                              std::shared_ptr<const LayoutPlans>* plans) {
  {
    absl::MutexLock lock(&mutex_);
    if (plans_ != nullptr && last_.SharesBufferWith(coords) &&
        last_.NumElements() == coords.NumElements()) {
      *plans = plans_;
      return absl::OkStatus();
    }
  }
  std::string error;
  std::shared_ptr<const LayoutPlans> found = FindLayoutPlans(
      {coords.flat<int32_t>().data(), coords.dim_size(0), attrs.in_blocks, attrs.out_blocks},
      &error);
  if (found == nullptr) return absl::InvalidArgumentError(error);
  absl::MutexLock lock(&mutex_);
  last_ = coords;
  plans_ = found;
  *plans = std::move(found);
  return absl::OkStatus();
}

// ---- Bsparse>Matmul ----

MatmulOpBase::MatmulOpBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
  OP_REQUIRES_OK(ctx, attrs_.Read(ctx));
  OP_REQUIRES_OK(ctx, ctx->GetAttr("transpose", &transpose_));
  OP_REQUIRES_OK(ctx, ctx->GetAttr("num_gates", &num_gates_));
  OP_REQUIRES_OK(ctx, ctx->GetAttr("num_biases", &num_biases_));
  OP_REQUIRES_OK(ctx, ctx->GetAttr("num_residuals", &num_residuals_));
  OP_REQUIRES_OK(ctx, CheckOptional("num_gates", num_gates_));
  OP_REQUIRES_OK(ctx, CheckOptional("num_biases", num_biases_));
  OP_REQUIRES_OK(ctx, CheckOptional("num_residuals", num_residuals_));
  std::string activation;
  OP_REQUIRES_OK(ctx, ctx->GetAttr("activation", &activation));
  OP_REQUIRES_OK(ctx, ParseActivation(activation, &activation_));
  tensorflow::DataType dtype, weight_dtype;
  OP_REQUIRES_OK(ctx, ctx->GetAttr("T", &dtype));
  OP_REQUIRES_OK(ctx, ctx->GetAttr("Tw", &weight_dtype));
  dtype_ = ToDType(dtype);
  weight_dtype_ = ToDType(weight_dtype);
}

absl::Status MatmulOpBase::Check(OpKernelContext* ctx) const {
  const int64_t in = transpose_ ? attrs_.out_features() : attrs_.in_features();
  const int64_t out = transpose_ ? attrs_.in_features() : attrs_.out_features();
  const PartialDims w = Dims(ctx->input(1).shape());
  const PartialDims coords = Dims(ctx->input(2).shape());
  const PartialDims x = Dims(ctx->input(0).shape());
  TF_RETURN_IF_ERROR(CheckActivations("x", x, in, attrs_.feature_axis));
  TF_RETURN_IF_ERROR(CheckWeights("w", w, attrs_.block_size));
  TF_RETURN_IF_ERROR(CheckCoords(coords, attrs_));
  TF_RETURN_IF_ERROR(CheckSameBlocks("w", w, coords));
  if (num_gates_ == 1) {
    TF_RETURN_IF_ERROR(CheckSameBlocks("gate", Dims(ctx->input(3).shape()), coords));
  }
  if (num_biases_ == 1) {
    TF_RETURN_IF_ERROR(CheckBias(Dims(ctx->input(3 + num_gates_).shape()), out));
  }
  if (num_residuals_ == 1) {
    const Tensor& residual = ctx->input(3 + num_gates_ + num_biases_);
    TF_RETURN_IF_ERROR(
        CheckResidual(Dims(residual.shape()), WithFeatures(x, attrs_.feature_axis, out)));
  }
  return absl::OkStatus();
}

void MatmulOpBase::Compute(OpKernelContext* ctx) {
  OP_REQUIRES_OK(ctx, Check(ctx));
  std::shared_ptr<const LayoutPlans> plans;
  OP_REQUIRES_OK(ctx, memo_.Find(ctx->input(2), attrs_, &plans));

  const Tensor& x = ctx->input(0);
  tensorflow::TensorShape shape = x.shape();
  const int feature_dim = attrs_.feature_axis == 0 ? 0 : shape.dims() - 1;
  OP_REQUIRES_OK(ctx,
                 shape.SetDimWithStatus(feature_dim, transpose_ ? attrs_.in_features()
                                                                : attrs_.out_features()));
  Call call{};
  if (num_residuals_ == 1) {
    // Every kernel reads an element of the residual before it writes that of y.
    const int input = 3 + num_gates_ + num_biases_;
    call.residual = &ctx->input(input);
    OP_REQUIRES_OK(ctx, ctx->forward_input_or_allocate_output({input}, 0, shape, &call.y));
  } else {
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, shape, &call.y));
  }
  if (call.y->NumElements() == 0) return;
  call.plans = std::move(plans);
  call.batch = BatchOf(Dims(x.shape()), attrs_.feature_axis);
  call.x = &x;
  call.w = &ctx->input(1);
  call.gate = num_gates_ == 1 ? &ctx->input(3) : nullptr;
  call.bias = num_biases_ == 1 ? &ctx->input(3 + num_gates_) : nullptr;
  OP_REQUIRES_OK(ctx, Run(ctx, call));
}

// ---- Bsparse>MatmulDw ----

MatmulDwOpBase::MatmulDwOpBase(OpKernelConstruction* ctx) : OpKernel(ctx) {
  OP_REQUIRES_OK(ctx, attrs_.Read(ctx));
  OP_REQUIRES_OK(ctx, ctx->GetAttr("num_pairs", &num_pairs_));
  OP_REQUIRES_OK(ctx, ctx->GetAttr("num_gates", &num_gates_));
  OP_REQUIRES_OK(ctx, ReadNumAddends(ctx, &num_addends_));
  OP_REQUIRES_OK(ctx, CheckOptional("num_gates", num_gates_));
  tensorflow::DataType dtype, out_type;
  OP_REQUIRES_OK(ctx, ctx->GetAttr("T", &dtype));
  OP_REQUIRES_OK(ctx, ctx->GetAttr("out_type", &out_type));
  dtype_ = ToDType(dtype);
  out_dtype_ = ToDType(out_type);
}

absl::Status MatmulDwOpBase::Check(OpKernelContext* ctx) const {
  const auto dims = [ctx](int input) { return Dims(ctx->input(input).shape()); };
  const DwInputs inputs(num_pairs_, num_gates_);
  for (int p = 0; p < num_pairs_; ++p) {
    TF_RETURN_IF_ERROR(CheckDwPair(dims(inputs.x(p)), dims(inputs.dy(p)), attrs_));
  }
  const PartialDims coords = dims(inputs.coords());
  TF_RETURN_IF_ERROR(CheckCoords(coords, attrs_));
  if (num_gates_ == 1) {
    TF_RETURN_IF_ERROR(CheckSameBlocks("gate", dims(inputs.gate()), coords));
  }
  if (num_addends_ == 1) {
    TF_RETURN_IF_ERROR(CheckWeights("addend", dims(inputs.addend()), attrs_.block_size));
    TF_RETURN_IF_ERROR(CheckSameBlocks("addend", dims(inputs.addend()), coords));
  }
  return absl::OkStatus();
}

void MatmulDwOpBase::Compute(OpKernelContext* ctx) {
  OP_REQUIRES_OK(ctx, Check(ctx));
  const DwInputs inputs(num_pairs_, num_gates_);
  const Tensor& coords = ctx->input(inputs.coords());
  std::shared_ptr<const LayoutPlans> plans;
  OP_REQUIRES_OK(ctx, memo_.Find(coords, attrs_, &plans));

  Call call{};
  const tensorflow::TensorShape shape({coords.dim_size(0), attrs_.block_size, attrs_.block_size});
  if (num_addends_ == 1) {
    call.addend = &ctx->input(inputs.addend());
    OP_REQUIRES_OK(
        ctx, ctx->forward_input_or_allocate_output({inputs.addend()}, 0, shape, &call.dw));
  } else {
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, shape, &call.dw));
  }
  if (call.dw->NumElements() == 0) return;
  call.plans = std::move(plans);
  for (int p = 0; p < num_pairs_; ++p) {
    const Tensor& x = ctx->input(inputs.x(p));
    const int64_t batch = BatchOf(Dims(x.shape()), attrs_.feature_axis);
    call.pairs.push_back({&x, &ctx->input(inputs.dy(p)), batch});
    call.batch += batch;
  }
  call.gate = num_gates_ == 1 ? &ctx->input(inputs.gate()) : nullptr;
  OP_REQUIRES_OK(ctx, Run(ctx, call));
}

}  // namespace bsparse
