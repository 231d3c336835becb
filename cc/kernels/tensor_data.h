// Addresses of tensors; null for a null tensor.
#ifndef BSPARSE_CC_KERNELS_TENSOR_DATA_H_
#define BSPARSE_CC_KERNELS_TENSOR_DATA_H_

#include "tensorflow/core/framework/tensor.h"

namespace bsparse {

template <typename T = void>
const T* Data(const tensorflow::Tensor* tensor) {
  return tensor == nullptr ? nullptr
                           : reinterpret_cast<const T*>(tensor->tensor_data().data());
}

template <typename T = void>
T* MutableData(tensorflow::Tensor* tensor) {
  return const_cast<T*>(Data<T>(tensor));
}

}  // namespace bsparse

#endif  // BSPARSE_CC_KERNELS_TENSOR_DATA_H_
