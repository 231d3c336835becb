#include "cc/ops/layer_norm.h"

#include "absl/strings/str_cat.h"
#include "cc/ops/inference.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace bsparse {

absl::Status CheckLayerNorm(const LayerNormAttrs& attrs, const PartialDims& x,
                            const PartialDims& gain, const PartialDims& bias) {
  if (attrs.segments < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("segments is ", attrs.segments, "; expected at least 1"));
  }
  TF_RETURN_IF_ERROR(CheckActivations("x", x, /*features=*/-1, attrs.feature_axis));
  const int64_t features = FeaturesOf(x, attrs.feature_axis);
  if (features == 0 || (features > 0 && features % attrs.segments != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("x has shape ", ShapeText(x), ": with feature_axis=", attrs.feature_axis,
                     " that is ", features, " features; expected a positive multiple of segments=",
                     attrs.segments));
  }
  TF_RETURN_IF_ERROR(CheckVector("gain", gain, features));
  TF_RETURN_IF_ERROR(CheckVector("bias", bias, features));
  return CheckShape("bias", bias, gain, ", the shape of gain");
}

absl::Status CheckLayerNormGrad(const LayerNormAttrs& attrs, const PartialDims& dy,
                                const PartialDims& x, const PartialDims& gain,
                                const PartialDims& bias, const PartialDims& mean,
                                const PartialDims& rstd) {
  TF_RETURN_IF_ERROR(CheckLayerNorm(attrs, x, gain, bias));
  TF_RETURN_IF_ERROR(CheckShape("dy", dy, x, ", the shape of x"));
  const PartialDims statistics = WithFeatures(x, attrs.feature_axis, attrs.segments);
  TF_RETURN_IF_ERROR(CheckShape("mean", mean, statistics, ", one for each segment"));
  return CheckShape("rstd", rstd, statistics, ", one for each segment");
}

namespace {

using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

absl::Status CheckTypes(InferenceContext* c) {
  TF_RETURN_IF_ERROR(CheckStoredType(c, "Tp"));
  return CheckStatsType(c);
}

absl::Status LayerNormShape(InferenceContext* c) {
  LayerNormAttrs attrs;
  TF_RETURN_IF_ERROR(attrs.Read(c));
  TF_RETURN_IF_ERROR(CheckTypes(c));
  const ShapeHandle x = c->input(0);
  TF_RETURN_IF_ERROR(
      CheckLayerNorm(attrs, Dims(c, x), Dims(c, c->input(1)), Dims(c, c->input(2))));
  c->set_output(0, x);
  ShapeHandle statistics = c->UnknownShape();
  if (c->RankKnown(x)) {
    TF_RETURN_IF_ERROR(c->ReplaceDim(x, attrs.feature_axis == 0 ? 0 : -1,
                                     c->MakeDim(attrs.segments), &statistics));
  }
  c->set_output(1, statistics);
  c->set_output(2, statistics);
  return absl::OkStatus();
}

absl::Status LayerNormGradShape(InferenceContext* c) {
  LayerNormAttrs attrs;
  TF_RETURN_IF_ERROR(attrs.Read(c));
  TF_RETURN_IF_ERROR(CheckTypes(c));
  TF_RETURN_IF_ERROR(CheckLayerNormGrad(attrs, Dims(c, c->input(0)), Dims(c, c->input(1)),
                                        Dims(c, c->input(2)), Dims(c, c->input(3)),
                                        Dims(c, c->input(4)), Dims(c, c->input(5))));
  c->set_output(0, c->input(1));
  c->set_output(1, c->input(2));
  c->set_output(2, c->input(3));
  return absl::OkStatus();
}

REGISTER_OP("Bsparse>LayerNorm")
    .Input("x: T")
    .Input("gain: Tp")
    .Input("bias: Tp")
    .Output("y: T")
    .Output("mean: stats_type")
    .Output("rstd: stats_type")
    .Attr("T: " BSPARSE_DTYPES)
    .Attr("Tp: " BSPARSE_DTYPES)
    .Attr("stats_type: {float, double} = DT_FLOAT")
    .Attr("feature_axis: int = 1")
    .Attr("segments: int >= 1 = 1")
    .Attr("relu: bool = false")
    .Attr("epsilon: float = 1e-6")
    .SetShapeFn(LayerNormShape)
    .Doc(R"doc(
y = (x - mean) / sqrt(variance + epsilon) * gain + bias over each segment of the features.

x: (..., features) with feature_axis 1, (features, ...) with feature_axis 0.
gain: (features). T, or float32 with a 16-bit T.
bias: (features).
mean: x's shape with `segments` in place of the features.
rstd: 1 / sqrt(variance + epsilon), shaped as mean.
stats_type: double if T is, else float.
segments: equal slices of the features, each normalised by itself.
relu: y = max(y, 0).
)doc");

REGISTER_OP("Bsparse>LayerNormGrad")
    .Input("dy: T")
    .Input("x: T")
    .Input("gain: Tp")
    .Input("bias: Tp")
    .Input("mean: stats_type")
    .Input("rstd: stats_type")
    .Output("dx: T")
    .Output("dgain: Tp")
    .Output("dbias: Tp")
    .Attr("T: " BSPARSE_DTYPES)
    .Attr("Tp: " BSPARSE_DTYPES)
    .Attr("stats_type: {float, double} = DT_FLOAT")
    .Attr("feature_axis: int = 1")
    .Attr("segments: int >= 1 = 1")
    .Attr("relu: bool = false")
    .SetShapeFn(LayerNormGradShape)
    .Doc(R"doc(
The gradient of LayerNorm: mean and rstd are its outputs for x, gain and bias.
)doc");

}  // namespace
}  // namespace bsparse
