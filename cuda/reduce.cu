#include <algorithm>

#include "cuda/dtype.cuh"
#include "cuda/epilogue.cuh"
#include "cuda/support_kernels.h"

namespace bsparse {
namespace {

constexpr int kReduceThreads = 256;
// Threads take more than one element where a grid of this size does not cover all.
constexpr int64_t kMaxCtas = 1 << 16;

unsigned grid_for(int64_t elements) {
  return static_cast<unsigned>(
      std::min<int64_t>((elements + kReduceThreads - 1) / kReduceThreads, kMaxCtas));
}

template <class Element>
__global__ void reduce_matmul_kernel(const __grid_constant__ ReduceMatmul args) {
  const int64_t elements = args.batch * args.block_size;  // of one partial
  auto* const y = static_cast<Element*>(args.y);
  const auto* const bias = static_cast<const Element*>(args.bias);
  for (int s = blockIdx.y; s < args.num_splits; s += gridDim.y) {
    const int32_t* split = args.splits + 3 * static_cast<int64_t>(s);
    const int64_t first_feature = static_cast<int64_t>(split[0]) * args.block_size;
    const float* partials = args.partials + split[1] * elements;
    const int num_partials = split[2];
    for (int64_t e = int64_t{blockIdx.x} * kReduceThreads + threadIdx.x; e < elements;
         e += int64_t{gridDim.x} * kReduceThreads) {
      float sum = partials[e];
      for (int p = 1; p < num_partials; ++p) sum += partials[p * elements + e];
      const int64_t row = args.feature_axis == 1 ? e / args.block_size : 0;
      if (bias != nullptr) {
        const int64_t feature =
            args.feature_axis == 1 ? e - row * args.block_size : e / args.batch;
        sum += to_float(bias[first_feature + feature]);
      }
      const int64_t place = args.feature_axis == 1
                                ? row * args.out_features + first_feature + e -
                                      row * args.block_size
                                : first_feature * args.batch + e;
      y[place] = from_float<Element>(activate(sum, args.activation));
    }
  }
}

template <class Element>
__global__ void reduce_matmul_dw_kernel(const __grid_constant__ ReduceMatmulDw args) {
  const int64_t elements = args.num_blocks * args.block_elements;
  auto* const dw = static_cast<Element*>(args.dw);
  for (int64_t e = int64_t{blockIdx.x} * kReduceThreads + threadIdx.x; e < elements;
       e += int64_t{gridDim.x} * kReduceThreads) {
    const float gate = args.gate == nullptr ? 1.0f : args.gate[e / args.block_elements];
    float sum = 0.0f;
    if (gate != 0.0f) {
      for (int s = 0; s < args.splits; ++s) sum += args.partials[s * elements + e];
      sum *= gate;
    }
    dw[e] = from_float<Element>(sum);
  }
}

}  // namespace

cudaError_t launch_reduce_matmul(const ReduceMatmul& args, bsparse_dtype dtype,
                                 cudaStream_t stream) {
  constexpr int kMaxGridY = 65535;
  const dim3 grid(grid_for(args.batch * args.block_size), std::min(args.num_splits, kMaxGridY));
  switch (dtype) {
    case BSPARSE_FLOAT32:
      reduce_matmul_kernel<float><<<grid, kReduceThreads, 0, stream>>>(args);
      break;
    case BSPARSE_FLOAT16:
      reduce_matmul_kernel<__half><<<grid, kReduceThreads, 0, stream>>>(args);
      break;
    case BSPARSE_BFLOAT16:
      reduce_matmul_kernel<__nv_bfloat16><<<grid, kReduceThreads, 0, stream>>>(args);
      break;
  }
  return cudaGetLastError();
}

cudaError_t launch_reduce_matmul_dw(const ReduceMatmulDw& args, bsparse_dtype out_dtype,
                                    cudaStream_t stream) {
  const unsigned grid = grid_for(args.num_blocks * args.block_elements);
  switch (out_dtype) {
    case BSPARSE_FLOAT32:
      reduce_matmul_dw_kernel<float><<<grid, kReduceThreads, 0, stream>>>(args);
      break;
    case BSPARSE_FLOAT16:
      reduce_matmul_dw_kernel<__half><<<grid, kReduceThreads, 0, stream>>>(args);
      break;
    case BSPARSE_BFLOAT16:
      reduce_matmul_dw_kernel<__nv_bfloat16><<<grid, kReduceThreads, 0, stream>>>(args);
      break;
  }
  return cudaGetLastError();
}

}  // namespace bsparse
