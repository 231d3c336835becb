// What OpKernels on a GPU take from their context: stream, memory, addresses.
#ifndef BSPARSE_CC_KERNELS_GPU_CONTEXT_H_
#define BSPARSE_CC_KERNELS_GPU_CONTEXT_H_

#include <cstdint>
#include <vector>

#include "cc/kernels/gpu_launch.h"
#include "cc/kernels/gpu_status.h"
#include "cc/kernels/tensor_data.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "xla/stream_executor/stream.h"

namespace bsparse {

inline void* Stream(tensorflow::OpKernelContext* ctx) {
  return ctx->op_device_context()->stream()->platform_specific_handle().stream;
}

// Scratch tensors of one call. TensorFlow reuses their memory only for work enqueued later on the
// same stream, so they may be dropped when the launches have been made.
class Scratch {
 public:
  explicit Scratch(tensorflow::OpKernelContext* ctx) : ctx_(ctx) {}

  DeviceAllocator Allocator() {
    return [this](size_t bytes) -> void* {
      tensorflow::Tensor tensor;
      status_ = ctx_->allocate_temp(tensorflow::DT_UINT8, {static_cast<int64_t>(bytes)}, &tensor);
      if (!status_.ok()) return nullptr;
      tensors_.push_back(tensor);
      return tensor.flat<uint8_t>().data();
    };
  }

  // An allocation's failure rather than what the launcher made of it: TensorFlow's message says
  // which allocator ran out, and has the code ResourceExhausted.
  absl::Status Resolve(const GpuStatus& launch) const {
    return status_.ok() ? ToStatus(launch) : status_;
  }

 private:
  tensorflow::OpKernelContext* const ctx_;
  absl::Status status_;
  std::vector<tensorflow::Tensor> tensors_;
};

}  // namespace bsparse

#endif  // BSPARSE_CC_KERNELS_GPU_CONTEXT_H_
