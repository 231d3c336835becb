#include "cc/ops/lstm_gates.h"

#include "absl/strings/str_cat.h"
#include "cc/ops/inference.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace bsparse {

absl::Status CheckLstmGates(const LstmGatesAttrs& attrs, const PartialDims& c,
                            const PartialDims& gates, const PartialDims& bias) {
  TF_RETURN_IF_ERROR(CheckActivations("c", c, /*features=*/-1, attrs.feature_axis));
  TF_RETURN_IF_ERROR(CheckActivations("gates", gates, /*features=*/-1, attrs.feature_axis));
  const int64_t units = FeaturesOf(c, attrs.feature_axis);
  TF_RETURN_IF_ERROR(CheckShape(
      "gates", gates, WithFeatures(c, attrs.feature_axis, units < 0 ? -1 : 4 * units),
      absl::StrCat(", four gates for each unit of c with feature_axis=", attrs.feature_axis)));
  return CheckVector("bias", bias,
                     units < 0 ? FeaturesOf(gates, attrs.feature_axis) : 4 * units);
}

namespace {

using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

absl::Status CheckInputs(InferenceContext* c) {
  LstmGatesAttrs attrs;
  TF_RETURN_IF_ERROR(attrs.Read(c));
  TF_RETURN_IF_ERROR(CheckStoredType(c, "Tc"));
  PartialDims bias;
  if (attrs.num_biases == 1) {
    TF_RETURN_IF_ERROR(CheckStoredType(c, "Tb"));
    bias = Dims(c, c->input(2));
  }
  return CheckLstmGates(attrs, Dims(c, c->input(0)), Dims(c, c->input(1)), bias);
}

absl::Status LstmGatesShape(InferenceContext* c) {
  TF_RETURN_IF_ERROR(CheckInputs(c));
  c->set_output(0, c->input(0));
  c->set_output(1, c->input(0));
  return absl::OkStatus();
}

absl::Status LstmGatesGradShape(InferenceContext* c) {
  TF_RETURN_IF_ERROR(CheckInputs(c));
  const PartialDims state = Dims(c, c->input(0));
  const int biases = CountAttr(c, "num_biases");
  TF_RETURN_IF_ERROR(
      CheckShape("dc_next", Dims(c, c->input(2 + biases)), state, ", the shape of c"));
  TF_RETURN_IF_ERROR(CheckShape("dh", Dims(c, c->input(3 + biases)), state, ", the shape of c"));
  c->set_output(0, c->input(0));
  c->set_output(1, c->input(1));
  return absl::OkStatus();
}

REGISTER_OP("Bsparse>LstmGates")
    .Input("c: Tc")
    .Input("gates: T")
    .Input("bias: num_biases * Tb")
    .Output("c_next: Tc")
    .Output("h: T")
    .Attr("T: " BSPARSE_DTYPES)
    .Attr("Tc: " BSPARSE_DTYPES)
    .Attr("Tb: " BSPARSE_DTYPES " = DT_FLOAT")
    .Attr("feature_axis: int = 1")
    .Attr("forget_bias: float = 0.0")
    .Attr("num_biases: int >= 0 = 0")
    .SetShapeFn(LstmGatesShape)
    .Doc(R"doc(
c_next = sigmoid(f + forget_bias) * c + sigmoid(i) * tanh(g), h = sigmoid(o) * tanh(c_next).

c: (..., units) with feature_axis 1, (units, ...) with feature_axis 0. In T, or in float32 with a
  16-bit T.
gates: (..., 4 * units) or (4 * units, ...): i, f, g, o, one after the other.
bias: (4 * units), at most one; added to gates.
)doc");

REGISTER_OP("Bsparse>LstmGatesGrad")
    .Input("c: Tc")
    .Input("gates: T")
    .Input("bias: num_biases * Tb")
    .Input("dc_next: Tc")
    .Input("dh: T")
    .Output("dc: Tc")
    .Output("dgates: T")
    .Attr("T: " BSPARSE_DTYPES)
    .Attr("Tc: " BSPARSE_DTYPES)
    .Attr("Tb: " BSPARSE_DTYPES " = DT_FLOAT")
    .Attr("feature_axis: int = 1")
    .Attr("forget_bias: float = 0.0")
    .Attr("num_biases: int >= 0 = 0")
    .SetShapeFn(LstmGatesGradShape)
    .Doc(R"doc(
The gradient of LstmGates, which computes the gates again. dgates, summed over the batch, is also
the gradient of bias.
)doc");

}  // namespace
}  // namespace bsparse
