// Sweeps.
#include <algorithm>

#include "cuda/check.h"
#include "cuda/error.h"
#include "cuda/kernel_launch.h"
#include "cuda/matmul_launch.h"
#include "cuda/matmul_workspace.h"
#include "cuda/sm90/policy.cuh"
#include "cuda/support_kernels.h"
#include "cuda/tensor_map.h"

namespace bsparse {
namespace {

bsparse_status pack_weights(const bsparse_matmul_args& args, int64_t ctas, char* place,
                            cudaStream_t stream) {
  const int32_t* const order = args.plan.entries + args.plan.num_entries * ctas * BSPARSE_SWEEP_STAGE_WORDS;
  const int square_blocks = args.block_size == 8 ? 4 : 1;  // that a warp packs at once
  const PackWeights pack = {static_cast<const char*>(args.w), args.gate, order, place,
                            static_cast<int32_t>(bsparse_sweep_order(args.plan.num_packed) / square_blocks)};
  const bool output_rows = args.transpose != 0;
  return check_cuda(args.dtype == BSPARSE_FLOAT32
                        ? launch_pack_tf32_weights(pack, args.block_size, output_rows,
                                                   /*neighbours=*/args.feature_axis == 0, stream)
                        : launch_pack_weights(pack, args.block_size, output_rows,
                                              /*as_columns=*/true, stream),
                    "packing weights");
}

}  // namespace

bsparse_status launch_sweep_matmul(const bsparse_matmul_args& args, const Kernel& kernel,
                                   cudaStream_t stream) {
  static_assert(kSweepCtas == 2, "1 or 2, as the kernel divides by it");
  const auto size = static_cast<int64_t>(element_size(args.dtype));
  if (!is_aligned(args.x, 16) || !is_aligned(args.y, 16) || !is_aligned(args.residual, 16) ||
      (args.feature_axis == 0 && args.batch * size % 16 != 0)) {
    return fail(BSPARSE_INVALID_ARGUMENT,
                "plan.kernel is %d; it wants x, y and residual at multiples of 16 bytes, and with features "
                "first a batch of a multiple of 16 bytes, ask get_tile",
                args.plan.kernel);
  }
  const int64_t batch_tiles = (args.batch - 1) / kernel.batch_tile + 1;
  const int64_t tiles = batch_tiles * args.plan.num_items;
  if (args.batch > INT32_MAX || tiles > INT32_MAX) {
    return fail(BSPARSE_INVALID_ARGUMENT, "a batch of %lld makes %lld tiles; expected at most %d of each",
                static_cast<long long>(args.batch), static_cast<long long>(tiles), INT32_MAX);
  }
  const int32_t ctas = args.plan.columns / kernel.columns;
  SweepMatmulParams params{};
  const MapType type = args.dtype == BSPARSE_FLOAT32 ? MapType::kTf32 : map_type(args.dtype);
  bsparse_status status =
      args.feature_axis == 1 ? make_tensor_map(type, args.x, in_features(args), args.batch,
                                               kernel.box_features, kernel.batch_tile, &params.x)
                             : make_tensor_map(type, args.x, args.batch, in_features(args),
                                               std::min(kernel.batch_tile, kernel.box_features),
                                               kernel.box_features, &params.x);
  if (status != BSPARSE_OK) return status;
  int32_t clusters = 0;
  status = get_clusters(kernel, ctas, &clusters);
  auto* const packed = static_cast<char*>(args.workspace) + MatmulWorkspace(args).weights;
  if (status == BSPARSE_OK && args.plan.num_packed > 0) status = pack_weights(args, ctas, packed, stream);
  if (status != BSPARSE_OK) return status;
  if (args.max_ctas > 0) clusters = std::min(clusters, std::max(1, args.max_ctas / ctas));
  clusters = static_cast<int32_t>(std::min<int64_t>(clusters, tiles));
  const int64_t stage_words = int64_t{args.plan.num_entries} * ctas * BSPARSE_SWEEP_STAGE_WORDS;
  params.weights = packed;
  params.records =
      reinterpret_cast<const char*>(args.plan.entries + stage_words +
                                    bsparse_sweep_order(args.plan.num_packed));
  params.stages = reinterpret_cast<const int4*>(args.plan.entries);
  params.items = reinterpret_cast<const int4*>(args.plan.items);
  params.columns = args.plan.groups;
  params.bias = args.bias;
  params.residual = args.residual;
  params.y = args.y;
  params.batch = args.batch;
  params.out_features = out_features(args);
  params.items_of_batch_tile = Divider(args.plan.num_items);
  params.num_tiles = static_cast<uint32_t>(tiles);
  params.ctas = static_cast<uint32_t>(ctas);
  params.stage_bytes = 1024 * static_cast<uint32_t>(std::max(1, args.plan.fullest_stage));
  params.ring_stages =
      std::min<int32_t>(kMaxSweepStages, kSweepRingBytes / static_cast<int32_t>(params.stage_bytes));
  params.activation = args.activation;
  return launch(kernel, "launching a matmul", static_cast<uint32_t>(clusters * ctas), &params,
                stream, ctas);
}

}  // namespace bsparse
