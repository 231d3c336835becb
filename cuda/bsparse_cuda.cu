// The functions behind bsparse_cuda.h: check, choose a kernel, launch.
#include "cuda/bsparse_cuda.h"

#include <algorithm>
#include <cstdio>

#include "cuda/check.h"
#include "cuda/choose_kernel.h"
#include "cuda/dense/matmul.h"
#include "cuda/error.h"
#include "cuda/kernel_launch.h"
#include "cuda/kernel_table.h"
#include "cuda/matmul_launch.h"
#include "cuda/matmul_workspace.h"
#include "cuda/pointwise/activation_grad.h"
#include "cuda/pointwise/recurrent.h"
#include "cuda/sm90/dw_choice.h"
#include "cuda/sm90/dw_tiles_policy.cuh"
#include "cuda/sm90/policy.cuh"
#include "cuda/support_kernels.h"

namespace bsparse {
namespace {

bsparse_status check_request(const bsparse_tile_request& request, const bsparse_device& device) {
  bsparse_status status = check_dtype("dtype", request.dtype);
  if (status == BSPARSE_OK) status = check_block_size(request.block_size);
  if (status == BSPARSE_OK && device.compute_capability < 80) {
    status = fail(BSPARSE_UNSUPPORTED,
                  "this GPU has compute capability %d.%d; expected 8.0 or newer",
                  device.compute_capability / 10, device.compute_capability % 10);
  }
  return status;
}

int64_t outputs_of(const bsparse_tile_request& request) {
  return int64_t{request.out_blocks} * request.block_size;
}

// The kernel that serves a request. Transposed or not, tiles are the same.
Kernel find_requested(bsparse_kernel family, const bsparse_tile_request& request) {
  if (request.is_dw) {
    return find_matmul_dw(family, request.dtype, request.float32_math, request.block_size,
                          hopper_dw_turns(hopper_dw(request), family) ? 0 : request.feature_axis);
  }
  const int sweep_tile =
      wanted_sweep_batch_tile(outputs_of(request), request.block_size,
                              static_cast<int>(element_size(request.dtype)), request.density);
  return find_matmul(request.dtype, request.float32_math,
                     {request.block_size, request.feature_axis, false, family, request.batch,
                      sweep_tile, is_union(family) && union_turns_inputs(request)});
}

int32_t batch_ranges(bsparse_kernel family, const bsparse_tile_request& request) {
  if (!is_union(family)) return 1;
  const int64_t bytes = request.batch * (int64_t{request.in_blocks} + request.out_blocks) *
                        request.block_size * static_cast<int64_t>(element_size(request.dtype));
  return static_cast<int32_t>(dw_ranges(request.block_size, static_cast<int>(element_size(request.dtype)),
                                        request.feature_axis, bytes));
}

// `ctas`: that fit on one SM.
bsparse_tile make_tile(bsparse_kernel family, const Kernel& kernel,
                       const bsparse_tile_request& request, int32_t sm_count, int32_t ctas) {
  if (family == BSPARSE_DENSE) return {family, INT32_MAX, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0};
  if (family == BSPARSE_SM90_DW_TILES) {
    const auto size = static_cast<int>(element_size(request.dtype));
    const int cell = dw_tile_cell(request.block_size);
    return {.kernel = family,
            .batch_tile = kernel.depth,
            .ctas_per_sm = ctas,
            .columns = wanted_dw_tile_ctas(request.block_size) * kernel.columns,
            .cta_columns = kernel.columns,
            .shared_columns = 1,
            .entry_blocks = dw_tile_slot_blocks(request.block_size),
            .column_blocks = 1,
            .packed = 0,
            .block_cells = request.block_size / cell,
            .chunk_blocks = dw_tile_chunk_features(size) / cell,
            .chunks = max_dw_tile_chunks(size)};
  }
  if (request.is_dw != 0) {
    const int32_t blocks =
        family == BSPARSE_SM90
            ? wanted_dw_item_blocks(request.block_size, static_cast<int>(element_size(request.dtype)),
                                    request.feature_axis, request.density * request.in_blocks)
            : kernel.columns;
    return {family, kernel.depth, ctas * kernel.blocks_per_cta, blocks, blocks,
            batch_ranges(family, request), 1, 1, 0, 0, 0, 0};
  }
  if (family == BSPARSE_SM90_SWEEP) {
    return {.kernel = family,
            .batch_tile = kernel.batch_tile,
            .ctas_per_sm = ctas,
            .columns = sweep_ctas(outputs_of(request), kernel.batch_tile) * kernel.columns,
            .cta_columns = kernel.columns,
            .shared_columns = 1,
            .entry_blocks = 1,
            .column_blocks = kernel.column_blocks,
            .packed = kernel.packs,
            .block_cells = 0,
            .chunk_blocks = kernel.box_features / request.block_size,
            .chunks = kMaxSweepStageKib};
  }
  int32_t cluster = 1;
  if (family == BSPARSE_SM90) {
    cluster = union_ctas(
        wanted_union_ctas(request.block_size, static_cast<int>(element_size(request.dtype)),
                          union_turns_inputs(request) ? 1 : request.feature_axis, request.density),
        (outputs_of(request) - 1) / kUnionOutputs + 1,
        (request.batch - 1) / kernel.batch_tile + 1, sm_count);
  }
  const int cells =
      family == BSPARSE_SM90_STREAM ? request.block_size / stream_cell(request.block_size) : 0;
  return {family, kernel.batch_tile, ctas, cluster * kernel.columns, kernel.columns,
          kernel.shared_columns, kernel.entry_blocks, kernel.column_blocks, kernel.packs, cells, 0, 0};
}

// A batch of one lies in memory the same way on both axes, and features last suit more kernels.
int32_t simplest_axis(int32_t feature_axis, int64_t batch) {
  return batch == 1 ? 1 : feature_axis;
}

template <class Product>
Product simplest(Product product) {
  product.feature_axis = simplest_axis(product.feature_axis, product.batch);
  return product;
}

bsparse_matmul_dw_args simplest_dw(bsparse_matmul_dw_args args) {
  args.feature_axis = simplest_axis(args.feature_axis, total_batch(args));
  return args;
}

bsparse_status get_tile(const bsparse_tile_request* requested, const bsparse_device* device,
                        bsparse_tile* tile) {
  bsparse_status status = check_request(*requested, *device);
  if (status != BSPARSE_OK) return status;
  const bsparse_tile_request request = simplest(*requested);
  const bsparse_kernel family =
      choose_kernel(request, device->compute_capability, /*assume_cublas=*/false).family;
  Kernel kernel;
  int32_t ctas = 1;
  if (family != BSPARSE_DENSE) {
    kernel = find_requested(family, request);
    status = get_ctas_per_sm(kernel, &ctas);
  }
  *tile = make_tile(family, kernel, request, device->sm_count, ctas);
  return status;
}

// "sm90_matmul<bf16,64,256>": the last number is the tile's along the batch. `product` as of the
// families that have no name of their own.
void write_name(bsparse_kernel family, const char* product, const char* math, int block_size,
                int batch_tile, char* name, size_t size) {
  if (family == BSPARSE_SM90_STREAM) product = "stream";
  if (family == BSPARSE_SM90_SWEEP) product = "sweep";
  if (family == BSPARSE_SM90_DW_TILES) product = "dw_tiles";
  const char* const gpu = is_hopper(family) ? "sm90" : "sm80";
  std::snprintf(name, size, "%s_%s<%s,%d,%d>", gpu, product, math, block_size, batch_tile);
}

bsparse_status explain(const bsparse_tile_request* requested, const bsparse_device* device,
                       int32_t assume_cublas, bsparse_choice* choice) {
  const bsparse_status status = check_request(*requested, *device);
  if (status != BSPARSE_OK) return status;
  const bsparse_tile_request request = simplest(*requested);
  const Choice made = choose_kernel(request, device->compute_capability, assume_cublas != 0);
  *choice = {};
  choice->dense_reason = made.dense;
  choice->hopper_reason = made.hopper;
  choice->sparse_seconds = made.seconds.sparse;
  choice->dense_seconds = made.seconds.dense;
  if (made.family == BSPARSE_DENSE) {
    choice->tile = make_tile(made.family, {}, request, device->sm_count, 0);
    std::snprintf(choice->name, sizeof(choice->name), "dense");
    return BSPARSE_OK;
  }
  const Kernel kernel = find_requested(made.family, request);
  choice->tile = make_tile(made.family, kernel, request, device->sm_count, 0);
  const char* const dw = made.family == BSPARSE_SM80_SMALL ? "small_dw" : "matmul_dw";
  write_name(made.family, request.is_dw ? dw : "matmul",
             math_name(request.dtype, request.float32_math), request.block_size,
             choice->tile.batch_tile, choice->name, sizeof(choice->name));
  return BSPARSE_OK;
}

size_t matmul_workspace(const bsparse_matmul_args* args) {
  return args->plan.kernel == BSPARSE_DENSE ? dense_matmul_workspace(*args)
                                            : MatmulWorkspace(*args).bytes;
}

bsparse_status matmul(const bsparse_matmul_args* given, void* stream_pointer) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  bsparse_status status = check_matmul(*given);
  if (status != BSPARSE_OK || given->batch == 0) return status;
  const bsparse_matmul_args args = simplest(*given);
  status = check_workspace(args.workspace, args.workspace_bytes, matmul_workspace(&args));
  if (status != BSPARSE_OK) return status;
  if (args.plan.kernel == BSPARSE_DENSE) return launch_dense_matmul(args, stream);
  Kernel kernel;
  status = find_planned_matmul(args, &kernel);
  if (status != BSPARSE_OK) return status;
  if (is_union(args.plan.kernel)) {
    status = launch_union_matmul(args, kernel, stream);
  } else if (args.plan.kernel == BSPARSE_SM90_STREAM) {
    status = launch_stream_matmul(args, kernel, stream);
  } else if (args.plan.kernel == BSPARSE_SM90_SWEEP) {
    status = launch_sweep_matmul(args, kernel, stream);
  } else {
    status = launch_column_matmul(args, kernel, stream);
  }
  const bool adds = args.plan.num_splits > 0 && args.plan.kernel != BSPARSE_SM90_STREAM;
  if (status != BSPARSE_OK || !adds) return status;
  return launch_reduce_matmul(args, stream);
}

size_t matmul_dw_workspace(const bsparse_matmul_dw_args* args) {
  if (args->plan.kernel == BSPARSE_DENSE) return dense_matmul_dw_workspace(*args);
  Kernel kernel;
  if (find_planned_matmul_dw(simplest_dw(*args), &kernel) != BSPARSE_OK) return 0;
  return matmul_dw_workspace_bytes(simplest_dw(*args), kernel);
}

bsparse_status matmul_dw(const bsparse_matmul_dw_args* given, void* stream_pointer) {
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  bsparse_status status = check_matmul_dw(*given);
  if (status != BSPARSE_OK || given->plan.num_blocks == 0) return status;
  const bsparse_matmul_dw_args args = simplest_dw(*given);
  status = check_workspace(args.workspace, args.workspace_bytes, matmul_dw_workspace(&args));
  if (status != BSPARSE_OK) return status;
  if (args.plan.kernel == BSPARSE_DENSE) return launch_dense_matmul_dw(args, stream);
  Kernel kernel;
  status = find_planned_matmul_dw(args, &kernel);
  if (status != BSPARSE_OK) return status;
  return launch_matmul_dw(args, kernel, stream);
}

bsparse_status prepare_weights(const bsparse_prepare_weights_args* args, void* stream) {
  const bsparse_status status = check_prepare_weights(*args);
  if (status != BSPARSE_OK || args->num_blocks == 0) return status;
  return check_cuda(launch_prepare_weights(*args, static_cast<cudaStream_t>(stream)),
                    "preparing weights");
}

bsparse_status copy_to_device(void* dst, const void* src, size_t bytes, void* stream_pointer) {
  if (bytes == 0) return BSPARSE_OK;
  if (dst == nullptr || src == nullptr) {
    return fail(BSPARSE_INVALID_ARGUMENT, "copy_to_device got a null pointer for %zu bytes", bytes);
  }
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  cudaStreamCaptureStatus capture;
  bsparse_status status =
      check_cuda(cudaStreamIsCapturing(stream, &capture), "asking for the stream's state");
  if (status != BSPARSE_OK) return status;
  if (capture != cudaStreamCaptureStatusNone) {
    return fail(BSPARSE_UNSUPPORTED,
                "copy_to_device came while a graph is captured, which would keep the host's "
                "address: run the product once before capturing");
  }
  cudaPointerAttributes attributes;
  status = check_cuda(cudaPointerGetAttributes(&attributes, src), "looking at host memory");
  if (status == BSPARSE_OK) {
    status = check_cuda(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, stream),
                        "copying to the device");
  }
  // Pageable memory has been read when the copy returns; pinned memory has not.
  if (status == BSPARSE_OK && attributes.type != cudaMemoryTypeUnregistered) {
    status = check_cuda(cudaStreamSynchronize(stream), "copying to the device");
  }
  return status;
}

const char* kernel_name(const bsparse_matmul_args* args) {
  if (args->plan.kernel == BSPARSE_DENSE) return "dense";
  thread_local char name[64];
  Kernel kernel;
  if (find_planned_matmul(simplest(*args), &kernel) != BSPARSE_OK) return "none";
  write_name(static_cast<bsparse_kernel>(args->plan.kernel), "matmul",
             math_name(args->dtype, args->float32_math), args->block_size, kernel.batch_tile,
             name, sizeof(name));
  return name;
}

constexpr bsparse_cuda_api kApi = {
    .version = BSPARSE_CUDA_API_VERSION,
    .get_device = get_device,
    .get_tile = get_tile,
    .matmul_workspace = matmul_workspace,
    .matmul = matmul,
    .matmul_dw_workspace = matmul_dw_workspace,
    .matmul_dw = matmul_dw,
    .prepare_weights = prepare_weights,
    .copy_to_device = copy_to_device,
    .last_error = last_error,
    .kernel_name = kernel_name,
    .layer_norm_workspace = layer_norm_workspace,
    .layer_norm = layer_norm,
    .layer_norm_grad_workspace = layer_norm_grad_workspace,
    .layer_norm_grad = layer_norm_grad,
    .lstm_gates = lstm_gates,
    .lstm_gates_grad = lstm_gates_grad,
    .explain = explain,
    .activation_grad_workspace = activation_grad_workspace,
    .activation_grad = activation_grad,
};

}  // namespace
}  // namespace bsparse

extern "C" const bsparse_cuda_api* bsparse_cuda_get_api(int32_t version) {
  return version == BSPARSE_CUDA_API_VERSION ? &bsparse::kApi : nullptr;
}
