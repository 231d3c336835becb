// Union tiles and streams.
#include <algorithm>
#include <atomic>
#include <random>

#include "cuda/check.h"
#include "cuda/error.h"
#include "cuda/kernel_launch.h"
#include "cuda/matmul_launch.h"
#include "cuda/matmul_workspace.h"
#include "cuda/sm80/policy.cuh"
#include "cuda/sm90/policy.cuh"
#include "cuda/support_kernels.h"
#include "cuda/tensor_map.h"

namespace bsparse {
namespace {

int line_of(const bsparse_matmul_args& args) {
  return line_elements(static_cast<int>(element_size(args.dtype)));
}

// A map of activations; its boxes hold `features` features and, with features last, `batch` batch
// entries, with features first up to a line of them.
bsparse_status map_activations(const bsparse_matmul_args& args, MapType type, const void* data,
                               int64_t size, int features, int batch, CUtensorMap* map) {
  return args.feature_axis == 1
             ? make_tensor_map(type, data, size, args.batch, features, batch, map)
             : make_tensor_map(type, data, args.batch, size, std::min(batch, line_of(args)), features,
                               map);
}

// What Hopper's products take x and w for.
MapType operand_type(const bsparse_matmul_args& args) {
  return args.dtype == BSPARSE_FLOAT32 ? MapType::kTf32 : map_type(args.dtype);
}

// Differs from launch to launch, and from whatever scratch memory may hold: 64 random bits that a
// counter is added to.
uint64_t number_of_launch() {
  static std::atomic<uint64_t> next{[] {
    std::random_device device;
    return uint64_t{device()} << 32 | device();
  }()};
  const uint64_t number = next.fetch_add(1, std::memory_order_relaxed);
  return number == 0 ? next.fetch_add(1, std::memory_order_relaxed) : number;  // 0: no flag
}

bsparse_status check_tiles(const bsparse_matmul_args& args, int64_t tiles) {
  if (tiles <= INT32_MAX) return BSPARSE_OK;
  return fail(BSPARSE_INVALID_ARGUMENT, "a batch of %lld makes %lld tiles; expected at most %d",
              static_cast<long long>(args.batch), static_cast<long long>(tiles), INT32_MAX);
}

// Weights as the kernel takes them: packed, or arranged, or as they are.
bsparse_status place_weights(const bsparse_matmul_args& args, const Kernel& kernel,
                             UnionMatmulParams* params, cudaStream_t stream) {
  const void* w = args.w;
  auto* const place = static_cast<char*>(args.workspace) + MatmulWorkspace(args).weights;
  bsparse_status status = BSPARSE_OK;
  if (arranges_weights(args)) {
    const ArrangeBlocks arrange = {static_cast<const float*>(args.w),
                                   reinterpret_cast<float*>(place),
                                   args.plan.num_blocks,
                                   args.block_size,
                                   args.transpose == 0,
                                   interleaves_weights(args)};
    status = check_cuda(launch_arrange_blocks(arrange, stream), "arranging weight blocks");
    w = place;
  }
  if (status == BSPARSE_OK && args.plan.num_blocks > 0 &&
      kernel.packs != (args.plan.num_packed > 0)) {
    return fail(BSPARSE_INVALID_ARGUMENT,
                "plan.num_packed is %d; this kernel takes weights %s, ask get_tile",
                args.plan.num_packed, kernel.packs ? "packed" : "as they are");
  }
  if (status == BSPARSE_OK && wants_packed(args)) {
    const int64_t ctas = args.plan.columns / kernel.columns;
    const int32_t* const order =
        args.plan.entries + args.plan.num_entries * ctas * BSPARSE_PACKED_RECORD_WORDS;
    const PackWeights pack = {static_cast<const char*>(args.w), args.gate, order, place,
                              args.plan.num_packed};
    status = check_cuda(
        launch_pack_weights(pack, args.block_size, args.transpose != 0, /*as_columns=*/false, stream),
        "packing weights");
    params->packed_weights = place;
    params->fullest_stage = args.plan.fullest_stage;
  } else if (status == BSPARSE_OK && args.plan.num_blocks > 0) {
    status = make_tensor_map(operand_type(args), w, args.block_size,
                             int64_t{args.plan.num_blocks} * args.block_size,
                             kernel.box_features, std::min(args.block_size, 64), &params->w);
  }
  return status;
}

// All batch tiles: those that clusters take, and on the SMs where none finds room the last ones.
bsparse_status launch_union_parts(const bsparse_matmul_args& args, const Kernel& kernel,
                                  int64_t batch_tiles, UnionMatmulParams* params,
                                  cudaStream_t stream) {
  const int64_t tiles = batch_tiles * args.plan.num_items;
  bsparse_status status = check_tiles(args, tiles);
  if (status != BSPARSE_OK) return status;
  if (args.plan.columns % kernel.columns != 0 ||
      args.plan.columns / kernel.columns > kMaxUnionCtas) {
    return fail(BSPARSE_INVALID_ARGUMENT,
                "plan.columns is %d; expected a multiple of %d, at most %d of them",
                args.plan.columns, kernel.columns, kMaxUnionCtas);
  }
  params->ctas = static_cast<uint32_t>(args.plan.columns / kernel.columns);
  const auto ctas = static_cast<int32_t>(params->ctas);
  int32_t clusters = 0, sms = 0;
  status = get_clusters(kernel, ctas, &clusters);
  if (status == BSPARSE_OK && ctas > 1) status = get_clusters(kernel, 1, &sms);
  if (status != BSPARSE_OK) return status;
  if (args.max_ctas > 0) {
    clusters = std::min(clusters, std::max(1, args.max_ctas / ctas));
    sms = std::min(sms, args.max_ctas);
  }
  clusters = static_cast<int32_t>(std::min<int64_t>(tiles, clusters));
  const int32_t lone_ctas = std::max(0, sms - clusters * ctas);
  const int64_t lone_batch_tiles =
      union_lone_batch_tiles(args.plan.num_items, batch_tiles, ctas, clusters, lone_ctas);
  const auto launch_part = [&](int64_t first_batch_tile, int64_t part_batch_tiles,
                               int32_t cluster_ctas, int32_t count) {
    const int32_t item_places = ctas / cluster_ctas;
    const int32_t places = args.plan.num_items * item_places;
    params->item_places = Divider(item_places);
    params->first_batch_tile = static_cast<uint32_t>(first_batch_tile);
    params->raster = Raster::of(places, part_batch_tiles, tile_bytes(args, kernel), kUnionGroupBytes);
    params->num_tiles = static_cast<uint32_t>(places * part_batch_tiles);
    params->cluster_ctas = static_cast<uint32_t>(cluster_ctas);
    // CTAs alone may start where clusters of the same product find no room.
    params->runs_beside = first_batch_tile > 0;
    return launch(kernel, "launching a matmul", static_cast<uint32_t>(count * cluster_ctas), params,
                  stream, cluster_ctas);
  };
  status = launch_part(0, batch_tiles - lone_batch_tiles, ctas, clusters);
  if (status != BSPARSE_OK || lone_batch_tiles == 0) return status;
  return launch_part(batch_tiles - lone_batch_tiles, lone_batch_tiles, 1, lone_ctas);
}

// x of streams with features first, and a map of it.
bsparse_status turn_inputs(const bsparse_matmul_args& args, const Kernel& kernel, void* to,
                           CUtensorMap* map, cudaStream_t stream) {
  const Turn turn = {args.x, to, args.batch, in_features(args), turned_row(args.batch)};
  const bsparse_status status =
      check_cuda(launch_turn_activations({{turn}, 1}, stream), "turning the activations");
  if (status != BSPARSE_OK) return status;
  return make_tensor_map(map_type(args.dtype), to, turn.row, turn.features, kernel.batch_tile,
                         stream_cell(args.block_size), map);
}

// x of union tiles, with features last if that is what it is turned to.
bsparse_status map_inputs(const bsparse_matmul_args& args, const Kernel& kernel,
                          UnionMatmulParams* params, cudaStream_t stream) {
  const int width = kernel.box_features;
  if (turns_inputs(args)) {
    void* const turned = static_cast<char*>(args.workspace) + MatmulWorkspace(args).inputs;
    const int64_t features = in_features(args);
    const TurnActivations turns = {{{args.x, turned, features, args.batch, features}}, 1};
    const bsparse_status status = check_cuda(launch_turn_floats(turns, stream), "turning x round");
    if (status != BSPARSE_OK) return status;
    return make_tensor_map(operand_type(args), turned, features, args.batch, width,
                           kernel.batch_tile, &params->x);
  }
  params->deep_x = args.feature_axis == 0 && args.batch % line_of(args) == 0;
  if (!params->deep_x) {
    return map_activations(args, operand_type(args), args.x, in_features(args), width,
                           kernel.batch_tile, &params->x);
  }
  return make_deep_tensor_map(operand_type(args), args.x, args.batch, in_features(args), width,
                              kernel.batch_tile / line_of(args), &params->x);
}

}  // namespace

bsparse_status launch_union_matmul(const bsparse_matmul_args& args, const Kernel& kernel,
                                   cudaStream_t stream) {
  // Copies name a row of the weight blocks, or the one behind the last, in 32 bits.
  const int64_t rows = (int64_t{args.plan.num_blocks} + 1) * args.block_size;
  if (rows > INT32_MAX) {
    return fail(BSPARSE_INVALID_ARGUMENT,
                "plan.num_blocks is %d, with blocks of %d features; expected at most %d",
                args.plan.num_blocks, args.block_size, INT32_MAX / args.block_size - 1);
  }
  UnionMatmulParams params{};
  bsparse_status status = map_inputs(args, kernel, &params, stream);
  if (status == BSPARSE_OK) {
    status = map_activations(args, map_type(args.dtype), args.y, out_features(args),
                             kernel.y_features, kernel.store_batch, &params.y);
  }
  params.adds_residual = args.residual != nullptr;
  if (status == BSPARSE_OK && params.adds_residual) {
    status = map_activations(args, map_type(args.dtype), args.residual, out_features(args),
                             kernel.y_features, kernel.store_batch, &params.residual);
  }
  if (status == BSPARSE_OK) status = place_weights(args, kernel, &params, stream);
  if (status != BSPARSE_OK) return status;
  params.bias = args.bias;
  params.gate = args.gate;
  params.partials = static_cast<float*>(args.workspace);
  params.items = reinterpret_cast<const int4*>(args.plan.items);
  params.entries = args.plan.entries;
  params.columns = args.plan.groups;
  params.batch = args.batch;
  params.num_blocks = args.plan.num_blocks;
  params.out_features = static_cast<int32_t>(out_features(args));
  params.activation = args.activation;
  const int64_t batch_tiles = (args.batch - 1) / kernel.batch_tile + 1;
  params.keeps_weights = batch_tiles > 1 && weight_bytes(args) <= kKeptWeightBytes;
  return launch_union_parts(args, kernel, batch_tiles, &params, stream);
}

bsparse_status launch_stream_matmul(const bsparse_matmul_args& args, const Kernel& kernel,
                                    cudaStream_t stream) {
  const int cell = stream_cell(args.block_size);
  const int64_t rows = int64_t{args.plan.num_blocks} * args.block_size;
  if (rows > INT32_MAX) {
    return fail(BSPARSE_INVALID_ARGUMENT,
                "plan.num_blocks is %d, with blocks of %d features; expected at most %d",
                args.plan.num_blocks, args.block_size, INT32_MAX / args.block_size);
  }
  StreamMatmulParams params{};
  const MatmulWorkspace workspace(args);
  auto* const scratch = static_cast<char*>(args.workspace);
  const auto box_batch =
      args.feature_axis == 1
          ? static_cast<int>(std::min<int64_t>(args.batch, kernel.batch_tile))
          : kernel.batch_tile;
  const MapType type = operand_type(args);
  const auto size = static_cast<int>(element_size(args.dtype));
  const bool turns = turns_inputs(args);
  if (turns && !is_aligned(args.x, 16)) {
    return fail(BSPARSE_INVALID_ARGUMENT,
                "plan.kernel is %d; it wants x at a multiple of 16 bytes, ask get_tile", args.plan.kernel);
  }
  const auto box_bytes = [&](int batch) {
    return static_cast<uint32_t>(batch * cell * element_size(args.dtype));
  };
  params.x_bytes = box_bytes(turns ? kernel.batch_tile : box_batch);
  params.y_bytes = box_bytes(box_batch);
  bsparse_status status =
      turns ? turn_inputs(args, kernel, scratch + workspace.inputs, &params.x, stream)
            : map_activations(args, type, args.x, in_features(args), cell, box_batch,
                              &params.x);
  if (status == BSPARSE_OK) {
    status = map_activations(args, map_type(args.dtype), args.y, out_features(args), cell, box_batch,
                             &params.y);
  }
  params.adds_residual = args.residual != nullptr;
  if (status == BSPARSE_OK && params.adds_residual) {
    status = map_activations(args, map_type(args.dtype), args.residual, out_features(args), cell,
                             box_batch, &params.residual);
  }
  while (cell << params.side_bits < args.block_size) ++params.side_bits;
  if (status == BSPARSE_OK && args.plan.num_blocks > 0 && params.side_bits > 0) {
    status = make_tensor_map(type, args.w, args.block_size, rows, cell, cell, &params.w);
  } else if (status == BSPARSE_OK && args.plan.num_blocks > 0) {
    const int line = line_elements(size);
    const int64_t lines = int64_t{args.block_size} * args.block_size / line;
    status = make_tensor_map(type, args.w, line, args.plan.num_blocks * lines, line,
                             static_cast<int>(lines), &params.w,
                             /*swizzles=*/stream_entries(args.block_size) == 1);
  }
  if (status != BSPARSE_OK) return status;
  params.bias = args.bias;
  params.gate = args.gate;
  params.partials = reinterpret_cast<float*>(scratch);
  params.flags = reinterpret_cast<uint64_t*>(scratch + workspace.flags);
  params.launch = number_of_launch();
  params.entries = reinterpret_cast<const int4*>(args.plan.entries);
  params.splits = args.plan.splits;
  params.num_partials = args.plan.num_partials;
  // The kernel that turns x round has waited for all before.
  params.plan_settled = turns || (args.settled & BSPARSE_SETTLED_PLAN) != 0;
  params.weights_settled = params.plan_settled && args.gate == nullptr &&
                           (turns || (args.settled & BSPARSE_SETTLED_WEIGHTS) != 0);
  params.lists = static_cast<uint32_t>(args.plan.num_items);
  params.length = args.plan.num_entries / args.plan.num_items;
  params.activation = args.activation;
  const int64_t tiles = ((args.batch - 1) / kernel.batch_tile + 1) * params.lists;
  status = check_tiles(args, tiles);
  if (status != BSPARSE_OK) return status;
  return launch(kernel, "launching a matmul", static_cast<uint32_t>(tiles), &params, stream);
}

}  // namespace bsparse
