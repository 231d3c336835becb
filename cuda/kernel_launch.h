// The current device, how many CTAs of a kernel it runs at once, and launches. The driver is asked once for each
// device and kernel, not by every op.
#ifndef BSPARSE_CUDA_KERNEL_LAUNCH_H_
#define BSPARSE_CUDA_KERNEL_LAUNCH_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/bsparse_cuda.h"
#include "cuda/matmul_params.h"

namespace bsparse {

bsparse_status get_device(bsparse_device* device);

// CTAs of a kernel that fit on one SM of the current device.
bsparse_status get_ctas_per_sm(const Kernel& kernel, int32_t* ctas);

// Clusters of so many CTAs of a kernel, one CTA an SM, that run at once on the current device.
bsparse_status get_clusters(const Kernel& kernel, int32_t ctas, int32_t* clusters);

// Whether the current device knows programmatic dependent launches, and their attribute.
bool may_start_early();
cudaLaunchAttribute early_start();

// Launches a kernel that takes one struct of parameters, in clusters of `cluster` CTAs.
bsparse_status launch(const Kernel& kernel, const char* name, dim3 ctas, void* params,
                      cudaStream_t stream, int cluster = 1);

}  // namespace bsparse

#endif  // BSPARSE_CUDA_KERNEL_LAUNCH_H_
