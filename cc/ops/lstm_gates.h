// Attributes and argument checks of Bsparse>LstmGates and its gradient, for shape functions and
// kernels alike.
#ifndef BSPARSE_CC_OPS_LSTM_GATES_H_
#define BSPARSE_CC_OPS_LSTM_GATES_H_

#include <cstdint>

#include "absl/status/status.h"
#include "cc/ops/checks.h"

namespace bsparse {

struct LstmGatesAttrs {
  int feature_axis = 1;
  float forget_bias = 0;
  int num_biases = 0;

  template <typename Context>
  absl::Status Read(Context* ctx) {
    absl::Status status = ctx->GetAttr("feature_axis", &feature_axis);
    if (status.ok()) status = ctx->GetAttr("forget_bias", &forget_bias);
    if (status.ok()) status = ctx->GetAttr("num_biases", &num_biases);
    if (status.ok()) status = CheckOptional("num_biases", num_biases);
    return status.ok() ? CheckFeatureAxis(feature_axis) : status;
  }
};

// c (..., units) or (units, ...), gates with 4 * units features, bias (4 * units) or unknown.
absl::Status CheckLstmGates(const LstmGatesAttrs& attrs, const PartialDims& c,
                            const PartialDims& gates, const PartialDims& bias);

}  // namespace bsparse

#endif  // BSPARSE_CC_OPS_LSTM_GATES_H_
