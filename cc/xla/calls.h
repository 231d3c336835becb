// What an XLA custom call of ours carries: its target, its attributes, its operands.
//
// cc/xla/product_xla.cc writes calls while XLA compiles; cc/xla/{cpu,gpu}_handlers.cc read them
// when XLA instantiates or runs the executable. Neither side needs the other's headers.
//
//   call       platform  operands                           results
//   matmul     Host      x, w, [gate], [bias], [residual]   y
//   matmul     CUDA      the same, tables                   y, [scratch]
//   matmul_dw  Host      x..., dy..., [gate], [addend]      dw
//   matmul_dw  CUDA      the same, tables                   dw, [scratch]
//   small_world, small_world_grad
//              Host      the op's inputs but for coords     the op's outputs
//   small_world, small_world_grad
//              CUDA      the same, tables                   the op's outputs, scratch
//
// On the CPU the layout travels as an attribute: XLA hands it to the handler once per executable
// (FFI's instantiate stage), which looks its plans up and keeps them, so a call neither hashes nor
// sorts, and an executable that comes back from a disk cache still finds them.
//
// On a GPU the plan's tables are a constant operand, which XLA keeps in device memory, and scratch
// memory is a result that nobody reads. Both are then XLA's own buffers: a call copies nothing and
// allocates nothing, and may be captured into a command buffer (a CUDA graph), whose replays need
// every address to stay valid. Memory from FFI's scratch allocator would be freed after capture.
#ifndef BSPARSE_CC_XLA_CALLS_H_
#define BSPARSE_CC_XLA_CALLS_H_

#include <cstdint>

#include "cc/plan/types.h"
#include "cuda/bsparse_cuda.h"

namespace bsparse::xla_calls {

inline constexpr char kMatmulTarget[] = "bsparse_matmul";
inline constexpr char kMatmulDwTarget[] = "bsparse_matmul_dw";
inline constexpr char kSmallWorldTarget[] = "bsparse_small_world";
inline constexpr char kSmallWorldGradTarget[] = "bsparse_small_world_grad";
inline constexpr char kCoords[] = "coords";  // attribute of calls on the CPU: int32 (blocks * 2)

// Visit() names every attribute of a call once, for the writer and the reader alike.
struct Matmul {
  DType dtype = DType::kFloat32;
  DType weight_dtype = DType::kFloat32;
  Activation activation = Activation::kNone;
  int32_t block_size = 0;
  int32_t feature_axis = 1;
  int32_t in_blocks = 0;   // of the layout, also when `transpose`
  int32_t out_blocks = 0;
  bool transpose = false;
  bool has_gate = false;
  bool has_bias = false;
  bool has_residual = false;
  int64_t batch = 0;

  template <typename Self, typename Visitor>
  static void Visit(Self& self, Visitor& visitor) {
    visitor("dtype", self.dtype);
    visitor("weight_dtype", self.weight_dtype);
    visitor("activation", self.activation);
    visitor("block_size", self.block_size);
    visitor("feature_axis", self.feature_axis);
    visitor("in_blocks", self.in_blocks);
    visitor("out_blocks", self.out_blocks);
    visitor("transpose", self.transpose);
    visitor("has_gate", self.has_gate);
    visitor("has_bias", self.has_bias);
    visitor("has_residual", self.has_residual);
    visitor("batch", self.batch);
  }
};

// The numbers of a bsparse_matmul_plan; its tables are the operand, at these offsets (in int32).
struct MatmulGpu {
  bsparse_float32_math float32_math = BSPARSE_FLOAT32_EXACT;
  int32_t kernel = 0;
  int32_t columns = 1;
  int32_t num_blocks = 0;
  int32_t num_items = 0;
  int32_t num_splits = 0;
  int32_t num_partials = 0;
  int32_t num_entries = 0;
  int32_t num_packed = 0;
  int32_t fullest_stage = 0;
  int64_t entries_offset = 0;
  int64_t splits_offset = 0;
  int64_t groups_offset = 0;

  template <typename Self, typename Visitor>
  static void Visit(Self& self, Visitor& visitor) {
    visitor("float32_math", self.float32_math);
    visitor("kernel", self.kernel);
    visitor("columns", self.columns);
    visitor("num_blocks", self.num_blocks);
    visitor("num_items", self.num_items);
    visitor("num_splits", self.num_splits);
    visitor("num_partials", self.num_partials);
    visitor("num_entries", self.num_entries);
    visitor("num_packed", self.num_packed);
    visitor("fullest_stage", self.fullest_stage);
    visitor("entries_offset", self.entries_offset);
    visitor("splits_offset", self.splits_offset);
    visitor("groups_offset", self.groups_offset);
  }
};

struct MatmulDw {
  DType dtype = DType::kFloat32;
  DType out_dtype = DType::kFloat32;
  int32_t block_size = 0;
  int32_t feature_axis = 1;
  int32_t in_blocks = 0;
  int32_t out_blocks = 0;
  int32_t num_pairs = 1;
  bool has_gate = false;
  bool has_addend = false;

  template <typename Self, typename Visitor>
  static void Visit(Self& self, Visitor& visitor) {
    visitor("dtype", self.dtype);
    visitor("out_dtype", self.out_dtype);
    visitor("block_size", self.block_size);
    visitor("feature_axis", self.feature_axis);
    visitor("in_blocks", self.in_blocks);
    visitor("out_blocks", self.out_blocks);
    visitor("num_pairs", self.num_pairs);
    visitor("has_gate", self.has_gate);
    visitor("has_addend", self.has_addend);
  }
};

struct MatmulDwGpu {
  bsparse_float32_math float32_math = BSPARSE_FLOAT32_EXACT;
  int32_t kernel = 0;
  int32_t num_blocks = 0;
  int32_t num_items = 0;
  int32_t batch_splits = 1;
  int32_t ctas = 1;
  int32_t chunks = 0;
  int32_t whole_items = 0;
  int64_t blocks_offset = 0;

  template <typename Self, typename Visitor>
  static void Visit(Self& self, Visitor& visitor) {
    visitor("float32_math", self.float32_math);
    visitor("kernel", self.kernel);
    visitor("num_blocks", self.num_blocks);
    visitor("num_items", self.num_items);
    visitor("batch_splits", self.batch_splits);
    visitor("ctas", self.ctas);
    visitor("chunks", self.chunks);
    visitor("whole_items", self.whole_items);
    visitor("blocks_offset", self.blocks_offset);
  }
};

// Bsparse>SmallWorldLstm and its gradient.
struct SmallWorld {
  DType dtype = DType::kFloat32;
  DType cell_dtype = DType::kFloat32;
  DType param_dtype = DType::kFloat32;
  int32_t block_size = 0;
  int32_t products = 0;
  int32_t kept = 0;
  int32_t stride = 1;
  int64_t steps = 0;
  int64_t batch = 0;
  int64_t units = 0;
  float epsilon = 0;

  template <typename Self, typename Visitor>
  static void Visit(Self& self, Visitor& visitor) {
    visitor("dtype", self.dtype);
    visitor("cell_dtype", self.cell_dtype);
    visitor("param_dtype", self.param_dtype);
    visitor("block_size", self.block_size);
    visitor("products", self.products);
    visitor("kept", self.kept);
    visitor("stride", self.stride);
    visitor("steps", self.steps);
    visitor("batch", self.batch);
    visitor("units", self.units);
    visitor("epsilon", self.epsilon);
  }
};

inline constexpr char kSmallWorldForward[] = "forward";        // attributes on a GPU: the plans of
inline constexpr char kSmallWorldTransposed[] = "transposed";  // products (small_world_plan.h)
inline constexpr char kSmallWorldFloat32Math[] = "float32_math";
inline constexpr char kSmallWorldBlocks[] = "blocks";  // on the CPU: stored blocks of each product

}  // namespace bsparse::xla_calls

#endif  // BSPARSE_CC_XLA_CALLS_H_
