// What the drivers (matmul.cc, matmul_dw.cc) ask of the vector code, and the vector code's answer
// for one instruction set: a table of functions.
#ifndef BSPARSE_CC_CPU_KERNELS_H_
#define BSPARSE_CC_CPU_KERNELS_H_

#include <cstdint>

#include "cc/cpu/dtype.h"
#include "cc/plan/types.h"

namespace bsparse {

// Two bfloat16 numbers that follow each other along the depth of a product, the earlier one in the
// low half. VDPBF16PS multiplies and adds such pairs.
struct BFloat16Pair {
  uint32_t bits;
};

// C (rows, columns) = the sum over parts of A_part (rows, depth) B_part (depth, columns).
//
// A is read one number at a time and broadcast, B by vectors. Whatever a product's axis, transpose
// and direction are, it comes down to this.
template <typename T>
struct Product {
  struct Part {
    int64_t a, b;  // where its operands begin, in elements from `a` and `b`
  };

  const Part* parts;
  int64_t num_parts;
  int64_t depth;
  const T* a;  // a[i * a_row_stride + d * a_depth_stride]; one of the two strides is 1
  int64_t a_row_stride, a_depth_stride;
  const T* b;  // b[d * b_stride + j]
  int64_t b_stride;
  Accumulator<T>* c;  // c[i * c_stride + j]; overwritten
  int64_t c_stride;
  int64_t rows;     // any number
  int64_t columns;  // a multiple of 8
};

// Copies a matrix of T to the type it is multiplied in: out[i * out_stride + j] = in[i *
// in_stride + j], or with the transposing functions out[j * out_stride + i].
template <typename T, typename Out>
struct Copy {
  const T* in;
  int64_t in_stride;
  Out* out;
  int64_t out_stride;
  int64_t rows, columns;  // of `in`
};

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_KERNELS_H_
