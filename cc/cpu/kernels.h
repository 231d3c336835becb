// What the drivers (matmul.cc, matmul_dw.cc) ask of the vector code: the inner product and the
// copies around it, as a table of functions for the best instruction set of this machine.
#ifndef BSPARSE_CC_CPU_KERNELS_H_
#define BSPARSE_CC_CPU_KERNELS_H_

#include <cstdint>
#include <vector>

#include "cc/cpu/activation_grad_kernels.h"
#include "cc/cpu/dtype.h"
#include "cc/cpu/recurrent_kernels.h"
#include "cc/plan/types.h"

namespace bsparse {

// Longer sums are added up piecewise: a single chain of n additions has an error that grows with n.
// Dense libraries take pieces of about this length too. Counted in Elem, so that a chain of pairs
// has twice as many; sparse products take shorter ones.
constexpr int64_t kDepthOfChain = 256;

// T is a stored type (float, double, Float16, BFloat16); Elem is the type that it is multiplied
// in: float, double, or BFloat16Pair where the machine has a dot product of pairs.

// C (rows, columns) = the sum over parts of A_part (rows, depth) B_part (depth, columns).
//
// A is read one number at a time and broadcast, B by vectors. Whatever axis, transpose and
// direction an op has, it comes down to this.
template <typename Elem>
struct Product {
  struct Part {
    int64_t a, b;       // where its operands begin, in elements after `a` and `b`
    const char* ahead;  // `ahead_bytes` from here on are prefetched meanwhile
  };

  const Part* parts = nullptr;
  int64_t num_parts = 0;
  int64_t depth = 0;  // of each part; of several together, at most kDepthOfChain
  int64_t ahead_bytes = 0;
  // Prefetches the B of the next part, too; parts[num_parts] then is the first of the next product.
  bool prefetches_b = false;
  const Elem* a = nullptr;  // a[i * a_row_stride + d * a_depth_stride]; one stride is 1
  int64_t a_row_stride = 1;
  int64_t a_depth_stride = 1;
  const Elem* b = nullptr;  // b[d * b_stride + j]
  int64_t b_stride = 0;
  Accumulator<Elem>* c = nullptr;  // c[i * c_stride + j]
  int64_t c_stride = 0;
  bool prefetches_c = false;
  int64_t rows = 0;         // any number; a multiple of 8 if `wide`
  int64_t columns = 0;      // a multiple of 8
  bool wide = false;        // A is a weight block, or as small; else rows of activations
  bool accumulate = false;  // adds to C instead of overwriting it
};

// C (8, 8) = A^T B for the weight gradient of a block of 8, whose rows are half a vector of
// AVX-512: two steps of depth share a vector. A and B are of twos, those of steps 2 d and 2 d + 1;
// `depth` and strides are in numbers of them.
template <typename Elem>
struct ProductOfEights {
  const Elem* a = nullptr;  // a[2 * (i * a_row_stride + d * a_depth_stride)]; one stride is 1
  int64_t a_row_stride = 1;
  int64_t a_depth_stride = 8;
  const Elem* b = nullptr;       // (depth, 8)
  const Elem* next_a = nullptr;  // 16 of `depth` from here on are prefetched meanwhile
  int64_t depth = 0;
  Accumulator<Elem>* c = nullptr;
  bool accumulate = false;
};

// Copies activations to the type and order they are multiplied in: blocks of (rows, columns), or
// for pairs (rows / 2, columns): each of them pairs two numbers of one column, an odd last one
// with 0.
template <typename T, typename Elem>
struct Pack {
  const T* in = nullptr;  // in[i * in_stride + j], or transposed: in[j * in_stride + i]
  int64_t in_stride = 0;
  bool transposed = false;
  bool pairs_adjacent = false;  // pairs are of adjacent columns, as they lie in memory
  // As ProductOfEights reads them: (rows / 2, 8) of two Elem each; columns and out_stride are 8.
  bool in_eights = false;
  Elem* out = nullptr;
  int64_t out_stride = 0;
  int64_t rows = 0;
  int64_t columns = 0;  // of a block
  int64_t blocks = 1;   // side by side in the input
  int64_t out_block_stride = 0;
};

// Rewrites one weight block as (depth, outputs), or (depth / 2, outputs) pairs: rounded to T,
// times the gate in float32, rounded to T again, then widened to Elem.
struct WeightBlock {
  const void* w = nullptr;  // (bs, bs), inputs along rows, or outputs if `transposed`
  int block_size = 0;
  bool float32_weights = false;  // of w, where T is a 16-bit type
  bool transposed = false;
  float gate = 1.0f;
};

// y = activation(sums + bias) + residual, rounded to T.
template <typename T>
struct Finish {
  Accumulator<T>* sums = nullptr;  // (rows, columns); clobbered
  int64_t rows = 0;
  int64_t columns = 0;
  const T* row_bias = nullptr;     // (rows) or null
  const T* column_bias = nullptr;  // (columns) or null
  Activation activation = Activation::kNone;
  const T* residual = nullptr;          // like y, or null; may be y
  Accumulator<T>* workspace = nullptr;  // (rows, columns), needed only if `transposed`
  T* y = nullptr;                       // y[i * y_stride + j], transposed: y[j * y_stride + i]
  int64_t y_stride = 0;
  bool transposed = false;
};

template <typename T, typename Elem>
struct Kernels {
  void (*multiply)(const Product<Elem>& product);
  // Null where vectors hold but 8 sums.
  void (*multiply_eights)(const ProductOfEights<Elem>& product) = nullptr;
  void (*pack)(const Pack<T, Elem>& pack);
  void (*prepare_weights)(const WeightBlock& block, Elem* out);
  void (*finish)(const Finish<T>& finish);
  // out[i] = sums[i] * scale + addend[i], rounded; for weight gradients. The addend may be null, or
  // `out`. The second is for float32 gradients.
  void (*scale)(const Accumulator<T>* sums, int64_t size, float scale, const T* addend, T* out);
  void (*scale_to_float)(const Accumulator<T>* sums, int64_t size, float scale,
                         const float* addend, float* out);
};

struct AllKernels {
  const char* target;
  Kernels<float, float> float32;
  Kernels<double, double> float64;
  Kernels<Float16, float> float16;
  Kernels<BFloat16, float> bfloat16;
  Kernels<BFloat16, BFloat16Pair> bfloat16_pairs;  // `multiply` is null without the instruction
  RecurrentKernels recurrent;
  ActivationGradKernels activation_grad;
};

// For each instruction set that this machine and this build have in common, the best first.
const std::vector<AllKernels>& SupportedKernels();

// The first of them, unless a test has chosen another.
const AllKernels& CurrentKernels();
void UseKernelsForTesting(const AllKernels& kernels);

// With VDPBF16PS; null where the compiler or the machine lacks it.
struct PairProducts {
  void (*multiply)(const Product<BFloat16Pair>& product);
  void (*multiply_eights)(const ProductOfEights<BFloat16Pair>& product);
};
PairProducts FindPairProducts();

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_KERNELS_H_
