// What the host hands to kernels, and how kernels are found: shared by every kernel family.
#ifndef BSPARSE_CUDA_MATMUL_PARAMS_H_
#define BSPARSE_CUDA_MATMUL_PARAMS_H_

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/bsparse_cuda.h"
#include "cuda/dw_output.cuh"
#include "cuda/rasterise.h"

namespace bsparse {

// y (or float32 partials of it) for `batch_tiles` batch tiles from `first_batch_tile` on; one CTA
// an item and batch tile.
struct MatmulParams {
  const void* x;         // (batch, in) or (in, batch); of exact float32 (in, x_row)
  const void* w;         // (blocks, bs, bs); of exact float32 (blocks, inputs, outputs)
  const void* bias;      // (out) or null
  const void* residual;  // like y, or null; may be y
  void* y;               // (batch, out) or (out, batch)
  float* partials;       // (num_partials, batch, bs) or (num_partials, bs, batch)
  const int4* items;
  const int2* entries;
  int64_t batch;
  int64_t in_features;
  int64_t out_features;
  int64_t first_batch_tile;
  Raster raster;
  int32_t activation;
  bool x_aligned;  // every tile row of x, y or the residual may be moved 16 bytes at once
  bool y_aligned;
  bool residual_aligned;
  int64_t x_row;  // of exact float32: elements from a feature of x to the next
};

// The same for kernels whose items are unions of block columns. Their CTAs take tile after tile.
struct UnionMatmulParams {
  CUtensorMap x;
  CUtensorMap w;  // (blocks * bs, bs), unless weights are packed
  const void* packed_weights;  // or null
  int32_t fullest_stage;  // of them, at most
  CUtensorMap y;
  CUtensorMap residual;  // of y's boxes, if adds_residual; may be of the same memory
  const void* bias;   // (out) or null
  const float* gate;  // (blocks) or null; only tells which blocks are 0
  float* partials;    // (num_partials, outputs of an item, batch)
  const int4* items;
  const int32_t* entries;
  const int32_t* columns;  // (groups, columns of an item): block column or -1
  int64_t batch;
  Raster raster;  // of items, or of their CTAs if these are alone
  Divider item_places;  // of an item in the raster
  uint32_t num_tiles;
  uint32_t first_batch_tile;
  uint32_t ctas;  // of an item
  uint32_t cluster_ctas;  // those, or 1: CTAs are alone, and take the tiles of any
  int32_t num_blocks;
  int32_t out_features;
  int32_t activation;
  bool keeps_weights;  // in L2
  bool adds_residual;
  bool deep_x;  // the map of x has three dimensions, so that one copy takes an entry's whole tile
  bool runs_beside;  // the kernel before it, the same product's other part
};

// The same for kernels whose CTAs take equal lists of entries; one CTA a list and batch tile.
struct StreamMatmulParams {
  CUtensorMap x;  // with features first if stream_turns_inputs
  CUtensorMap w;  // of rows of 128 bytes, or (blocks * bs, bs) where blocks are cells
  int32_t side_bits;  // 2^: cells along each side of a block
  CUtensorMap y;
  CUtensorMap residual;  // of y's boxes, if adds_residual; may be of the same memory
  const void* bias;   // (out) or null
  const float* gate;  // (blocks) or null; only tells which blocks are 0
  float* partials;    // (batch tiles, num_partials, tile)
  uint64_t* flags;    // (batch tiles, num_partials): `launch` once the partial is there
  uint64_t launch;    // a number that no other launch has, nor memory by chance
  const int4* entries;  // (lists, length): column, in_block, weight_block, partial
  const int32_t* splits;
  int32_t num_partials;
  uint32_t x_bytes, y_bytes;  // of a box of x, and of y or the residual
  bool plan_settled;     // may be read before the kernel before this one is done
  bool weights_settled;  // likewise
  bool adds_residual;
  uint32_t lists;
  int32_t length;
  int32_t activation;
};

// The same for kernels that sweep over x. Their CTAs take tile after tile.
struct SweepMatmulParams {
  CUtensorMap x;
  const char* weights;    // packed
  const char* records;
  const int4* stages;     // two for each stage and CTA
  const int4* items;
  const int32_t* columns; // (items, columns): block column or -1
  const void* bias;       // (out) or null
  const void* residual;   // like y, or null; may be y
  void* y;
  int64_t batch;
  int64_t out_features;
  Divider items_of_batch_tile;
  uint32_t num_tiles;
  uint32_t ctas;  // of an item, and of a cluster
  uint32_t stage_bytes;
  int32_t ring_stages;
  int32_t activation;
};

// That one launch of dw takes.
inline constexpr int kMaxPairs = 8;

// The stages of a launch of dw: those of its first pair, of its second, and so on. A split is a range
// of them, so it may begin in one pair and end in another; no stage lies in two.
struct DwStages {
  int64_t first[kMaxPairs + 1];  // of each pair; behind the last one their number
  int64_t count;                 // of all pairs
  int64_t of_split;

  // Of a split: its first stage, and how many it has.
  __host__ __device__ int64_t begin(int64_t split) const { return split * of_split; }
  __host__ __device__ int64_t size(int64_t split) const {
    const int64_t left = count - begin(split);
    return left <= 0 ? 0 : left < of_split ? left : of_split;
  }
  // The pair that a stage is of.
  __host__ __device__ int pair(int64_t stage) const {
    int pair = 0;
    while (stage >= first[pair + 1]) ++pair;
    return pair;
  }
};

// dw, or with partials float32 sums of it; one CTA `slots` blocks and a split.
struct MatmulDwParams {
  struct Operands {
    const void* x;
    const void* dy;
    int64_t batch;
    bool x_aligned;
    bool dy_aligned;
  };
  Operands pairs[kMaxPairs];
  DwStages stages;
  DwOutput output;
  float* partials;  // (splits, blocks, bs, bs) or null
  const int32_t* blocks;
  int64_t in_features;
  int64_t out_features;
  int32_t num_blocks;
  int32_t splits;
};

// The same for small batches. x and dy have rows of 16-byte chunks, with features first if small_dw_turns. Each warp
// takes units of one cell (sm80/policy.cuh) or, where that is a block of 8, of two that come one after the other.
struct SmallMatmulDwParams {
  struct Operands {
    const void* x;
    const void* dy;
    uint32_t batch;
  };
  const int32_t* blocks;
  uint32_t units;
  int32_t num_blocks;
  uint32_t in_features;
  uint32_t out_features;
  bool is_plain;    // the output has no gate, no addend, the elements of x, and lies at a multiple of 16 bytes
  DwOutput output;  // or, of partials, float32 and nothing else
  Operands pairs[kMaxPairs];
  DwStages stages;
};

// The same for kernels whose items are several blocks of one output column.
struct UnionMatmulDwParams {
  CUtensorMap x[kMaxPairs];
  CUtensorMap dy[kMaxPairs];
  DwStages stages;
  DwOutput output;
  float* partials;  // (splits, blocks, bs, bs) or null
  const int4* items;
  const int32_t* blocks;
  uint32_t num_items;
  uint32_t num_tiles;  // items, times splits
  uint32_t stage_bytes;
  int32_t ring_stages;
  int32_t num_blocks;
  int32_t num_pairs;
};

// The same for kernels whose items are tiles of the layout, dealt to the CTAs of a cluster. The first
// of them are not split, and leave no partials.
struct TiledMatmulDwParams {
  CUtensorMap x[kMaxPairs];  // of chunks
  CUtensorMap dy[kMaxPairs];
  DwStages stages;
  DwOutput output;
  float* partials;  // (splits, places for blocks of split items, bs, bs)
  const int32_t* items;
  const int32_t* blocks;
  uint32_t whole_items;
  uint32_t split_items;
  uint32_t num_tiles;  // whole items, and the others times splits
  uint32_t ctas;       // of an item: a cluster
  int32_t chunks;      // that a stage has room for
  int32_t ring_stages;
  int32_t num_pairs;
};

// A compiled kernel and what a launch of it needs. `function` is null where there is none.
struct Kernel {
  const void* function = nullptr;
  int threads = 0;
  int shared_bytes = 0;
  int batch_tile = 0;      // of a matmul kernel: batch entries a CTA computes
  int columns = 1;         // of a matmul kernel: output block columns of a CTA; of dw: blocks
  int shared_columns = 1;  // of a matmul kernel: those of them that share a product
  int store_batch = 0;     // batch entries of a box of y
  int box_features = 0;    // features that boxes of x are wide, and elements those of w
  int y_features = 0;      // that boxes of y are wide
  int entry_blocks = 1;    // of a matmul kernel: neighbouring blocks that an entry is made of,
  int column_blocks = 1;   // and a column
  bool packs = false;      // takes weights packed
  int blocks_per_cta = 1;  // of a dw kernel: stored blocks a CTA computes,
  int ctas_per_block = 1;  // or CTAs that compute one
  int depth = 0;           // of a dw kernel: batch entries a stage holds
  // Calls follow_kernel_before(). Where several CTAs share an SM, and a grid is not made to fill the GPU, this costs more
  // than it saves: they start where there is room before the kernel before is done, and not evenly.
  bool starts_early = false;
};

// The kernels of the sm80 family, one function for each arithmetic mode (dtype.cuh). Each is
// defined, and its kernels compiled, in a source file of its own.
struct MatmulVariant {
  int block_size;
  int feature_axis;
  bool transpose;
  bsparse_kernel family;
  int64_t batch;  // decides the tile of a stream
  int sweep_batch_tile = 0;
  bool turned = false;  // of union tiles: x comes with features last (union_turns_inputs)
};

Kernel sm80_matmul_bf16(const MatmulVariant& variant);
Kernel sm80_matmul_fp16(const MatmulVariant& variant);
Kernel sm80_matmul_tf32(const MatmulVariant& variant);
Kernel sm80_matmul_tf32x3(const MatmulVariant& variant);
Kernel sm80_matmul_fp32(const MatmulVariant& variant);

// Exact float32, x with features first and weights by inputs.
Kernel sm80_exact_matmul(int block_size, int feature_axis);
Kernel sm80_exact_matmul_dw(int block_size);  // of up to 16; x and dy with features first
Kernel sm80_exact_blocks_dw(int block_size, int feature_axis);  // of 32 and more

// The sm90 family: all blocks (dw of 32 and more, with features first of 16), in TF32 blocks of 16 and more (dw with
// features first). No kernel for anything else.
Kernel sm90_matmul_bf16(const MatmulVariant& variant);
Kernel sm90_matmul_fp16(const MatmulVariant& variant);
Kernel sm90_matmul_tf32(const MatmulVariant& variant);

// Streams: all blocks, in TF32 of 16 and more.
Kernel sm90_stream_bf16(const MatmulVariant& variant);
Kernel sm90_stream_fp16(const MatmulVariant& variant);
Kernel sm90_stream_tf32(const MatmulVariant& variant);

// Sweeps: blocks of 8 and 16.
Kernel sm90_sweep_bf16(const MatmulVariant& variant);
Kernel sm90_sweep_fp16(const MatmulVariant& variant);
Kernel sm90_sweep_tf32(const MatmulVariant& variant);

Kernel sm90_matmul_dw_bf16(int block_size, int feature_axis);
Kernel sm90_matmul_dw_fp16(int block_size, int feature_axis);
Kernel sm90_matmul_dw_tf32(int block_size, int feature_axis);

// Tiles of the layout: in 16 bit blocks of 8 to 32, in TF32 all blocks.
Kernel sm90_dw_tiles_bf16(int block_size, int feature_axis);
Kernel sm90_dw_tiles_fp16(int block_size, int feature_axis);
Kernel sm90_dw_tiles_tf32(int block_size, int feature_axis);

Kernel sm80_matmul_dw_bf16(int block_size, int feature_axis);
Kernel sm80_matmul_dw_fp16(int block_size, int feature_axis);
Kernel sm80_matmul_dw_tf32(int block_size, int feature_axis);
Kernel sm80_matmul_dw_tf32x3(int block_size, int feature_axis);
Kernel sm80_matmul_dw_fp32(int block_size, int feature_axis);

// Small batches.
Kernel sm80_small_dw_bf16(int block_size, int feature_axis);
Kernel sm80_small_dw_fp16(int block_size, int feature_axis);
Kernel sm80_small_dw_tf32(int block_size, int feature_axis);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_MATMUL_PARAMS_H_
