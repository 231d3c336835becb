#include "cuda/matmul_launch.h"

#include <algorithm>
#include <atomic>
#include <random>

#include "cuda/check.h"
#include "cuda/error.h"
#include "cuda/kernel_table.h"
#include "cuda/policy.cuh"
#include "cuda/sm90_policy.cuh"
#include "cuda/support_kernels.h"
#include "cuda/tensor_map.h"

namespace bsparse {
namespace {

constexpr size_t kAlignment = 256;

size_t round_up(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

int64_t in_features(const bsparse_matmul_args& args) {
  return int64_t{args.in_blocks} * args.block_size;
}

int64_t out_features(const bsparse_matmul_args& args) {
  return int64_t{args.out_blocks} * args.block_size;
}

size_t weight_bytes(const bsparse_matmul_args& args) {
  return static_cast<size_t>(args.plan.num_blocks) * args.block_size * args.block_size *
         element_size(args.dtype);
}

// Bytes of x that a batch tile reads.
int64_t tile_bytes(const bsparse_matmul_args& args, const Kernel& kernel) {
  return in_features(args) * kernel.batch_tile * static_cast<int64_t>(element_size(args.dtype));
}

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

// Small blocks come to the union families packed.
bool wants_packed(const bsparse_matmul_args& args) {
  return is_union(args.plan.kernel) && args.plan.num_packed > 0 &&
         packs_weights(args.block_size, static_cast<int>(element_size(args.dtype)));
}

size_t packed_bytes(const bsparse_matmul_args& args) {
  const size_t side = column_features(args.plan.kernel, args.block_size);
  return static_cast<size_t>(args.plan.num_packed) * side * side * element_size(args.dtype);
}

// Hopper's TF32 products want weights along the reduction, and those with features first in an order of
// their own (sm90_turned_inputs.cuh).
bool arranges_weights(const bsparse_matmul_args& args) {
  return args.dtype == BSPARSE_FLOAT32 && is_union(args.plan.kernel) &&
         (args.transpose == 0 || args.feature_axis == 0) && args.plan.num_blocks > 0;
}

bool turns_stream_inputs(const bsparse_matmul_args& args) {
  return stream_turns_inputs(args.block_size, args.feature_axis, stream_batch_tile(args.batch));
}

// Elements, with what makes them a multiple of 16 bytes.
int64_t turned_row(const bsparse_matmul_args& args) { return (args.batch + 7) / 8 * 8; }

// What Hopper's products take x and w for.
MapType operand_type(const bsparse_matmul_args& args) {
  return args.dtype == BSPARSE_FLOAT32 ? MapType::kTf32 : map_type(args.dtype);
}

}  // namespace

MatmulWorkspace::MatmulWorkspace(const bsparse_matmul_args& args) {
  const bool streams = args.plan.kernel == BSPARSE_SM90_STREAM;
  const int64_t tile = streams ? stream_batch_tile(args.batch) : 1;
  const int64_t tiles = (args.batch + tile - 1) / tile;
  const auto partials = static_cast<size_t>(tiles) * args.plan.num_partials;
  bytes = round_up(partials * tile * args.plan.columns * column_features(args.plan.kernel, args.block_size) * sizeof(float));
  if (streams) {
    flags = bytes;
    bytes += round_up(partials * sizeof(uint64_t));
    if (!turns_stream_inputs(args)) return;
    inputs = bytes;
    bytes += round_up(in_features(args) * turned_row(args) * element_size(args.dtype));
  } else if (is_union(args.plan.kernel)) {
    if (!arranges_weights(args) && !wants_packed(args)) return;
    weights = bytes;
    bytes += round_up(wants_packed(args) ? packed_bytes(args) : weight_bytes(args));
  } else if (args.gate != nullptr) {
    items = bytes;
    entries = items + round_up(args.plan.num_items * sizeof(int4));
    bytes = entries + round_up(args.plan.num_blocks * sizeof(int2));
  }
}

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
  const int width = kernel.box_features;
  params.deep_x = args.feature_axis == 0 && args.batch % line_of(args) == 0;
  bsparse_status status =
      params.deep_x
          ? make_deep_tensor_map(operand_type(args), args.x, args.batch, in_features(args), width,
                                 kernel.batch_tile / line_of(args), &params.x)
          : map_activations(args, operand_type(args), args.x, in_features(args), width,
                            kernel.batch_tile, &params.x);
  if (status == BSPARSE_OK) {
    status = map_activations(args, map_type(args.dtype), args.y, out_features(args),
                             kernel.y_features, kernel.store_batch, &params.y);
  }
  params.adds_residual = args.residual != nullptr;
  if (status == BSPARSE_OK && params.adds_residual) {
    status = map_activations(args, map_type(args.dtype), args.residual, out_features(args),
                             kernel.y_features, kernel.store_batch, &params.residual);
  }
  const void* w = args.w;
  auto* const place = static_cast<char*>(args.workspace) + MatmulWorkspace(args).weights;
  if (status == BSPARSE_OK && arranges_weights(args)) {
    const ArrangeBlocks arrange = {static_cast<const float*>(args.w),
                                   reinterpret_cast<float*>(place),
                                   args.plan.num_blocks,
                                   args.block_size,
                                   args.transpose == 0,
                                   args.feature_axis == 0};
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
        launch_pack_weights(pack, args.block_size, args.transpose != 0, stream), "packing weights");
    params.packed_weights = place;
    params.stage_squares = args.plan.stage_squares;
  } else if (status == BSPARSE_OK && args.plan.num_blocks > 0) {
    status = make_tensor_map(operand_type(args), w, args.block_size,
                             int64_t{args.plan.num_blocks} * args.block_size, width,
                             std::min(args.block_size, 64), &params.w);
  }
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
  const int64_t tiles = batch_tiles * args.plan.num_items;
  if (tiles > INT32_MAX) {
    return fail(BSPARSE_INVALID_ARGUMENT, "a batch of %lld makes %lld tiles; expected at most %d",
                static_cast<long long>(args.batch), static_cast<long long>(tiles), INT32_MAX);
  }
  if (args.plan.columns % kernel.columns != 0 ||
      args.plan.columns / kernel.columns > kMaxUnionCtas) {
    return fail(BSPARSE_INVALID_ARGUMENT,
                "plan.columns is %d; expected a multiple of %d, at most %d of them",
                args.plan.columns, kernel.columns, kMaxUnionCtas);
  }
  params.ctas = static_cast<uint32_t>(args.plan.columns / kernel.columns);
  const auto ctas = static_cast<int32_t>(params.ctas);
  int32_t clusters = 0, sms = 0;
  status = get_clusters(kernel, ctas, &clusters);
  if (status == BSPARSE_OK) status = get_clusters(kernel, 1, &sms);
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
    params.item_places = Divider(item_places);
    params.first_batch_tile = static_cast<uint32_t>(first_batch_tile);
    params.raster = Raster::of(places, part_batch_tiles, tile_bytes(args, kernel), kUnionGroupBytes);
    params.num_tiles = static_cast<uint32_t>(places * part_batch_tiles);
    params.cluster_ctas = static_cast<uint32_t>(cluster_ctas);
    Kernel part = kernel;
    part.starts_early = first_batch_tile > 0;
    return launch(part, "launching a matmul", static_cast<uint32_t>(count * cluster_ctas), &params,
                  stream, cluster_ctas);
  };
  status = launch_part(0, batch_tiles - lone_batch_tiles, ctas, clusters);
  if (status != BSPARSE_OK || lone_batch_tiles == 0) return status;
  return launch_part(batch_tiles - lone_batch_tiles, lone_batch_tiles, 1, lone_ctas);
}

bsparse_status launch_stream_matmul(const bsparse_matmul_args& args, const Kernel& kernel,
                                    cudaStream_t stream) {
  StreamMatmulParams params{};
  const MatmulWorkspace workspace(args);
  auto* const scratch = static_cast<char*>(args.workspace);
  const auto box_batch =
      args.feature_axis == 1
          ? static_cast<int>(std::min<int64_t>(args.batch, kernel.batch_tile))
          : kernel.batch_tile;
  const MapType type = map_type(args.dtype);
  const auto box_bytes = [&](int batch) {
    return static_cast<uint32_t>(batch * args.block_size * element_size(args.dtype));
  };
  params.x_bytes = params.y_bytes = box_bytes(box_batch);
  bsparse_status status = BSPARSE_OK;
  if (turns_stream_inputs(args)) {
    const TurnActivations turn = {args.x, scratch + workspace.inputs, args.batch,
                                  in_features(args), turned_row(args)};
    status = check_cuda(launch_turn_activations(turn, stream), "turning the activations");
    if (status == BSPARSE_OK) {
      status = make_tensor_map(type, turn.to, turn.row, turn.features, kernel.batch_tile,
                               args.block_size, &params.x);
    }
    params.x_bytes = box_bytes(kernel.batch_tile);
  } else {
    status = map_activations(args, type, args.x, in_features(args), args.block_size, box_batch,
                             &params.x);
  }
  if (status == BSPARSE_OK) {
    status = map_activations(args, type, args.y, out_features(args), args.block_size, box_batch,
                             &params.y);
  }
  params.adds_residual = args.residual != nullptr;
  if (status == BSPARSE_OK && params.adds_residual) {
    status = map_activations(args, type, args.residual, out_features(args), args.block_size,
                             box_batch, &params.residual);
  }
  if (status == BSPARSE_OK && args.plan.num_blocks > 0) {
    constexpr int kLine = 64;  // elements of 128 bytes
    const int64_t lines = int64_t{args.block_size} * args.block_size / kLine;
    status = make_tensor_map(type, args.w, kLine, args.plan.num_blocks * lines, kLine,
                             static_cast<int>(lines), &params.w, /*swizzles=*/args.block_size > 8);
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
  const bool turned = turns_stream_inputs(args);
  params.plan_settled = turned || (args.settled & BSPARSE_SETTLED_PLAN) != 0;
  params.weights_settled = params.plan_settled && args.gate == nullptr &&
                           (turned || (args.settled & BSPARSE_SETTLED_WEIGHTS) != 0);
  params.lists = static_cast<uint32_t>(args.plan.num_items);
  params.length = args.plan.num_entries / args.plan.num_items;
  params.activation = args.activation;
  const int64_t tiles = ((args.batch - 1) / kernel.batch_tile + 1) * params.lists;
  if (tiles > INT32_MAX) {
    return fail(BSPARSE_INVALID_ARGUMENT, "a batch of %lld makes %lld tiles; expected at most %d",
                static_cast<long long>(args.batch), static_cast<long long>(tiles), INT32_MAX);
  }
  return launch(kernel, "launching a matmul", static_cast<uint32_t>(tiles), &params, stream);
}

}  // namespace bsparse
