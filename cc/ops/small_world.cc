#include "cc/ops/small_world.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "cc/ops/inference.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace bsparse {
namespace {

constexpr char kLikeH[] = ", the shape of h";

// Dimension i of a shape, -1 if it is not known.
int64_t DimOf(const PartialDims& dims, size_t i) {
  return dims.has_value() && i < dims->size() ? (*dims)[i] : -1;
}

PartialDims Shape(absl::InlinedVector<int64_t, 4> dims) {
  return PartialDims(std::in_place, dims.begin(), dims.end());
}

}  // namespace

absl::Status SmallWorldAttrs::Check() const {
  if (!IsBlockSize(block_size)) {
    return absl::InvalidArgumentError(
        absl::StrCat("block_size is ", block_size, "; expected 8, 16, 32, 64 or 128"));
  }
  if (products < 3) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_products is ", products,
                     "; expected 3 or more: two internal steps at least, and the gates"));
  }
  if (kept != 0 && kept != all_kept()) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_kept is ", kept, "; expected 0 or ", all_kept(),
                     ": each product, and the operand of each but the first"));
  }
  return absl::OkStatus();
}

ProductAttrs SmallWorldAttrs::Product(int product, int64_t units) const {
  ProductAttrs attrs;
  attrs.block_size = block_size;
  attrs.in_blocks = static_cast<int>(units / block_size);
  attrs.out_blocks = static_cast<int>(width(product, units) / block_size);
  attrs.feature_axis = 1;
  return attrs;
}

SmallWorldInputs::SmallWorldInputs(const SmallWorldAttrs& attrs, bool backward) {
  int next = backward ? 3 : 0;
  const auto take = [&next](int count) {
    next += count;
    return next - count;
  };
  m = take(1);
  a = take(1);
  h = take(1);
  c = take(1);
  w = take(attrs.products);
  gain = take(attrs.products);
  bias = take(attrs.products);
  coords = take(attrs.products);
  hidden = cells = mean = rstd = kept = next;
  if (backward) {
    hidden = take(1);
    cells = take(1);
    mean = take(1);
    rstd = take(1);
    kept = take(attrs.kept);
  }
  count = next;
}

absl::Status CheckSmallWorld(const SmallWorldAttrs& attrs, const std::vector<PartialDims>& dims,
                             bool backward) {
  const SmallWorldInputs in(attrs, backward);
  const PartialDims& h = dims[in.h];
  if (h.has_value() && h->size() != 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("h has shape ", ShapeText(h), "; expected (batch, units)"));
  }
  const int64_t batch = DimOf(h, 0), units = DimOf(h, 1);
  if (units >= 0 && (units == 0 || units % attrs.block_size != 0 || units % attrs.stride != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("h has shape ", ShapeText(h), ": ", units,
                     " units; expected a positive multiple of block_size=", attrs.block_size,
                     " and of stride=", attrs.stride));
  }
  const PartialDims& m = dims[in.m];
  const std::string touched =
      attrs.stride == 1 ? ", (steps, batch, units) with the batch and the units of h"
                        : absl::StrCat(", (steps, batch, units / ", attrs.stride,
                                       ") with the batch and the units of h");
  TF_RETURN_IF_ERROR(CheckShape(
      "m", m, Shape({-1, batch, units < 0 ? -1 : units / attrs.stride}), touched));
  const int64_t steps = DimOf(m, 0);
  if (steps == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("m has shape ", ShapeText(m), "; expected one step or more"));
  }
  TF_RETURN_IF_ERROR(CheckShape("a", dims[in.a], m, ", the shape of m"));
  TF_RETURN_IF_ERROR(CheckShape("c", dims[in.c], h, kLikeH));
  for (int j = 0; j < attrs.products; ++j) {
    const auto name = [j](const char* what) { return absl::StrCat(what, "[", j, "]"); };
    TF_RETURN_IF_ERROR(CheckWeights(name("w"), dims[in.w + j], attrs.block_size));
    TF_RETURN_IF_ERROR(CheckShape(name("coords"), dims[in.coords + j], Shape({-1, 2}),
                                  ", a row and a column for each block"));
    TF_RETURN_IF_ERROR(CheckSameBlocks(name("w"), dims[in.w + j], dims[in.coords + j]));
    const int64_t width = units < 0 ? -1 : attrs.width(j, units);
    TF_RETURN_IF_ERROR(CheckVector(name("gain"), dims[in.gain + j], width));
    TF_RETURN_IF_ERROR(CheckVector(name("bias"), dims[in.bias + j], width));
  }
  if (!backward) return absl::OkStatus();
  const PartialDims over_time = Shape({steps, batch, units});
  constexpr char kOverTime[] = ", (steps, batch, units) of m and h";
  TF_RETURN_IF_ERROR(CheckShape("dhidden", dims[0], over_time, kOverTime));
  TF_RETURN_IF_ERROR(CheckShape("dh_last", dims[1], h, kLikeH));
  TF_RETURN_IF_ERROR(CheckShape("dc_last", dims[2], h, kLikeH));
  TF_RETURN_IF_ERROR(CheckShape("hidden", dims[in.hidden], over_time, kOverTime));
  TF_RETURN_IF_ERROR(CheckShape("cells", dims[in.cells], over_time, kOverTime));
  const PartialDims statistics = Shape({attrs.kept == 0 ? 0 : steps, attrs.depth() + 4, batch});
  TF_RETURN_IF_ERROR(CheckShape("mean", dims[in.mean], statistics, ", that of the op's output"));
  TF_RETURN_IF_ERROR(CheckShape("rstd", dims[in.rstd], statistics, ", that of the op's output"));
  for (int i = 0; i < attrs.kept; ++i) {
    const int64_t width = units < 0 || i >= attrs.products ? units : attrs.width(i, units);
    TF_RETURN_IF_ERROR(CheckShape(absl::StrCat("kept[", i, "]"), dims[in.kept + i],
                                  Shape({steps, batch, width}), ", that of the op's output"));
  }
  return absl::OkStatus();
}

namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

absl::Status CheckTypes(InferenceContext* c) {
  TF_RETURN_IF_ERROR(CheckStoredType(c, "Tc"));
  TF_RETURN_IF_ERROR(CheckStoredType(c, "Tp"));
  return CheckStatsType(c);
}

absl::Status Check(InferenceContext* c, SmallWorldAttrs* attrs, bool backward) {
  TF_RETURN_IF_ERROR(attrs->Read(c));
  TF_RETURN_IF_ERROR(CheckTypes(c));
  return CheckSmallWorld(*attrs,
                         AllDims(c->num_inputs(), [c](int i) { return Dims(c, c->input(i)); }),
                         backward);
}

// (steps, batch, segments * units) from m (steps, ...) and h (batch, units).
absl::Status OverTime(InferenceContext* c, ShapeHandle m, ShapeHandle h, int segments,
                      ShapeHandle* shape) {
  TF_RETURN_IF_ERROR(c->WithRank(m, 3, &m));
  TF_RETURN_IF_ERROR(c->WithRank(h, 2, &h));
  DimensionHandle width;
  TF_RETURN_IF_ERROR(c->Multiply(c->Dim(h, 1), segments, &width));
  *shape = c->MakeShape({c->Dim(m, 0), c->Dim(h, 0), width});
  return absl::OkStatus();
}

absl::Status SmallWorldShapeFn(InferenceContext* c) {
  SmallWorldAttrs attrs;
  TF_RETURN_IF_ERROR(Check(c, &attrs, /*backward=*/false));
  const SmallWorldInputs in(attrs, /*backward=*/false);
  const ShapeHandle m = c->input(in.m), h = c->input(in.h);
  ShapeHandle hidden;
  TF_RETURN_IF_ERROR(OverTime(c, m, h, 1, &hidden));
  const ShapeHandle statistics =
      c->MakeShape({attrs.kept == 0 ? c->MakeDim(0) : c->Dim(hidden, 0),
                    c->MakeDim(attrs.depth() + 4), c->Dim(hidden, 1)});
  c->set_output(0, hidden);
  c->set_output(1, hidden);
  c->set_output(2, statistics);
  c->set_output(3, statistics);
  for (int i = 0; i < attrs.kept; ++i) {
    ShapeHandle kept;
    TF_RETURN_IF_ERROR(OverTime(c, m, h, i == attrs.depth() ? 4 : 1, &kept));
    c->set_output(4 + i, kept);
  }
  return absl::OkStatus();
}

absl::Status SmallWorldGradShapeFn(InferenceContext* c) {
  SmallWorldAttrs attrs;
  TF_RETURN_IF_ERROR(Check(c, &attrs, /*backward=*/true));
  int operands;
  TF_RETURN_IF_ERROR(c->GetAttr("num_operands", &operands));
  const int expected = attrs.kept == 0 ? attrs.depth() : 0;
  if (operands != expected) {
    return absl::InvalidArgumentError(absl::StrCat("num_operands is ", operands, " with num_kept=",
                                                   attrs.kept, "; expected ", expected));
  }
  const SmallWorldInputs in(attrs, /*backward=*/true);
  const ShapeHandle m = c->input(in.m), h = c->input(in.h);
  int next = 0;
  for (const int like : {in.m, in.a, in.h, in.c}) c->set_output(next++, c->input(like));
  for (const int first : {in.gain, in.bias}) {
    for (int j = 0; j < attrs.products; ++j) c->set_output(next++, c->input(first + j));
  }
  for (int j = 0; j < attrs.products; ++j) {
    ShapeHandle dproduct;
    TF_RETURN_IF_ERROR(OverTime(c, m, h, j == attrs.depth() ? 4 : 1, &dproduct));
    c->set_output(next++, dproduct);
  }
  ShapeHandle operand;
  TF_RETURN_IF_ERROR(OverTime(c, m, h, 1, &operand));
  for (int i = 0; i < operands; ++i) c->set_output(next++, operand);
  return absl::OkStatus();
}

REGISTER_OP("Bsparse>SmallWorldLstm")
    .Input("m: T")
    .Input("a: T")
    .Input("h: T")
    .Input("c: Tc")
    .Input("w: num_products * T")
    .Input("gain: num_products * Tp")
    .Input("bias: num_products * Tp")
    .Input("coords: num_products * int32")
    .Output("hidden: T")
    .Output("cells: Tc")
    .Output("mean: stats_type")
    .Output("rstd: stats_type")
    .Output("kept: num_kept * T")
    .Attr("T: " BSPARSE_DTYPES)
    .Attr("Tc: " BSPARSE_DTYPES)
    .Attr("Tp: " BSPARSE_DTYPES)
    .Attr("stats_type: {float, double} = DT_FLOAT")
    .Attr("block_size: int")
    .Attr("num_products: int >= 3")
    .Attr("stride: int >= 1 = 1")
    .Attr("num_kept: int >= 0 = 0")
    .Attr("epsilon: float = 1e-6")
    .SetShapeFn(SmallWorldShapeFn)
    .Doc(R"doc(
All steps of a multiplicative LSTM with deep updates. With linear(v) = layer_norm(v W), every time
with another W: v = linear(h) * m; v = relu(linear(v) + a); v = relu(linear(v)) for each further
product but the last; i, f, g, o = linear(v), each normalised by itself;
c = sigmoid(f) c + sigmoid(i) tanh(g); h = sigmoid(o) tanh(c).

m: (steps, batch, units / stride), one step or more: of every stride-th unit from the first on. The
  other units are not multiplied.
a: shaped as m. To the other units nothing is added.
h: (batch, units), before the first step.
c: (batch, units), in T, or in float32 with a 16-bit T.
w: for each product (blocks, block_size, block_size), from units to units, of the last to 4 * units.
gain: for each product (units), of the last (4 * units); in T, or in float32 with a 16-bit T.
bias: shaped as gain.
coords: for each product (blocks, 2).
hidden: h after each step, (steps, batch, units).
cells: c after each step, (steps, batch, units).
mean: of the layer norms, (steps, num_products + 3, batch); of a step a row for each product but the
  last, then (batch, 4) of the last. Without `kept` (0, num_products + 3, batch).
rstd: 1 / sqrt(variance + epsilon), shaped as mean.
kept: for the gradient, each product before its layer norm, and the operand of each product but the
  first, (steps, batch, width); or nothing, and the gradient computes them again.
)doc");

REGISTER_OP("Bsparse>SmallWorldLstmGrad")
    .Input("dhidden: T")
    .Input("dh_last: T")
    .Input("dc_last: Tc")
    .Input("m: T")
    .Input("a: T")
    .Input("h: T")
    .Input("c: Tc")
    .Input("w: num_products * T")
    .Input("gain: num_products * Tp")
    .Input("bias: num_products * Tp")
    .Input("coords: num_products * int32")
    .Input("hidden: T")
    .Input("cells: Tc")
    .Input("mean: stats_type")
    .Input("rstd: stats_type")
    .Input("kept: num_kept * T")
    .Output("dm: T")
    .Output("da: T")
    .Output("dh: T")
    .Output("dc: Tc")
    .Output("dgain: num_products * stats_type")
    .Output("dbias: num_products * stats_type")
    .Output("dproducts: num_products * T")
    .Output("operands: num_operands * T")
    .Attr("T: " BSPARSE_DTYPES)
    .Attr("Tc: " BSPARSE_DTYPES)
    .Attr("Tp: " BSPARSE_DTYPES)
    .Attr("stats_type: {float, double} = DT_FLOAT")
    .Attr("block_size: int")
    .Attr("num_products: int >= 3")
    .Attr("stride: int >= 1 = 1")
    .Attr("num_kept: int >= 0 = 0")
    .Attr("num_operands: int >= 0 = 0")
    .Attr("epsilon: float = 1e-6")
    .SetShapeFn(SmallWorldGradShapeFn)
    .Doc(R"doc(
The gradient of SmallWorldLstm but for that of w, which is one weight gradient for each product over
all steps: of its operands (hidden before each step, then `operands`, or those in `kept`) and
dproducts.

dhidden: of hidden.
dh_last: of h after the last step, besides dhidden's last.
dc_last: of c after the last step.
dgain: summed over steps and batch.
dproducts: of each product before its layer norm, (steps, batch, width).
operands: of each product but the first, if `kept` is empty.
)doc");

}  // namespace
}  // namespace bsparse
