// What a launch or a missing library is to TensorFlow.
#ifndef BSPARSE_CC_KERNELS_GPU_STATUS_H_
#define BSPARSE_CC_KERNELS_GPU_STATUS_H_

#include "absl/status/status.h"
#include "cc/kernels/gpu_launch.h"
#include "cuda/bsparse_cuda.h"

namespace bsparse {

absl::Status ToStatus(const GpuStatus& status);

// Sets *api to the CUDA library's functions; Unimplemented, with what to do, if there are none.
absl::Status FindCudaLibrary(const bsparse_cuda_api** api);

}  // namespace bsparse

#endif  // BSPARSE_CC_KERNELS_GPU_STATUS_H_
