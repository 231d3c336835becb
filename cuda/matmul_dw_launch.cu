#include <algorithm>
#include <vector>

#include "cuda/check.h"
#include "cuda/error.h"
#include "cuda/kernel_table.h"
#include "cuda/matmul_launch.h"
#include "cuda/support_kernels.h"
#include "cuda/tensor_map.h"

namespace bsparse {
namespace {

using Pairs = std::vector<bsparse_dw_pair>;

// The pairs that one launch takes, from `first` on.
Pairs pairs_of_launch(const Pairs& pairs, size_t first) {
  const size_t end = std::min(pairs.size(), first + kMaxPairs);
  return Pairs(pairs.begin() + first, pairs.begin() + end);
}

DwStages cut_stages(const Pairs& pairs, int depth, int32_t splits) {
  DwStages stages{};
  int64_t count = 0;
  for (size_t p = 0; p < pairs.size(); ++p) {
    count += (pairs[p].batch - 1) / depth + 1;
    stages.first[p + 1] = count;
  }
  stages.count = count;
  stages.of_split = std::max<int64_t>(1, (count + splits - 1) / splits);
  return stages;
}

bsparse_status too_many_splits(const bsparse_matmul_dw_args& args, int64_t items) {
  return fail(BSPARSE_INVALID_ARGUMENT, "plan.batch_splits is %d; with %lld items expected at most %d",
              args.plan.batch_splits, static_cast<long long>(items),
              static_cast<int>(INT32_MAX / items));
}

// One CTA for blocks wherever they lie.
bsparse_status launch_blocks(const bsparse_matmul_dw_args& args, const Pairs& pairs,
                             const Kernel& kernel, float* partials, cudaStream_t stream) {
  MatmulDwParams params{};
  for (size_t p = 0; p < pairs.size(); ++p) {
    const bsparse_dw_pair& pair = pairs[p];
    const bool rows_aligned =
        args.feature_axis == 1 ||
        pair.batch * static_cast<int64_t>(element_size(args.dtype)) % 16 == 0;
    params.pairs[p] = {pair.x, pair.dy, pair.batch, rows_aligned && is_aligned(pair.x, 16),
                       rows_aligned && is_aligned(pair.dy, 16)};
  }
  params.stages = cut_stages(pairs, kernel.depth, args.plan.batch_splits);
  params.output = dw_output(args);
  params.partials = partials;
  params.blocks = args.plan.blocks;
  params.in_features = int64_t{args.in_blocks} * args.block_size;
  params.out_features = int64_t{args.out_blocks} * args.block_size;
  params.num_blocks = args.plan.num_blocks;
  params.splits = args.plan.batch_splits;
  const int64_t items = (args.plan.num_blocks - 1) / kernel.blocks_per_cta + int64_t{1};
  const int64_t ctas = items * args.plan.batch_splits;
  if (ctas > INT32_MAX) return too_many_splits(args, items);
  return launch(kernel, "launching a weight gradient", static_cast<uint32_t>(ctas), &params,
                stream);
}

// CTAs that take items of one output column.
bsparse_status launch_columns(const bsparse_matmul_dw_args& args, const Pairs& pairs,
                              const Kernel& kernel, float* partials, cudaStream_t stream) {
  const auto map = [&](const void* data, int64_t batch, int32_t blocks, CUtensorMap* to) {
    const int64_t features = int64_t{blocks} * args.block_size;
    const int rows = std::min(args.block_size, 64);
    const MapType type = map_type(args.dtype);
    return args.feature_axis == 1
               ? make_tensor_map(type, data, features, batch, rows, kernel.depth, to)
               : make_tensor_map(type, data, batch, features, kernel.depth, rows, to);
  };
  UnionMatmulDwParams params{};
  bsparse_status status = BSPARSE_OK;
  for (size_t p = 0; p < pairs.size() && status == BSPARSE_OK; ++p) {
    status = map(pairs[p].x, pairs[p].batch, args.in_blocks, &params.x[p]);
    if (status == BSPARSE_OK) {
      status = map(pairs[p].dy, pairs[p].batch, args.out_blocks, &params.dy[p]);
    }
  }
  if (status != BSPARSE_OK) return status;
  params.stages = cut_stages(pairs, kernel.depth, args.plan.batch_splits);
  params.output = dw_output(args);
  params.partials = partials;
  params.items = reinterpret_cast<const int4*>(args.plan.items);
  params.blocks = args.plan.blocks;
  params.num_items = static_cast<uint32_t>(args.plan.num_items);
  params.num_blocks = args.plan.num_blocks;
  params.num_pairs = static_cast<int32_t>(pairs.size());
  const int64_t tiles = int64_t{args.plan.num_items} * args.plan.batch_splits;
  if (tiles > INT32_MAX) return too_many_splits(args, args.plan.num_items);
  params.num_tiles = static_cast<uint32_t>(tiles);
  int32_t ctas = 0;
  status = get_multiprocessors(&ctas);
  if (status != BSPARSE_OK) return status;
  if (args.max_ctas > 0) ctas = std::min(ctas, args.max_ctas);
  return launch(kernel, "launching a weight gradient",
                static_cast<uint32_t>(std::min<int64_t>(tiles, ctas)), &params, stream);
}

}  // namespace

std::vector<bsparse_dw_pair> filled_pairs(const bsparse_matmul_dw_args& args) {
  Pairs pairs;
  for (int p = 0; p < args.num_pairs; ++p) {
    if (args.pairs[p].batch > 0) pairs.push_back(args.pairs[p]);
  }
  return pairs;
}

DwOutput dw_output(const bsparse_matmul_dw_args& args) {
  return {args.dw, args.addend, args.gate, args.out_dtype == BSPARSE_FLOAT32};
}

int64_t matmul_dw_partials(const bsparse_matmul_dw_args& args) {
  const auto pairs = static_cast<int64_t>(filled_pairs(args).size());
  const int64_t launches = std::max<int64_t>(1, (pairs + kMaxPairs - 1) / kMaxPairs);
  const int64_t partials = launches * args.plan.batch_splits;
  return partials == 1 ? 0 : partials;
}

bsparse_status launch_matmul_dw(const bsparse_matmul_dw_args& args, const Kernel& kernel,
                                cudaStream_t stream) {
  const Pairs pairs = filled_pairs(args);
  const int64_t num_partials = matmul_dw_partials(args);
  const int64_t elements =
      int64_t{args.plan.num_blocks} * args.block_size * args.block_size;
  auto* partials = num_partials > 0 ? static_cast<float*>(args.workspace) : nullptr;
  const auto launch_some = is_union(args.plan.kernel) ? &launch_columns : &launch_blocks;
  size_t first = 0;
  do {
    const bsparse_status status =
        launch_some(args, pairs_of_launch(pairs, first), kernel, partials, stream);
    if (status != BSPARSE_OK) return status;
    if (partials != nullptr) partials += args.plan.batch_splits * elements;
    first += kMaxPairs;
  } while (first < pairs.size());
  if (num_partials == 0) return BSPARSE_OK;
  const ReduceMatmulDw reduce = {static_cast<const float*>(args.workspace), dw_output(args),
                                 args.plan.num_blocks, static_cast<int32_t>(num_partials),
                                 args.block_size * args.block_size};
  return check_cuda(launch_reduce_matmul_dw(reduce, args.out_dtype, stream),
                    "adding partial weight gradients");
}

}  // namespace bsparse
