// The gradient of an activation and of the bias before it, on the CPU. No TensorFlow here.
#ifndef BSPARSE_CC_CPU_ACTIVATION_GRAD_H_
#define BSPARSE_CC_CPU_ACTIVATION_GRAD_H_

#include <cstdint>

#include "cc/cpu/parallel_for.h"
#include "cc/plan/types.h"

namespace bsparse {

// With y = activation(z), z = ... + bias:
//
//   dz = dy * activation'(z)      dbias = the sum of dz over the batch, of the values as stored
struct CpuActivationGradArgs {
  DType dtype;       // of dy, values and dz
  DType bias_dtype;  // of dbias: `dtype`, or float32 with 16-bit `dtype`
  Activation activation = Activation::kNone;
  int feature_axis = 1;
  int64_t batch = 0;
  int64_t features = 0;
  const void* dy = nullptr;      // (batch, features) or (features, batch)
  const void* values = nullptr;  // like dy: y of relu, z of gelu; of kNone nothing
  void* dz = nullptr;            // may be dy or values; of kNone nothing: it would be dy
  void* dbias = nullptr;         // (features) or null
};

void CpuActivationGrad(const CpuActivationGradArgs& args, const ParallelFor& parallel_for);

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_ACTIVATION_GRAD_H_
