// The checks of the ops' arguments, written once: the shape functions run them while a graph is
// built, the kernels again on what really arrives, XLA when it compiles.
#ifndef BSPARSE_CC_OPS_CHECKS_H_
#define BSPARSE_CC_OPS_CHECKS_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/container/inlined_vector.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "cc/plan/types.h"

namespace bsparse {

// A shape as far as it is known: nullopt if not even the rank is, -1 for an unknown dimension.
using PartialDims = std::optional<absl::InlinedVector<int64_t, 4>>;

// "(8, ?)", for messages.
std::string ShapeText(const PartialDims& dims);

absl::Status ParsePrecision(absl::string_view name, Precision* precision);

// The attributes both products share: the layout's extent, how activations hold their features, and
// how they are multiplied.
struct ProductAttrs {
  int block_size = 0;
  int in_blocks = 0;   // CB
  int out_blocks = 0;  // KB
  int feature_axis = 1;
  Precision precision = Precision::kDefault;

  int64_t in_features() const { return int64_t{in_blocks} * block_size; }
  int64_t out_features() const { return int64_t{out_blocks} * block_size; }

  // Reads the attributes of an op under construction or inference, and checks them.
  template <typename Context>
  absl::Status Read(Context* ctx) {
    absl::Status status = ctx->GetAttr("block_size", &block_size);
    if (status.ok()) status = ctx->GetAttr("in_blocks", &in_blocks);
    if (status.ok()) status = ctx->GetAttr("out_blocks", &out_blocks);
    if (status.ok()) status = ctx->GetAttr("feature_axis", &feature_axis);
    std::string precision_name;
    if (status.ok()) status = ctx->GetAttr("precision", &precision_name);
    if (status.ok()) status = ParsePrecision(precision_name, &precision);
    return status.ok() ? Check() : status;
  }

  absl::Status Check() const;
};

// `name` is x or dy. The message of a wrong feature count shows how the shape reads with either
// feature_axis, since mixing them up is the usual cause.
absl::Status CheckActivations(absl::string_view name, const PartialDims& dims, int64_t features,
                              int feature_axis);

// w (blocks, bs, bs), coords (blocks, 2), gate (blocks); unknown parts match anything.
absl::Status CheckWeights(absl::string_view name, const PartialDims& dims, int block_size);
absl::Status CheckCoords(const PartialDims& dims, const ProductAttrs& attrs);
absl::Status CheckSameBlocks(absl::string_view name, const PartialDims& dims,
                             const PartialDims& coords);
absl::Status CheckBias(const PartialDims& dims, int64_t features);
// `y` is the product's shape.
absl::Status CheckResidual(const PartialDims& dims, const PartialDims& y);

// A vector of `features` parameters; -1 if their number is not known.
absl::Status CheckVector(absl::string_view name, const PartialDims& dims, int64_t features);

// `dims` must be `expected` as far as both are known; `why` follows the expected shape.
absl::Status CheckShape(absl::string_view name, const PartialDims& dims,
                        const PartialDims& expected, absl::string_view why);

absl::Status CheckFeatureAxis(int feature_axis);

// x and dy of one pair of a weight gradient, with the same batch.
absl::Status CheckDwPair(const PartialDims& x, const PartialDims& dy, const ProductAttrs& attrs);

// Where the inputs of Bsparse>MatmulDw are.
class DwInputs {
 public:
  DwInputs(int num_pairs, int num_gates) : num_pairs_(num_pairs), num_gates_(num_gates) {}
  int x(int pair) const { return pair; }
  int dy(int pair) const { return num_pairs_ + pair; }
  int coords() const { return 2 * num_pairs_; }
  int gate() const { return coords() + 1; }
  int addend() const { return coords() + 1 + num_gates_; }

 private:
  int num_pairs_;
  int num_gates_;
};

// gate, bias and residual are lists of zero or one tensor; `attr` is num_gates and the like.
absl::Status CheckOptional(absl::string_view attr, int count);

absl::Status ParseActivation(absl::string_view name, Activation* activation);

// Features and batch of an activation tensor whose shape has been checked; -1 where unknown.
int64_t FeaturesOf(const PartialDims& dims, int feature_axis);
int64_t BatchOf(const PartialDims& dims, int feature_axis);

// The shape of activations with `features` in place of theirs.
PartialDims WithFeatures(PartialDims dims, int feature_axis, int64_t features);

}  // namespace bsparse

#endif  // BSPARSE_CC_OPS_CHECKS_H_
