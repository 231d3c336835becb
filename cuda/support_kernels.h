// The small kernels around the products: they move bytes, and are bound by memory. Each launch
// function returns what cudaLaunchKernel did.
#ifndef BSPARSE_CUDA_SUPPORT_KERNELS_H_
#define BSPARSE_CUDA_SUPPORT_KERNELS_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/bsparse_cuda.h"
#include "cuda/dw_output.cuh"

namespace bsparse {

// Copies a plan's items and entries without the entries whose gate is 0, so that the product
// need not know of gates. Entries keep their places; an item's end moves forward.
struct CompactEntries {
  const int4* items;    // (num_items)
  const int2* entries;  // (blocks)
  const float* gate;    // (blocks)
  int4* out_items;
  int2* out_entries;
  int32_t num_items;
};
cudaError_t launch_compact_entries(const CompactEntries& args, cudaStream_t stream);

// y of the split groups: their partials, in the workspace of `args`, added in order, then bias,
// activation and residual.
bsparse_status launch_reduce_matmul(const bsparse_matmul_args& args, cudaStream_t stream);

// dw of its partials, added in order.
struct ReduceMatmulDw {
  const float* partials;  // (num_partials, blocks, bs, bs)
  DwOutput output;
  int64_t num_blocks;
  int32_t num_partials;
  int32_t block_elements;  // bs * bs
};
cudaError_t launch_reduce_matmul_dw(const ReduceMatmulDw& args, bsparse_dtype out_dtype,
                                    cudaStream_t stream);

// The same for partials of blocks, or cells of them (matmul_params.h), whose number in dw a table names.
struct ReduceDwTiles {
  const float* partials;  // (num_partials, places, cell, cell)
  DwOutput output;
  const int32_t* blocks;  // (places, 3): anything, anything, number in dw or -1
  int64_t places;
  int32_t num_partials;
  int32_t block_size;
  int32_t cell;  // features along each side of what is called a block elsewhere here
};
cudaError_t launch_reduce_dw_tiles(const ReduceDwTiles& args, bsparse_dtype out_dtype,
                                   cudaStream_t stream);

// Blocks of 16-bit weights as a packed plan uses them (bsparse_matmul_plan): squares of 16 or 32 features
// along each side, in the plan's order, and in them operands of 16 outputs by 16 inputs as they lie in
// a warp's registers. Zeros of a missing block, or one whose gate is 0. With `output_rows` the rows of
// blocks are outputs. With `as_columns`, for sweeps, blocks of 8 and 16, each as operands of 8 outputs by all its
// inputs.
struct PackWeights {
  const char* w;         // (blocks, block_size, block_size)
  const float* gate;     // (blocks) or null
  const int32_t* order;  // (num_packed, blocks of a square)
  char* out;
  int32_t num_packed;
};
cudaError_t launch_pack_weights(const PackWeights& args, int block_size, bool output_rows,
                                bool as_columns, cudaStream_t stream);

// The same of float32 weights for sweeps in TF32: four blocks of 8, or one of 16, are a square. With `neighbours` a
// lane's two inputs of an operand are neighbours (sm90/sweep_operands.cuh).
cudaError_t launch_pack_tf32_weights(const PackWeights& args, int block_size, bool output_rows,
                                     bool neighbours, cudaStream_t stream);

// Each block transposed or not, and with `interleave`, for blocks of 16 and more, of every eight inputs,
// which rows then are of, the even ones first. At least one of the two.
struct ArrangeBlocks {
  const float* w;  // (num_blocks, bs, bs)
  float* out;
  int32_t num_blocks;
  int32_t block_size;
  bool transpose;
  bool interleave;
};
cudaError_t launch_arrange_blocks(const ArrangeBlocks& args, cudaStream_t stream);

// Activations of 16 bits with features last, (batch, features), as (features, row): a row is the batch and zeros.
// Both rows are multiples of 16 bytes. What comes behind may take all before this kernel for done.
struct Turn {
  const void* from;
  void* to;
  int64_t batch;
  int64_t features;
  int64_t row;
};
struct TurnActivations {
  static constexpr int kMaxTurns = 16;
  Turn turns[kMaxTurns];
  int count;  // at least 1
};
cudaError_t launch_turn_activations(const TurnActivations& args, cudaStream_t stream);

// The same of float32, where batch and features may also change their parts; of any alignment: only the rows that are written must be multiples of 16 bytes.
cudaError_t launch_turn_floats(const TurnActivations& args, cudaStream_t stream);

// Float32 with features first, (features, batch), as (features, row).
cudaError_t launch_pad_floats(const TurnActivations& args, cudaStream_t stream);

cudaError_t launch_prepare_weights(const bsparse_prepare_weights_args& args, cudaStream_t stream);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SUPPORT_KERNELS_H_
