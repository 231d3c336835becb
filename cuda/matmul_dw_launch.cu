#include <algorithm>
#include <vector>

#include "cuda/check.h"
#include "cuda/error.h"
#include "cuda/kernel_launch.h"
#include "cuda/kernel_table.h"
#include "cuda/matmul_launch.h"
#include "cuda/matmul_workspace.h"
#include "cuda/sm80/policy.cuh"
#include "cuda/sm90/dw_choice.h"
#include "cuda/sm90/dw_tiles_policy.cuh"
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

int64_t launches_of(const bsparse_matmul_dw_args& args) {
  const auto pairs = static_cast<int64_t>(filled_pairs(args).size());
  return std::max<int64_t>(1, (pairs + kMaxPairs - 1) / kMaxPairs);
}

// Float32 sums that dw leaves in its workspace, of a split of a launch each; 0 if there is only one.
int64_t partials_of(const bsparse_matmul_dw_args& args) {
  const int64_t partials = launches_of(args) * args.plan.batch_splits;
  return partials == 1 ? 0 : partials;
}

// Tiles that are not split. Where there are several launches each leaves partials of all.
int32_t whole_items(const bsparse_matmul_dw_args& args) {
  if (launches_of(args) > 1) return 0;
  return args.plan.batch_splits == 1 ? args.plan.num_items : args.plan.whole_items;
}

// Blocks that a set of partials has room for.
int64_t partial_blocks(const bsparse_matmul_dw_args& args, const Kernel& kernel) {
  if (args.plan.kernel != BSPARSE_SM90_DW_TILES) return args.plan.num_blocks;
  return int64_t{args.plan.num_items - whole_items(args)} * args.plan.ctas * kernel.columns;
}

// And the float32 numbers of all partials.
int64_t partial_floats(const bsparse_matmul_dw_args& args, const Kernel& kernel) {
  const int side = args.plan.kernel == BSPARSE_SM90_DW_TILES ? dw_tile_cell(args.block_size)
                                                             : args.block_size;
  return partials_of(args) * partial_blocks(args, kernel) * side * side;
}

// Exact float32 whose warps want x and dy with features first.
bool goes_by_warps(const bsparse_matmul_dw_args& args) {
  return args.plan.kernel == BSPARSE_SM80 && args.dtype == BSPARSE_FLOAT32 &&
         args.float32_math == BSPARSE_FLOAT32_EXACT && args.block_size <= kMaxExactDwBlock;
}

// Exact float32 by warps wants rows of whole 16 bytes, too.
bool turns_pairs(const bsparse_matmul_dw_args& args) {
  if (goes_by_warps(args)) {
    return args.feature_axis == 1 ||
           std::any_of(args.pairs, args.pairs + args.num_pairs,
                       [](const bsparse_dw_pair& pair) { return pair.batch % 4 != 0; });
  }
  if (args.plan.kernel != BSPARSE_SM80_SMALL) {
    return hopper_dw_turns(hopper_dw(args), args.plan.kernel);
  }
  return small_dw_turns(args.block_size, args.feature_axis,
                        static_cast<int>(element_size(args.dtype)));
}

// Behind the partials: x and dy of a launch turned round, which launches one after the other share.
size_t turned_offset(const bsparse_matmul_dw_args& args, const Kernel& kernel) {
  const size_t bytes = static_cast<size_t>(partial_floats(args, kernel)) * sizeof(float);
  return (bytes + 15) / 16 * 16;
}

size_t turned_bytes(const bsparse_matmul_dw_args& args, const Pairs& pairs) {
  int64_t entries = 0;
  for (const bsparse_dw_pair& pair : pairs) entries += turned_row(pair.batch);
  const int64_t features = (int64_t{args.in_blocks} + args.out_blocks) * args.block_size;
  return static_cast<size_t>(entries * features) * element_size(args.dtype);
}

bsparse_status too_many_splits(const bsparse_matmul_dw_args& args, int64_t items) {
  return fail(BSPARSE_INVALID_ARGUMENT, "plan.batch_splits is %d; with %lld items expected at most %d",
              args.plan.batch_splits, static_cast<long long>(items),
              static_cast<int>(INT32_MAX / items));
}

// x and dy with features first.
bsparse_status turn_pairs(const bsparse_matmul_dw_args& args, const Kernel& kernel, Pairs* pairs,
                          cudaStream_t stream) {
  if (pairs->empty()) return BSPARSE_OK;
  TurnActivations turns{};
  static_assert(2 * kMaxPairs <= TurnActivations::kMaxTurns);
  auto* to = static_cast<char*>(args.workspace) + turned_offset(args, kernel);
  const auto turn = [&](const void** data, int64_t batch, int32_t blocks) {
    const int64_t features = int64_t{blocks} * args.block_size, row = turned_row(batch);
    turns.turns[turns.count++] = {*data, to, batch, features, row};
    *data = to;
    to += features * row * static_cast<int64_t>(element_size(args.dtype));
  };
  for (bsparse_dw_pair& pair : *pairs) {
    turn(&pair.x, pair.batch, args.in_blocks);
    turn(&pair.dy, pair.batch, args.out_blocks);
    pair.batch = turned_row(pair.batch);
  }
  const cudaError_t error = element_size(args.dtype) == 2 ? launch_turn_activations(turns, stream)
                            : args.feature_axis == 0      ? launch_pad_floats(turns, stream)
                                                          : launch_turn_floats(turns, stream);
  return check_cuda(error, "turning the activations");
}

// What launch_small trusts in.
bsparse_status check_small(const bsparse_matmul_dw_args& args, const Pairs& pairs) {
  const auto size = static_cast<int64_t>(element_size(args.dtype));
  const bool turns = turns_pairs(args);
  const int64_t features = int64_t{std::max(args.in_blocks, args.out_blocks)} * args.block_size;
  for (const bsparse_dw_pair& pair : pairs) {
    const int64_t batch = turns ? turned_row(pair.batch) : pair.batch;
    const bool whole_rows = args.feature_axis == 1 || pair.batch * size % 16 == 0;
    if (!whole_rows || !is_aligned(pair.x, 16) || !is_aligned(pair.dy, 16) ||
        !small_dw_counts(features, batch, static_cast<int>(size))) {
      return fail(BSPARSE_INVALID_ARGUMENT,
                  "plan.kernel is %d; it wants x and dy in rows of 16 bytes or a multiple, and fewer than "
                  "2^32 of these, ask get_tile", args.plan.kernel);
    }
  }
  const int side = args.block_size / small_dw_cell(args.block_size);
  if (int64_t{args.plan.num_blocks} * side * side > INT32_MAX) {
    return fail(BSPARSE_INVALID_ARGUMENT, "plan.num_blocks is %d; of blocks of %d expected at most %d",
                args.plan.num_blocks, args.block_size, INT32_MAX / (side * side));
  }
  constexpr int kMaxSplits = 65535;  // of a grid's second dimension
  if (args.plan.batch_splits > kMaxSplits) {
    return fail(BSPARSE_INVALID_ARGUMENT, "plan.batch_splits is %d; expected at most %d",
                args.plan.batch_splits, kMaxSplits);
  }
  return BSPARSE_OK;
}

// Units of cells or blocks wherever they lie, dealt to as many CTAs as run at once.
bsparse_status launch_small(const bsparse_matmul_dw_args& args, const Pairs& pairs,
                            const Kernel& kernel, float* partials, cudaStream_t stream) {
  bsparse_device device;
  const bsparse_status status = get_device(&device);
  if (status != BSPARSE_OK) return status;
  int32_t ctas = device.sm_count * kSmallDwCtas;
  if (args.max_ctas > 0) ctas = std::min(ctas, args.max_ctas);
  SmallMatmulDwParams params{};
  for (size_t p = 0; p < pairs.size(); ++p) {
    params.pairs[p] = {pairs[p].x, pairs[p].dy, static_cast<uint32_t>(pairs[p].batch)};
  }
  params.in_features = static_cast<uint32_t>(args.in_blocks * args.block_size);
  params.out_features = static_cast<uint32_t>(args.out_blocks * args.block_size);
  params.stages = cut_stages(pairs, kernel.depth, args.plan.batch_splits);
  params.output = partials != nullptr ? DwOutput{partials, nullptr, nullptr, true} : dw_output(args);
  params.blocks = args.plan.blocks;
  params.num_blocks = args.plan.num_blocks;
  params.is_plain = params.output.gate == nullptr && params.output.addend == nullptr &&
                    params.output.is_float == (args.dtype == BSPARSE_FLOAT32) &&
                    is_aligned(params.output.dw, 16);
  const int side = args.block_size / small_dw_cell(args.block_size);
  const int64_t cells = int64_t{args.plan.num_blocks} * side * side;
  const int64_t units = (cells - 1) / small_dw_unit_blocks(args.block_size) + 1;
  params.units = static_cast<uint32_t>(units);
  const int warps = kernel.threads / 32;
  return launch(kernel, "launching a weight gradient",
                dim3(static_cast<unsigned>(std::min<int64_t>((units - 1) / warps + 1, ctas)),
                     static_cast<unsigned>(args.plan.batch_splits)),
                &params, stream);
}

// CTAs for blocks wherever they lie.
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
  const int64_t ctas = items * kernel.ctas_per_block * args.plan.batch_splits;
  if (ctas > INT32_MAX) return too_many_splits(args, items * kernel.ctas_per_block);
  return launch(kernel, "launching a weight gradient", static_cast<uint32_t>(ctas), &params,
                stream);
}

// Maps of x and dy in boxes of `width` features by a stage's batch entries.
bsparse_status map_pairs(const bsparse_matmul_dw_args& args, const Pairs& pairs,
                         const Kernel& kernel, int width, CUtensorMap* x, CUtensorMap* dy) {
  const auto map = [&](const void* data, int64_t batch, int32_t blocks, CUtensorMap* to) {
    const int64_t features = int64_t{blocks} * args.block_size;
    const MapType type = args.dtype == BSPARSE_FLOAT32 ? MapType::kTf32 : map_type(args.dtype);
    return args.feature_axis == 1
               ? make_tensor_map(type, data, features, batch, width, kernel.depth, to)
               : make_tensor_map(type, data, batch, features, kernel.depth, width, to);
  };
  for (size_t p = 0; p < pairs.size(); ++p) {
    bsparse_status status = map(pairs[p].x, pairs[p].batch, args.in_blocks, &x[p]);
    if (status == BSPARSE_OK) status = map(pairs[p].dy, pairs[p].batch, args.out_blocks, &dy[p]);
    if (status != BSPARSE_OK) return status;
  }
  return BSPARSE_OK;
}

// CTAs that take items of one output column.
bsparse_status launch_columns(const bsparse_matmul_dw_args& args, const Pairs& pairs,
                              const Kernel& kernel, float* partials, cudaStream_t stream) {
  bsparse_status status = check_range("plan.chunks", args.plan.chunks, 1, kernel.columns);
  if (status != BSPARSE_OK) return status;
  UnionMatmulDwParams params{};
  const int width = dw_column_box_features(args.block_size, static_cast<int>(element_size(args.dtype)),
                                           args.feature_axis);
  status = map_pairs(args, pairs, kernel, width, params.x, params.dy);
  if (status != BSPARSE_OK) return status;
  params.stages = cut_stages(pairs, kernel.depth, args.plan.batch_splits);
  params.output = dw_output(args);
  params.partials = partials;
  params.items = reinterpret_cast<const int4*>(args.plan.items);
  params.blocks = args.plan.blocks;
  params.num_items = static_cast<uint32_t>(args.plan.num_items);
  params.stage_bytes =
      static_cast<uint32_t>(dw_column_stage_bytes(args.block_size, args.plan.chunks));
  params.ring_stages = dw_column_stages(args.block_size, args.plan.chunks);
  params.num_blocks = args.plan.num_blocks;
  params.num_pairs = static_cast<int32_t>(pairs.size());
  const int64_t tiles = int64_t{args.plan.num_items} * args.plan.batch_splits;
  if (tiles > INT32_MAX) return too_many_splits(args, args.plan.num_items);
  params.num_tiles = static_cast<uint32_t>(tiles);
  bsparse_device device;
  status = get_device(&device);
  if (status != BSPARSE_OK) return status;
  int32_t ctas = device.sm_count;
  if (args.max_ctas > 0) ctas = std::min(ctas, args.max_ctas);
  return launch(kernel, "launching a weight gradient",
                static_cast<uint32_t>(std::min<int64_t>(tiles, ctas)), &params, stream);
}

// Clusters that take tiles of the layout.
bsparse_status launch_tiles(const bsparse_matmul_dw_args& args, const Pairs& pairs,
                            const Kernel& kernel, float* partials, cudaStream_t stream) {
  const bsparse_matmul_dw_plan& plan = args.plan;
  const auto size = static_cast<int>(element_size(args.dtype));
  if (plan.ctas < 1 || plan.ctas > kMaxUnionCtas || plan.chunks < 2 ||
      plan.chunks > max_dw_tile_chunks(size)) {
    return fail(BSPARSE_INVALID_ARGUMENT,
                "plan.ctas is %d and plan.chunks is %d; expected 1 to %d and 2 to %d", plan.ctas,
                plan.chunks, kMaxUnionCtas, max_dw_tile_chunks(size));
  }
  TiledMatmulDwParams params{};
  bsparse_status status =
      map_pairs(args, pairs, kernel, dw_tile_chunk_features(size), params.x, params.dy);
  if (status != BSPARSE_OK) return status;
  params.stages = cut_stages(pairs, kernel.depth, plan.batch_splits);
  params.output = dw_output(args);
  params.partials = partials;
  params.items = plan.items;
  params.blocks = plan.blocks;
  params.whole_items = static_cast<uint32_t>(whole_items(args));
  params.split_items = static_cast<uint32_t>(plan.num_items) - params.whole_items;
  params.ctas = static_cast<uint32_t>(plan.ctas);
  params.chunks = plan.chunks;
  params.ring_stages = dw_tile_stages(plan.chunks, size);
  params.num_pairs = static_cast<int32_t>(pairs.size());
  const int64_t tiles = params.whole_items + int64_t{params.split_items} * plan.batch_splits;
  if (tiles > INT32_MAX) return too_many_splits(args, plan.num_items);
  params.num_tiles = static_cast<uint32_t>(tiles);
  int32_t clusters = 0;
  status = get_clusters(kernel, plan.ctas, &clusters);
  if (status != BSPARSE_OK) return status;
  if (args.max_ctas > 0) clusters = std::min(clusters, std::max(1, args.max_ctas / plan.ctas));
  const auto ctas = static_cast<uint32_t>(std::min<int64_t>(tiles, clusters) * plan.ctas);
  return launch(kernel, "launching a weight gradient", ctas, &params, stream, plan.ctas);
}

cudaError_t launch_reduce(const bsparse_matmul_dw_args& args, const Kernel& kernel,
                          cudaStream_t stream) {
  const auto* const partials = static_cast<const float*>(args.workspace);
  const auto count = static_cast<int32_t>(partials_of(args));
  const int32_t elements = args.block_size * args.block_size;
  if (args.plan.kernel != BSPARSE_SM90_DW_TILES) {
    return launch_reduce_matmul_dw(
        {partials, dw_output(args), args.plan.num_blocks, count, elements}, args.out_dtype,
        stream);
  }
  const int64_t whole = int64_t{whole_items(args)} * args.plan.ctas * kernel.columns;
  return launch_reduce_dw_tiles({partials, dw_output(args), args.plan.blocks + 3 * whole,
                                 partial_blocks(args, kernel), count, args.block_size,
                                 dw_tile_cell(args.block_size)},
                                args.out_dtype, stream);
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

size_t matmul_dw_workspace_bytes(const bsparse_matmul_dw_args& args, const Kernel& kernel) {
  if (!turns_pairs(args)) return static_cast<size_t>(partial_floats(args, kernel)) * sizeof(float);
  const Pairs pairs = filled_pairs(args);
  size_t turned = 0;
  for (size_t first = 0; first < pairs.size(); first += kMaxPairs) {
    turned = std::max(turned, turned_bytes(args, pairs_of_launch(pairs, first)));
  }
  return turned_offset(args, kernel) + turned;
}

bsparse_status launch_matmul_dw(const bsparse_matmul_dw_args& args, const Kernel& kernel,
                                cudaStream_t stream) {
  const Pairs pairs = filled_pairs(args);
  const int64_t floats = partial_floats(args, kernel);
  auto* partials = floats > 0 ? static_cast<float*>(args.workspace) : nullptr;
  const auto launch_some = args.plan.kernel == BSPARSE_SM90_DW_TILES ? &launch_tiles
                           : args.plan.kernel == BSPARSE_SM80_SMALL  ? &launch_small
                           : is_union(args.plan.kernel)              ? &launch_columns
                                                                     : &launch_blocks;
  // What kernels see once activations have been turned round.
  const bool turns = turns_pairs(args);
  bsparse_matmul_dw_args turned = args;
  if (turns) turned.feature_axis = 0;
  size_t first = 0;
  do {
    Pairs some = pairs_of_launch(pairs, first);
    bsparse_status status =
        args.plan.kernel == BSPARSE_SM80_SMALL ? check_small(args, some) : BSPARSE_OK;
    if (status == BSPARSE_OK && turns) status = turn_pairs(args, kernel, &some, stream);
    if (status == BSPARSE_OK) status = launch_some(turned, some, kernel, partials, stream);
    if (status != BSPARSE_OK) return status;
    if (partials != nullptr) partials += floats / launches_of(args);
    first += kMaxPairs;
  } while (first < pairs.size());
  if (partials == nullptr) return BSPARSE_OK;
  return check_cuda(launch_reduce(args, kernel, stream), "adding partial weight gradients");
}

}  // namespace bsparse
