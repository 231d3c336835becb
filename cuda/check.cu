#include "cuda/check.h"

#include "cuda/error.h"
#include "cuda/kernel_table.h"
#include "cuda/sm90/dw_tiles_policy.cuh"
#include "cuda/sm90/policy.cuh"

namespace bsparse {
namespace {

// Of a group.
int max_columns(int32_t family) {
  return family == BSPARSE_SM90_SWEEP ? kSweepCtas * sweep_outputs(kWideSweepBatchTile) / 8 : 64;
}

// What matmul and dw have in common.
template <class Args>
bsparse_status check_product(const Args& args) {
  RETURN_IF_FAILED(check_dtype("dtype", args.dtype));
  RETURN_IF_FAILED(check_block_size(args.block_size));
  RETURN_IF_FAILED(check_range("feature_axis", args.feature_axis, 0, 1));
  RETURN_IF_FAILED(check_range("float32_math", args.float32_math, BSPARSE_FLOAT32_EXACT,
                               BSPARSE_FLOAT32_TF32X3));
  // Features are counted in 32 bits, offsets in 64.
  RETURN_IF_FAILED(check_range("in_blocks", args.in_blocks, 1, INT32_MAX / args.block_size));
  RETURN_IF_FAILED(check_range("out_blocks", args.out_blocks, 1, INT32_MAX / args.block_size));
  return BSPARSE_OK;
}

// `out`: y or dy.
template <class Args>
bsparse_status check_batch(const Args& args, int64_t batch, const char* out) {
  RETURN_IF_FAILED(check_range("batch", batch, 0, INT64_MAX));
  RETURN_IF_FAILED(check_size("x", batch, args.in_blocks, args.block_size, 4));
  return check_size(out, batch, args.out_blocks, args.block_size, 4);
}

// Groups are items, nothing is split, and every stored block is packed.
bsparse_status check_sweep(const bsparse_matmul_args& args, int32_t groups) {
  const bsparse_matmul_plan& plan = args.plan;
  const int normal = sweep_outputs(kSweepBatchTile) / args.block_size;
  const int wide = has_wide_sweeps(args.block_size, static_cast<int>(element_size(args.dtype)))
                       ? sweep_outputs(kWideSweepBatchTile) / args.block_size
                       : normal;
  if (plan.columns != normal && plan.columns != kSweepCtas * normal &&
      plan.columns != kSweepCtas * wide) {
    return wide == normal ? fail(BSPARSE_INVALID_ARGUMENT, "plan.columns is %d; expected %d or %d",
                                 plan.columns, normal, kSweepCtas * normal)
                          : fail(BSPARSE_INVALID_ARGUMENT, "plan.columns is %d; expected %d, %d or %d",
                                 plan.columns, normal, kSweepCtas * normal, kSweepCtas * wide);
  }
  RETURN_IF_FAILED(check_range("plan.num_items", plan.num_items, groups, groups));
  RETURN_IF_FAILED(check_range("plan.num_splits", plan.num_splits, 0, 0));
  RETURN_IF_FAILED(check_range("plan.num_partials", plan.num_partials, 0, 0));
  RETURN_IF_FAILED(check_range("plan.num_entries", plan.num_entries, groups, INT32_MAX));
  return check_range("plan.num_packed", plan.num_packed, plan.num_blocks, plan.num_blocks);
}

}  // namespace

bsparse_status check_range(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return BSPARSE_OK;
  return fail(BSPARSE_INVALID_ARGUMENT, "%s is %lld; expected %lld to %lld", name,
              static_cast<long long>(value), static_cast<long long>(low),
              static_cast<long long>(high));
}

bsparse_status check_pointer(const char* name, const void* pointer, size_t alignment) {
  if (pointer == nullptr) return fail(BSPARSE_INVALID_ARGUMENT, "%s is a null pointer", name);
  if (is_aligned(pointer, alignment)) return BSPARSE_OK;
  return fail(BSPARSE_INVALID_ARGUMENT, "%s is at address %p; expected a multiple of %zu bytes",
              name, pointer, alignment);
}

bsparse_status check_size(const char* name, int64_t a, int64_t b, int64_t c, size_t bytes) {
  const unsigned __int128 limit = INT64_MAX;
  const auto size = static_cast<unsigned __int128>(a) * static_cast<uint64_t>(b);
  if (size <= limit && size * static_cast<uint64_t>(c) * bytes <= limit) return BSPARSE_OK;
  return fail(BSPARSE_INVALID_ARGUMENT, "%s of %lld x %lld x %lld elements is too large", name,
              static_cast<long long>(a), static_cast<long long>(b), static_cast<long long>(c));
}

bool is_aligned(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

bsparse_status check_dtype(const char* name, bsparse_dtype dtype) {
  if (dtype == BSPARSE_FLOAT32 || dtype == BSPARSE_FLOAT16 || dtype == BSPARSE_BFLOAT16) {
    return BSPARSE_OK;
  }
  return fail(BSPARSE_INVALID_ARGUMENT,
              "%s is %d; expected 0 (float32), 1 (float16) or 2 (bfloat16)", name,
              static_cast<int>(dtype));
}

bsparse_status check_block_size(int32_t block_size) {
  for (const int32_t supported : {8, 16, 32, 64, 128}) {
    if (block_size == supported) return BSPARSE_OK;
  }
  return fail(BSPARSE_INVALID_ARGUMENT, "block_size is %d; expected 8, 16, 32, 64 or 128",
              block_size);
}

bsparse_status check_matmul(const bsparse_matmul_args& args) {
  RETURN_IF_FAILED(check_product(args));
  RETURN_IF_FAILED(check_batch(args, args.batch, "y"));
  RETURN_IF_FAILED(check_range("activation", args.activation, BSPARSE_ACTIVATION_NONE,
                               BSPARSE_ACTIVATION_GELU));
  const bsparse_matmul_plan& plan = args.plan;
  RETURN_IF_FAILED(check_range("plan.columns", plan.columns, 1, max_columns(plan.kernel)));
  const bool streams = plan.kernel == BSPARSE_SM90_STREAM;
  const int32_t width = column_features(plan.kernel, args.block_size);
  const int64_t group_features = int64_t{plan.columns} * width;
  const auto groups = static_cast<int32_t>(
      (int64_t{args.out_blocks} * args.block_size - 1) / group_features + 1);
  RETURN_IF_FAILED(check_range("plan.num_items", plan.num_items, streams ? 1 : groups, INT32_MAX));
  RETURN_IF_FAILED(check_range("plan.num_splits", plan.num_splits, 0, groups));
  RETURN_IF_FAILED(check_range("plan.num_partials", plan.num_partials, 0,
                               streams ? plan.num_entries : plan.num_items));
  RETURN_IF_FAILED(check_range("plan.num_entries", plan.num_entries, streams ? plan.num_items : 0,
                               INT32_MAX));
  RETURN_IF_FAILED(check_range("plan.num_blocks", plan.num_blocks, 0, INT32_MAX));
  RETURN_IF_FAILED(check_range("plan.num_packed", plan.num_packed, 0, plan.num_blocks));
  const bool sweeps = plan.kernel == BSPARSE_SM90_SWEEP;
  RETURN_IF_FAILED(check_range("plan.fullest_stage", plan.fullest_stage,
                               sweeps || plan.num_packed > 0, sweeps ? kMaxSweepStageKib : 32));
  if (sweeps) RETURN_IF_FAILED(check_sweep(args, groups));
  RETURN_IF_FAILED(check_size("workspace", args.batch, plan.num_partials,
                              group_features, sizeof(float)));
  if (args.batch == 0) return BSPARSE_OK;
  const size_t size = element_size(args.dtype);
  RETURN_IF_FAILED(check_pointer("x", args.x, size));
  RETURN_IF_FAILED(check_pointer("y", args.y, size));
  if (args.bias != nullptr) RETURN_IF_FAILED(check_pointer("bias", args.bias, size));
  if (args.residual != nullptr) RETURN_IF_FAILED(check_pointer("residual", args.residual, size));
  if (args.gate != nullptr) RETURN_IF_FAILED(check_pointer("gate", args.gate, sizeof(float)));
  if (streams) {
    RETURN_IF_FAILED(check_pointer("plan.entries", plan.entries, 16));
  } else {
    RETURN_IF_FAILED(check_pointer("plan.items", plan.items, 16));
  }
  // A layout without blocks has no w and no entries.
  if (args.w != nullptr) RETURN_IF_FAILED(check_pointer("w", args.w, 16));
  if (sweeps || plan.entries != nullptr) {
    RETURN_IF_FAILED(check_pointer("plan.entries", plan.entries, sweeps ? 16 : 8));
  }
  if (plan.num_splits > 0) RETURN_IF_FAILED(check_pointer("plan.splits", plan.splits, 4));
  if (plan.columns > 1 || is_union(plan.kernel)) {
    RETURN_IF_FAILED(check_pointer("plan.groups", plan.groups, 4));
  }
  return BSPARSE_OK;
}

int64_t total_batch(const bsparse_matmul_dw_args& args) {
  int64_t batch = 0;
  for (int p = 0; p < args.num_pairs; ++p) batch += args.pairs[p].batch;
  return batch;
}

bsparse_status check_matmul_dw(const bsparse_matmul_dw_args& args) {
  RETURN_IF_FAILED(check_product(args));
  RETURN_IF_FAILED(check_dtype("out_dtype", args.out_dtype));
  if (args.out_dtype != args.dtype && args.out_dtype != BSPARSE_FLOAT32) {
    return fail(BSPARSE_INVALID_ARGUMENT,
                "out_dtype is %d; expected dtype (%d) or 0 (float32)",
                static_cast<int>(args.out_dtype), static_cast<int>(args.dtype));
  }
  const bsparse_matmul_dw_plan& plan = args.plan;
  RETURN_IF_FAILED(check_range("plan.num_blocks", plan.num_blocks, 0, INT32_MAX));
  RETURN_IF_FAILED(check_range("plan.batch_splits", plan.batch_splits, 1, 1 << 16));
  RETURN_IF_FAILED(check_range("num_pairs", args.num_pairs, 0, 1 << 16));
  if (args.num_pairs > 0) {
    RETURN_IF_FAILED(check_pointer("pairs", args.pairs, alignof(bsparse_dw_pair)));
  }
  int64_t batch = 0;
  for (int p = 0; p < args.num_pairs; ++p) {
    RETURN_IF_FAILED(check_batch(args, args.pairs[p].batch, "dy"));
    RETURN_IF_FAILED(check_range("the sum of batches", batch, 0, INT64_MAX - args.pairs[p].batch));
    batch += args.pairs[p].batch;
  }
  RETURN_IF_FAILED(check_size("workspace", plan.num_blocks,
                              plan.batch_splits * (int64_t{args.num_pairs} + 1),
                              int64_t{args.block_size} * args.block_size, sizeof(float)));
  const int cells =
      plan.kernel == BSPARSE_SM90_DW_TILES ? args.block_size / dw_tile_cell(args.block_size) : 1;
  RETURN_IF_FAILED(check_range("plan.num_items", plan.num_items, 0,
                               int64_t{plan.num_blocks} * cells * cells));
  RETURN_IF_FAILED(check_range("plan.whole_items", plan.whole_items, 0, plan.num_items));
  if (plan.num_blocks == 0) return BSPARSE_OK;
  if (plan.num_items > 0) RETURN_IF_FAILED(check_pointer("plan.items", plan.items, 16));
  RETURN_IF_FAILED(check_pointer("dw", args.dw, 8));
  if (args.addend != nullptr) RETURN_IF_FAILED(check_pointer("addend", args.addend, 8));
  RETURN_IF_FAILED(check_pointer("plan.blocks", plan.blocks, 4));
  if (args.gate != nullptr) RETURN_IF_FAILED(check_pointer("gate", args.gate, sizeof(float)));
  for (int p = 0; p < args.num_pairs; ++p) {
    if (args.pairs[p].batch == 0) continue;
    RETURN_IF_FAILED(check_pointer("x", args.pairs[p].x, element_size(args.dtype)));
    RETURN_IF_FAILED(check_pointer("dy", args.pairs[p].dy, element_size(args.dtype)));
  }
  return BSPARSE_OK;
}

bsparse_status check_prepare_weights(const bsparse_prepare_weights_args& args) {
  RETURN_IF_FAILED(check_dtype("in_dtype", args.in_dtype));
  RETURN_IF_FAILED(check_dtype("out_dtype", args.out_dtype));
  RETURN_IF_FAILED(check_block_size(args.block_size));
  RETURN_IF_FAILED(check_range("num_blocks", args.num_blocks, 0, INT32_MAX));
  if (args.num_blocks == 0) return BSPARSE_OK;
  RETURN_IF_FAILED(check_pointer("in", args.in, 16));
  RETURN_IF_FAILED(check_pointer("out", args.out, 16));
  if (args.gate != nullptr) RETURN_IF_FAILED(check_pointer("gate", args.gate, sizeof(float)));
  return BSPARSE_OK;
}

bsparse_status check_workspace(const void* workspace, size_t bytes, size_t needed) {
  if (needed == 0) return BSPARSE_OK;
  if (bytes < needed) {
    return fail(BSPARSE_INVALID_ARGUMENT, "workspace_bytes is %zu; this plan needs %zu", bytes,
                needed);
  }
  return check_pointer("workspace", workspace, 256);
}

}  // namespace bsparse
