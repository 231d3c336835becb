// Layer norm and LSTM gates as XLA sees them: plain HLO, which XLA fuses with what is around it.

#include <cstdint>
#include <numeric>
#include <vector>

#include "absl/types/span.h"
#include "cc/ops/layer_norm.h"
#include "cc/ops/lstm_gates.h"
#include "cc/xla/hlo_inputs.h"
#include "cc/xla/register_xla.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "xla/hlo/builder/lib/arithmetic.h"
#include "xla/hlo/builder/lib/constants.h"
#include "xla/hlo/builder/lib/slicing.h"
#include "xla/hlo/builder/xla_builder.h"

namespace bsparse {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::XlaOpKernel;
using tensorflow::XlaOpKernelContext;
using xla::XlaOp;

// ---- layer norm ----

// Activations cut into segments, [..., segments, size] or [segments, size, ...], in a wide type,
// and the sums that layer norm takes of them.
class Segments {
 public:
  Segments(XlaOpKernelContext* ctx, const LayerNormAttrs& attrs, const xla::Shape& x)
      : type_(WideType(x.element_type())),
        dims_(x.dimensions().begin(), x.dimensions().end()),
        split_(dims_) {
    segment_dim_ = attrs.feature_axis == 0 ? 0 : static_cast<int64_t>(dims_.size()) - 1;
    size_ = dims_[segment_dim_] / attrs.segments;
    segments_ = attrs.segments;
    split_[segment_dim_] = segments_;
    split_.insert(split_.begin() + segment_dim_ + 1, size_);
    builder_ = ctx->builder();
  }

  XlaOp Cut(XlaOp activations) const {
    return xla::Reshape(xla::ConvertElementType(activations, type_), split_);
  }
  XlaOp Join(XlaOp segments, xla::PrimitiveType type) const {
    return xla::ConvertElementType(xla::Reshape(segments, dims_), type);
  }
  // A parameter of each feature, for all batch entries.
  XlaOp SpreadParameter(XlaOp parameter) const {
    const XlaOp cut =
        xla::Reshape(xla::ConvertElementType(parameter, type_), {segments_, size_});
    return xla::BroadcastInDim(cut, split_, {segment_dim_, segment_dim_ + 1});
  }
  // A number of each segment and batch entry, for all features of the segment.
  XlaOp SpreadStatistic(XlaOp statistic) const {
    std::vector<int64_t> kept(dims_.size());
    std::iota(kept.begin(), kept.end(), 0);
    for (int64_t& dim : kept) dim += dim > segment_dim_;
    return xla::BroadcastInDim(statistic, split_, kept);
  }
  XlaOp Mean(XlaOp segments) const {
    return xla::Div(Sum(segments, {segment_dim_ + 1}),
                    xla::ScalarLike(segments, static_cast<double>(size_)));
  }
  // [features]
  XlaOp SumOverBatch(XlaOp segments, xla::PrimitiveType type) const {
    std::vector<int64_t> batch;
    for (int64_t dim = 0; dim < static_cast<int64_t>(split_.size()); ++dim) {
      if (dim != segment_dim_ && dim != segment_dim_ + 1) batch.push_back(dim);
    }
    return xla::ConvertElementType(xla::Reshape(Sum(segments, batch), {segments_ * size_}), type);
  }

 private:
  XlaOp Sum(XlaOp values, absl::Span<const int64_t> dims) const {
    return xla::Reduce(values, xla::Zero(builder_, type_),
                       xla::CreateScalarAddComputation(type_, builder_), dims);
  }

  xla::XlaBuilder* builder_;
  xla::PrimitiveType type_;
  std::vector<int64_t> dims_;
  std::vector<int64_t> split_;
  int64_t segment_dim_;
  int64_t segments_;
  int64_t size_;
};

class LayerNormXlaOp final : public XlaOpKernel {
 public:
  explicit LayerNormXlaOp(OpKernelConstruction* ctx) : XlaOpKernel(ctx) {
    OP_REQUIRES_OK(ctx, attrs_.Read(ctx));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("epsilon", &epsilon_));
  }

  void Compile(XlaOpKernelContext* ctx) override { OP_REQUIRES_OK(ctx, Emit(ctx)); }

 private:
  absl::Status Emit(XlaOpKernelContext* ctx) const {
    TF_ASSIGN_OR_RETURN(const xla::Shape shape, ctx->InputXlaShape(0));
    TF_ASSIGN_OR_RETURN(const xla::Shape gain, ctx->InputXlaShape(1));
    TF_ASSIGN_OR_RETURN(const xla::Shape bias, ctx->InputXlaShape(2));
    TF_RETURN_IF_ERROR(CheckLayerNorm(attrs_, Dims(shape), Dims(gain), Dims(bias)));
    TF_ASSIGN_OR_RETURN(const StaticActivations input, StaticInput(ctx, 0));
    const Segments segments(ctx, attrs_, shape);
    const XlaOp x = segments.Cut(input.op());
    const XlaOp shift = segments.Mean(x);
    // The differences' own mean makes up for the rounding of the first one.
    const XlaOp difference = xla::Sub(x, segments.SpreadStatistic(shift));
    const XlaOp rest = segments.Mean(difference);
    const XlaOp mean = xla::Add(shift, rest);
    const XlaOp variance =
        xla::Sub(segments.Mean(xla::Mul(difference, difference)), xla::Mul(rest, rest));
    const XlaOp rstd = xla::Div(
        xla::ScalarLike(variance, 1.0),
        xla::Sqrt(xla::Add(xla::Max(variance, xla::ZerosLike(variance)),
                           xla::ScalarLike(variance, epsilon_))));
    const XlaOp normal = xla::Mul(xla::Sub(x, segments.SpreadStatistic(mean)),
                                  segments.SpreadStatistic(rstd));
    XlaOp y = xla::Add(xla::Mul(normal, segments.SpreadParameter(ctx->Input(1))),
                       segments.SpreadParameter(ctx->Input(2)));
    if (attrs_.relu) y = xla::Max(y, xla::ZerosLike(y));
    ctx->SetOutput(0, input.Restore(segments.Join(y, ctx->output_xla_type(0))));
    ctx->SetOutput(1, input.Restore(mean));
    ctx->SetOutput(2, input.Restore(rstd));
    return absl::OkStatus();
  }

  LayerNormAttrs attrs_;
  float epsilon_ = 0;
};

class LayerNormGradXlaOp final : public XlaOpKernel {
 public:
  explicit LayerNormGradXlaOp(OpKernelConstruction* ctx) : XlaOpKernel(ctx) {
    OP_REQUIRES_OK(ctx, attrs_.Read(ctx));
  }

  void Compile(XlaOpKernelContext* ctx) override { OP_REQUIRES_OK(ctx, Emit(ctx)); }

 private:
  absl::Status Emit(XlaOpKernelContext* ctx) const {
    std::vector<PartialDims> dims;
    for (int i = 0; i < ctx->num_inputs(); ++i) {
      TF_ASSIGN_OR_RETURN(const xla::Shape shape, ctx->InputXlaShape(i));
      dims.push_back(Dims(shape));
    }
    TF_RETURN_IF_ERROR(
        CheckLayerNormGrad(attrs_, dims[0], dims[1], dims[2], dims[3], dims[4], dims[5]));
    TF_ASSIGN_OR_RETURN(const xla::Shape shape, ctx->InputXlaShape(1));
    TF_ASSIGN_OR_RETURN(const StaticActivations dy_input, StaticInput(ctx, 0));
    TF_ASSIGN_OR_RETURN(const StaticActivations x_input, StaticInput(ctx, 1));
    TF_ASSIGN_OR_RETURN(const StaticActivations mean, StaticInput(ctx, 4));
    TF_ASSIGN_OR_RETURN(const StaticActivations rstd_input, StaticInput(ctx, 5));
    const Segments segments(ctx, attrs_, shape);
    const XlaOp rstd = segments.SpreadStatistic(rstd_input.op());
    const XlaOp normal = xla::Mul(
        xla::Sub(segments.Cut(x_input.op()), segments.SpreadStatistic(mean.op())), rstd);
    const XlaOp gain = segments.SpreadParameter(ctx->Input(2));
    XlaOp dz = segments.Cut(dy_input.op());
    if (attrs_.relu) {
      const XlaOp z = xla::Add(xla::Mul(normal, gain), segments.SpreadParameter(ctx->Input(3)));
      dz = xla::Select(xla::Gt(z, xla::ZerosLike(z)), dz, xla::ZerosLike(dz));
    }
    const XlaOp g = xla::Mul(dz, gain);
    const XlaOp mean_g = segments.SpreadStatistic(segments.Mean(g));
    const XlaOp mean_g_normal = segments.SpreadStatistic(segments.Mean(xla::Mul(g, normal)));
    const XlaOp dx = xla::Mul(
        rstd, xla::Sub(xla::Sub(g, mean_g), xla::Mul(normal, mean_g_normal)));
    ctx->SetOutput(0, x_input.Restore(segments.Join(dx, ctx->output_xla_type(0))));
    ctx->SetOutput(1, segments.SumOverBatch(xla::Mul(dz, normal), ctx->output_xla_type(1)));
    ctx->SetOutput(2, segments.SumOverBatch(dz, ctx->output_xla_type(2)));
    return absl::OkStatus();
  }

  LayerNormAttrs attrs_;
};

// ---- LSTM gates ----

struct LstmCell {
  XlaOp i, f, g, o;  // after their activations
  XlaOp c;           // of the step before, in the wide type
  XlaOp c_next;
  XlaOp tanh_c;
};

// Of Bsparse>LstmGates and Bsparse>LstmGatesGrad.
class LstmGatesXlaOpBase : public XlaOpKernel {
 public:
  explicit LstmGatesXlaOpBase(OpKernelConstruction* ctx) : XlaOpKernel(ctx) {
    OP_REQUIRES_OK(ctx, attrs_.Read(ctx));
  }

  void Compile(XlaOpKernelContext* ctx) final { OP_REQUIRES_OK(ctx, Emit(ctx)); }

 protected:
  virtual absl::Status Emit(XlaOpKernelContext* ctx) const = 0;

  // Checks the inputs that both ops have.
  absl::StatusOr<LstmCell> Cell(XlaOpKernelContext* ctx, const StaticActivations& c) const {
    TF_ASSIGN_OR_RETURN(const xla::Shape c_shape, ctx->InputXlaShape(0));
    TF_ASSIGN_OR_RETURN(const xla::Shape gates_shape, ctx->InputXlaShape(1));
    PartialDims bias_dims;
    if (attrs_.num_biases == 1) {
      TF_ASSIGN_OR_RETURN(const xla::Shape bias_shape, ctx->InputXlaShape(2));
      bias_dims = Dims(bias_shape);
    }
    TF_RETURN_IF_ERROR(CheckLstmGates(attrs_, Dims(c_shape), Dims(gates_shape), bias_dims));
    TF_ASSIGN_OR_RETURN(const StaticActivations gates, StaticInput(ctx, 1));
    const xla::PrimitiveType type = WideType(gates_shape.element_type());
    const int64_t dim = FeatureDim(c_shape);
    const int64_t units = c_shape.dimensions(dim);
    XlaOp sums = xla::ConvertElementType(gates.op(), type);
    if (attrs_.num_biases == 1) {
      sums = xla::Add(sums, xla::ConvertElementType(ctx->Input(2), type), {dim});
    }
    const auto gate = [&](int64_t which) {
      return xla::SliceInDim(sums, which * units, (which + 1) * units, 1, dim);
    };
    LstmCell cell;
    cell.i = xla::Logistic(gate(0));
    cell.f = xla::Logistic(xla::Add(gate(1), xla::ScalarLike(sums, attrs_.forget_bias)));
    cell.g = xla::Tanh(gate(2));
    cell.o = xla::Logistic(gate(3));
    cell.c = xla::ConvertElementType(c.op(), type);
    cell.c_next = xla::Add(xla::Mul(cell.f, cell.c), xla::Mul(cell.i, cell.g));
    cell.tanh_c = xla::Tanh(cell.c_next);
    return cell;
  }

  int64_t FeatureDim(const xla::Shape& shape) const {
    return attrs_.feature_axis == 0 ? 0 : static_cast<int64_t>(shape.dimensions().size()) - 1;
  }

  LstmGatesAttrs attrs_;
};

class LstmGatesXlaOp final : public LstmGatesXlaOpBase {
 public:
  using LstmGatesXlaOpBase::LstmGatesXlaOpBase;

 private:
  absl::Status Emit(XlaOpKernelContext* ctx) const override {
    TF_ASSIGN_OR_RETURN(const StaticActivations c, StaticInput(ctx, 0));
    TF_ASSIGN_OR_RETURN(const LstmCell cell, Cell(ctx, c));
    const XlaOp h = xla::Mul(cell.o, cell.tanh_c);
    ctx->SetOutput(0, c.Restore(xla::ConvertElementType(cell.c_next, ctx->output_xla_type(0))));
    ctx->SetOutput(1, c.Restore(xla::ConvertElementType(h, ctx->output_xla_type(1))));
    return absl::OkStatus();
  }
};

class LstmGatesGradXlaOp final : public LstmGatesXlaOpBase {
 public:
  using LstmGatesXlaOpBase::LstmGatesXlaOpBase;

 private:
  absl::Status Emit(XlaOpKernelContext* ctx) const override {
    TF_ASSIGN_OR_RETURN(const StaticActivations c, StaticInput(ctx, 0));
    TF_ASSIGN_OR_RETURN(const LstmCell cell, Cell(ctx, c));
    TF_ASSIGN_OR_RETURN(const xla::Shape c_shape, ctx->InputXlaShape(0));
    TF_ASSIGN_OR_RETURN(const xla::Shape dc_shape, ctx->InputXlaShape(2 + attrs_.num_biases));
    TF_ASSIGN_OR_RETURN(const xla::Shape dh_shape, ctx->InputXlaShape(3 + attrs_.num_biases));
    TF_RETURN_IF_ERROR(
        CheckShape("dc_next", Dims(dc_shape), Dims(c_shape), ", the shape of c"));
    TF_RETURN_IF_ERROR(CheckShape("dh", Dims(dh_shape), Dims(c_shape), ", the shape of c"));
    TF_ASSIGN_OR_RETURN(const StaticActivations dc_input,
                        StaticInput(ctx, 2 + attrs_.num_biases));
    TF_ASSIGN_OR_RETURN(const StaticActivations dh_input,
                        StaticInput(ctx, 3 + attrs_.num_biases));
    const xla::PrimitiveType type = WideType(dh_shape.element_type());
    const XlaOp dh = xla::ConvertElementType(dh_input.op(), type);
    const XlaOp one = xla::ScalarLike(dh, 1.0);
    const auto sigmoid_slope = [&](XlaOp s) { return xla::Mul(s, xla::Sub(one, s)); };
    const auto tanh_slope = [&](XlaOp t) { return xla::Sub(one, xla::Mul(t, t)); };
    const XlaOp dc = xla::Add(xla::ConvertElementType(dc_input.op(), type),
                              xla::Mul(xla::Mul(dh, cell.o), tanh_slope(cell.tanh_c)));
    const XlaOp dgates = xla::ConcatInDim(
        ctx->builder(),
        {xla::Mul(xla::Mul(dc, cell.g), sigmoid_slope(cell.i)),
         xla::Mul(xla::Mul(dc, cell.c), sigmoid_slope(cell.f)),
         xla::Mul(xla::Mul(dc, cell.i), tanh_slope(cell.g)),
         xla::Mul(xla::Mul(dh, cell.tanh_c), sigmoid_slope(cell.o))},
        FeatureDim(c_shape));
    ctx->SetOutput(
        0, c.Restore(xla::ConvertElementType(xla::Mul(dc, cell.f), ctx->output_xla_type(0))));
    ctx->SetOutput(1, c.Restore(xla::ConvertElementType(dgates, ctx->output_xla_type(1))));
    return absl::OkStatus();
  }
};

BSPARSE_REGISTER_XLA("Bsparse>LayerNorm", LayerNormXlaOp, );
BSPARSE_REGISTER_XLA("Bsparse>LayerNormGrad", LayerNormGradXlaOp, );
BSPARSE_REGISTER_XLA("Bsparse>LstmGates", LstmGatesXlaOp, );
BSPARSE_REGISTER_XLA("Bsparse>LstmGatesGrad", LstmGatesGradXlaOp, );

}  // namespace
}  // namespace bsparse
