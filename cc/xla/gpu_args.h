// A call's attributes as arguments of the CUDA library: all but the pointers, which are not known
// while XLA compiles. `tables` is where the plan's tables are.
#ifndef BSPARSE_CC_XLA_GPU_ARGS_H_
#define BSPARSE_CC_XLA_GPU_ARGS_H_

#include <cstdint>
#include <vector>

#include "cc/kernels/gpu_launch.h"
#include "cc/xla/calls.h"
#include "cuda/bsparse_cuda.h"

namespace bsparse {

inline GpuStatus MatmulArgs(const xla_calls::Matmul& call, const xla_calls::MatmulGpu& gpu,
                            const int32_t* tables, bsparse_matmul_args* args,
                            bsparse_dtype* weight_dtype) {
  *args = {};
  args->activation = ToCudaActivation(call.activation);
  args->block_size = call.block_size;
  args->feature_axis = call.feature_axis;
  args->transpose = call.transpose;
  args->in_blocks = call.transpose ? call.out_blocks : call.in_blocks;
  args->out_blocks = call.transpose ? call.in_blocks : call.out_blocks;
  args->float32_math = gpu.float32_math;
  args->batch = call.batch;
  args->plan.kernel = gpu.kernel;
  args->plan.columns = gpu.columns;
  args->plan.num_items = gpu.num_items;
  args->plan.num_splits = gpu.num_splits;
  args->plan.num_partials = gpu.num_partials;
  args->plan.num_entries = gpu.num_entries;
  args->plan.num_blocks = gpu.num_blocks;
  args->plan.num_packed = gpu.num_packed;
  args->plan.fullest_stage = gpu.fullest_stage;
  args->plan.items = tables;
  args->plan.entries = tables + gpu.entries_offset;
  args->plan.splits = tables + gpu.splits_offset;
  args->plan.groups = tables + gpu.groups_offset;
  const GpuStatus status = ToCudaDType(call.dtype, &args->dtype);
  return status.ok() ? ToCudaDType(call.weight_dtype, weight_dtype) : status;
}

inline GpuStatus MatmulDwArgs(const xla_calls::MatmulDw& call, const xla_calls::MatmulDwGpu& gpu,
                              const std::vector<bsparse_dw_pair>& pairs, const int32_t* tables,
                              bsparse_matmul_dw_args* args) {
  *args = {};
  args->block_size = call.block_size;
  args->feature_axis = call.feature_axis;
  args->in_blocks = call.in_blocks;
  args->out_blocks = call.out_blocks;
  args->float32_math = gpu.float32_math;
  args->num_pairs = call.num_pairs;
  args->pairs = pairs.data();
  args->plan.num_blocks = gpu.num_blocks;
  args->plan.batch_splits = gpu.batch_splits;
  args->plan.ctas = gpu.ctas;
  args->plan.chunks = gpu.chunks;
  args->plan.whole_items = gpu.whole_items;
  args->plan.kernel = gpu.kernel;
  args->plan.num_items = gpu.num_items;
  args->plan.items = tables;
  args->plan.blocks = tables + gpu.blocks_offset;
  const GpuStatus status = ToCudaDType(call.dtype, &args->dtype);
  return status.ok() ? ToCudaDType(call.out_dtype, &args->out_dtype) : status;
}

}  // namespace bsparse

#endif  // BSPARSE_CC_XLA_GPU_ARGS_H_
