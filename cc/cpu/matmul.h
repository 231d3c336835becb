// Block-sparse products on the CPU: y = x W, dx = dy W^T, dw = x^T dy. No TensorFlow here.
//
// Every output element is computed by one thread in one fixed order, so the result does not
// depend on the number of threads.
#ifndef BSPARSE_CC_CPU_MATMUL_H_
#define BSPARSE_CC_CPU_MATMUL_H_

#include <cstdint>
#include <vector>

#include "cc/cpu/parallel_for.h"
#include "cc/plan/block_index.h"
#include "cc/plan/types.h"

namespace bsparse {

struct CpuMatmulArgs {
  DType dtype;         // of x, y, bias and residual: float32, float16, bfloat16 or float64
  DType weight_dtype;  // of w: `dtype`, or float32 with 16-bit `dtype` (then rounded to `dtype`)
  Activation activation = Activation::kNone;
  int block_size = 0;
  int feature_axis = 1;
  bool transpose = false;  // use each stored block as w[b]^T; `index` is then by input column
  int64_t batch = 0;
  const BlockIndex* index = nullptr;  // of this product: outputs are index->out_blocks()
  const void* x = nullptr;            // (batch, in) or (in, batch)
  const void* w = nullptr;            // (blocks, bs, bs)
  const float* gate = nullptr;        // (blocks) or null; scales a block, 0 skips it
  const void* bias = nullptr;         // (out) or null
  const void* residual = nullptr;     // like y, or null; added after the activation; may be y
  void* y = nullptr;                  // (batch, out) or (out, batch); wholly written
};

void CpuMatmul(const CpuMatmulArgs& args, const ParallelFor& parallel_for);

// Activations and the gradients that come back for them: of one use of the weights.
struct CpuDwPair {
  const void* x;   // (batch, in) or (in, batch)
  const void* dy;  // (batch, out) or (out, batch)
  int64_t batch;
};

// dw[b] = gate[b] * (sum over pairs of x^T dy) + addend[b].
struct CpuMatmulDwArgs {
  DType dtype;      // of x and dy
  DType out_dtype;  // of dw: `dtype`, or float32
  int block_size = 0;
  int feature_axis = 1;
  const BlockIndex* index = nullptr;  // of the forward product
  std::vector<CpuDwPair> pairs;
  const float* gate = nullptr;    // (blocks) or null; scales a block, 0 leaves zeros
  const void* addend = nullptr;   // like dw, or null; may be dw
  void* dw = nullptr;             // (blocks, bs, bs); wholly written
};

void CpuMatmulDw(const CpuMatmulDwArgs& args, const ParallelFor& parallel_for);

// The instruction set that the kernels run with on this machine, by Highway's names: "AVX3" (that
// is, AVX-512), "AVX3_BF16" (with bfloat16 products), "AVX2", "NEON"…
const char* CpuTargetName();

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_MATMUL_H_
