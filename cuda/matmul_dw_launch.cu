#include <algorithm>

#include "cuda/check.h"
#include "cuda/error.h"
#include "cuda/kernel_table.h"
#include "cuda/matmul_launch.h"
#include "cuda/tensor_map.h"

namespace bsparse {
namespace {

// Batch entries of a split, in whole stages.
int64_t split_size(const bsparse_matmul_dw_args& args, const Kernel& kernel) {
  const int64_t stages = (args.batch + kernel.depth - 1) / kernel.depth;
  const int64_t splits = args.plan.batch_splits;
  return std::max<int64_t>(1, (stages + splits - 1) / splits) * kernel.depth;
}

bsparse_status too_many_splits(const bsparse_matmul_dw_args& args, int64_t items) {
  return fail(BSPARSE_INVALID_ARGUMENT, "plan.batch_splits is %d; with %lld items expected at most %d",
              args.plan.batch_splits, static_cast<long long>(items),
              static_cast<int>(INT32_MAX / items));
}

}  // namespace

bsparse_status launch_block_matmul_dw(const bsparse_matmul_dw_args& args, const Kernel& kernel,
                                      cudaStream_t stream) {
  const int64_t splits = args.plan.batch_splits;
  MatmulDwParams params{};
  params.x = args.x;
  params.dy = args.dy;
  params.gate = args.gate;
  params.dw = args.dw;
  params.partials = static_cast<float*>(args.workspace);
  params.blocks = args.plan.blocks;
  params.batch = args.batch;
  params.split_size = splits == 1 ? args.batch : split_size(args, kernel);
  params.in_features = int64_t{args.in_blocks} * args.block_size;
  params.out_features = int64_t{args.out_blocks} * args.block_size;
  params.num_blocks = args.plan.num_blocks;
  params.splits = args.plan.batch_splits;
  params.float_output = args.out_dtype == BSPARSE_FLOAT32;
  const bool rows_aligned = args.feature_axis == 1 ||
                            args.batch * static_cast<int64_t>(element_size(args.dtype)) % 16 == 0;
  params.x_aligned = rows_aligned && is_aligned(args.x, 16);
  params.dy_aligned = rows_aligned && is_aligned(args.dy, 16);
  const int64_t items = (args.plan.num_blocks - 1) / kernel.blocks_per_cta + int64_t{1};
  if (items * splits > INT32_MAX) return too_many_splits(args, items);
  return launch(kernel, "launching a weight gradient", static_cast<uint32_t>(items * splits),
                &params, stream);
}

bsparse_status launch_column_matmul_dw(const bsparse_matmul_dw_args& args, const Kernel& kernel,
                                       cudaStream_t stream) {
  const auto map = [&](const void* data, int32_t blocks, CUtensorMap* to) {
    const int64_t features = int64_t{blocks} * args.block_size;
    const int rows = std::min(args.block_size, 64);
    const MapType type = map_type(args.dtype);
    return args.feature_axis == 1
               ? make_tensor_map(type, data, features, args.batch, rows, kernel.depth, to)
               : make_tensor_map(type, data, args.batch, features, kernel.depth, rows, to);
  };
  UnionMatmulDwParams params{};
  bsparse_status status = map(args.x, args.in_blocks, &params.x);
  if (status == BSPARSE_OK) status = map(args.dy, args.out_blocks, &params.dy);
  if (status != BSPARSE_OK) return status;
  params.gate = args.gate;
  params.dw = args.dw;
  params.partials = args.plan.batch_splits > 1 ? static_cast<float*>(args.workspace) : nullptr;
  params.items = reinterpret_cast<const int4*>(args.plan.items);
  params.blocks = args.plan.blocks;
  params.batch = args.batch;
  params.split_size = split_size(args, kernel);
  params.num_items = static_cast<uint32_t>(args.plan.num_items);
  params.num_blocks = args.plan.num_blocks;
  params.float_output = args.out_dtype == BSPARSE_FLOAT32;
  const int64_t tiles = int64_t{args.plan.num_items} * args.plan.batch_splits;
  if (tiles > INT32_MAX) return too_many_splits(args, args.plan.num_items);
  params.num_tiles = static_cast<uint32_t>(tiles);
  int32_t multiprocessors = 0;
  status = get_multiprocessors(&multiprocessors);
  if (status != BSPARSE_OK) return status;
  return launch(kernel, "launching a weight gradient",
                static_cast<uint32_t>(std::min<int64_t>(tiles, multiprocessors)), &params, stream);
}

}  // namespace bsparse
