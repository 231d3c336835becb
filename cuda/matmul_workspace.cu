#include "cuda/matmul_workspace.h"

#include "cuda/check.h"
#include "cuda/kernel_table.h"
#include "cuda/sm80/policy.cuh"
#include "cuda/sm90/policy.cuh"

namespace bsparse {
namespace {

constexpr size_t kAlignment = 256;

size_t round_up(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

size_t packed_bytes(const bsparse_matmul_args& args) {
  const size_t side = column_features(args.plan.kernel, args.block_size);
  const auto squares = static_cast<size_t>(args.plan.kernel == BSPARSE_SM90_SWEEP
                                               ? bsparse_sweep_order(args.plan.num_packed)
                                               : args.plan.num_packed);
  return squares * side * side * element_size(args.dtype);
}

}  // namespace

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

bool wants_packed(const bsparse_matmul_args& args) {
  if (args.plan.kernel == BSPARSE_SM90_SWEEP) return args.plan.num_packed > 0;
  return is_union(args.plan.kernel) && args.plan.num_packed > 0 &&
         packs_weights(args.block_size, static_cast<int>(element_size(args.dtype)));
}

bool is_exact(const bsparse_matmul_args& args) {
  return args.plan.kernel == BSPARSE_SM80 && args.dtype == BSPARSE_FLOAT32 &&
         args.float32_math == BSPARSE_FLOAT32_EXACT;
}

bool arranges_weights(const bsparse_matmul_args& args) {
  if (is_exact(args)) return args.transpose != 0 && args.plan.num_blocks > 0;
  return args.dtype == BSPARSE_FLOAT32 && is_union(args.plan.kernel) &&
         (args.transpose == 0 || interleaves_weights(args)) && args.plan.num_blocks > 0;
}

bool interleaves_weights(const bsparse_matmul_args& args) {
  return args.dtype == BSPARSE_FLOAT32 && is_union(args.plan.kernel) && args.feature_axis == 0 &&
         !turns_inputs(args);
}

bool turns_inputs(const bsparse_matmul_args& args) {
  if (is_exact(args)) return args.feature_axis == 1 || args.batch % 4 != 0;
  if (is_union(args.plan.kernel)) {
    const double outputs = static_cast<double>(args.plan.num_blocks) * args.block_size;
    return union_turns_inputs(args.dtype, args.block_size, args.feature_axis,
                              outputs / args.in_blocks);
  }
  if (args.plan.kernel != BSPARSE_SM90_STREAM) return false;
  const auto size = static_cast<int>(element_size(args.dtype));
  return stream_turns_inputs(stream_cell(args.block_size), args.feature_axis,
                             stream_batch_tile(args.batch, size), size);
}

int64_t turned_row(int64_t batch) { return (batch + 7) / 8 * 8; }

MatmulWorkspace::MatmulWorkspace(const bsparse_matmul_args& args) {
  const bool streams = args.plan.kernel == BSPARSE_SM90_STREAM;
  const auto size = static_cast<int>(element_size(args.dtype));
  const int64_t tile = streams ? stream_batch_tile(args.batch, size) : 1;
  const int64_t tiles = (args.batch + tile - 1) / tile;
  const auto partials = static_cast<size_t>(tiles) * args.plan.num_partials;
  const size_t partial = tile * args.plan.columns *
                         column_features(args.plan.kernel, args.block_size) * sizeof(float);
  bytes = round_up(partials * partial);
  const auto take = [this](size_t wanted) {
    const size_t place = bytes;
    bytes += round_up(wanted);
    return place;
  };
  if (streams) flags = take(partials * sizeof(uint64_t));
  if (turns_inputs(args)) {
    inputs = take(in_features(args) * turned_row(args.batch) * element_size(args.dtype));
  }
  if (arranges_weights(args) || wants_packed(args)) {
    weights = take(wants_packed(args) ? packed_bytes(args) : weight_bytes(args));
  }
  const bool by_column = !streams && !is_union(args.plan.kernel) && args.plan.kernel != BSPARSE_SM90_SWEEP;
  if (by_column && args.gate != nullptr) {
    items = take(args.plan.num_items * sizeof(int4));
    entries = take(args.plan.num_blocks * sizeof(int2));
  }
}

}  // namespace bsparse
