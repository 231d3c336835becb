#include "cc/kernels/gpu_launch.h"

#include <string>

namespace bsparse {
namespace {

GpuStatus Report(const bsparse_cuda_api& api, bsparse_status code) {
  return code == BSPARSE_OK ? GpuStatus{} : GpuStatus{code, api.last_error()};
}

GpuStatus OutOfMemory(const char* what, size_t bytes) {
  return {BSPARSE_CUDA_ERROR, std::string("no device memory for ") + std::to_string(bytes) +
                                  " bytes of " + what};
}

size_t SizeOf(bsparse_dtype dtype) { return dtype == BSPARSE_FLOAT32 ? 4 : 2; }

// 0 if the weights can be used as they are stored.
size_t PreparedWeightsBytes(const bsparse_matmul_args& args, bsparse_dtype weight_dtype,
                            int64_t num_blocks) {
  if (args.gate == nullptr && weight_dtype == args.dtype) return 0;
  return static_cast<size_t>(num_blocks) * args.block_size * args.block_size * SizeOf(args.dtype);
}

}  // namespace

GpuStatus ToCudaDType(DType dtype, bsparse_dtype* cuda_dtype) {
  switch (dtype) {
    case DType::kFloat32:
      *cuda_dtype = BSPARSE_FLOAT32;
      return {};
    case DType::kFloat16:
      *cuda_dtype = BSPARSE_FLOAT16;
      return {};
    case DType::kBFloat16:
      *cuda_dtype = BSPARSE_BFLOAT16;
      return {};
    case DType::kFloat64:
      break;
  }
  return {BSPARSE_UNSUPPORTED,
          "float64 has no GPU kernel: use float32, float16 or bfloat16, or place the op on the "
          "CPU"};
}

bsparse_activation ToCudaActivation(Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return BSPARSE_ACTIVATION_RELU;
    case Activation::kGelu:
      return BSPARSE_ACTIVATION_GELU;
    case Activation::kNone:
      break;
  }
  return BSPARSE_ACTIVATION_NONE;
}

GpuStatus GetPlanTarget(const bsparse_cuda_api& api, const GpuProduct& product,
                        PlanTarget* target) {
  bsparse_tile_request request{};
  request.block_size = product.block_size;
  request.feature_axis = product.feature_axis;
  request.is_dw = product.is_dw;
  request.float32_math = product.float32_math;
  request.gated = product.gated;
  request.aligned = product.aligned;
  request.in_blocks = product.in_blocks;
  request.out_blocks = product.out_blocks;
  request.density = static_cast<float>(product.layout.density);
  request.union_density = static_cast<float>(product.layout.union_density);
  request.batch = product.batch;
  request.num_pairs = product.num_pairs;
  bsparse_device device;
  bsparse_tile tile;
  GpuStatus status = ToCudaDType(product.dtype, &request.dtype);
  if (status.ok()) status = Report(api, api.get_device(&device));
  if (status.ok()) status = Report(api, api.get_tile(&request, &device, &tile));
  if (!status.ok()) return status;
  target->sm_count = device.sm_count;
  target->batch_tile = tile.batch_tile;
  target->ctas_per_sm = tile.ctas_per_sm;
  target->kernel = tile.kernel;
  target->columns = tile.columns;
  target->cta_columns = tile.cta_columns;
  target->shared_columns = tile.shared_columns;
  target->entry_blocks = tile.entry_blocks;
  target->column_blocks = tile.column_blocks;
  target->packed = tile.packed;
  target->block_cells = tile.block_cells;
  target->chunk_blocks = tile.chunk_blocks;
  target->chunks = tile.chunks;
  return status;
}

bsparse_matmul_plan DevicePlan(const MatmulPlan& plan, int64_t num_blocks,
                               const int32_t* device_tables) {
  bsparse_matmul_plan out{};
  out.kernel = plan.target().kernel;
  out.columns = plan.target().columns;
  out.num_items = plan.num_items();
  out.num_splits = plan.num_splits();
  out.num_partials = plan.num_partials();
  out.num_entries = static_cast<int32_t>(plan.num_entries());
  out.num_blocks = static_cast<int32_t>(num_blocks);
  out.num_packed = plan.num_packed();
  out.fullest_stage = plan.fullest_stage();
  out.items = device_tables + plan.items_offset();
  out.entries = device_tables + plan.entries_offset();
  out.splits = device_tables + plan.splits_offset();
  out.groups = device_tables + plan.groups_offset();
  return out;
}

bsparse_matmul_dw_plan DevicePlan(const MatmulDwPlan& plan, const int32_t* device_tables) {
  bsparse_matmul_dw_plan out{};
  out.kernel = plan.target().kernel;
  out.num_blocks = plan.num_blocks();
  out.num_items = plan.num_items();
  out.batch_splits = plan.batch_splits();
  out.ctas = plan.ctas();
  out.chunks = plan.chunks();
  out.whole_items = plan.whole_items();
  out.items = device_tables + plan.items_offset();
  out.blocks = device_tables + plan.blocks_offset();
  return out;
}

GpuStatus LaunchMatmul(const bsparse_cuda_api& api, bsparse_matmul_args args,
                       bsparse_dtype weight_dtype, int64_t num_blocks,
                       const DeviceAllocator& allocate, void* stream) {
  if (const size_t bytes = PreparedWeightsBytes(args, weight_dtype, num_blocks); bytes > 0) {
    bsparse_prepare_weights_args prepare{};
    prepare.in_dtype = weight_dtype;
    prepare.out_dtype = args.dtype;
    prepare.block_size = args.block_size;
    prepare.num_blocks = num_blocks;
    prepare.in = args.w;
    prepare.gate = args.gate;
    prepare.out = allocate(bytes);
    if (prepare.out == nullptr) return OutOfMemory("prepared weights", bytes);
    const bsparse_status status = api.prepare_weights(&prepare, stream);
    if (status != BSPARSE_OK) return Report(api, status);
    args.w = prepare.out;
  }
  args.workspace_bytes = api.matmul_workspace(&args);
  if (args.workspace_bytes > 0) {
    args.workspace = allocate(args.workspace_bytes);
    if (args.workspace == nullptr) return OutOfMemory("workspace", args.workspace_bytes);
  }
  return Report(api, api.matmul(&args, stream));
}

GpuStatus LaunchMatmulDw(const bsparse_cuda_api& api, bsparse_matmul_dw_args args,
                         const DeviceAllocator& allocate, void* stream) {
  args.workspace_bytes = api.matmul_dw_workspace(&args);
  if (args.workspace_bytes > 0) {
    args.workspace = allocate(args.workspace_bytes);
    if (args.workspace == nullptr) return OutOfMemory("workspace", args.workspace_bytes);
  }
  return Report(api, api.matmul_dw(&args, stream));
}

size_t MatmulScratchBytes(const bsparse_cuda_api& api, const bsparse_matmul_args& args,
                          bsparse_dtype weight_dtype, int64_t num_blocks) {
  return RoundUpScratch(PreparedWeightsBytes(args, weight_dtype, num_blocks)) +
         RoundUpScratch(api.matmul_workspace(&args));
}

size_t MatmulDwScratchBytes(const bsparse_cuda_api& api, const bsparse_matmul_dw_args& args) {
  return RoundUpScratch(api.matmul_dw_workspace(&args));
}

}  // namespace bsparse
