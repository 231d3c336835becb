// Kernels that follow each other: on Hopper one may start while the one before it still runs, so that a launch costs
// less than a kernel of a few microseconds takes.
#ifndef BSPARSE_CUDA_EARLY_LAUNCH_CUH_
#define BSPARSE_CUDA_EARLY_LAUNCH_CUH_

#include <cuda_runtime.h>

#include "cuda/kernel_launch.h"
#include "cuda/ptx.cuh"

namespace bsparse {

// What a kernel that is launched so calls before it touches memory that others write.
__device__ __forceinline__ void follow_kernel_before() {
  // In this order, so that what comes behind may take all before this kernel for done.
  ptx::wait_for_kernel_before();
  ptx::launch_dependents();
}

// Errors are left for cudaGetLastError(), as by <<< >>>.
template <class... Parameters, class... Arguments>
void launch_early(void (*kernel)(Parameters...), dim3 ctas, dim3 threads, cudaStream_t stream,
                  const Arguments&... arguments) {
  cudaLaunchAttribute early = early_start();
  cudaLaunchConfig_t config{};
  config.gridDim = ctas;
  config.blockDim = threads;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = may_start_early() ? 1 : 0;
  cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...);
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_EARLY_LAUNCH_CUH_
