// The small-world LSTM as XLA sees it: one custom call for all steps, and one for the way back.

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "cc/kernels/float32_math.h"
#include "cc/kernels/gpu_launch.h"
#include "cc/kernels/gpu_status.h"
#include "cc/kernels/product_ops.h"
#include "cc/kernels/small_world_launch.h"
#include "cc/kernels/small_world_states.h"
#include "cc/ops/small_world.h"
#include "cc/plan/layout_plans.h"
#include "cc/xla/calls.h"
#include "cc/xla/custom_call.h"
#include "cc/xla/register_xla.h"
#include "cc/xla/small_world_plan.h"
#include "tensorflow/compiler/tf2xla/xla_op_kernel.h"
#include "xla/hlo/builder/lib/constants.h"
#include "xla/hlo/builder/xla_builder.h"
#include "xla/shape_util.h"

namespace bsparse {
namespace {

using tensorflow::OpKernelConstruction;
using tensorflow::XlaOpKernel;
using tensorflow::XlaOpKernelContext;

// Of Bsparse>SmallWorldLstm and Bsparse>SmallWorldLstmGrad.
template <bool kBackward>
class SmallWorldXlaOp final : public XlaOpKernel {
 public:
  explicit SmallWorldXlaOp(OpKernelConstruction* ctx)
      : XlaOpKernel(ctx), on_gpu_(ctx->device_type() == tensorflow::DEVICE_GPU_XLA_JIT) {
    OP_REQUIRES_OK(ctx, attrs_.Read(ctx));
    for (const auto& [name, dtype] : {std::pair{"T", &dtype_}, std::pair{"Tc", &cell_dtype_},
                                      std::pair{"Tp", &param_dtype_}}) {
      tensorflow::DataType type;
      OP_REQUIRES_OK(ctx, ctx->GetAttr(name, &type));
      *dtype = ToDType(type);
    }
  }

  void Compile(XlaOpKernelContext* ctx) override { OP_REQUIRES_OK(ctx, Emit(ctx)); }

 private:
  struct Layouts {
    std::vector<int32_t> coords;  // of all products, one after the other
    std::vector<int32_t> blocks;  // stored blocks of each
    std::vector<std::shared_ptr<const LayoutPlans>> plans;
  };

  absl::Status Emit(XlaOpKernelContext* ctx) const {
    std::vector<xla::Shape> shapes;
    std::vector<PartialDims> dims;
    for (int i = 0; i < ctx->num_inputs(); ++i) {
      TF_ASSIGN_OR_RETURN(shapes.emplace_back(), ctx->InputXlaShape(i));
      if (!shapes.back().is_static()) {
        return absl::UnimplementedError(absl::StrCat(
            "input ", i, " of ", ctx->op_kernel().type_string(), " has shape ",
            shapes.back().ToString(), "; expected one that is known when XLA compiles"));
      }
      dims.emplace_back(std::in_place, shapes.back().dimensions().begin(),
                        shapes.back().dimensions().end());
    }
    TF_RETURN_IF_ERROR(CheckSmallWorld(attrs_, dims, kBackward));
    const SmallWorldInputs in(attrs_, kBackward);
    const SmallWorldShape shape = SmallWorldShapeOf(
        attrs_, dtype_, cell_dtype_, param_dtype_, shapes[in.m].dimensions(0),
        shapes[in.h].dimensions(0), shapes[in.h].dimensions(1));
    Layouts layouts;
    TF_RETURN_IF_ERROR(ReadLayouts(ctx, shape, &layouts));

    std::vector<xla::XlaOp> operands;
    std::vector<xla::Shape> operand_shapes;
    for (int i = 0; i < ctx->num_inputs(); ++i) {
      if (i >= in.coords && i < in.coords + attrs_.products) continue;
      operands.push_back(ctx->Input(i));
      operand_shapes.push_back(RowMajor(shapes[i]));
    }
    std::vector<xla::Shape> results = Results(ctx, shape, shapes);
    const size_t outputs = results.size();
    AttributeWriter attributes;
    attributes.Write(CallOf(shape));
    if (on_gpu_) {
      TF_RETURN_IF_ERROR(
          PlanForGpu(ctx->builder(), shape, layouts, &attributes, &operands, &results));
      TF_ASSIGN_OR_RETURN(const xla::Shape tables, ctx->builder()->GetShape(operands.back()));
      operand_shapes.push_back(RowMajor(tables));
    } else {
      attributes(xla_calls::kCoords, layouts.coords);
      attributes(xla_calls::kSmallWorldBlocks, layouts.blocks);
    }
    const xla::XlaOp call = xla::CustomCallWithLayout(
        ctx->builder(),
        kBackward ? xla_calls::kSmallWorldGradTarget : xla_calls::kSmallWorldTarget, operands,
        xla::ShapeUtil::MakeTupleShape(results), operand_shapes, attributes.Dictionary(),
        /*has_side_effect=*/false, /*output_operand_aliasing=*/{}, /*literal=*/nullptr,
        xla::CustomCallSchedule::SCHEDULE_NONE, xla::CustomCallApiVersion::API_VERSION_TYPED_FFI);
    for (size_t i = 0; i < outputs; ++i) {
      ctx->SetOutput(static_cast<int>(i), xla::GetTupleElement(call, static_cast<int64_t>(i)));
    }
    return absl::OkStatus();
  }

  absl::Status ReadLayouts(XlaOpKernelContext* ctx, const SmallWorldShape& shape,
                           Layouts* layouts) const {
    const SmallWorldInputs in(attrs_, kBackward);
    for (int j = 0; j < attrs_.products; ++j) {
      TF_ASSIGN_OR_RETURN(const tensorflow::Tensor tensor,
                          ctx->ConstantInputTensor(in.coords + j));
      const int32_t* const coords = tensor.flat<int32_t>().data();
      const ProductAttrs product = attrs_.Product(j, shape.units);
      std::string error;
      layouts->plans.push_back(FindLayoutPlans(
          {coords, tensor.dim_size(0), product.in_blocks, product.out_blocks}, &error));
      if (layouts->plans.back() == nullptr) return absl::InvalidArgumentError(error);
      layouts->coords.insert(layouts->coords.end(), coords, coords + tensor.NumElements());
      layouts->blocks.push_back(static_cast<int32_t>(tensor.dim_size(0)));
    }
    return absl::OkStatus();
  }

  xla_calls::SmallWorld CallOf(const SmallWorldShape& shape) const {
    xla_calls::SmallWorld call;
    call.dtype = dtype_;
    call.cell_dtype = cell_dtype_;
    call.param_dtype = param_dtype_;
    call.block_size = attrs_.block_size;
    call.products = attrs_.products;
    call.kept = attrs_.kept;
    call.stride = attrs_.stride;
    call.steps = shape.steps;
    call.batch = shape.batch;
    call.units = shape.units;
    call.epsilon = attrs_.epsilon;
    return call;
  }

  std::vector<xla::Shape> Results(XlaOpKernelContext* ctx, const SmallWorldShape& shape,
                                  const std::vector<xla::Shape>& inputs) const {
    const SmallWorldInputs in(attrs_, kBackward);
    const std::vector<int64_t> over_time = {shape.steps, shape.batch, shape.units};
    std::vector<std::vector<int64_t>> dims;
    const auto like = [&](int input) {
      dims.emplace_back(inputs[input].dimensions().begin(), inputs[input].dimensions().end());
    };
    if (kBackward) {
      for (int input : {in.m, in.a, in.h, in.c}) like(input);
      for (int first : {in.gain, in.bias}) {
        for (int j = 0; j < attrs_.products; ++j) like(first + j);
      }
      for (int j = 0; j < attrs_.products; ++j) {
        dims.push_back({shape.steps, shape.batch, shape.width(j)});
      }
    } else {
      const std::vector<int64_t> statistics = {attrs_.kept == 0 ? 0 : shape.steps,
                                               shape.depth + kGates, shape.batch};
      dims.assign(2, over_time);
      dims.push_back(statistics);
      dims.push_back(statistics);
      for (int j = 0; j < attrs_.products && attrs_.kept > 0; ++j) {
        dims.push_back({shape.steps, shape.batch, shape.width(j)});
      }
    }
    dims.resize(ctx->num_outputs(), over_time);
    std::vector<xla::Shape> results;
    for (size_t i = 0; i < dims.size(); ++i) {
      results.push_back(xla::ShapeUtil::MakeShapeWithDescendingLayout(
          ctx->output_xla_type(static_cast<int>(i)), dims[i]));
    }
    return results;
  }

  // Adds the plans' tables to the operands, and scratch memory to the results.
  absl::Status PlanForGpu(xla::XlaBuilder* builder, const SmallWorldShape& shape,
                          const Layouts& layouts, AttributeWriter* attributes,
                          std::vector<xla::XlaOp>* operands,
                          std::vector<xla::Shape>* results) const {
    const bsparse_cuda_api* api;
    TF_RETURN_IF_ERROR(FindCudaLibrary(&api));
    const bsparse_float32_math float32_math = Float32Math(Precision::kDefault);
    const bool kept = attrs_.kept > 0;
    GpuSmallWorldNet net;
    net.shape = shape;
    // The library asks whether there are parameters, not what they are.
    constexpr float kSome = 0;
    net.gains.assign(attrs_.products, &kSome);
    net.biases.assign(attrs_.products, &kSome);
    // Every plan's tables begin at a multiple of 16 bytes, as alone they would.
    constexpr size_t kAlignment = 16 / sizeof(int32_t);
    std::vector<int32_t> tables(kAlignment, 0);
    std::vector<int32_t> numbers[2];
    for (const bool transpose : {false, true}) {
      const bool taken = transpose ? kBackward : !kBackward || !kept;
      // An empty batch multiplies nothing.
      if (!taken || shape.batch == 0) continue;
      std::vector<bsparse_matmul_args>& products = transpose ? net.transposed : net.forward;
      for (int j = 0; j < attrs_.products; ++j) {
        const ProductAttrs product = attrs_.Product(j, shape.units);
        PlanTarget target;
        TF_RETURN_IF_ERROR(ToStatus(GetPlanTarget(
            *api,
            {dtype_, product.block_size, product.feature_axis, shape.batch, /*is_dw=*/false,
             float32_math, /*gated=*/false, /*aligned=*/true,
             transpose ? product.out_blocks : product.in_blocks,
             transpose ? product.in_blocks : product.out_blocks,
             layouts.plans[j]->statistics(transpose, product.block_size)},
            &target)));
        const auto plan = layouts.plans[j]->matmul_plan(transpose, shape.batch, target);
        bsparse_matmul_args args;
        TF_RETURN_IF_ERROR(ToStatus(SmallWorldProduct(shape, attrs_.block_size, j, transpose,
                                                      float32_math, &args)));
        const size_t begin = tables.size();
        if (begin + plan->tables().size() > std::numeric_limits<int32_t>::max()) {
          return absl::UnimplementedError("the layouts have more blocks than XLA's constants hold");
        }
        args.plan = DevicePlan(*plan, layouts.blocks[j], plan->tables().data());
        products.push_back(args);
        WriteSmallWorldPlan(args.plan, plan->tables().data(), begin, &numbers[transpose]);
        tables.insert(tables.end(), plan->tables().begin(), plan->tables().end());
        tables.resize((tables.size() + kAlignment - 1) / kAlignment * kAlignment, 0);
      }
    }
    (*attributes)(xla_calls::kSmallWorldFloat32Math, float32_math);
    (*attributes)(xla_calls::kSmallWorldForward, numbers[false]);
    (*attributes)(xla_calls::kSmallWorldTransposed, numbers[true]);
    operands->push_back(xla::ConstantR1<int32_t>(builder, tables));
    const size_t scratch = kBackward ? SmallWorldGradScratchBytes(*api, net, kept)
                                     : SmallWorldScratchBytes(*api, net, kept);
    results->push_back(xla::ShapeUtil::MakeShapeWithDescendingLayout(
        xla::U8, {static_cast<int64_t>(WithRoomToAlign(scratch))}));
    return absl::OkStatus();
  }

  const bool on_gpu_;
  SmallWorldAttrs attrs_;
  DType dtype_, cell_dtype_, param_dtype_;
};

BSPARSE_REGISTER_XLA("Bsparse>SmallWorldLstm", SmallWorldXlaOp<false>,
                     .CompileTimeConstantInput("coords"));
BSPARSE_REGISTER_XLA("Bsparse>SmallWorldLstmGrad", SmallWorldXlaOp<true>,
                     .CompileTimeConstantInput("coords"));

}  // namespace
}  // namespace bsparse
