#include "cuda/kernel_table.h"

#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <tuple>
#include <utility>

#include "cuda/error.h"

namespace bsparse {
namespace {

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

const char* math_name(bsparse_dtype dtype, bool allow_tf32) {
  switch (dtype) {
    case BSPARSE_BFLOAT16: return "bf16";
    case BSPARSE_FLOAT16: return "fp16";
    case BSPARSE_FLOAT32: return allow_tf32 ? "tf32" : "fp32";
  }
  return "unknown";
}

Kernel find_matmul(bsparse_dtype dtype, bool allow_tf32, const MatmulVariant& variant) {
  const bool is_half = dtype == BSPARSE_FLOAT16;
  if (dtype == BSPARSE_FLOAT32 && !allow_tf32) {
    return variant.family <= BSPARSE_SM80_SMALL ? sm80_matmul_fp32(variant) : Kernel{};
  }
  if (dtype == BSPARSE_FLOAT32) {
    if (is_union(variant.family)) return sm90_matmul_tf32(variant);
    return variant.family <= BSPARSE_SM80_SMALL ? sm80_matmul_tf32(variant) : Kernel{};
  }
  if (is_union(variant.family)) {
    return is_half ? sm90_matmul_fp16(variant) : sm90_matmul_bf16(variant);
  }
  if (variant.family == BSPARSE_SM90_STREAM) {
    return is_half ? sm90_stream_fp16(variant) : sm90_stream_bf16(variant);
  }
  return is_half ? sm80_matmul_fp16(variant) : sm80_matmul_bf16(variant);
}

Kernel find_matmul_dw(bsparse_kernel family, bsparse_dtype dtype, bool allow_tf32, int block_size,
                      int feature_axis) {
  const bool hopper = is_union(family);
  switch (dtype) {
    case BSPARSE_BFLOAT16:
      return hopper ? sm90_matmul_dw_bf16(block_size, feature_axis)
                    : sm80_matmul_dw_bf16(block_size, feature_axis);
    case BSPARSE_FLOAT16:
      return hopper ? sm90_matmul_dw_fp16(block_size, feature_axis)
                    : sm80_matmul_dw_fp16(block_size, feature_axis);
    case BSPARSE_FLOAT32:
      if (hopper) return {};
      return allow_tf32 ? sm80_matmul_dw_tf32(block_size, feature_axis)
                        : sm80_matmul_dw_fp32(block_size, feature_axis);
  }
  return {};
}

bsparse_status find_planned_matmul(const bsparse_matmul_args& args, Kernel* kernel) {
  const int family = args.plan.kernel;
  *kernel = {};
  if (family >= BSPARSE_SM80 && family <= BSPARSE_SM90_STREAM && family != BSPARSE_DENSE) {
    *kernel = find_matmul(args.dtype, args.allow_tf32 != 0,
                          {args.block_size, args.feature_axis, args.transpose != 0,
                           static_cast<bsparse_kernel>(family), args.batch});
  }
  return found_kernel(*kernel, family, args.dtype, args.block_size);
}

bsparse_status find_planned_matmul_dw(const bsparse_matmul_dw_args& args, Kernel* kernel) {
  const int family = args.plan.kernel;
  *kernel = {};
  if (family == BSPARSE_SM80 || family == BSPARSE_SM90) {
    *kernel = find_matmul_dw(static_cast<bsparse_kernel>(family), args.dtype,
                             args.allow_tf32 != 0, args.block_size, args.feature_axis);
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
