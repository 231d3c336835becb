// The pointwise part of an LSTM cell on the CPU. No TensorFlow here.
#ifndef BSPARSE_CC_CPU_LSTM_GATES_H_
#define BSPARSE_CC_CPU_LSTM_GATES_H_

#include <cstdint>

#include "cc/cpu/parallel_for.h"
#include "cc/plan/types.h"

namespace bsparse {

//   c_next = sigmoid(f + forget_bias) c + sigmoid(i) tanh(g)      h = sigmoid(o) tanh(c_next)
//
// with i, f, g, o = gates + bias, in this order.
struct CpuLstmGatesArgs {
  DType dtype;       // of gates and h
  DType cell_dtype;  // of c: `dtype`, or float32 with 16-bit `dtype`
  DType bias_dtype;  // likewise
  int feature_axis = 1;
  float forget_bias = 0;
  int64_t batch = 0;
  int64_t units = 0;
  const void* c = nullptr;      // (batch, units) or (units, batch)
  const void* gates = nullptr;  // (batch, 4 * units) or (4 * units, batch)
  const void* bias = nullptr;   // (4 * units) or null
  // Forward.
  void* c_next = nullptr;
  void* h = nullptr;
  // Backward.
  const void* dc_next = nullptr;
  const void* dh = nullptr;
  void* dc = nullptr;
  void* dgates = nullptr;
};

void CpuLstmGates(const CpuLstmGatesArgs& args, const ParallelFor& parallel_for);
void CpuLstmGatesGrad(const CpuLstmGatesArgs& args, const ParallelFor& parallel_for);

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_LSTM_GATES_H_
