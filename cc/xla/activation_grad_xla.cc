// Bsparse>ActivationGrad as XLA sees it: plain HLO, which XLA fuses with what is around it.

#include <cmath>
#include <cstdint>
#include <vector>

#include "cc/ops/activation_grad.h"
#include "cc/xla/hlo_inputs.h"
#include "cc/xla/register_xla.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "xla/hlo/builder/lib/arithmetic.h"
#include "xla/hlo/builder/lib/constants.h"
#include "xla/hlo/builder/lib/math.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/primitive_util.h"

namespace bsparse {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::XlaOpKernel;
using tensorflow::XlaOpKernelContext;
using xla::XlaOp;

// d/dz of z Phi(z): Phi(z) + z phi(z).
XlaOp GeluSlope(XlaOp z) {
  const auto constant = [&](double value) { return xla::ScalarLike(z, value); };
  const XlaOp cdf = xla::Mul(constant(0.5), xla::Erfc(xla::Mul(z, constant(-0.70710678118654752))));
  const XlaOp pdf = xla::Mul(xla::Exp(xla::Mul(constant(-0.5), xla::Mul(z, z))),
                             constant(0.39894228040143268));
  return xla::Add(cdf, xla::Mul(z, pdf));
}

// Wide numbers rounded to what `type` holds, but for its subnormals. Unlike a conversion to `type`
// and back this is never optimised away.
XlaOp RoundTo(XlaOp wide, xla::PrimitiveType type) {
  if (type == xla::F32 || type == xla::F64) return wide;
  const int exponent_bits = xla::primitive_util::ExponentWidth(type);
  const XlaOp rounded = xla::ReducePrecision(wide, exponent_bits,
                                             xla::primitive_util::SignificandWidth(type) - 1);
  // What would be subnormal has become 0.
  const double smallest = std::ldexp(1.0, 2 - (1 << (exponent_bits - 1)));
  return xla::Select(xla::Lt(xla::Abs(wide), xla::ScalarLike(wide, smallest)), wide, rounded);
}

class ActivationGradXlaOp final : public XlaOpKernel {
 public:
  explicit ActivationGradXlaOp(OpKernelConstruction* ctx) : XlaOpKernel(ctx) {
    OP_REQUIRES_OK(ctx, attrs_.Read(ctx));
  }

  void Compile(XlaOpKernelContext* ctx) override { OP_REQUIRES_OK(ctx, Emit(ctx)); }

 private:
  absl::Status Emit(XlaOpKernelContext* ctx) const {
    TF_ASSIGN_OR_RETURN(const xla::Shape shape, ctx->InputXlaShape(0));
    PartialDims values_dims;
    if (attrs_.num_values == 1) {
      TF_ASSIGN_OR_RETURN(const xla::Shape values_shape, ctx->InputXlaShape(1));
      values_dims = Dims(values_shape);
    }
    TF_RETURN_IF_ERROR(CheckActivationGrad(attrs_, Dims(shape), values_dims));
    TF_ASSIGN_OR_RETURN(const StaticActivations dy, StaticInput(ctx, 0));
    const xla::PrimitiveType type = shape.element_type(), wide_type = WideType(type);
    XlaOp dz = dy.op();
    XlaOp wide = xla::ConvertElementType(dz, wide_type);
    if (attrs_.num_values == 1) {
      TF_ASSIGN_OR_RETURN(const StaticActivations values_input, StaticInput(ctx, 1));
      const XlaOp values = values_input.op();
      if (attrs_.activation == Activation::kRelu) {
        const XlaOp passes = xla::Gt(values, xla::ZerosLike(values));
        wide = xla::Select(passes, wide, xla::ZerosLike(wide));
      } else {
        const XlaOp slope = GeluSlope(xla::ConvertElementType(values, wide_type));
        wide = RoundTo(xla::Mul(wide, slope), type);
      }
      dz = xla::ConvertElementType(wide, type);
    }
    ctx->SetOutput(0, dy.Restore(dz));
    if (attrs_.num_biases == 1) {
      const XlaOp sum = xla::Reduce(wide, xla::Zero(ctx->builder(), wide_type),
                                    xla::CreateScalarAddComputation(wide_type, ctx->builder()),
                                    BatchDims(static_cast<int64_t>(shape.dimensions().size())));
      ctx->SetOutput(1, xla::ConvertElementType(sum, ctx->output_xla_type(1)));
    }
    return absl::OkStatus();
  }

  std::vector<int64_t> BatchDims(int64_t rank) const {
    std::vector<int64_t> dims;
    for (int64_t dim = 0; dim < rank; ++dim) {
      if (dim != (attrs_.feature_axis == 0 ? 0 : rank - 1)) dims.push_back(dim);
    }
    return dims;
  }

  ActivationGradAttrs attrs_;
};

BSPARSE_REGISTER_XLA("Bsparse>ActivationGrad", ActivationGradXlaOp, );

}  // namespace
}  // namespace bsparse
