#include "cc/ops/activation_grad.h"

#include "absl/strings/str_cat.h"
#include "cc/ops/inference.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace bsparse {

absl::Status ActivationGradAttrs::CheckNumValues(const std::string& name) const {
  const int expected = activation == Activation::kNone ? 0 : 1;
  if (num_values == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("num_values is ", num_values, "; expected ",
                                                 expected, " with activation='", name, "'"));
}

absl::Status CheckActivationGrad(const ActivationGradAttrs& attrs, const PartialDims& dy,
                                 const PartialDims& values) {
  TF_RETURN_IF_ERROR(CheckActivations("dy", dy, /*features=*/-1, attrs.feature_axis));
  TF_RETURN_IF_ERROR(CheckActivations("values", values, /*features=*/-1, attrs.feature_axis));
  return CheckShape("values", values, dy, ", the shape of dy");
}

namespace {

using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

absl::Status ActivationGradShape(InferenceContext* c) {
  ActivationGradAttrs attrs;
  TF_RETURN_IF_ERROR(attrs.Read(c));
  TF_RETURN_IF_ERROR(CheckStoredType(c, "Tb"));
  const PartialDims dy = Dims(c, c->input(0));
  PartialDims values;
  if (attrs.num_values == 1) values = Dims(c, c->input(1));
  TF_RETURN_IF_ERROR(CheckActivationGrad(attrs, dy, values));
  ShapeHandle dz = c->input(0);
  if (attrs.num_values == 1) TF_RETURN_IF_ERROR(c->Merge(dz, c->input(1), &dz));
  c->set_output(0, dz);
  if (attrs.num_biases == 1) {
    c->set_output(1, c->RankKnown(dz) ? c->Vector(c->Dim(dz, attrs.feature_axis == 0 ? 0 : -1))
                                      : c->Vector(c->UnknownDim()));
  }
  return absl::OkStatus();
}

REGISTER_OP("Bsparse>ActivationGrad")
    .Input("dy: T")
    .Input("values: num_values * T")
    .Output("dz: T")
    .Output("dbias: num_biases * Tb")
    .Attr("T: " BSPARSE_DTYPES)
    .Attr("Tb: " BSPARSE_DTYPES " = DT_FLOAT")
    .Attr("activation: {'none', 'relu', 'gelu'}")
    .Attr("feature_axis: int = 1")
    .Attr("num_values: int >= 0")
    .Attr("num_biases: int >= 0")
    .SetShapeFn(ActivationGradShape)
    .Doc(R"doc(
The gradient of y = activation(z), z = ... + bias: dz = dy * activation'(z), dbias its sum.

dy: (..., features) with feature_axis 1, (features, ...) with feature_axis 0.
values: like dy. y of relu, z of gelu; of none nothing.
dz: like dy. Of none it is dy.
dbias: (features), at most one: the sum of dz over the batch, taken in float32 or wider of dz as it
  is, in an order that depends on the shape alone.
Tb: T, or float32 with a 16-bit T.
)doc");

}  // namespace
}  // namespace bsparse
