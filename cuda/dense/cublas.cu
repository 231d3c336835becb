#include "cuda/dense/cublas.h"

#include <dlfcn.h>
#include <library_types.h>

#include <map>
#include <mutex>
#include <utility>

#include "cuda/error.h"

namespace bsparse {
namespace {

// Of cublas_api.h, which need not be there to build this.
using Handle = struct cublasContext*;
constexpr int kSuccess = 0;
constexpr int kNotTransposed = 0;
constexpr int kTransposed = 1;
constexpr int kCompute32F = 68;
constexpr int kCompute32FFastTf32 = 77;
constexpr int kDefaultAlgorithm = -1;
// Partial sums of a split product in float32 too.
constexpr int kDisallowReducedPrecisionReduction = 16;

struct Cublas {
  int (*create)(Handle*) = nullptr;
  int (*set_math_mode)(Handle, int) = nullptr;
  int (*set_stream)(Handle, cudaStream_t) = nullptr;
  int (*set_workspace)(Handle, void*, size_t) = nullptr;
  int (*gemm)(Handle, int, int, int, int, int, const void*, const void*, cudaDataType, int,
              const void*, cudaDataType, int, const void*, void*, cudaDataType, int, int,
              int) = nullptr;

  bool complete() const { return create && set_math_mode && set_stream && set_workspace && gemm; }
};

const Cublas& cublas() {
  static const Cublas found = [] {
    // Rather the one that the framework has loaded than another.
    void* library = nullptr;
    for (const int mode : {RTLD_NOLOAD, 0}) {
      for (const char* name : {"libcublas.so.13", "libcublas.so.12"}) {
        if (library == nullptr) library = dlopen(name, RTLD_NOW | RTLD_LOCAL | mode);
      }
    }
    Cublas out;
    if (library == nullptr) return out;
    const auto find = [library](const char* name, auto* function) {
      *function = reinterpret_cast<std::remove_pointer_t<decltype(function)>>(dlsym(library, name));
    };
    find("cublasCreate_v2", &out.create);
    find("cublasSetMathMode", &out.set_math_mode);
    find("cublasSetStream_v2", &out.set_stream);
    find("cublasSetWorkspace_v2", &out.set_workspace);
    find("cublasGemmEx", &out.gemm);
    return out;
  }();
  return found;
}

cudaDataType data_type(bsparse_dtype dtype) {
  switch (dtype) {
    case BSPARSE_FLOAT16: return CUDA_R_16F;
    case BSPARSE_BFLOAT16: return CUDA_R_16BF;
    case BSPARSE_FLOAT32: break;
  }
  return CUDA_R_32F;
}

}  // namespace

bool has_cublas() { return cublas().complete(); }

bsparse_status launch_dense_product(const DenseProduct& product, void* workspace,
                                    cudaStream_t stream) {
  if (!has_cublas()) return fail(BSPARSE_UNSUPPORTED, "a plan asks for cuBLAS, which is not there");
  int device = 0;
  const bsparse_status status = check_cuda(cudaGetDevice(&device), "asking for the current device");
  if (status != BSPARSE_OK) return status;
  // A handle holds its stream, so it is used by one call at a time.
  static std::mutex mutex;
  static auto* const handles = new std::map<int, Handle>;
  const std::lock_guard<std::mutex> lock(mutex);
  int error = kSuccess;
  Handle& handle = (*handles)[device];
  if (handle == nullptr) {
    error = cublas().create(&handle);
    if (error == kSuccess) {
      error = cublas().set_math_mode(handle, kDisallowReducedPrecisionReduction);
    }
  }
  if (error == kSuccess) error = cublas().set_stream(handle, stream);
  if (error == kSuccess) error = cublas().set_workspace(handle, workspace, kCublasWorkspaceBytes);
  const float one = 1.0f;
  const float beta = product.accumulates ? 1.0f : 0.0f;
  const bool tf32 = product.dtype == BSPARSE_FLOAT32 && product.float32_math == BSPARSE_FLOAT32_TF32;
  const auto op = [](const DenseOperand& x) { return x.transposed ? kTransposed : kNotTransposed; };
  const auto count = [](int64_t n) { return static_cast<int>(n); };
  const DenseOperand& a = product.a;
  const DenseOperand& b = product.b;
  if (error == kSuccess) {
    error = cublas().gemm(handle, op(a), op(b), count(product.m), count(product.n),
                          count(product.k), &one, a.data, data_type(product.dtype),
                          count(a.leading), b.data, data_type(product.dtype), count(b.leading),
                          &beta, product.c, data_type(product.out_dtype), count(product.m),
                          tf32 ? kCompute32FFastTf32 : kCompute32F, kDefaultAlgorithm);
  }
  if (error == kSuccess) return BSPARSE_OK;
  return fail(BSPARSE_CUDA_ERROR, "cuBLAS failed with status %d on a product of %lld x %lld x %lld",
              error, static_cast<long long>(product.m), static_cast<long long>(product.k),
              static_cast<long long>(product.n));
}

}  // namespace bsparse
