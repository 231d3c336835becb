// Copies of plan tables in device memory, made once for each plan and stream.
#ifndef BSPARSE_CC_KERNELS_DEVICE_TABLES_H_
#define BSPARSE_CC_KERNELS_DEVICE_TABLES_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/bsparse_cuda.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace bsparse {

// Sets *device to a tensor that holds `tables` in the memory of ctx's device. `plan` owns
// `tables` and identifies them; it is kept for as long as the copy is. The memory is
// TensorFlow's, so it counts against its limit like any other tensor.
absl::Status FindDeviceTables(tensorflow::OpKernelContext* ctx, const bsparse_cuda_api& api,
                              std::shared_ptr<const void> plan,
                              const std::vector<int32_t>& tables, void* stream,
                              tensorflow::Tensor* device);

}  // namespace bsparse

#endif  // BSPARSE_CC_KERNELS_DEVICE_TABLES_H_
