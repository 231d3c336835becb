#include "cuda/kernel_launch.h"

#include <atomic>
#include <map>
#include <mutex>
#include <set>
#include <tuple>
#include <utility>

#include "cuda/error.h"

namespace bsparse {
namespace {

bsparse_status get_device_number(int* number) {
  return check_cuda(cudaGetDevice(number), "asking for the current device");
}

bsparse_status ask_device(int number, bsparse_device* device) {
  int major = 0, minor = 0, sms = 0;
  cudaError_t error = cudaSuccess;
  const auto attribute = [&](int* value, cudaDeviceAttr which) {
    if (error == cudaSuccess) error = cudaDeviceGetAttribute(value, which, number);
  };
  attribute(&major, cudaDevAttrComputeCapabilityMajor);
  attribute(&minor, cudaDevAttrComputeCapabilityMinor);
  attribute(&sms, cudaDevAttrMultiProcessorCount);
  *device = {sms, 10 * major + minor};
  return check_cuda(error, "asking for the current device");
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
  bsparse_status status = get_device_number(&device);
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

// What `ask` says of a kernel in clusters of `ctas`, 0 for none, on the current device.
template <class Ask>
bsparse_status ask_once(const Kernel& kernel, int32_t ctas, const Ask& ask, int32_t* answer) {
  int device = 0;
  bsparse_status status = get_device_number(&device);
  if (status != BSPARSE_OK) return status;
  using Key = std::tuple<int, const void*, int32_t>;
  static std::mutex mutex;
  static std::map<Key, int32_t>* const known = new std::map<Key, int32_t>;
  const std::lock_guard<std::mutex> lock(mutex);
  const Key key = {device, kernel.function, ctas};
  const auto found = known->find(key);
  if (found != known->end()) {
    *answer = found->second;
    return BSPARSE_OK;
  }
  status = raise_shared_memory(kernel);
  if (status == BSPARSE_OK) status = ask(answer);
  if (status == BSPARSE_OK) (*known)[key] = *answer;
  return status;
}

}  // namespace

bsparse_status get_device(bsparse_device* device) {
  constexpr int kDevices = 64;
  static std::atomic<bsparse_device> known[kDevices];  // 0 multiprocessors: not asked yet
  int number = 0;
  bsparse_status status = get_device_number(&number);
  if (status != BSPARSE_OK) return status;
  if (number >= kDevices) return ask_device(number, device);
  *device = known[number].load(std::memory_order_relaxed);
  if (device->sm_count > 0) return BSPARSE_OK;
  status = ask_device(number, device);
  if (status == BSPARSE_OK) known[number].store(*device, std::memory_order_relaxed);
  return status;
}

bsparse_status get_ctas_per_sm(const Kernel& kernel, int32_t* ctas) {
  return ask_once(kernel, 0, [&kernel](int32_t* count) {
    const bsparse_status status = check_cuda(
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(count, kernel.function, kernel.threads,
                                                      kernel.shared_bytes),
        "asking for a kernel's occupancy");
    if (status != BSPARSE_OK || *count > 0) return status;
    return fail(BSPARSE_UNSUPPORTED,
                "this GPU has too little shared memory: a kernel needs %d bytes",
                kernel.shared_bytes);
  }, ctas);
}

bsparse_status get_clusters(const Kernel& kernel, int32_t ctas, int32_t* clusters) {
  return ask_once(kernel, ctas, [&kernel, ctas](int32_t* count) {
    cudaLaunchAttribute attribute = clusters_of(ctas);
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(ctas);
    config.blockDim = dim3(kernel.threads);
    config.dynamicSmemBytes = kernel.shared_bytes;
    config.attrs = &attribute;
    config.numAttrs = 1;
    const bsparse_status status =
        check_cuda(cudaOccupancyMaxActiveClusters(count, kernel.function, &config),
                   "asking how many clusters run at once");
    if (status != BSPARSE_OK || *count > 0) return status;
    return fail(BSPARSE_UNSUPPORTED, "this GPU runs no clusters of %d CTAs with %d bytes of "
                "shared memory each", ctas, kernel.shared_bytes);
  }, clusters);
}

bool may_start_early() {
  bsparse_device device;
  return get_device(&device) == BSPARSE_OK && device.compute_capability >= 90;
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
