#include "cuda/kernel_table.h"

#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <tuple>
#include <utility>

#include "cuda/error.h"
#include "cuda/matmul_workspace.h"
#include "cuda/sm90/dw_choice.h"
#include "cuda/sm90/policy.cuh"

namespace bsparse {
namespace {

// The kernels of one arithmetic mode (dtype.cuh); null: none of that family.
struct MathKernels {
  using FindMatmul = Kernel (*)(const MatmulVariant& variant);
  using FindMatmulDw = Kernel (*)(int block_size, int feature_axis);
  const char* name;
  FindMatmul matmul;
  FindMatmulDw matmul_dw;
  FindMatmul union_matmul;
  FindMatmulDw union_matmul_dw;
  FindMatmul stream_matmul;
  FindMatmul sweep_matmul;
  FindMatmulDw tiled_matmul_dw;
  FindMatmulDw small_matmul_dw;
};

constexpr MathKernels kBf16 = {"bf16", sm80_matmul_bf16, sm80_matmul_dw_bf16,
                               sm90_matmul_bf16, sm90_matmul_dw_bf16, sm90_stream_bf16,
                               sm90_sweep_bf16, sm90_dw_tiles_bf16, sm80_small_dw_bf16};
constexpr MathKernels kFp16 = {"fp16", sm80_matmul_fp16, sm80_matmul_dw_fp16,
                               sm90_matmul_fp16, sm90_matmul_dw_fp16, sm90_stream_fp16,
                               sm90_sweep_fp16, sm90_dw_tiles_fp16, sm80_small_dw_fp16};
constexpr MathKernels kFp32 = {"fp32", sm80_matmul_fp32, sm80_matmul_dw_fp32,
                               nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
constexpr MathKernels kTf32 = {"tf32", sm80_matmul_tf32, sm80_matmul_dw_tf32,
                               sm90_matmul_tf32, sm90_matmul_dw_tf32, sm90_stream_tf32,
                               sm90_sweep_tf32, sm90_dw_tiles_tf32, sm80_small_dw_tf32};
constexpr MathKernels kTf32x3 = {"tf32x3", sm80_matmul_tf32x3, sm80_matmul_dw_tf32x3,
                                 nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};

const MathKernels& kernels_for(bsparse_dtype dtype, bsparse_float32_math float32_math) {
  if (dtype == BSPARSE_BFLOAT16) return kBf16;
  if (dtype == BSPARSE_FLOAT16) return kFp16;
  if (float32_math == BSPARSE_FLOAT32_TF32) return kTf32;
  return float32_math == BSPARSE_FLOAT32_TF32X3 ? kTf32x3 : kFp32;
}

cudaLaunchAttribute clusters_of(int32_t ctas) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(ctas), 1, 1};
  return attribute;
}

// Kernels take more shared memory than the default allows: said once for a kernel and device.
bsparse_status raise_shared_memory(const Kernel& kernel) {
  int device = 0;
  bsparse_status status = check_cuda(cudaGetDevice(&device), "asking for the current device");
  if (status != BSPARSE_OK) return status;
  static std::mutex mutex;
  static std::set<std::pair<int, const void*>>* const raised =
      new std::set<std::pair<int, const void*>>;
  const std::lock_guard<std::mutex> lock(mutex);
  if (raised->count({device, kernel.function}) != 0) return BSPARSE_OK;
  status = check_cuda(
      cudaFuncSetAttribute(kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           kernel.shared_bytes),
      "setting up a kernel");
  if (status == BSPARSE_OK) raised->insert({device, kernel.function});
  return status;
}

bsparse_status found_kernel(const Kernel& kernel, int family, bsparse_dtype dtype,
                            int block_size) {
  if (kernel.function != nullptr) return BSPARSE_OK;
  return fail(BSPARSE_INVALID_ARGUMENT,
              "plan.kernel is %d; it has no kernel for dtype %d and block_size %d, ask get_tile",
              family, static_cast<int>(dtype), block_size);
}

}  // namespace

const char* math_name(bsparse_dtype dtype, bsparse_float32_math float32_math) {
  return kernels_for(dtype, float32_math).name;
}

Kernel find_matmul(bsparse_dtype dtype, bsparse_float32_math float32_math,
                   const MatmulVariant& variant) {
  const MathKernels& kernels = kernels_for(dtype, float32_math);
  const auto find = is_union(variant.family)                  ? kernels.union_matmul
                    : variant.family == BSPARSE_SM90_STREAM   ? kernels.stream_matmul
                    : variant.family == BSPARSE_SM90_SWEEP    ? kernels.sweep_matmul
                                                              : kernels.matmul;
  return find == nullptr ? Kernel{} : find(variant);
}

Kernel find_matmul_dw(bsparse_kernel family, bsparse_dtype dtype,
                      bsparse_float32_math float32_math, int block_size, int feature_axis) {
  const MathKernels& kernels = kernels_for(dtype, float32_math);
  const auto find = family == BSPARSE_SM90_DW_TILES ? kernels.tiled_matmul_dw
                    : family == BSPARSE_SM80_SMALL  ? kernels.small_matmul_dw
                    : is_union(family)              ? kernels.union_matmul_dw
                                                    : kernels.matmul_dw;
  return find == nullptr ? Kernel{} : find(block_size, feature_axis);
}

bsparse_status find_planned_matmul(const bsparse_matmul_args& args, Kernel* kernel) {
  const int family = args.plan.kernel;
  *kernel = {};
  if (family == BSPARSE_SM80 || family == BSPARSE_SM80_SMALL || family == BSPARSE_SM90 ||
      family == BSPARSE_SM90_STREAM || family == BSPARSE_SM90_SWEEP) {
    *kernel = find_matmul(args.dtype, args.float32_math,
                          {args.block_size, args.feature_axis, args.transpose != 0,
                           static_cast<bsparse_kernel>(family), args.batch,
                           sweep_batch_tile(int64_t{args.plan.columns} * args.block_size),
                           turns_inputs(args)});
  }
  return found_kernel(*kernel, family, args.dtype, args.block_size);
}

bsparse_status find_planned_matmul_dw(const bsparse_matmul_dw_args& args, Kernel* kernel) {
  const int family = args.plan.kernel;
  *kernel = {};
  if (family == BSPARSE_SM80 || family == BSPARSE_SM80_SMALL || family == BSPARSE_SM90 ||
      family == BSPARSE_SM90_DW_TILES) {
    *kernel = find_matmul_dw(static_cast<bsparse_kernel>(family), args.dtype,
                             args.float32_math, args.block_size,
                             hopper_dw_turns(hopper_dw(args), family) ? 0 : args.feature_axis);
  }
  return found_kernel(*kernel, family, args.dtype, args.block_size);
}

bsparse_status get_ctas_per_sm(const Kernel& kernel, int32_t* ctas) {
  bsparse_status status = raise_shared_memory(kernel);
  if (status != BSPARSE_OK) return status;
  int count = 0;
  status = check_cuda(cudaOccupancyMaxActiveBlocksPerMultiprocessor(
                          &count, kernel.function, kernel.threads, kernel.shared_bytes),
                      "asking for a kernel's occupancy");
  if (status != BSPARSE_OK) return status;
  if (count == 0) {
    return fail(BSPARSE_UNSUPPORTED,
                "this GPU has too little shared memory: a kernel needs %d bytes",
                kernel.shared_bytes);
  }
  *ctas = count;
  return BSPARSE_OK;
}

bsparse_status get_multiprocessors(int32_t* count) {
  int device = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device);
  }
  return check_cuda(error, "asking for the current device");
}

bsparse_status get_clusters(const Kernel& kernel, int32_t ctas, int32_t* clusters) {
  int device = 0;
  bsparse_status status = check_cuda(cudaGetDevice(&device), "asking for the current device");
  if (status != BSPARSE_OK) return status;
  using Key = std::tuple<int, const void*, int32_t>;
  static std::mutex mutex;
  static std::map<Key, int>* const known = new std::map<Key, int>;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = known->find({device, kernel.function, ctas});
  if (found != known->end()) {
    *clusters = found->second;
    return BSPARSE_OK;
  }
  status = raise_shared_memory(kernel);
  if (status != BSPARSE_OK) return status;
  cudaLaunchAttribute attribute = clusters_of(ctas);
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(ctas);
  config.blockDim = dim3(kernel.threads);
  config.dynamicSmemBytes = kernel.shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int count = 0;
  status = check_cuda(cudaOccupancyMaxActiveClusters(&count, kernel.function, &config),
                      "asking how many clusters run at once");
  if (status != BSPARSE_OK) return status;
  if (count == 0) {
    return fail(BSPARSE_UNSUPPORTED, "this GPU runs no clusters of %d CTAs with %d bytes of "
                "shared memory each", ctas, kernel.shared_bytes);
  }
  *clusters = (*known)[{device, kernel.function, ctas}] = count;
  return BSPARSE_OK;
}

bool may_start_early() {
  constexpr int kDevices = 64;
  static std::atomic<int> major_of[kDevices];  // 0: not asked yet
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || device >= kDevices) return false;
  int major = major_of[device].load(std::memory_order_relaxed);
  if (major == 0) {
    if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) !=
        cudaSuccess) {
      return false;
    }
    major_of[device].store(major, std::memory_order_relaxed);
  }
  return major >= 9;
}

cudaLaunchAttribute early_start() {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  return attribute;
}

bsparse_status launch(const Kernel& kernel, const char* name, dim3 ctas, void* params,
                      cudaStream_t stream, int cluster) {
  const bsparse_status status = raise_shared_memory(kernel);
  if (status != BSPARSE_OK) return status;
  cudaLaunchAttribute attributes[2];
  unsigned count = 0;
  if (kernel.starts_early && may_start_early()) attributes[count++] = early_start();
  if (cluster > 1) attributes[count++] = clusters_of(cluster);
  cudaLaunchConfig_t config{};
  config.gridDim = ctas;
  config.blockDim = dim3(kernel.threads);
  config.dynamicSmemBytes = kernel.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = count;
  void* arguments[] = {params};
  return check_cuda(cudaLaunchKernelExC(&config, kernel.function, arguments), name);
}

}  // namespace bsparse
