// The attribute that says whether Bsparse>MatmulDw has an addend.
#ifndef BSPARSE_CC_OPS_ADDEND_H_
#define BSPARSE_CC_OPS_ADDEND_H_

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cc/ops/checks.h"
#include "tensorflow/core/framework/types.h"

namespace bsparse {

// A list of types rather than a length: Python's wrappers would infer out_type from the addend, and
// could not without one. For an op under construction or inference.
template <typename Context>
absl::Status ReadNumAddends(Context* ctx, int* num_addends) {
  std::vector<tensorflow::DataType> types;
  tensorflow::DataType out_type;
  absl::Status status = ctx->GetAttr("addend_types", &types);
  if (status.ok()) status = ctx->GetAttr("out_type", &out_type);
  *num_addends = static_cast<int>(types.size());
  if (status.ok()) status = CheckOptional("the number of addends", *num_addends);
  if (!status.ok() || types.empty() || types[0] == out_type) return status;
  return absl::InvalidArgumentError(
      absl::StrCat("addend is ", tensorflow::DataTypeString(types[0]), " and out_type ",
                   tensorflow::DataTypeString(out_type), "; expected the same"));
}

}  // namespace bsparse

#endif  // BSPARSE_CC_OPS_ADDEND_H_
