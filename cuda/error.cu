#include "cuda/error.h"

#include <cstdarg>
#include <cstdio>

namespace bsparse {
namespace {

thread_local char sentence[512] = "";

}  // namespace

bsparse_status fail(bsparse_status status, const char* format, ...) {
  va_list values;
  va_start(values, format);
  std::vsnprintf(sentence, sizeof(sentence), format, values);
  va_end(values);
  return status;
}

bsparse_status check_cuda(cudaError_t error, const char* doing) {
  if (error == cudaSuccess) return BSPARSE_OK;
  return fail(BSPARSE_CUDA_ERROR, "%s: %s (%s)", doing, cudaGetErrorString(error),
              cudaGetErrorName(error));
}

const char* last_error() { return sentence; }

}  // namespace bsparse
