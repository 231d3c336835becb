// The kernels that would run and why, for `python -m bsparse_tf info` and bsparse_tf/choice.py,
// which call these by ctypes.
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>

#include "cc/cpu/matmul.h"
#include "cc/kernels/cuda_library.h"
#include "cuda/bsparse_cuda.h"

#define BSPARSE_INFO_EXPORT __attribute__((visibility("default")))

extern "C" {

// The instruction set of the CPU kernels: "AVX3_ZEN4", "AVX2", "NEON"…
BSPARSE_INFO_EXPORT const char* bsparse_cpu_target() { return bsparse::CpuTargetName(); }

// The kernel that the current GPU would run for y = x W; null if there is no CUDA library, no GPU
// or no such kernel. `dtype` is a bsparse_dtype, `float32_math` a bsparse_float32_math.
BSPARSE_INFO_EXPORT const char* bsparse_gpu_kernel(int32_t dtype, int32_t block_size,
                                                   int32_t feature_axis, int64_t batch,
                                                   int32_t float32_math) {
  const bsparse_cuda_api* cuda = bsparse::CudaLibrary(nullptr);
  if (cuda == nullptr) return nullptr;
  bsparse_device device;
  bsparse_tile tile;
  bsparse_tile_request request = {};
  request.dtype = static_cast<bsparse_dtype>(dtype);
  request.block_size = block_size;
  request.feature_axis = feature_axis;
  request.float32_math = static_cast<bsparse_float32_math>(float32_math);
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
  args.float32_math = request.float32_math;
  args.batch = batch;
  args.plan.kernel = tile.kernel;
  return cuda->kernel_name(&args);
}

// What the CUDA library would choose for a product and why. On *device, taken to have cuBLAS; or if
// its compute_capability is 0 on the current GPU, which *device then tells, and the tile is whole.
// Returns a bsparse_status; if not 0 then `error` holds a sentence.
BSPARSE_INFO_EXPORT int32_t bsparse_explain(const bsparse_tile_request* request,
                                            bsparse_device* device, bsparse_choice* choice,
                                            char* error, size_t error_size) {
  std::string why;
  const bsparse_cuda_api* cuda = bsparse::CudaLibrary(&why);
  bsparse_status status = BSPARSE_UNSUPPORTED;
  if (cuda != nullptr) {
    const bool current = device->compute_capability == 0;
    status = current ? cuda->get_device(device) : BSPARSE_OK;
    if (status == BSPARSE_OK) {
      status = cuda->explain(request, device, /*assume_cublas=*/!current, choice);
    }
    if (status == BSPARSE_OK && current) status = cuda->get_tile(request, device, &choice->tile);
    if (status != BSPARSE_OK) why = cuda->last_error();
  }
  if (status != BSPARSE_OK) std::snprintf(error, error_size, "%s", why.c_str());
  return status;
}

}  // extern "C"
