// The ops as XLA sees them: Compile() checks what the shape functions check, plans, and emits one
// custom call (calls.h).

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cc/kernels/float32_math.h"
#include "cc/kernels/gpu_launch.h"
#include "cc/kernels/gpu_status.h"
#include "cc/kernels/product_ops.h"
#include "cc/ops/addend.h"
#include "cc/ops/checks.h"
#include "cc/plan/layout_plans.h"
#include "cc/xla/calls.h"
#include "cc/xla/custom_call.h"
#include "cc/xla/gpu_args.h"
#include "cc/xla/register_xla.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "xla/hlo/builder/lib/constants.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/shape_util.h"

namespace bsparse {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::XlaOpKernel;
using tensorflow::XlaOpKernelContext;

PartialDims Dims(const xla::Shape& shape) {
  return PartialDims(std::in_place, shape.dimensions().begin(), shape.dimensions().end());
}

// Stands for operands when the library is asked how much scratch memory a call needs.
constexpr float kSomeOperand = 0;

// XLA's buffers, and slices of them along leading dimensions of blocked features, lie at multiples
// of 16 bytes.
constexpr bool kBuffersAreAligned = true;

struct Coords {
  tensorflow::Tensor tensor;
  std::shared_ptr<const LayoutPlans> plans;

  absl::Span<const int32_t> values() const {
    return {tensor.flat<int32_t>().data(), static_cast<size_t>(tensor.NumElements())};
  }
};

absl::StatusOr<Coords> ReadCoords(XlaOpKernelContext* ctx, const ProductAttrs& attrs, int input) {
  Coords coords;
  TF_ASSIGN_OR_RETURN(coords.tensor, ctx->ConstantInputTensor(input));
  TF_RETURN_IF_ERROR(CheckCoords(bsparse::Dims(coords.tensor.shape()), attrs));
  std::string error;
  coords.plans = FindLayoutPlans(
      {coords.values().data(), coords.tensor.dim_size(0), attrs.in_blocks, attrs.out_blocks},
      &error);
  if (coords.plans == nullptr) return absl::InvalidArgumentError(error);
  return coords;
}

absl::StatusOr<DType> ReadDType(OpKernelConstruction* ctx, const char* attr) {
  tensorflow::DataType dtype;
  TF_RETURN_IF_ERROR(ctx->GetAttr(attr, &dtype));
  return ToDType(dtype);
}

#define BSPARSE_ASSIGN_OR_RETURN_CTX(ctx, lhs, expression) \
  do {                                                     \
    auto result = (expression);                            \
    OP_REQUIRES_OK(ctx, result.status());                  \
    lhs = *std::move(result);                              \
  } while (false)

// ---- Bsparse>Matmul ----

class MatmulXlaOp final : public XlaOpKernel {
 public:
  explicit MatmulXlaOp(OpKernelConstruction* ctx)
      : XlaOpKernel(ctx), on_gpu_(ctx->device_type() == tensorflow::DEVICE_GPU_XLA_JIT) {
    OP_REQUIRES_OK(ctx, attrs_.Read(ctx));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("transpose", &transpose_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_gates", &num_gates_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_biases", &num_biases_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_residuals", &num_residuals_));
    std::string activation;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("activation", &activation));
    OP_REQUIRES_OK(ctx, ParseActivation(activation, &activation_));
    BSPARSE_ASSIGN_OR_RETURN_CTX(ctx, dtype_, ReadDType(ctx, "T"));
    BSPARSE_ASSIGN_OR_RETURN_CTX(ctx, weight_dtype_, ReadDType(ctx, "Tw"));
  }

  void Compile(XlaOpKernelContext* ctx) override {
    xla::XlaOp y;
    BSPARSE_ASSIGN_OR_RETURN_CTX(ctx, y, Emit(ctx));
    ctx->SetOutput(0, y);
  }

 private:
  absl::StatusOr<xla::XlaOp> Emit(XlaOpKernelContext* ctx) const {
    TF_ASSIGN_OR_RETURN(const xla::Shape x_shape, ctx->InputXlaShape(0));
    TF_ASSIGN_OR_RETURN(const xla::Shape w_shape, ctx->InputXlaShape(1));
    TF_ASSIGN_OR_RETURN(const Coords coords, ReadCoords(ctx, attrs_, /*input=*/2));
    const PartialDims blocks = bsparse::Dims(coords.tensor.shape());
    const int64_t in = transpose_ ? attrs_.out_features() : attrs_.in_features();
    const int64_t out = transpose_ ? attrs_.in_features() : attrs_.out_features();
    TF_RETURN_IF_ERROR(CheckActivations("x", Dims(x_shape), in, attrs_.feature_axis));
    TF_RETURN_IF_ERROR(CheckWeights("w", Dims(w_shape), attrs_.block_size));
    TF_RETURN_IF_ERROR(CheckSameBlocks("w", Dims(w_shape), blocks));
    if (num_gates_ == 1) {
      TF_ASSIGN_OR_RETURN(const xla::Shape gate_shape, ctx->InputXlaShape(3));
      TF_RETURN_IF_ERROR(CheckSameBlocks("gate", Dims(gate_shape), blocks));
    }
    if (num_biases_ == 1) {
      TF_ASSIGN_OR_RETURN(const xla::Shape bias_shape, ctx->InputXlaShape(3 + num_gates_));
      TF_RETURN_IF_ERROR(CheckBias(Dims(bias_shape), out));
    }
    const int residual_input = 3 + num_gates_ + num_biases_;
    xla::Shape residual_shape;
    if (num_residuals_ == 1) {
      TF_ASSIGN_OR_RETURN(residual_shape, ctx->InputXlaShape(residual_input));
      TF_RETURN_IF_ERROR(
          CheckResidual(Dims(residual_shape), WithFeatures(Dims(x_shape), attrs_.feature_axis, out)));
    }

    xla::Shape y_shape = RowMajor(x_shape);
    y_shape.set_dimensions(attrs_.feature_axis == 0 ? 0 : y_shape.dimensions().size() - 1, out);
    if (xla::ShapeUtil::IsZeroElementArray(y_shape)) return xla::Zeros(ctx->builder(), y_shape);

    xla_calls::Matmul call;
    call.dtype = dtype_;
    call.weight_dtype = weight_dtype_;
    call.activation = activation_;
    call.block_size = attrs_.block_size;
    call.feature_axis = attrs_.feature_axis;
    call.in_blocks = attrs_.in_blocks;
    call.out_blocks = attrs_.out_blocks;
    call.transpose = transpose_;
    call.has_gate = num_gates_ == 1;
    call.has_bias = num_biases_ == 1;
    call.has_residual = num_residuals_ == 1;
    call.batch = BatchOf(Dims(x_shape), attrs_.feature_axis);
    AttributeWriter attributes;
    attributes.Write(call);

    const StaticActivations x(ctx->Input(0), x_shape, StaticActivations::kAnything);
    std::vector<xla::XlaOp> operands = {x.op(), ctx->Input(1)};
    if (call.has_gate) operands.push_back(ctx->Input(3));
    if (call.has_bias) operands.push_back(ctx->Input(3 + num_gates_));
    if (call.has_residual) {
      operands.push_back(StaticActivations(ctx->Input(residual_input), residual_shape,
                                           StaticActivations::kAnything)
                             .op());
    }
    size_t scratch_bytes = 0;
    if (on_gpu_) {
      TF_RETURN_IF_ERROR(
          PlanForGpu(ctx->builder(), call, coords, &attributes, &operands, &scratch_bytes));
    } else {
      attributes(xla_calls::kCoords, coords.values());
    }
    TF_ASSIGN_OR_RETURN(const xla::XlaOp y,
                        TypedCall(ctx->builder(), xla_calls::kMatmulTarget, operands, y_shape,
                                  WithRoomToAlign(scratch_bytes), attributes));
    return x.Restore(y);
  }

  absl::Status PlanForGpu(xla::XlaBuilder* builder, const xla_calls::Matmul& call,
                          const Coords& coords, AttributeWriter* attributes,
                          std::vector<xla::XlaOp>* operands, size_t* scratch_bytes) const {
    const bsparse_cuda_api* api;
    TF_RETURN_IF_ERROR(FindCudaLibrary(&api));
    PlanTarget target;
    TF_RETURN_IF_ERROR(ToStatus(GetPlanTarget(
        *api,
        {dtype_, attrs_.block_size, attrs_.feature_axis, call.batch, /*is_dw=*/false,
         Float32Math(attrs_.precision), call.has_gate, kBuffersAreAligned,
         transpose_ ? attrs_.out_blocks : attrs_.in_blocks,
         transpose_ ? attrs_.in_blocks : attrs_.out_blocks,
         coords.plans->statistics(transpose_, attrs_.block_size)},
        &target)));
    const auto plan = coords.plans->matmul_plan(transpose_, call.batch, target);
    operands->push_back(xla::ConstantR1<int32_t>(builder, plan->tables()));

    xla_calls::MatmulGpu gpu;
    gpu.float32_math = Float32Math(attrs_.precision);
    gpu.num_blocks = static_cast<int32_t>(coords.tensor.dim_size(0));
    gpu.num_items = plan->num_items();
    gpu.num_splits = plan->num_splits();
    gpu.kernel = plan->target().kernel;
    gpu.columns = plan->target().columns;
    gpu.num_partials = plan->num_partials();
    gpu.num_entries = static_cast<int32_t>(plan->num_entries());
    gpu.num_packed = plan->num_packed();
    gpu.fullest_stage = plan->fullest_stage();
    gpu.entries_offset = plan->entries_offset();
    gpu.splits_offset = plan->splits_offset();
    gpu.groups_offset = plan->groups_offset();
    attributes->Write(gpu);

    bsparse_matmul_args args{};
    bsparse_dtype weight_dtype;
    TF_RETURN_IF_ERROR(
        ToStatus(MatmulArgs(call, gpu, plan->tables().data(), &args, &weight_dtype)));
    args.gate = call.has_gate ? &kSomeOperand : nullptr;
    args.bias = call.has_bias ? &kSomeOperand : nullptr;
    args.residual = call.has_residual ? &kSomeOperand : nullptr;
    *scratch_bytes = MatmulScratchBytes(*api, args, weight_dtype, gpu.num_blocks);
    return absl::OkStatus();
  }

  const bool on_gpu_;
  ProductAttrs attrs_;
  bool transpose_ = false;
  int num_gates_ = 0;
  int num_biases_ = 0;
  int num_residuals_ = 0;
  Activation activation_ = Activation::kNone;
  DType dtype_;
  DType weight_dtype_;
};

// ---- Bsparse>MatmulDw ----

class MatmulDwXlaOp final : public XlaOpKernel {
 public:
  explicit MatmulDwXlaOp(OpKernelConstruction* ctx)
      : XlaOpKernel(ctx), on_gpu_(ctx->device_type() == tensorflow::DEVICE_GPU_XLA_JIT) {
    OP_REQUIRES_OK(ctx, attrs_.Read(ctx));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_pairs", &num_pairs_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_gates", &num_gates_));
    OP_REQUIRES_OK(ctx, ReadNumAddends(ctx, &num_addends_));
    BSPARSE_ASSIGN_OR_RETURN_CTX(ctx, dtype_, ReadDType(ctx, "T"));
    BSPARSE_ASSIGN_OR_RETURN_CTX(ctx, out_dtype_, ReadDType(ctx, "out_type"));
  }

  void Compile(XlaOpKernelContext* ctx) override {
    xla::XlaOp dw;
    BSPARSE_ASSIGN_OR_RETURN_CTX(ctx, dw, Emit(ctx));
    ctx->SetOutput(0, dw);
  }

 private:
  absl::StatusOr<xla::XlaOp> Emit(XlaOpKernelContext* ctx) const {
    const DwInputs inputs(num_pairs_, num_gates_);
    TF_ASSIGN_OR_RETURN(const Coords coords, ReadCoords(ctx, attrs_, inputs.coords()));
    const PartialDims blocks = bsparse::Dims(coords.tensor.shape());
    std::vector<xla::Shape> shapes(2 * num_pairs_);  // of all x, then of all dy
    for (int i = 0; i < 2 * num_pairs_; ++i) {
      TF_ASSIGN_OR_RETURN(shapes[i], ctx->InputXlaShape(i));
    }
    std::vector<bsparse_dw_pair> pairs;
    int64_t batch = 0;
    for (int p = 0; p < num_pairs_; ++p) {
      const PartialDims x = Dims(shapes[inputs.x(p)]);
      TF_RETURN_IF_ERROR(CheckDwPair(x, Dims(shapes[inputs.dy(p)]), attrs_));
      pairs.push_back({nullptr, nullptr, BatchOf(x, attrs_.feature_axis)});
      batch += pairs.back().batch;
    }
    if (num_gates_ == 1) {
      TF_ASSIGN_OR_RETURN(const xla::Shape gate_shape, ctx->InputXlaShape(inputs.gate()));
      TF_RETURN_IF_ERROR(CheckSameBlocks("gate", Dims(gate_shape), blocks));
    }
    if (num_addends_ == 1) {
      TF_ASSIGN_OR_RETURN(const xla::Shape addend_shape, ctx->InputXlaShape(inputs.addend()));
      TF_RETURN_IF_ERROR(CheckWeights("addend", Dims(addend_shape), attrs_.block_size));
      TF_RETURN_IF_ERROR(CheckSameBlocks("addend", Dims(addend_shape), blocks));
    }

    const xla::Shape dw_shape = xla::ShapeUtil::MakeShapeWithDescendingLayout(
        ctx->output_xla_type(0),
        {coords.tensor.dim_size(0), attrs_.block_size, attrs_.block_size});
    if (xla::ShapeUtil::IsZeroElementArray(dw_shape) || batch == 0) {
      return num_addends_ == 1 ? ctx->Input(inputs.addend())
                               : xla::Zeros(ctx->builder(), dw_shape);
    }

    xla_calls::MatmulDw call;
    call.dtype = dtype_;
    call.out_dtype = out_dtype_;
    call.block_size = attrs_.block_size;
    call.feature_axis = attrs_.feature_axis;
    call.in_blocks = attrs_.in_blocks;
    call.out_blocks = attrs_.out_blocks;
    call.num_pairs = num_pairs_;
    call.has_gate = num_gates_ == 1;
    call.has_addend = num_addends_ == 1;
    AttributeWriter attributes;
    attributes.Write(call);

    std::vector<xla::XlaOp> operands;
    for (int i = 0; i < 2 * num_pairs_; ++i) {
      operands.push_back(
          StaticActivations(ctx->Input(i), shapes[i], StaticActivations::kZeros).op());
    }
    if (call.has_gate) operands.push_back(ctx->Input(inputs.gate()));
    if (call.has_addend) operands.push_back(ctx->Input(inputs.addend()));
    size_t scratch_bytes = 0;
    if (on_gpu_) {
      TF_RETURN_IF_ERROR(
          PlanForGpu(ctx->builder(), call, pairs, coords, &attributes, &operands, &scratch_bytes));
    } else {
      attributes(xla_calls::kCoords, coords.values());
    }
    return TypedCall(ctx->builder(), xla_calls::kMatmulDwTarget, operands, dw_shape,
                     WithRoomToAlign(scratch_bytes), attributes);
  }

  // `pairs` without addresses.
  absl::Status PlanForGpu(xla::XlaBuilder* builder, const xla_calls::MatmulDw& call,
                          const std::vector<bsparse_dw_pair>& pairs, const Coords& coords,
                          AttributeWriter* attributes, std::vector<xla::XlaOp>* operands,
                          size_t* scratch_bytes) const {
    int64_t batch = 0;
    bool aligned = kBuffersAreAligned;
    for (const bsparse_dw_pair& pair : pairs) {
      batch += pair.batch;
      aligned = aligned && BatchIsAligned(pair.batch, num_pairs_, attrs_.feature_axis);
    }
    const bsparse_cuda_api* api;
    TF_RETURN_IF_ERROR(FindCudaLibrary(&api));
    PlanTarget target;
    TF_RETURN_IF_ERROR(ToStatus(GetPlanTarget(
        *api,
        {dtype_, attrs_.block_size, attrs_.feature_axis, batch, /*is_dw=*/true,
         Float32Math(attrs_.precision), call.has_gate, aligned,
         attrs_.in_blocks, attrs_.out_blocks, coords.plans->statistics(/*transpose=*/false, attrs_.block_size),
         num_pairs_},
        &target)));
    const auto plan = coords.plans->matmul_dw_plan(batch, target);
    operands->push_back(xla::ConstantR1<int32_t>(builder, plan->tables()));

    xla_calls::MatmulDwGpu gpu;
    gpu.float32_math = Float32Math(attrs_.precision);
    gpu.num_blocks = plan->num_blocks();
    gpu.batch_splits = plan->batch_splits();
    gpu.ctas = plan->ctas();
    gpu.chunks = plan->chunks();
    gpu.whole_items = plan->whole_items();
    gpu.kernel = plan->target().kernel;
    gpu.num_items = plan->num_items();
    gpu.blocks_offset = plan->blocks_offset();
    attributes->Write(gpu);

    bsparse_matmul_dw_args args{};
    TF_RETURN_IF_ERROR(ToStatus(MatmulDwArgs(call, gpu, pairs, plan->tables().data(), &args)));
    args.gate = call.has_gate ? &kSomeOperand : nullptr;
    *scratch_bytes = MatmulDwScratchBytes(*api, args);
    return absl::OkStatus();
  }

  const bool on_gpu_;
  ProductAttrs attrs_;
  int num_pairs_ = 1;
  int num_gates_ = 0;
  int num_addends_ = 0;
  DType dtype_;
  DType out_dtype_;
};

BSPARSE_REGISTER_XLA("Bsparse>Matmul", MatmulXlaOp, .CompileTimeConstantInput("coords"));
BSPARSE_REGISTER_XLA("Bsparse>MatmulDw", MatmulDwXlaOp, .CompileTimeConstantInput("coords"));

}  // namespace
}  // namespace bsparse
