// What the ops' shape functions share.
#ifndef BSPARSE_CC_OPS_INFERENCE_H_
#define BSPARSE_CC_OPS_INFERENCE_H_

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cc/ops/checks.h"
#include "tensorflow/core/framework/shape_inference.h"
#include "tensorflow/core/framework/types.h"

#define BSPARSE_DTYPES "{float, half, bfloat16, double}"

namespace bsparse {

inline PartialDims Dims(tensorflow::shape_inference::InferenceContext* c,
                        tensorflow::shape_inference::ShapeHandle shape) {
  if (!c->RankKnown(shape)) return std::nullopt;
  PartialDims dims(std::in_place);
  for (int i = 0; i < c->Rank(shape); ++i) dims->push_back(c->Value(c->Dim(shape, i)));
  return dims;
}

// `attr` is the type of what goes with tensors of type T: T itself, or float32 with a 16-bit T.
inline absl::Status CheckStoredType(tensorflow::shape_inference::InferenceContext* c,
                                    const char* attr) {
  tensorflow::DataType dtype, stored;
  TF_RETURN_IF_ERROR(c->GetAttr("T", &dtype));
  TF_RETURN_IF_ERROR(c->GetAttr(attr, &stored));
  const bool widened =
      stored == tensorflow::DT_FLOAT &&
      (dtype == tensorflow::DT_HALF || dtype == tensorflow::DT_BFLOAT16);
  if (stored == dtype || widened) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(attr, " is ", tensorflow::DataTypeString(stored), " and T ",
                   tensorflow::DataTypeString(dtype), "; expected ", attr,
                   " to be T, or float where T is half or bfloat16"));
}

// `stats_type` is that of statistics: float64 if T is, else float32.
inline absl::Status CheckStatsType(tensorflow::shape_inference::InferenceContext* c) {
  tensorflow::DataType dtype, stats_type;
  TF_RETURN_IF_ERROR(c->GetAttr("T", &dtype));
  TF_RETURN_IF_ERROR(c->GetAttr("stats_type", &stats_type));
  const auto expected =
      dtype == tensorflow::DT_DOUBLE ? tensorflow::DT_DOUBLE : tensorflow::DT_FLOAT;
  if (stats_type == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("stats_type is ", tensorflow::DataTypeString(stats_type), " and T ",
                   tensorflow::DataTypeString(dtype), "; expected ",
                   tensorflow::DataTypeString(expected)));
}

// The length of a list of inputs.
inline int CountAttr(tensorflow::shape_inference::InferenceContext* c, const char* attr) {
  int count = 0;
  return c->GetAttr(attr, &count).ok() ? count : 0;
}

}  // namespace bsparse

#endif  // BSPARSE_CC_OPS_INFERENCE_H_
