// Layer norm on the CPU. No TensorFlow here.
#ifndef BSPARSE_CC_CPU_LAYER_NORM_H_
#define BSPARSE_CC_CPU_LAYER_NORM_H_

#include <cstdint>

#include "cc/cpu/parallel_for.h"
#include "cc/plan/types.h"

namespace bsparse {

// What forward and backward have in common. Statistics are float32, of float64 tensors float64:
// (batch, segments) with features last, (segments, batch) with features first.
struct CpuLayerNormShape {
  DType dtype;        // of x and y
  DType param_dtype;  // of gain and bias: `dtype`, or float32 with 16-bit `dtype`
  int feature_axis = 1;
  bool relu = false;
  int64_t batch = 0;
  int64_t features = 0;
  int64_t segments = 1;  // a divisor of `features`
};

struct CpuLayerNormArgs {
  CpuLayerNormShape shape;
  double epsilon = 0;
  const void* x = nullptr;     // (batch, features) or (features, batch)
  const void* gain = nullptr;  // (features)
  const void* bias = nullptr;  // (features)
  void* y = nullptr;
  void* mean = nullptr;
  void* rstd = nullptr;
};

void CpuLayerNorm(const CpuLayerNormArgs& args, const ParallelFor& parallel_for);

struct CpuLayerNormGradArgs {
  CpuLayerNormShape shape;
  const void* dy = nullptr;
  const void* x = nullptr;
  const void* gain = nullptr;
  const void* bias = nullptr;
  const void* mean = nullptr;
  const void* rstd = nullptr;
  void* dx = nullptr;
  void* dgain = nullptr;  // (features), as gain
  void* dbias = nullptr;
};

void CpuLayerNormGrad(const CpuLayerNormGradArgs& args, const ParallelFor& parallel_for);

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_LAYER_NORM_H_
