// Attributes and argument checks of Bsparse>ActivationGrad, for shape functions and kernels alike.
#ifndef BSPARSE_CC_OPS_ACTIVATION_GRAD_H_
#define BSPARSE_CC_OPS_ACTIVATION_GRAD_H_

#include <string>

#include "absl/status/status.h"
#include "cc/ops/checks.h"
#include "cc/plan/types.h"

namespace bsparse {

struct ActivationGradAttrs {
  Activation activation = Activation::kNone;
  int feature_axis = 1;
  int num_values = 0;
  int num_biases = 0;

  template <typename Context>
  absl::Status Read(Context* ctx) {
    std::string name;
    absl::Status status = ctx->GetAttr("activation", &name);
    if (status.ok()) status = ParseActivation(name, &activation);
    if (status.ok()) status = ctx->GetAttr("feature_axis", &feature_axis);
    if (status.ok()) status = ctx->GetAttr("num_values", &num_values);
    if (status.ok()) status = ctx->GetAttr("num_biases", &num_biases);
    if (status.ok()) status = CheckOptional("num_biases", num_biases);
    if (status.ok()) status = CheckNumValues(name);
    return status.ok() ? CheckFeatureAxis(feature_axis) : status;
  }

 private:
  absl::Status CheckNumValues(const std::string& name) const;
};

// dy (..., features) or (features, ...); values like it, or unknown where there are none.
absl::Status CheckActivationGrad(const ActivationGradAttrs& attrs, const PartialDims& dy,
                                 const PartialDims& values);

}  // namespace bsparse

#endif  // BSPARSE_CC_OPS_ACTIVATION_GRAD_H_
