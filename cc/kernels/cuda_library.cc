#include "cc/kernels/cuda_library.h"

#include <dlfcn.h>

#include <string>

namespace bsparse {
namespace {

struct Library {
  const bsparse_cuda_api* api = nullptr;
  std::string why;
};

// The folder this code was loaded from.
std::string OwnFolder() {
  Dl_info info;
  if (dladdr(reinterpret_cast<const void*>(&CudaLibrary), &info) == 0) return ".";
  const std::string path = info.dli_fname;
  const size_t slash = path.rfind('/');
  return slash == std::string::npos ? "." : path.substr(0, slash);
}

Library Open() {
  const std::string path = OwnFolder() + "/libbsparse_cuda.so";
  // RTLD_LOCAL keeps its static CUDA runtime apart from the one TensorFlow exports.
  void* const handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return {nullptr, std::string("bsparse_tf has no CUDA kernels here (") + dlerror() +
                         "): build with a CUDA compiler and BSPARSE_CUDA=1, or place the op on "
                         "the CPU"};
  }
  const auto get_api = reinterpret_cast<decltype(&bsparse_cuda_get_api)>(
      dlsym(handle, "bsparse_cuda_get_api"));
  const bsparse_cuda_api* const api =
      get_api == nullptr ? nullptr : get_api(BSPARSE_CUDA_API_VERSION);
  if (api == nullptr) {
    return {nullptr, path + " does not offer version " +
                         std::to_string(BSPARSE_CUDA_API_VERSION) +
                         " of its interface: it comes from another build of bsparse_tf; rebuild "
                         "both libraries"};
  }
  return {api, ""};
}

}  // namespace

const bsparse_cuda_api* CudaLibrary(std::string* why) {
  static const Library* const library = new Library(Open());
  if (why != nullptr) *why = library->why;
  return library->api;
}

}  // namespace bsparse
