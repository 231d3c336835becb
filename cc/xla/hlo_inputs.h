// What the kernels that emit plain HLO read their inputs with.
#ifndef BSPARSE_CC_XLA_HLO_INPUTS_H_
#define BSPARSE_CC_XLA_HLO_INPUTS_H_

#include <utility>

#include "absl/status/statusor.h"
#include "cc/ops/checks.h"
#include "cc/xla/custom_call.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "xla/shape.h"

namespace bsparse {

inline PartialDims Dims(const xla::Shape& shape) {
  return PartialDims(std::in_place, shape.dimensions().begin(), shape.dimensions().end());
}

// What numbers of `type` are computed in.
inline xla::PrimitiveType WideType(xla::PrimitiveType type) {
  return type == xla::F64 ? xla::F64 : xla::F32;
}

// An input without its dynamic dimensions; beyond their true size are zeros.
inline absl::StatusOr<StaticActivations> StaticInput(tensorflow::XlaOpKernelContext* ctx,
                                                     int index) {
  TF_ASSIGN_OR_RETURN(const xla::Shape shape, ctx->InputXlaShape(index));
  return StaticActivations(ctx->Input(index), shape, StaticActivations::kZeros);
}

}  // namespace bsparse

#endif  // BSPARSE_CC_XLA_HLO_INPUTS_H_
