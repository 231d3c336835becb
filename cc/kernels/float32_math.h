// Which arithmetic a precision stands for.
#ifndef BSPARSE_CC_KERNELS_FLOAT32_MATH_H_
#define BSPARSE_CC_KERNELS_FLOAT32_MATH_H_

#include "cc/plan/types.h"
#include "cuda/bsparse_cuda.h"
#include "tensorflow/core/platform/tensor_float_32_utils.h"

namespace bsparse {

// kDefault is TensorFlow's switch as it stands now.
inline bsparse_float32_math Float32Math(Precision precision) {
  switch (precision) {
    case Precision::kFloat32:
      return BSPARSE_FLOAT32_EXACT;
    case Precision::kTf32:
      return BSPARSE_FLOAT32_TF32;
    case Precision::kTf32x3:
      return BSPARSE_FLOAT32_TF32X3;
    case Precision::kDefault:
      break;
  }
  return tensorflow::tensor_float_32_execution_enabled() ? BSPARSE_FLOAT32_TF32
                                                         : BSPARSE_FLOAT32_EXACT;
}

}  // namespace bsparse

#endif  // BSPARSE_CC_KERNELS_FLOAT32_MATH_H_
