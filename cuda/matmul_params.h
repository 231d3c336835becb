// What the host hands to kernels, and how kernels are found: shared by every kernel family.
#ifndef BSPARSE_CUDA_MATMUL_PARAMS_H_
#define BSPARSE_CUDA_MATMUL_PARAMS_H_

#include <cuda_runtime.h>

#include <cstdint>

namespace bsparse {

// y (or float32 partials of it) for `batch_tiles` batch tiles from `first_batch_tile` on; one CTA
// an item and batch tile.
struct MatmulParams {
  const void* x;     // (batch, in) or (in, batch)
  const void* w;     // (blocks, bs, bs)
  const void* bias;  // (out) or null
  void* y;           // (batch, out) or (out, batch)
  float* partials;   // (num_partials, batch, bs) or (num_partials, bs, batch)
  const int4* items;
  const int2* entries;
  int64_t batch;
  int64_t in_features;
  int64_t out_features;
  int64_t first_batch_tile;
  uint32_t num_items;
  uint32_t batch_tiles;
  uint32_t batch_group;  // batch tiles whose x shares the L2 cache
  int32_t activation;
  bool x_aligned;  // every tile row of x, or of y, may be moved 16 bytes at once
  bool y_aligned;
};

// dw, or with more than one split float32 partials of it; one CTA `slots` blocks and a split.
struct MatmulDwParams {
  const void* x;
  const void* dy;
  const float* gate;  // (blocks) or null
  void* dw;           // (blocks, bs, bs)
  float* partials;    // (splits, blocks, bs, bs)
  const int32_t* blocks;
  int64_t batch;
  int64_t split_size;  // batch entries of a split, a multiple of the tile's depth
  int64_t in_features;
  int64_t out_features;
  int32_t num_blocks;
  int32_t splits;
  bool float_output;
  bool x_aligned;
  bool dy_aligned;
};

// A compiled kernel and what a launch of it needs. `function` is null where there is none.
struct Kernel {
  const void* function = nullptr;
  int threads = 0;
  int shared_bytes = 0;
  int batch_tile = 0;      // of a matmul kernel: batch entries a CTA computes
  int blocks_per_cta = 1;  // of a dw kernel: stored blocks a CTA computes
  int depth = 0;           // of a dw kernel: batch entries a stage holds
};

// The kernels of the sm80 family, one function for each arithmetic mode (dtype.cuh). Each is
// defined, and its kernels compiled, in a source file of its own.
struct MatmulVariant {
  int block_size;
  int feature_axis;
  bool transpose;
  bool small_batch;
};

Kernel sm80_matmul_bf16(const MatmulVariant& variant);
Kernel sm80_matmul_fp16(const MatmulVariant& variant);
Kernel sm80_matmul_tf32(const MatmulVariant& variant);
Kernel sm80_matmul_fp32(const MatmulVariant& variant);

Kernel sm80_matmul_dw_bf16(int block_size, int feature_axis);
Kernel sm80_matmul_dw_fp16(int block_size, int feature_axis);
Kernel sm80_matmul_dw_tf32(int block_size, int feature_axis);
Kernel sm80_matmul_dw_fp32(int block_size, int feature_axis);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_MATMUL_PARAMS_H_
