// Names of the kernels that would run, for `python -m bsparse_tf info`, which calls these by ctypes.
#include <cstdint>

#include "cc/cpu/matmul.h"
#include "cc/kernels/cuda_library.h"
#include "cuda/bsparse_cuda.h"

#define BSPARSE_INFO_EXPORT __attribute__((visibility("default")))

extern "C" {

// The instruction set of the CPU kernels: "AVX3_ZEN4", "AVX2", "NEON"…
BSPARSE_INFO_EXPORT const char* bsparse_cpu_target() { return bsparse::CpuTargetName(); }

// The kernel that the current GPU would run for y = x W; null if there is no CUDA library, no GPU
// or no such kernel. `dtype` is a bsparse_dtype.
BSPARSE_INFO_EXPORT const char* bsparse_gpu_kernel(int32_t dtype, int32_t block_size,
                                                   int32_t feature_axis, int64_t batch,
                                                   int32_t allow_tf32) {
  const bsparse_cuda_api* cuda = bsparse::CudaLibrary(nullptr);
  if (cuda == nullptr) return nullptr;
  bsparse_device device;
  bsparse_tile tile;
  bsparse_tile_request request = {};
  request.dtype = static_cast<bsparse_dtype>(dtype);
  request.block_size = block_size;
  request.feature_axis = feature_axis;
  request.allow_tf32 = allow_tf32;
  request.aligned = 1;
  request.in_blocks = request.out_blocks = 1;
  request.density = 0.1f;
  request.batch = batch;
  if (cuda->get_device(&device) != BSPARSE_OK) return nullptr;
  if (cuda->get_tile(&request, &device, &tile) != BSPARSE_OK) return nullptr;
  bsparse_matmul_args args = {};
  args.dtype = request.dtype;
  args.block_size = block_size;
  args.feature_axis = feature_axis;
  args.in_blocks = args.out_blocks = 1;
  args.allow_tf32 = allow_tf32;
  args.batch = batch;
  args.plan.kernel = tile.kernel;
  return cuda->kernel_name(&args);
}

}  // extern "C"
