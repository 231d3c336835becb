// The interfaces of the ops: inputs, attributes, shape functions. Kernels are registered in
// cc/kernels and cc/xla, gradients in bsparse_tf/gradients.py.

#include <string>

#include "cc/ops/checks.h"
#include "cc/ops/inference.h"
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace bsparse {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

absl::Status CheckLayoutInputs(InferenceContext* c, const ProductAttrs& attrs, int gate_input) {
  const PartialDims coords = Dims(c, c->input(2));
  TF_RETURN_IF_ERROR(CheckCoords(coords, attrs));
  TF_RETURN_IF_ERROR(CheckOptional("num_gates", CountAttr(c, "num_gates")));
  if (CountAttr(c, "num_gates") == 1) {
    TF_RETURN_IF_ERROR(CheckSameBlocks("gate", Dims(c, c->input(gate_input)), coords));
  }
  return absl::OkStatus();
}

absl::Status MatmulShape(InferenceContext* c) {
  ProductAttrs attrs;
  TF_RETURN_IF_ERROR(attrs.Read(c));
  TF_RETURN_IF_ERROR(CheckStoredType(c, "Tw"));
  bool transpose;
  TF_RETURN_IF_ERROR(c->GetAttr("transpose", &transpose));
  const int64_t in = transpose ? attrs.out_features() : attrs.in_features();
  const int64_t out = transpose ? attrs.in_features() : attrs.out_features();

  const ShapeHandle x = c->input(0);
  const PartialDims w = Dims(c, c->input(1));
  TF_RETURN_IF_ERROR(CheckActivations("x", Dims(c, x), in, attrs.feature_axis));
  TF_RETURN_IF_ERROR(CheckWeights("w", w, attrs.block_size));
  TF_RETURN_IF_ERROR(CheckLayoutInputs(c, attrs, /*gate_input=*/3));
  TF_RETURN_IF_ERROR(CheckSameBlocks("w", w, Dims(c, c->input(2))));
  TF_RETURN_IF_ERROR(CheckOptional("num_biases", CountAttr(c, "num_biases")));
  if (CountAttr(c, "num_biases") == 1) {
    const ShapeHandle bias = c->input(3 + CountAttr(c, "num_gates"));
    TF_RETURN_IF_ERROR(CheckBias(Dims(c, bias), out));
  }
  if (!c->RankKnown(x)) {
    c->set_output(0, c->UnknownShape());
    return absl::OkStatus();
  }
  ShapeHandle y;
  TF_RETURN_IF_ERROR(
      c->ReplaceDim(x, attrs.feature_axis == 0 ? 0 : -1, c->MakeDim(out), &y));
  c->set_output(0, y);
  return absl::OkStatus();
}

absl::Status MatmulDwShape(InferenceContext* c) {
  ProductAttrs attrs;
  TF_RETURN_IF_ERROR(attrs.Read(c));
  TF_RETURN_IF_ERROR(CheckStoredType(c, "out_type"));
  const PartialDims x = Dims(c, c->input(0));
  const PartialDims dy = Dims(c, c->input(1));
  TF_RETURN_IF_ERROR(CheckActivations("x", x, attrs.in_features(), attrs.feature_axis));
  TF_RETURN_IF_ERROR(CheckActivations("dy", dy, attrs.out_features(), attrs.feature_axis));
  TF_RETURN_IF_ERROR(CheckSameBatch(x, dy, attrs.feature_axis));
  TF_RETURN_IF_ERROR(CheckLayoutInputs(c, attrs, /*gate_input=*/3));
  const ShapeHandle coords = c->input(2);
  const DimensionHandle blocks = c->RankKnown(coords) ? c->Dim(coords, 0) : c->UnknownDim();
  c->set_output(0, c->MakeShape({blocks, c->MakeDim(attrs.block_size),
                                 c->MakeDim(attrs.block_size)}));
  return absl::OkStatus();
}

REGISTER_OP("Bsparse>Matmul")
    .Input("x: T")
    .Input("w: Tw")
    .Input("coords: int32")
    .Input("gate: num_gates * float")
    .Input("bias: num_biases * T")
    .Output("y: T")
    .Attr("T: " BSPARSE_DTYPES)
    .Attr("Tw: " BSPARSE_DTYPES)
    .Attr("block_size: int")
    .Attr("in_blocks: int >= 1")
    .Attr("out_blocks: int >= 1")
    .Attr("feature_axis: int = 1")
    .Attr("transpose: bool = false")
    .Attr("activation: {'none', 'relu', 'gelu'} = 'none'")
    .Attr("num_gates: int >= 0 = 0")
    .Attr("num_biases: int >= 0 = 0")
    .Attr("gate_grad: bool = false")
    .Attr("dw_gated: bool = false")
    .Attr("straight_through: bool = false")
    .SetShapeFn(MatmulShape)
    .Doc(R"doc(
y = activation(x W + bias), W a block-sparse matrix.

x: (..., in) with feature_axis 1, (in, ...) with feature_axis 0.
w: (blocks, block_size, block_size). w[b, i, j] joins input c * block_size + i to output
  k * block_size + j, where (c, k) = coords[b]. In float32 with a 16-bit x it is rounded to x's type.
coords: (blocks, 2), in any order, each block once.
gate: (blocks), at most one; scales each block, and 0 skips it.
bias: (out), at most one.
y: x's shape with the feature dimension replaced.
in_blocks: rows of the layout, in blocks.
out_blocks: columns of the layout, in blocks.
transpose: multiply by W^T instead, from `out` features to `in` features.
gate_grad: read by the gradient: the gate gets one.
dw_gated: read by the gradient: leave blocks whose gate is 0 out of the gate's gradient.
straight_through: read by the gradient: the gradient of w is not scaled by the gate.
)doc");

REGISTER_OP("Bsparse>MatmulDw")
    .Input("x: T")
    .Input("dy: T")
    .Input("coords: int32")
    .Input("gate: num_gates * float")
    .Output("dw: out_type")
    .Attr("T: " BSPARSE_DTYPES)
    .Attr("out_type: " BSPARSE_DTYPES)
    .Attr("block_size: int")
    .Attr("in_blocks: int >= 1")
    .Attr("out_blocks: int >= 1")
    .Attr("feature_axis: int = 1")
    .Attr("num_gates: int >= 0 = 0")
    .SetShapeFn(MatmulDwShape)
    .Doc(R"doc(
dw[b] = gate[b] * x[c]^T dy[k] for every stored block b, (c, k) = coords[b].

x: (..., in) with feature_axis 1, (in, ...) with feature_axis 0.
dy: (..., out) or (out, ...), of the same batch.
coords: (blocks, 2), in any order, each block once.
gate: (blocks), at most one; blocks whose gate is 0 are zero.
dw: (blocks, block_size, block_size), in T or, from a 16-bit T, in float32.
)doc");

}  // namespace
}  // namespace bsparse
