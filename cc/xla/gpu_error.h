// What a launch's status is to XLA.
#ifndef BSPARSE_CC_XLA_GPU_ERROR_H_
#define BSPARSE_CC_XLA_GPU_ERROR_H_

#include "cc/kernels/gpu_launch.h"
#include "cuda/bsparse_cuda.h"
#include "xla/ffi/api/ffi.h"

namespace bsparse {

inline xla::ffi::Error ToError(const GpuStatus& status) {
  switch (status.code) {
    case BSPARSE_OK:
      return xla::ffi::Error::Success();
    case BSPARSE_INVALID_ARGUMENT:
      return xla::ffi::Error::InvalidArgument(status.message);
    case BSPARSE_UNSUPPORTED:
      return xla::ffi::Error(xla::ffi::ErrorCode::kUnimplemented, status.message);
    case BSPARSE_CUDA_ERROR:
      break;
  }
  return xla::ffi::Error::Internal(status.message);
}

}  // namespace bsparse

#endif  // BSPARSE_CC_XLA_GPU_ERROR_H_
