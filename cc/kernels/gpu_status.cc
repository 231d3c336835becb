#include "cc/kernels/gpu_status.h"

#include <string>

#include "cc/kernels/cuda_library.h"

namespace bsparse {

absl::Status ToStatus(const GpuStatus& status) {
  switch (status.code) {
    case BSPARSE_OK:
      return absl::OkStatus();
    case BSPARSE_INVALID_ARGUMENT:
      return absl::InvalidArgumentError(status.message);
    case BSPARSE_UNSUPPORTED:
      return absl::UnimplementedError(status.message);
    case BSPARSE_CUDA_ERROR:
      break;
  }
  return absl::InternalError(status.message);
}

absl::Status FindCudaLibrary(const bsparse_cuda_api** api) {
  std::string why;
  *api = CudaLibrary(&why);
  return *api == nullptr ? absl::UnimplementedError(why) : absl::OkStatus();
}

}  // namespace bsparse
