// Attributes and argument checks of Bsparse>LayerNorm and its gradient, for shape functions and
// kernels alike.
#ifndef BSPARSE_CC_OPS_LAYER_NORM_H_
#define BSPARSE_CC_OPS_LAYER_NORM_H_

#include <cstdint>

#include "absl/status/status.h"
#include "cc/ops/checks.h"

namespace bsparse {

struct LayerNormAttrs {
  int feature_axis = 1;
  int64_t segments = 1;
  bool relu = false;

  template <typename Context>
  absl::Status Read(Context* ctx) {
    absl::Status status = ctx->GetAttr("feature_axis", &feature_axis);
    if (status.ok()) status = ctx->GetAttr("segments", &segments);
    if (status.ok()) status = ctx->GetAttr("relu", &relu);
    return status.ok() ? CheckFeatureAxis(feature_axis) : status;
  }
};

// x (..., features) or (features, ...), gain and bias (features).
absl::Status CheckLayerNorm(const LayerNormAttrs& attrs, const PartialDims& x,
                            const PartialDims& gain, const PartialDims& bias);

// Besides: dy like x, mean and rstd like the statistics of x.
absl::Status CheckLayerNormGrad(const LayerNormAttrs& attrs, const PartialDims& dy,
                                const PartialDims& x, const PartialDims& gain,
                                const PartialDims& bias, const PartialDims& mean,
                                const PartialDims& rstd);

}  // namespace bsparse

#endif  // BSPARSE_CC_OPS_LAYER_NORM_H_
