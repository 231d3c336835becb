#include "cc/ops/checks.h"

#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace bsparse {
namespace {

// "12 features and a batch of 8": how `dims` reads with features on axis 0 or last.
std::string Reading(const PartialDims& dims, int feature_axis) {
  const int64_t features = feature_axis == 0 ? dims->front() : dims->back();
  const int64_t batch = BatchOf(dims, feature_axis);
  return absl::StrCat("feature_axis=", feature_axis, " reads it as ",
                      features < 0 ? "?" : absl::StrCat(features), " features, batch ",
                      batch < 0 ? "?" : absl::StrCat(batch));
}

bool Matches(int64_t dim, int64_t expected) { return dim < 0 || expected < 0 || dim == expected; }

absl::Status CheckSameBatch(const PartialDims& x, const PartialDims& dy, int feature_axis) {
  if (!x.has_value() || !dy.has_value()) return absl::OkStatus();
  bool same = x->size() == dy->size();
  for (size_t i = 0; same && i < x->size(); ++i) {
    const bool is_feature = i == (feature_axis == 0 ? 0 : x->size() - 1);
    same = is_feature || Matches((*x)[i], (*dy)[i]);
  }
  if (same) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("x has shape ", ShapeText(x), " and dy ",
                                                 ShapeText(dy), "; with feature_axis=",
                                                 feature_axis,
                                                 " expected the same batch dimensions"));
}

}  // namespace

std::string ShapeText(const PartialDims& dims) {
  if (!dims.has_value()) return "(of unknown rank)";
  return absl::StrCat("(",
                      absl::StrJoin(*dims, ", ",
                                    [](std::string* out, int64_t dim) {
                                      absl::StrAppend(out, dim < 0 ? "?" : absl::StrCat(dim));
                                    }),
                      dims->size() == 1 ? ",)" : ")");
}

absl::Status ProductAttrs::Check() const {
  if (!IsBlockSize(block_size)) {
    std::string supported;
    for (int size : kBlockSizes) absl::StrAppend(&supported, supported.empty() ? "" : ", ", size);
    return absl::InvalidArgumentError(
        absl::StrCat("block_size is ", block_size, "; supported are ", supported));
  }
  const absl::Status axis = CheckFeatureAxis(feature_axis);
  if (!axis.ok()) return axis;
  for (const auto& [name, blocks] : {std::pair<const char*, int64_t>{"in_blocks", in_blocks},
                                     std::pair<const char*, int64_t>{"out_blocks", out_blocks}}) {
    if (blocks < 1) {
      return absl::InvalidArgumentError(absl::StrCat(name, " is ", blocks, "; expected at least 1"));
    }
    if (blocks * block_size > std::numeric_limits<int32_t>::max()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " * block_size is ", blocks, " * ", block_size, " = ",
                       blocks * block_size, "; expected less than 2^31 features"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckActivations(absl::string_view name, const PartialDims& dims, int64_t features,
                              int feature_axis) {
  if (!dims.has_value()) return absl::OkStatus();
  const char* const form = feature_axis == 0 ? "(features, batch)" : "(batch, features)";
  if (dims->size() < 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " has shape ", ShapeText(dims), ", of rank ", dims->size(),
                     "; expected rank 2 or more, ", form, " with feature_axis=", feature_axis));
  }
  const int64_t found = feature_axis == 0 ? dims->front() : dims->back();
  if (Matches(found, features)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " has shape ", ShapeText(dims), ": ", Reading(dims, feature_axis),
                   ", but the layout takes ", features, " features (",
                   Reading(dims, 1 - feature_axis), ")"));
}

absl::Status CheckWeights(absl::string_view name, const PartialDims& dims, int block_size) {
  if (!dims.has_value()) return absl::OkStatus();
  if (dims->size() != 3 || !Matches((*dims)[1], block_size) || !Matches((*dims)[2], block_size)) {
    return absl::InvalidArgumentError(absl::StrCat(name, " has shape ", ShapeText(dims),
                                                   "; expected (blocks, ", block_size, ", ",
                                                   block_size, ")"));
  }
  return absl::OkStatus();
}

absl::Status CheckCoords(const PartialDims& dims, const ProductAttrs& attrs) {
  if (!dims.has_value()) return absl::OkStatus();
  if (dims->size() != 2 || !Matches((*dims)[1], 2)) {
    return absl::InvalidArgumentError(
        absl::StrCat("coords has shape ", ShapeText(dims), "; expected (blocks, 2)"));
  }
  const int64_t most = int64_t{attrs.in_blocks} * attrs.out_blocks;
  if ((*dims)[0] > most || (*dims)[0] > std::numeric_limits<int32_t>::max()) {
    return absl::InvalidArgumentError(
        absl::StrCat("coords has ", (*dims)[0], " blocks; a layout of ", attrs.in_blocks, " x ",
                     attrs.out_blocks, " blocks holds at most ", most));
  }
  return absl::OkStatus();
}

absl::Status CheckSameBlocks(absl::string_view name, const PartialDims& dims,
                             const PartialDims& coords) {
  if (!dims.has_value()) return absl::OkStatus();
  if (name == "gate" && dims->size() != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("gate has shape ", ShapeText(dims), "; expected (blocks)"));
  }
  if (!coords.has_value() || Matches(dims->front(), coords->front())) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " has ", dims->front(),
                                                 " blocks, but coords has ", coords->front(),
                                                 ": expected the same number"));
}

absl::Status CheckBias(const PartialDims& dims, int64_t features) {
  return CheckVector("bias", dims, features);
}

absl::Status CheckResidual(const PartialDims& dims, const PartialDims& y) {
  return CheckShape("residual", dims, y, ", the shape of y");
}

absl::Status CheckVector(absl::string_view name, const PartialDims& dims, int64_t features) {
  return CheckShape(name, dims, PartialDims(std::in_place, {features}), "");
}

absl::Status CheckShape(absl::string_view name, const PartialDims& dims,
                        const PartialDims& expected, absl::string_view why) {
  if (!dims.has_value() || !expected.has_value()) return absl::OkStatus();
  bool same = dims->size() == expected->size();
  for (size_t i = 0; same && i < dims->size(); ++i) same = Matches((*dims)[i], (*expected)[i]);
  if (same) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, " has shape ", ShapeText(dims), "; expected ", ShapeText(expected), why));
}

absl::Status CheckFeatureAxis(int feature_axis) {
  if (feature_axis == 0 || feature_axis == 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("feature_axis is ", feature_axis,
                   "; expected 0 (features first) or 1 (features last)"));
}

absl::Status CheckDwPair(const PartialDims& x, const PartialDims& dy, const ProductAttrs& attrs) {
  absl::Status status = CheckActivations("x", x, attrs.in_features(), attrs.feature_axis);
  if (status.ok()) {
    status = CheckActivations("dy", dy, attrs.out_features(), attrs.feature_axis);
  }
  return status.ok() ? CheckSameBatch(x, dy, attrs.feature_axis) : status;
}

absl::Status CheckOptional(absl::string_view attr, int count) {
  if (count <= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(attr, " is ", count, "; expected 0 or 1"));
}

absl::Status ParsePrecision(absl::string_view name, Precision* precision) {
  for (const auto& [known, value] :
       {std::pair<const char*, Precision>{"default", Precision::kDefault},
        std::pair<const char*, Precision>{"float32", Precision::kFloat32},
        std::pair<const char*, Precision>{"tf32", Precision::kTf32},
        std::pair<const char*, Precision>{"tf32x3", Precision::kTf32x3}}) {
    if (name == known) {
      *precision = value;
      return absl::OkStatus();
    }
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "precision is '", name, "'; expected default, float32, tf32 or tf32x3"));
}

absl::Status ParseActivation(absl::string_view name, Activation* activation) {
  if (name == "none") {
    *activation = Activation::kNone;
  } else if (name == "relu") {
    *activation = Activation::kRelu;
  } else if (name == "gelu") {
    *activation = Activation::kGelu;
  } else {
    return absl::InvalidArgumentError(
        absl::StrCat("activation is '", name, "'; expected none, relu or gelu"));
  }
  return absl::OkStatus();
}

int64_t FeaturesOf(const PartialDims& dims, int feature_axis) {
  if (!dims.has_value()) return -1;
  return feature_axis == 0 ? dims->front() : dims->back();
}

int64_t BatchOf(const PartialDims& dims, int feature_axis) {
  const size_t feature_dim = feature_axis == 0 ? 0 : dims->size() - 1;
  int64_t batch = 1;
  bool known = true;
  for (size_t i = 0; i < dims->size(); ++i) {
    if (i == feature_dim) continue;
    known = known && (*dims)[i] >= 0;
    batch *= (*dims)[i];
  }
  return known ? batch : -1;
}

PartialDims WithFeatures(PartialDims dims, int feature_axis, int64_t features) {
  if (dims.has_value()) (feature_axis == 0 ? dims->front() : dims->back()) = features;
  return dims;
}

}  // namespace bsparse
