#include "cuda/matmul_launch.h"

#include <algorithm>

#include "cuda/check.h"
#include "cuda/error.h"
#include "cuda/kernel_launch.h"
#include "cuda/matmul_workspace.h"
#include "cuda/sm80/policy.cuh"
#include "cuda/support_kernels.h"

namespace bsparse {

int64_t tile_bytes(const bsparse_matmul_args& args, const Kernel& kernel) {
  return in_features(args) * kernel.batch_tile * static_cast<int64_t>(element_size(args.dtype));
}

namespace {

// What exact float32 wants: x with features first, and weights by inputs.
bsparse_status arrange_operands(const bsparse_matmul_args& args, const MatmulWorkspace& workspace,
                                cudaStream_t stream, MatmulParams* params) {
  auto* const scratch = static_cast<char*>(args.workspace);
  params->x_row = args.batch;
  if (turns_inputs(args)) {
    void* const turned = scratch + workspace.inputs;
    const Turn turn = {args.x, turned, args.batch, in_features(args), turned_row(args.batch)};
    const TurnActivations turns = {{turn}, 1};
    const bsparse_status status = check_cuda(
        args.feature_axis == 0 ? launch_pad_floats(turns, stream) : launch_turn_floats(turns, stream),
        "turning x round");
    if (status != BSPARSE_OK) return status;
    params->x = turned;
    params->x_row = turn.row;
    params->x_aligned = true;
  }
  if (!arranges_weights(args)) return BSPARSE_OK;
  auto* const turned = reinterpret_cast<float*>(scratch + workspace.weights);
  params->w = turned;
  const ArrangeBlocks arrange = {static_cast<const float*>(args.w), turned, args.plan.num_blocks,
                                 args.block_size, /*transpose=*/true, /*interleave=*/false};
  return check_cuda(launch_arrange_blocks(arrange, stream), "turning weights round");
}

}  // namespace

bsparse_status launch_column_matmul(const bsparse_matmul_args& args, const Kernel& kernel,
                                    cudaStream_t stream) {
  const MatmulWorkspace workspace(args);
  auto* const scratch = static_cast<char*>(args.workspace);
  MatmulParams params{};
  params.x = args.x;
  params.w = args.w;
  params.bias = args.bias;
  params.residual = args.residual;
  params.y = args.y;
  params.partials = reinterpret_cast<float*>(scratch);
  params.items = reinterpret_cast<const int4*>(args.plan.items);
  params.entries = reinterpret_cast<const int2*>(args.plan.entries);
  params.batch = args.batch;
  params.in_features = in_features(args);
  params.out_features = out_features(args);
  params.activation = args.activation;
  const bool rows_aligned =
      args.feature_axis == 1 ||
      args.batch * static_cast<int64_t>(element_size(args.dtype)) % 16 == 0;
  params.x_aligned = rows_aligned && is_aligned(args.x, 16);
  if (is_exact(args)) {
    const bsparse_status status = arrange_operands(args, workspace, stream, &params);
    if (status != BSPARSE_OK) return status;
  }
  params.y_aligned = rows_aligned && is_aligned(args.y, 16);
  params.residual_aligned = rows_aligned && is_aligned(args.residual, 16);

  if (args.gate != nullptr) {
    const CompactEntries compact = {params.items,
                                    params.entries,
                                    args.gate,
                                    reinterpret_cast<int4*>(scratch + workspace.items),
                                    reinterpret_cast<int2*>(scratch + workspace.entries),
                                    args.plan.num_items};
    const bsparse_status status =
        check_cuda(launch_compact_entries(compact, stream), "leaving out gated blocks");
    if (status != BSPARSE_OK) return status;
    params.items = compact.out_items;
    params.entries = compact.out_entries;
  }

  // A grid holds fewer than 2^31 CTAs, so a huge batch takes several launches.
  constexpr int64_t kMaxCtas = INT32_MAX;
  const int64_t tiles = (args.batch - 1) / kernel.batch_tile + 1;
  const int64_t max_tiles = std::max<int64_t>(1, kMaxCtas / args.plan.num_items);
  for (int64_t first = 0; first < tiles; first += max_tiles) {
    const int64_t batch_tiles = std::min(max_tiles, tiles - first);
    params.first_batch_tile = first;
    params.raster = Raster::of(args.plan.num_items, batch_tiles, tile_bytes(args, kernel),
                               kGroupBytes);
    const bsparse_status status =
        launch(kernel, "launching a matmul",
               static_cast<uint32_t>(args.plan.num_items * batch_tiles), &params, stream);
    if (status != BSPARSE_OK) return status;
  }
  return BSPARSE_OK;
}

}  // namespace bsparse
