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
#define BSPARSE_CUDA_API_VERSION 15

typedef enum {
  BSPARSE_FLOAT32 = 0,
  BSPARSE_FLOAT16 = 1,
  BSPARSE_BFLOAT16 = 2,
} bsparse_dtype;

// How float32 numbers are multiplied; of no account for others.
typedef enum {
  BSPARSE_FLOAT32_EXACT = 0,   // by fused multiply-adds
  BSPARSE_FLOAT32_TF32 = 1,    // rounded to TF32
  BSPARSE_FLOAT32_TF32X3 = 2,  // as sums of two TF32 numbers, by three products
} bsparse_float32_math;

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

// Kernel families. Plans are cut for one of them, and serve no other.
typedef enum {
  BSPARSE_SM80 = 0,        // mma.sync, one block column an item: every GPU from sm_80 on
  BSPARSE_SM80_SMALL = 1,  // the same for small batches, and for small products in TF32; of dw on Hopper, too
  BSPARSE_SM90 = 2,        // unions of block columns: sm_90, 16 bit and TF32
  BSPARSE_DENSE = 3,       // the dense matrix and cuBLAS, where sparsity does not pay
  BSPARSE_SM90_STREAM = 4, // small batches of sm_90, 16 bit and TF32: every CTA an equal list of blocks
  BSPARSE_SM90_DW_TILES = 5,  // dw of small blocks, and of most in TF32, sm_90: tiles of the layout
  BSPARSE_SM90_SWEEP = 6,  // blocks of 8 and 16 of low density, sm_90, 16 bit and TF32: all of x passes by many columns
} bsparse_kernel;

// A product to be planned. What it does not say does not matter to the choice of a kernel.
typedef struct {
  bsparse_dtype dtype;
  int32_t block_size;
  int32_t feature_axis;
  int32_t in_blocks, out_blocks;  // of this product: swapped for a transposed one
  int32_t is_dw;
  bsparse_float32_math float32_math;
  int32_t gated;    // a gate will be given
  int32_t aligned;  // activations, a residual among them, lie at multiples of 16 bytes; of several pairs with
                    // features first also every batch is a multiple of 16 bytes
  int32_t num_pairs;  // of dw
  float density;    // stored blocks over all blocks
  float union_density;  // of blocks of 8 and 16: what union tiles multiply of a dense product, 16 inputs by 64
                        // outputs of columns that have much in common; 0 if unknown
  int64_t batch;  // of all pairs
} bsparse_tile_request;

// What the planner needs to know of a kernel's tiling to cut the work for it.
typedef struct {
  int32_t kernel;       // a bsparse_kernel
  int32_t batch_tile;   // batch entries of one CTA's output tile; of dw: of one step of its sum
  int32_t ctas_per_sm;  // output tiles under way on one SM; of dw: stored blocks under way
  int32_t columns;      // output block columns of an item; of dw: blocks of one column, or, of
                        // BSPARSE_SM90_DW_TILES, of a tile, at most
  int32_t cta_columns;  // of those, one CTA's: an item has columns / cta_columns CTAs
  int32_t shared_columns;  // of those, so many neighbours that a missing block of one costs as
                           // much as a stored one; of dw: ranges of the batch, at least
  // Neighbouring blocks that an entry, and a column, of the plan are made of: where there are several,
  // the plan counts these. Of BSPARSE_SM90_DW_TILES entry_blocks are what one product computes, of
  // BSPARSE_SM90_STREAM entries of a column that are taken at once.
  int32_t entry_blocks, column_blocks;
  int32_t packed;  // the plan says in which order weight blocks are packed
  int32_t block_cells;   // of BSPARSE_SM90_STREAM and BSPARSE_SM90_DW_TILES: cells along each side of
                         // a block, which the plan and what follows count as blocks
  int32_t chunk_blocks;  // of BSPARSE_SM90_DW_TILES and BSPARSE_SM90_SWEEP: blocks side by side that are
                         // loaded together
  int32_t chunks;        // of those, a CTA's of x and of dy, at most; of BSPARSE_SM90_SWEEP: KiB that a
                         // stage should have at most
} bsparse_tile;

// Why a product is or is not computed by way of the dense matrix.
typedef enum {
  BSPARSE_SPARSE_IS_FASTER = 0,  // by the model (cost_model.cu)
  BSPARSE_DENSE_IS_FASTER = 1,   // so it is; in what follows it would be, but
  BSPARSE_DENSE_NEEDS_NO_GATE = 2,
  BSPARSE_DENSE_NEEDS_CUBLAS = 3,
  BSPARSE_DENSE_NEEDS_OTHER_BATCH = 4,  // of 1 to 2^31 - 1
} bsparse_dense_reason;

// Whether the Hopper families suit a product, or the first thing that keeps them from it.
typedef enum {
  BSPARSE_HOPPER_SUITS = 0,
  BSPARSE_HOPPER_NEEDS_CAPABILITY_90 = 1,
  BSPARSE_HOPPER_NEEDS_16_BIT = 2,
  BSPARSE_HOPPER_NEEDS_LARGER_BLOCKS = 3,
  BSPARSE_HOPPER_NEEDS_ALIGNMENT = 4,
  BSPARSE_HOPPER_NEEDS_OTHER_BATCH = 5,  // not empty; with features first of 16 bytes or a multiple
  BSPARSE_HOPPER_NEEDS_LARGER_PRODUCT = 6,
} bsparse_hopper_reason;

// What get_tile would choose, and why: for people.
typedef struct {
  bsparse_tile tile;      // its ctas_per_sm is 0: only the device itself can tell
  int32_t dense_reason;   // a bsparse_dense_reason
  int32_t hopper_reason;  // a bsparse_hopper_reason
  double sparse_seconds;  // by the cost model, of Hopper GPUs
  double dense_seconds;
  char name[64];  // as kernel_name gives it
} bsparse_choice;

// Words of one CTA's record in an entry of BSPARSE_SM90: a power of two.
#ifdef __cplusplus
constexpr
#endif
static inline int32_t bsparse_record_words(int32_t cta_columns) {
  int32_t words = 2;
  while (words < cta_columns + 2) words *= 2;
  return words;
}

// The same where weights are packed. A CTA takes entries of BSPARSE_PACKED_STAGE_INPUTS features at once,
// from the first of an item on: a stage. Where none has more than BSPARSE_SMALL_STAGE_BYTES of weights
// there is room for one stage more.
enum {
  BSPARSE_UNION_OUTPUTS = 128,  // of a CTA of these families
  BSPARSE_PACKED_RECORD_WORDS = 4,
  BSPARSE_PACKED_STAGE_INPUTS = 64,
  BSPARSE_SMALL_STAGE_BYTES = 6144,
};

// Of BSPARSE_SM90_SWEEP: outputs of a CTA times its batch tile; the bytes that a box of x has for a batch entry; the
// boxes of a stage that a CTA copies, at most, and the bytes that a stage has for a record.
enum {
  BSPARSE_SWEEP_SUMS = 32768,
  BSPARSE_SWEEP_BOX_ROW_BYTES = 128,
  BSPARSE_SWEEP_BOXES = 8,
  BSPARSE_SWEEP_RECORD_BYTES = 1024,
  BSPARSE_SWEEP_HEADER_BYTES = 16,
  BSPARSE_SWEEP_STAGE_WORDS = 8,
  BSPARSE_SWEEP_WARPS = 16,
};

// Places of the order of so many packed blocks of BSPARSE_SM90_SWEEP: it is filled up to a multiple of 4.
#ifdef __cplusplus
constexpr
#endif
static inline int64_t bsparse_sweep_order(int32_t num_packed) {
  return ((int64_t)num_packed + 3) / 4 * 4;
}

// The work of y = x W, cut into items. Tables are int32 in device memory, row-major.
// An item is a group of output block columns, or a segment of a long one: y[column] (or a partial
// of it) = sum over entries [first, last) of x[in_block] w[weight_block of the column]. BSPARSE_DENSE
// has an item for each column, and splits none.
//
// BSPARSE_SM90 has items of several columns, dealt to one or more CTAs,
// `cta_columns` each. An entry is a round, in which every CTA of the item takes an input block: a
// record for each CTA, of bsparse_record_words(cta_columns) numbers: in_block or -1; the CTAs of the
// item that this one sends the block of x to, itself among them, as bits, or 0 where another sends
// it; weight_block or -1 of each of its columns; filling.
//
// Where weights are packed, an entry's unit of weights is entry_blocks by column_blocks neighbouring
// blocks, which are packed as column_blocks squares of column_blocks blocks if any of those is stored
// ("square": 16 or 32 features along each side). A record has BSPARSE_PACKED_RECORD_WORDS numbers:
// in_block or -1; receivers as above; of this CTA's squares in the order below the first of the entry; a
// mask of those there are, bits by input and then column. Behind all entries comes that order: by item, CTA,
// entry, bit; of each of the num_packed squares the weight_blocks, by input and then output, or -1.
//
// BSPARSE_SM90_STREAM has no items in this sense: its entries are num_items lists of equal length,
// (num_items, num_entries / num_items, 4): output column or -1 (filling, behind the rest), in_block
// or -1 (a column without blocks, or filling), weight_block, partial. Those of a column are neighbours,
// filled up to a multiple of the tile's entry_blocks, and all on one list (partial -1), or shares of it
// on several: each a partial, but for that on the last of these lists (partial -2 - s, s the number of the
// split), to which the partials are added. So a CTA waits only for CTAs that were started before it. A
// list has at most one such share, at its end. Blocks of 64 and 128 are cells of 32 here, numbered along the
// rows of one stored block after the other.
//
// BSPARSE_SM90_SWEEP has items of one or two CTAs, `cta_columns` output columns each, those of a warp side by
// side in `groups`: 512 or 1024 outputs, by 64 batch entries, or 2048, by 32. Its entries are stages: boxes
// of x, of as many features as take BSPARSE_SWEEP_BOX_ROW_BYTES, which all CTAs of the item take, and of each
// CTA blocks that it has there. (num_entries, CTAs, BSPARSE_SWEEP_STAGE_WORDS): where this CTA's record
// begins, in pieces of 16 bytes; the pieces it has, and in the upper half the number of boxes; of its blocks
// in the order below the first, and their number; the numbers of the boxes that it copies for all, two in a
// word: CTA r of n every n-th from the r-th on. Behind all stages comes that order: num_packed weight blocks,
// and -1 up to a multiple of 4. Behind it the records: of each warp a header, of four words: the blocks of
// each of its up to 8 columns, a byte each; the first of its blocks (16 bits), and the boxes (16 bits); 0;
// then of each block where its input lies in the boxes, in blocks, a byte each. A warp's blocks come by
// column. The group of an item is its number, and it has at least one stage.
typedef struct {
  int32_t kernel;          // the bsparse_tile this plan was cut for
  int32_t columns;         // of a group
  int32_t num_items;
  int32_t num_splits;      // groups cut into more than one item
  int32_t num_partials;    // items of those groups; each writes one float32 partial
  int32_t num_entries;
  int32_t num_blocks;      // stored blocks
  int32_t num_packed;      // squares of packed weights, or blocks of BSPARSE_SM90_SWEEP
  int32_t fullest_stage;   // of squares, the most that a CTA has in a stage; of BSPARSE_SM90_SWEEP its KiB
  const int32_t* items;    // (num_items, 4): group, first entry, end of entries, partial or -1;
                           // heaviest first; a group without entries is an item with none
  const int32_t* entries;  // (num_entries, 2): in_block, weight_block; by group, then in_block;
                           // of BSPARSE_SM90 (num_entries, CTAs, words)
  const int32_t* splits;   // (num_splits, 3): group, first partial, number of partials
  const int32_t* groups;   // (groups, columns): output block column or -1; where columns is 1 a
                           // group is its column, and only the sm90 families read this
} bsparse_matmul_plan;

// What the kernels right before a product on its stream have left alone. 0 is always right.
typedef enum {
  BSPARSE_SETTLED_PLAN = 1,     // its tables came by cudaMemcpyAsync, or a product came since
  BSPARSE_SETTLED_WEIGHTS = 2,  // w: since a product of this library, nothing wrote it
} bsparse_settled;

// y = activation(x W + bias) + residual, W the block-sparse matrix that `plan` describes. For the
// transposed product the caller passes the plan of the transposed layout, `in_blocks` and
// `out_blocks` swapped, and transpose = 1: each stored block is then used as w[b]^T.
typedef struct {
  bsparse_dtype dtype;  // of x, w, y, bias and residual
  bsparse_activation activation;
  int32_t block_size;    // 8, 16, 32, 64 or 128
  int32_t feature_axis;  // 0: x (features, batch); 1: x (batch, features)
  int32_t transpose;
  int32_t in_blocks, out_blocks;  // of this product, so y has out_blocks * block_size features
  bsparse_float32_math float32_math;
  int64_t batch;
  int32_t settled;  // bsparse_settled bits: what may be read while the kernel before still runs
  int32_t max_ctas; // that a kernel whose CTAs take work in turn may run at once; 0: as many as fit
  const void* x;
  const void* w;         // (blocks, block_size, block_size), already scaled by the gate
  const float* gate;     // (blocks) or null: blocks whose gate is 0 are skipped
  const void* bias;      // (out_blocks * block_size) or null
  const void* residual;  // like y, or null; added after the activation; may be y itself
  void* y;
  bsparse_matmul_plan plan;
  void* workspace;  // device memory of at least matmul_workspace() bytes, 256-byte aligned
  size_t workspace_bytes;
} bsparse_matmul_args;

// Warps of a CTA of BSPARSE_SM90_DW_TILES among which its blocks are dealt.
#define BSPARSE_DW_TILE_WARPS 8

// The work of dw: one entry a stored block, in an order that is kind to the cache (neighbours
// share their in_block or out_block); the batch cut into `batch_splits` equal ranges, whose float32
// partial sums are added in order.
//
// BSPARSE_SM90_DW_TILES has items of one or more CTAs, which share their input chunks. `items` is
// (num_items, ctas, 2 + chunks): for each CTA the number of its input chunks, the same for all of an
// item, and of its output chunks; then the numbers of these chunks (a chunk: as many features of the
// layout as 128 bytes hold, from a multiple of that on), input chunks first; filling. `blocks` is (num_items, ctas,
// warps, blocks of a warp, 3): where the block's input and output lie in the CTA's chunks, in blocks from the
// first of them on, and its weight_block. Filling, behind a warp's blocks, is -1. Two blocks of 8 at
// even and odd places have the same output; where there is no second its weight_block is -1, and its
// place the first one's. Neighbours should share outputs if they are blocks of 8, else inputs. Of these
// items the first `whole_items` take the whole batch, the others its ranges. Blocks of 64 and 128 are
// cells of 32 here, numbered along the rows of one stored block after the other.
typedef struct {
  int32_t kernel;  // the bsparse_tile this plan was cut for
  int32_t num_blocks;
  int32_t batch_splits;
  int32_t num_items;
  int32_t ctas;         // of an item: of BSPARSE_SM90_DW_TILES
  int32_t chunks;       // the most of a CTA; of BSPARSE_SM90 the most blocks of an item
  int32_t whole_items;  // not cut along the batch: of BSPARSE_SM90_DW_TILES
  const int32_t* blocks;  // (num_blocks, 3): in_block, out_block, weight_block; of
                          // BSPARSE_DENSE by rising out_block
  const int32_t* items;   // (num_items, 4): out_block, first and end of its blocks, 0; where
                          // `columns` of the bsparse_tile is 1 there are none
} bsparse_matmul_dw_plan;

// Activations and the gradients that come back for them: of one use of the weights.
typedef struct {
  const void* x;   // (batch, in) or (in, batch)
  const void* dy;  // (batch, out) or (out, batch)
  int64_t batch;
} bsparse_dw_pair;

// dw[b] = gate[b] * (sum over pairs of x[in_block]^T dy[out_block]) + addend[b] for every stored block
// b. One launch takes 8 pairs; of more, partial sums are added as those of batch splits are.
typedef struct {
  bsparse_dtype dtype;      // of x and dy
  bsparse_dtype out_dtype;  // of dw: `dtype`, or float32
  int32_t block_size;
  int32_t feature_axis;
  int32_t in_blocks, out_blocks;
  bsparse_float32_math float32_math;
  int32_t max_ctas;   // as of bsparse_matmul_args
  int32_t num_pairs;
  const bsparse_dw_pair* pairs;  // in host memory, read before the call returns
  const float* gate;   // (blocks) or null; blocks whose gate is 0 are not computed
  const void* addend;  // like dw, or null; may be dw
  void* dw;            // (blocks, block_size, block_size)
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

// Layer norm over each of `segments` equal slices of the features: with
// z = (x - mean) * rstd * gain + bias, rstd = 1 / sqrt(variance + epsilon), y is z, z * multiplier
// or z + addend, then relu if asked for. An operand_stride above 1 means that only every such
// feature, from the first on, has a multiplier or an addend.
typedef struct {
  bsparse_dtype dtype;        // of x and y
  bsparse_dtype param_dtype;  // of gain and bias: `dtype`, or float32
  int32_t feature_axis;       // 0: x (features, batch); 1: x (batch, features)
  int32_t relu;
  int64_t batch;
  int64_t features;
  int64_t segments;        // a divisor of `features`
  int64_t operand_stride;  // a divisor of `features`; 0 is 1
  float epsilon;
  const void* x;
  const void* gain;  // (features)
  const void* bias;  // (features)
  const void* multiplier;  // (batch, features / operand_stride), or null; features last, 1 segment
  const void* addend;      // likewise; not both
  void* y;      // or null: only the statistics are asked for; features last only
  float* mean;  // (segments, batch) or (batch, segments)
  float* rstd;
  void* workspace;  // device memory of at least layer_norm_workspace() bytes, 256-byte aligned
  size_t workspace_bytes;
} bsparse_layer_norm_args;

// What becomes of the sums over the batch, dgain and dbias.
typedef enum {
  BSPARSE_SUMS_IN_PARAM_DTYPE = 0,
  BSPARSE_SUMS_IN_FLOAT32 = 1,
  BSPARSE_SUMS_ADDED = 2,  // to the float32 numbers that are there
} bsparse_sums;

typedef struct {
  bsparse_dtype dtype;
  bsparse_dtype param_dtype;
  int32_t feature_axis;
  int32_t relu;
  int32_t sums;   // a bsparse_sums
  int64_t batch;  // 0 gives zeros for dgain and dbias, or adds none
  int64_t features;
  int64_t segments;
  int64_t operand_stride;
  const void* dy;
  const void* x;
  const void* gain;
  const void* bias;
  const float* mean;  // as layer_norm wrote them
  const float* rstd;
  const void* multiplier;  // as layer_norm got them
  const void* addend;
  void* dx;
  void* dz;        // like x: with a multiplier or an addend, else null
  void* doperand;  // of the multiplier or the addend, shaped like it
  void* dgain;     // (features) in param_dtype or float32
  void* dbias;
  void* workspace;
  size_t workspace_bytes;
} bsparse_layer_norm_grad_args;

// The pointwise part of an LSTM cell, with (i, f, g, o) = gates + bias, or, where a layer norm of
// four segments goes before it, (gates - mean) * rstd * gain + bias:
// c_next = sigmoid(f + forget_bias) * c + sigmoid(i) * tanh(g), h = sigmoid(o) * tanh(c_next).
typedef struct {
  bsparse_dtype dtype;       // of gates and h
  bsparse_dtype cell_dtype;  // of c: `dtype`, or float32
  bsparse_dtype bias_dtype;  // likewise
  int32_t feature_axis;      // 0: (features, batch); 1: (batch, features)
  float forget_bias;
  int64_t batch;
  int64_t units;
  const void* c;      // units features
  const void* gates;  // 4 * units features: i, f, g, o
  const void* bias;   // (4 * units) or null
  const void* gain;   // (4 * units) in bias_dtype, or null; features last only, and with a bias
  const float* mean;  // (batch, 4), with a gain
  const float* rstd;
  void* c_next;       // of lstm_gates
  void* h;
  const void* dc_next;   // of lstm_gates_grad
  const void* dh;
  const void* dh_more;   // like dh, or null; the gradient of h is the sum of both
  void* dc;              // may be dc_next
  void* dgates;          // of the numbers before the bias is added: of what the norm gives
} bsparse_lstm_gates_args;

// The gradient of y = activation(z), z = ... + bias: dz = dy * activation'(z), and dbias, the sum
// over the batch of dz as it is stored.
typedef struct {
  bsparse_dtype dtype;       // of dy, values and dz
  bsparse_dtype bias_dtype;  // of dbias: `dtype`, or float32
  bsparse_activation activation;
  int32_t feature_axis;  // 0: (features, batch); 1: (batch, features)
  int64_t batch;         // 0 gives zeros for dbias
  int64_t features;
  const void* dy;
  const void* values;  // like dy: y of relu, z of gelu; without an activation null
  void* dz;            // may be dy or values; without an activation null: it would be dy
  void* dbias;         // (features) or null
  void* workspace;  // device memory of at least activation_grad_workspace() bytes, 256-byte aligned
  size_t workspace_bytes;
} bsparse_activation_grad_args;

typedef struct {
  int32_t version;  // BSPARSE_CUDA_API_VERSION of the library
  // The device that is current on the calling thread.
  bsparse_status (*get_device)(bsparse_device* device);
  // The tile of the kernel that this device should run for a product.
  bsparse_status (*get_tile)(const bsparse_tile_request* request, const bsparse_device* device,
                             bsparse_tile* tile);
  size_t (*matmul_workspace)(const bsparse_matmul_args* args);
  bsparse_status (*matmul)(const bsparse_matmul_args* args, void* stream);
  size_t (*matmul_dw_workspace)(const bsparse_matmul_dw_args* args);
  bsparse_status (*matmul_dw)(const bsparse_matmul_dw_args* args, void* stream);
  bsparse_status (*prepare_weights)(const bsparse_prepare_weights_args* args, void* stream);
  // Enqueues a copy of host memory that may be freed as soon as the call returns.
  bsparse_status (*copy_to_device)(void* dst, const void* src, size_t bytes, void* stream);
  // One sentence on the last failure of the calling thread: what came, what was expected.
  const char* (*last_error)(void);
  // Name of the kernel that would run, for people: "sm80_matmul<bf16,32,256>".
  const char* (*kernel_name)(const bsparse_matmul_args* args);
  size_t (*layer_norm_workspace)(const bsparse_layer_norm_args* args);
  bsparse_status (*layer_norm)(const bsparse_layer_norm_args* args, void* stream);
  size_t (*layer_norm_grad_workspace)(const bsparse_layer_norm_grad_args* args);
  bsparse_status (*layer_norm_grad)(const bsparse_layer_norm_grad_args* args, void* stream);
  bsparse_status (*lstm_gates)(const bsparse_lstm_gates_args* args, void* stream);
  bsparse_status (*lstm_gates_grad)(const bsparse_lstm_gates_args* args, void* stream);
  // The choice of get_tile for a device, which need not be here. With `assume_cublas` it is taken
  // to have cuBLAS, else this process is asked.
  bsparse_status (*explain)(const bsparse_tile_request* request, const bsparse_device* device,
                            int32_t assume_cublas, bsparse_choice* choice);
  size_t (*activation_grad_workspace)(const bsparse_activation_grad_args* args);
  bsparse_status (*activation_grad)(const bsparse_activation_grad_args* args, void* stream);
} bsparse_cuda_api;

// The table of this library, or null if it was built from another version of this header.
__attribute__((visibility("default"))) const bsparse_cuda_api* bsparse_cuda_get_api(
    int32_t version);

#ifdef __cplusplus
}
#endif

#endif  // BSPARSE_CUDA_BSPARSE_CUDA_H_
