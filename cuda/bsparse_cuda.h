// The C API of the CUDA library: plain structs, pointers, sizes, a stream, a status.
//
// Nothing here knows TensorFlow, so the kernels can be built, tested and timed with nvcc and a
// GPU alone. The library never allocates device memory, never synchronises and never reads
// back: the caller owns every buffer, and a call only enqueues kernels on the caller's stream.
//
// Callers get at the functions through one table (bsparse_cuda_get_api), so that the library can
// be opened at run time and is free to be absent.
#ifndef BSPARSE_CUDA_BSPARSE_CUDA_H_
#define BSPARSE_CUDA_BSPARSE_CUDA_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Raised whenever a struct below changes: the two sides of the table must be built from the
// same header.
#define BSPARSE_CUDA_API_VERSION 1

typedef enum {
  BSPARSE_FLOAT32 = 0,
  BSPARSE_FLOAT16 = 1,
  BSPARSE_BFLOAT16 = 2,
} bsparse_dtype;

typedef enum {
  BSPARSE_ACTIVATION_NONE = 0,
  BSPARSE_ACTIVATION_RELU = 1,
  BSPARSE_ACTIVATION_GELU = 2,  // exact: z * Phi(z), by erf
} bsparse_activation;

typedef enum {
  BSPARSE_OK = 0,
  BSPARSE_INVALID_ARGUMENT = 1,
  BSPARSE_UNSUPPORTED = 2,  // a legal request that this build or this GPU has no kernel for
  BSPARSE_CUDA_ERROR = 3,
} bsparse_status;

typedef struct {
  int32_t sm_count;
  int32_t compute_capability;  // 10 * major + minor, e.g. 90
} bsparse_device;

// What the planner needs to know of a kernel's tiling to cut the work for it.
typedef struct {
  int32_t batch_tile;   // batch entries of one CTA's output tile; of dw: of one step of its sum
  int32_t ctas_per_sm;  // output tiles under way on one SM; of dw: stored blocks under way
} bsparse_tile;

// The work of y = x W, cut into items. Tables are int32 in device memory, row-major.
// An item is one output block column, or a segment of a long one: y[out_block] (or a partial of
// it) = sum over entries [first, last) of x[in_block] w[weight_block].
typedef struct {
  int32_t num_items;
  int32_t num_splits;      // output columns cut into more than one item
  int32_t num_partials;    // items of those columns; each writes one float32 partial column
  int32_t batch_tile;      // the bsparse_tile this plan was cut for
  int32_t num_blocks;      // entries; read only with a gate
  const int32_t* items;    // (num_items, 4): out_block, first entry, end of entries, partial or -1;
                           // heaviest first; a column without entries is an item with none
  const int32_t* entries;  // (num_blocks, 2): in_block, weight_block; by out_block, then in_block
  const int32_t* splits;   // (num_splits, 3): out_block, first partial, number of partials
} bsparse_matmul_plan;

// y = activation(x W + bias), W the block-sparse matrix that `plan` describes. For the transposed
// product the caller passes the plan of the transposed layout, `in_blocks` and `out_blocks`
// swapped, and transpose = 1: each stored block is then used as w[b]^T.
typedef struct {
  bsparse_dtype dtype;  // of x, w, y and bias
  bsparse_activation activation;
  int32_t block_size;    // 8, 16, 32, 64 or 128
  int32_t feature_axis;  // 0: x (features, batch); 1: x (batch, features)
  int32_t transpose;
  int32_t in_blocks, out_blocks;  // of this product, so y has out_blocks * block_size features
  int32_t allow_tf32;             // float32 only: round operands to TF32
  int64_t batch;
  const void* x;
  const void* w;      // (blocks, block_size, block_size), already scaled by the gate
  const float* gate;  // (blocks) or null: blocks whose gate is 0 are skipped
  const void* bias;   // (out_blocks * block_size) or null
  void* y;
  bsparse_matmul_plan plan;
  void* workspace;  // device memory of at least matmul_workspace() bytes, 256-byte aligned
  size_t workspace_bytes;
} bsparse_matmul_args;

// The work of dw: one entry a stored block, in an order that is kind to the cache (neighbours
// share their in_block or out_block); the batch cut into `batch_splits` equal ranges, whose float32
// partial sums are added in order.
typedef struct {
  int32_t num_blocks;
  int32_t batch_splits;
  const int32_t* blocks;  // (num_blocks, 3): in_block, out_block, weight_block
} bsparse_matmul_dw_plan;

// dw[b] = gate[b] * x[in_block]^T dy[out_block] for every stored block b.
typedef struct {
  bsparse_dtype dtype;      // of x and dy
  bsparse_dtype out_dtype;  // of dw: `dtype`, or float32
  int32_t block_size;
  int32_t feature_axis;
  int32_t in_blocks, out_blocks;
  int32_t allow_tf32;
  int64_t batch;
  const void* x;
  const void* dy;
  const float* gate;  // (blocks) or null; blocks whose gate is 0 are zero-filled, not computed
  void* dw;           // (blocks, block_size, block_size)
  bsparse_matmul_dw_plan plan;
  void* workspace;
  size_t workspace_bytes;
} bsparse_matmul_dw_args;

// out[b] = gate[b] * in[b], rounded once to out_dtype. Used to hand the matmul weights that are
// stored in float32, or gated.
typedef struct {
  bsparse_dtype in_dtype, out_dtype;
  int32_t block_size;
  int64_t num_blocks;
  const void* in;
  const float* gate;  // or null
  void* out;
} bsparse_prepare_weights_args;

typedef struct {
  int32_t version;  // BSPARSE_CUDA_API_VERSION of the library
  // The device that is current on the calling thread.
  bsparse_status (*get_device)(bsparse_device* device);
  // The tile that the kernels of this device use for a matmul; `is_dw` for the weight gradient.
  bsparse_status (*get_tile)(bsparse_dtype dtype, int32_t block_size, int64_t batch,
                             int32_t is_dw, const bsparse_device* device, bsparse_tile* tile);
  size_t (*matmul_workspace)(const bsparse_matmul_args* args);
  bsparse_status (*matmul)(const bsparse_matmul_args* args, void* stream);
  size_t (*matmul_dw_workspace)(const bsparse_matmul_dw_args* args);
  bsparse_status (*matmul_dw)(const bsparse_matmul_dw_args* args, void* stream);
  bsparse_status (*prepare_weights)(const bsparse_prepare_weights_args* args, void* stream);
  // Enqueues a copy of host memory that may be freed as soon as the call returns.
  bsparse_status (*copy_to_device)(void* dst, const void* src, size_t bytes, void* stream);
  // One sentence on the last failure of the calling thread: what came, what was expected.
  const char* (*last_error)(void);
  // Name of the kernel that would run, for people: "sm80_matmul<bf16,32,128>".
  const char* (*kernel_name)(const bsparse_matmul_args* args);
} bsparse_cuda_api;

// The table of this library, or null if it was built from another version of this header.
__attribute__((visibility("default"))) const bsparse_cuda_api* bsparse_cuda_get_api(
    int32_t version);

#ifdef __cplusplus
}
#endif

#endif  // BSPARSE_CUDA_BSPARSE_CUDA_H_
