// Attributes and argument checks of Bsparse>SmallWorldLstm and its gradient, for shape functions
// and kernels alike.
#ifndef BSPARSE_CC_OPS_SMALL_WORLD_H_
#define BSPARSE_CC_OPS_SMALL_WORLD_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "cc/ops/checks.h"

namespace bsparse {

struct SmallWorldAttrs {
  int block_size = 0;
  int products = 0;
  int kept = 0;
  int stride = 1;
  float epsilon = 0;

  template <typename Context>
  absl::Status Read(Context* ctx) {
    absl::Status status = ctx->GetAttr("block_size", &block_size);
    if (status.ok()) status = ctx->GetAttr("num_products", &products);
    if (status.ok()) status = ctx->GetAttr("num_kept", &kept);
    if (status.ok()) status = ctx->GetAttr("stride", &stride);
    if (status.ok()) status = ctx->GetAttr("epsilon", &epsilon);
    return status.ok() ? Check() : status;
  }

  absl::Status Check() const;

  int depth() const { return products - 1; }
  // Products and operands of all steps, or none of them.
  int all_kept() const { return products + depth(); }
  // Of one product. `units` must be a multiple of block_size.
  ProductAttrs Product(int product, int64_t units) const;
  int64_t width(int product, int64_t units) const {
    return product == depth() ? 4 * units : units;
  }
};

// Where the inputs are. The gradient's begin with dhidden, dh_last and dc_last.
struct SmallWorldInputs {
  SmallWorldInputs(const SmallWorldAttrs& attrs, bool backward);

  int m, a, h, c;
  int w, gain, bias, coords;  // the first of each, one a product
  int count;                  // forward: all
  // Of the gradient.
  int hidden, cells, mean, rstd, kept;
};

// `dims(i)` gives the shape of input i.
template <typename DimsOf>
std::vector<PartialDims> AllDims(int count, const DimsOf& dims) {
  std::vector<PartialDims> all;
  for (int i = 0; i < count; ++i) all.push_back(dims(i));
  return all;
}

absl::Status CheckSmallWorld(const SmallWorldAttrs& attrs, const std::vector<PartialDims>& dims,
                             bool backward);

}  // namespace bsparse

#endif  // BSPARSE_CC_OPS_SMALL_WORLD_H_
