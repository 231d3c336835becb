// The interfaces of the ops: inputs, attributes, shape functions. Kernels are registered in
// cc/kernels and cc/xla, gradients in bsparse_tf/gradients.py.

#include <string>

#include "cc/ops/addend.h"
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

// Of float32 products on a GPU; "default" is TensorFlow's switch for TF32.
#define BSPARSE_PRECISIONS "{'default', 'float32', 'tf32', 'tf32x3'}"

// The gate, if there is one, comes after the coords.
absl::Status CheckLayoutInputs(InferenceContext* c, const ProductAttrs& attrs, int coords_input) {
  const PartialDims coords = Dims(c, c->input(coords_input));
  TF_RETURN_IF_ERROR(CheckCoords(coords, attrs));
  TF_RETURN_IF_ERROR(CheckOptional("num_gates", CountAttr(c, "num_gates")));
  if (CountAttr(c, "num_gates") == 1) {
    TF_RETURN_IF_ERROR(CheckSameBlocks("gate", Dims(c, c->input(coords_input + 1)), coords));
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
  TF_RETURN_IF_ERROR(CheckLayoutInputs(c, attrs, /*coords_input=*/2));
  TF_RETURN_IF_ERROR(CheckSameBlocks("w", w, Dims(c, c->input(2))));
  TF_RETURN_IF_ERROR(CheckOptional("num_biases", CountAttr(c, "num_biases")));
  if (CountAttr(c, "num_biases") == 1) {
    const ShapeHandle bias = c->input(3 + CountAttr(c, "num_gates"));
    TF_RETURN_IF_ERROR(CheckBias(Dims(c, bias), out));
  }
  TF_RETURN_IF_ERROR(CheckOptional("num_residuals", CountAttr(c, "num_residuals")));
  if (CountAttr(c, "num_residuals") == 1) {
    const int input = 3 + CountAttr(c, "num_gates") + CountAttr(c, "num_biases");
    TF_RETURN_IF_ERROR(CheckResidual(Dims(c, c->input(input)),
                                     WithFeatures(Dims(c, x), attrs.feature_axis, out)));
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
  const DwInputs inputs(CountAttr(c, "num_pairs"), CountAttr(c, "num_gates"));
  for (int p = 0; p < CountAttr(c, "num_pairs"); ++p) {
    TF_RETURN_IF_ERROR(
        CheckDwPair(Dims(c, c->input(inputs.x(p))), Dims(c, c->input(inputs.dy(p))), attrs));
  }
  TF_RETURN_IF_ERROR(CheckLayoutInputs(c, attrs, inputs.coords()));
  const ShapeHandle coords = c->input(inputs.coords());
  int num_addends;
  TF_RETURN_IF_ERROR(ReadNumAddends(c, &num_addends));
  if (num_addends == 1) {
    const PartialDims addend = Dims(c, c->input(inputs.addend()));
    TF_RETURN_IF_ERROR(CheckWeights("addend", addend, attrs.block_size));
    TF_RETURN_IF_ERROR(CheckSameBlocks("addend", addend, Dims(c, coords)));
  }
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
    .Input("residual: num_residuals * T")
    .Output("y: T")
    .Attr("T: " BSPARSE_DTYPES)
    .Attr("Tw: " BSPARSE_DTYPES)
    .Attr("block_size: int")
    .Attr("in_blocks: int >= 1")
    .Attr("out_blocks: int >= 1")
    .Attr("feature_axis: int = 1")
    .Attr("precision: " BSPARSE_PRECISIONS " = 'default'")
    .Attr("transpose: bool = false")
    .Attr("activation: {'none', 'relu', 'gelu'} = 'none'")
    .Attr("num_gates: int >= 0 = 0")
    .Attr("num_biases: int >= 0 = 0")
    .Attr("num_residuals: int >= 0 = 0")
    .Attr("gate_grad: bool = false")
    .Attr("dw_gated: bool = false")
    .Attr("straight_through: bool = false")
    .SetShapeFn(MatmulShape)
    .Doc(R"doc(
y = activation(x W + bias) + residual, W a block-sparse matrix.

x: (..., in) with feature_axis 1, (in, ...) with feature_axis 0.
w: (blocks, block_size, block_size). w[b, i, j] joins input c * block_size + i to output
  k * block_size + j, where (c, k) = coords[b]. In float32 with a 16-bit x it is rounded to x's type.
coords: (blocks, 2), in any order, each block once.
gate: (blocks), at most one; scales each block, and 0 skips it.
bias: (out), at most one.
residual: of y's shape, at most one; y may be written to its memory.
y: x's shape with the feature dimension replaced.
in_blocks: rows of the layout, in blocks.
out_blocks: columns of the layout, in blocks.
precision: how float32 numbers are multiplied on a GPU: as TensorFlow's switch for TF32 says, exactly,
  rounded to TF32, or as sums of two TF32 numbers.
transpose: multiply by W^T instead, from `out` features to `in` features.
gate_grad: read by the gradient: the gate gets one.
dw_gated: read by the gradient: leave blocks whose gate is 0 out of the gate's gradient.
straight_through: read by the gradient: the gradient of w is not scaled by the gate.
)doc");

REGISTER_OP("Bsparse>MatmulDw")
    .Input("x: num_pairs * T")
    .Input("dy: num_pairs * T")
    .Input("coords: int32")
    .Input("gate: num_gates * float")
    .Input("addend: addend_types")
    .Output("dw: out_type")
    .Attr("T: " BSPARSE_DTYPES)
    .Attr("out_type: " BSPARSE_DTYPES)
    .Attr("block_size: int")
    .Attr("in_blocks: int >= 1")
    .Attr("out_blocks: int >= 1")
    .Attr("feature_axis: int = 1")
    .Attr("precision: " BSPARSE_PRECISIONS " = 'default'")
    .Attr("num_pairs: int >= 1")
    .Attr("num_gates: int >= 0 = 0")
    .Attr("addend_types: list(" BSPARSE_DTYPES ") >= 0 = []")
    .SetShapeFn(MatmulDwShape)
    .Doc(R"doc(
dw[b] = gate[b] * (sum over pairs of x[c]^T dy[k]) + addend[b] for every stored block b,
(c, k) = coords[b].

x: of each pair (..., in) with feature_axis 1, (in, ...) with feature_axis 0.
dy: of each pair (..., out) or (out, ...), of the same batch as x.
coords: (blocks, 2), in any order, each block once.
gate: (blocks), at most one; blocks whose gate is 0 are not computed.
addend: like dw, at most one; dw may take its memory over.
dw: (blocks, block_size, block_size), in T or, from a 16-bit T, in float32.
precision: as for Matmul.
)doc");

}  // namespace
}  // namespace bsparse
