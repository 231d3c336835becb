// The functions behind bsparse_cuda.h: check, choose a kernel, launch.
#include "cuda/bsparse_cuda.h"

#include <algorithm>
#include <cstdio>

#include "cuda/check.h"
#include "cuda/error.h"
#include "cuda/kernel_table.h"
#include "cuda/policy.cuh"
#include "cuda/support_kernels.h"

namespace bsparse {
namespace {

constexpr size_t kAlignment = 256;

size_t round_up(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

bsparse_status get_device(bsparse_device* device) {
  int id = 0, major = 0, minor = 0, sms = 0;
  cudaError_t error = cudaGetDevice(&id);
  const auto attribute = [&](int* value, cudaDeviceAttr which) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(value, which, id);
  };
  attribute(&major, cudaDevAttrComputeCapabilityMajor);
  attribute(&minor, cudaDevAttrComputeCapabilityMinor);
  attribute(&sms, cudaDevAttrMultiProcessorCount);
  if (error != cudaSuccess) return check_cuda(error, "asking for the current device");
  *device = {sms, 10 * major + minor};
  return BSPARSE_OK;
}

bsparse_status get_tile(bsparse_dtype dtype, int32_t block_size, int64_t batch, int32_t is_dw,
                        const bsparse_device* device, bsparse_tile* tile) {
  bsparse_status status = check_dtype("dtype", dtype);
  if (status == BSPARSE_OK) status = check_block_size(block_size);
  if (status != BSPARSE_OK) return status;
  if (device->compute_capability < 80) {
    return fail(BSPARSE_UNSUPPORTED, "this GPU has compute capability %d.%d; expected 8.0 or newer",
                device->compute_capability / 10, device->compute_capability % 10);
  }
  // Axis, transpose and arithmetic mode share tiles: any of them will do.
  int32_t ctas = 0;
  if (is_dw) {
    const Kernel kernel = find_matmul_dw(dtype, true, block_size, 1);
    status = get_ctas_per_sm(kernel, &ctas);
    if (status == BSPARSE_OK) *tile = {kernel.depth, ctas * kernel.blocks_per_cta};
  } else {
    const Kernel kernel = find_matmul(dtype, true, {block_size, 1, false, batch <= kSmallBatch});
    status = get_ctas_per_sm(kernel, &ctas);
    if (status == BSPARSE_OK) *tile = {kernel.batch_tile, ctas};
  }
  return status;
}

// The workspace of a matmul: partials, then the plan without gated blocks.
struct MatmulWorkspace {
  size_t items, entries, bytes;  // offsets, and the whole

  explicit MatmulWorkspace(const bsparse_matmul_args& args) {
    const size_t partials = static_cast<size_t>(args.plan.num_partials) * args.batch *
                            args.block_size * sizeof(float);
    items = round_up(partials);
    if (args.gate == nullptr) {
      entries = bytes = items;
      return;
    }
    entries = items + round_up(args.plan.num_items * sizeof(int4));
    bytes = entries + round_up(args.plan.num_blocks * sizeof(int2));
  }
};

size_t matmul_workspace(const bsparse_matmul_args* args) { return MatmulWorkspace(*args).bytes; }

bsparse_status matmul(const bsparse_matmul_args* request, void* stream_pointer) {
  const bsparse_matmul_args& args = *request;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  Kernel kernel;
  const MatmulWorkspace workspace(args);
  bsparse_status status = check_matmul(args);
  if (status == BSPARSE_OK) status = find_planned_matmul(args, &kernel);
  if (status != BSPARSE_OK || args.batch == 0) return status;
  status = check_workspace(args.workspace, args.workspace_bytes, workspace.bytes);
  if (status != BSPARSE_OK) return status;

  auto* const scratch = static_cast<char*>(args.workspace);
  const int64_t size = element_size(args.dtype);
  MatmulParams params{};
  params.x = args.x;
  params.w = args.w;
  params.bias = args.bias;
  params.y = args.y;
  params.partials = reinterpret_cast<float*>(scratch);
  params.items = reinterpret_cast<const int4*>(args.plan.items);
  params.entries = reinterpret_cast<const int2*>(args.plan.entries);
  params.batch = args.batch;
  params.in_features = int64_t{args.in_blocks} * args.block_size;
  params.out_features = int64_t{args.out_blocks} * args.block_size;
  params.num_items = args.plan.num_items;
  params.activation = args.activation;
  const bool rows_aligned = args.feature_axis == 1 || args.batch * size % 16 == 0;
  params.x_aligned = rows_aligned && is_aligned(args.x, 16);
  params.y_aligned = rows_aligned && is_aligned(args.y, 16);

  if (args.gate != nullptr) {
    const CompactEntries compact = {params.items,
                                    params.entries,
                                    args.gate,
                                    reinterpret_cast<int4*>(scratch + workspace.items),
                                    reinterpret_cast<int2*>(scratch + workspace.entries),
                                    args.plan.num_items};
    status = check_cuda(launch_compact_entries(compact, stream), "leaving out gated blocks");
    if (status != BSPARSE_OK) return status;
    params.items = compact.out_items;
    params.entries = compact.out_entries;
  }

  // A grid holds fewer than 2^31 CTAs, so a huge batch takes several launches.
  constexpr int64_t kMaxCtas = INT32_MAX;
  const int64_t tiles = (args.batch - 1) / kernel.batch_tile + 1;
  const int64_t max_tiles = std::max<int64_t>(1, kMaxCtas / args.plan.num_items);
  const int64_t tile_bytes = params.in_features * kernel.batch_tile * size;
  const int64_t group = std::clamp<int64_t>(kGroupBytes / tile_bytes, 1, kMaxGroup);
  params.batch_group = static_cast<uint32_t>(std::min({group, tiles, max_tiles}));
  for (int64_t first = 0; first < tiles; first += params.batch_tiles) {
    params.first_batch_tile = first;
    params.batch_tiles = static_cast<uint32_t>(std::min(max_tiles, tiles - first));
    status = launch(kernel, "launching a matmul", params.num_items * params.batch_tiles, &params,
                    stream);
    if (status != BSPARSE_OK) return status;
  }
  if (args.plan.num_splits == 0) return BSPARSE_OK;
  const ReduceMatmul reduce = {params.partials,     args.plan.splits,     args.bias,
                               args.y,              args.batch,           params.out_features,
                               args.plan.num_splits, args.block_size,     args.feature_axis,
                               args.activation};
  return check_cuda(launch_reduce_matmul(reduce, args.dtype, stream), "adding partial columns");
}

size_t matmul_dw_workspace(const bsparse_matmul_dw_args* args) {
  if (args->plan.batch_splits <= 1) return 0;
  return static_cast<size_t>(args->plan.batch_splits) * args->plan.num_blocks * args->block_size *
         args->block_size * sizeof(float);
}

bsparse_status matmul_dw(const bsparse_matmul_dw_args* request, void* stream_pointer) {
  const bsparse_matmul_dw_args& args = *request;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  bsparse_status status = check_matmul_dw(args);
  if (status != BSPARSE_OK || args.plan.num_blocks == 0) return status;
  status = check_workspace(args.workspace, args.workspace_bytes, matmul_dw_workspace(&args));
  if (status != BSPARSE_OK) return status;

  const Kernel kernel =
      find_matmul_dw(args.dtype, args.allow_tf32 != 0, args.block_size, args.feature_axis);
  const int64_t splits = args.plan.batch_splits;
  const int64_t split_steps = (args.batch / splits + kernel.depth) / kernel.depth;
  MatmulDwParams params{};
  params.x = args.x;
  params.dy = args.dy;
  params.gate = args.gate;
  params.dw = args.dw;
  params.partials = static_cast<float*>(args.workspace);
  params.blocks = args.plan.blocks;
  params.batch = args.batch;
  params.split_size = splits == 1 ? args.batch : split_steps * kernel.depth;
  params.in_features = int64_t{args.in_blocks} * args.block_size;
  params.out_features = int64_t{args.out_blocks} * args.block_size;
  params.num_blocks = args.plan.num_blocks;
  params.splits = args.plan.batch_splits;
  params.float_output = args.out_dtype == BSPARSE_FLOAT32;
  const bool rows_aligned = args.feature_axis == 1 ||
                            args.batch * static_cast<int64_t>(element_size(args.dtype)) % 16 == 0;
  params.x_aligned = rows_aligned && is_aligned(args.x, 16);
  params.dy_aligned = rows_aligned && is_aligned(args.dy, 16);

  const int64_t ctas = ((args.plan.num_blocks - 1) / kernel.blocks_per_cta + int64_t{1}) * splits;
  if (ctas > INT32_MAX) {
    return fail(BSPARSE_INVALID_ARGUMENT,
                "plan.batch_splits is %d; with %d blocks expected at most %d",
                args.plan.batch_splits, args.plan.num_blocks,
                static_cast<int>(INT32_MAX / (ctas / splits)));
  }
  status = launch(kernel, "launching a weight gradient", static_cast<uint32_t>(ctas), &params,
                  stream);
  if (status != BSPARSE_OK || splits == 1) return status;
  const ReduceMatmulDw reduce = {params.partials,      args.gate,
                                 args.dw,              args.plan.num_blocks,
                                 args.plan.batch_splits, args.block_size * args.block_size};
  return check_cuda(launch_reduce_matmul_dw(reduce, args.out_dtype, stream),
                    "adding partial weight gradients");
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
  thread_local char name[64];
  Kernel kernel;
  if (find_planned_matmul(*args, &kernel) != BSPARSE_OK) return "none";
  std::snprintf(name, sizeof(name), "sm80_matmul<%s,%d,%d>",
                math_name(args->dtype, args->allow_tf32 != 0), args->block_size,
                kernel.batch_tile);
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
};

}  // namespace
}  // namespace bsparse

extern "C" const bsparse_cuda_api* bsparse_cuda_get_api(int32_t version) {
  return version == BSPARSE_CUDA_API_VERSION ? &bsparse::kApi : nullptr;
}
