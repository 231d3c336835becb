#include <algorithm>

#include "cuda/dtype.cuh"
#include "cuda/early_launch.cuh"
#include "cuda/epilogue.cuh"
#include "cuda/kernel_launch.h"
#include "cuda/kernel_table.h"
#include "cuda/support_kernels.h"
#include "cuda/with_element.cuh"

namespace bsparse {
namespace {

constexpr int kReduceThreads = 256;
// Threads take more than one element where a grid of this size does not cover all.
constexpr int64_t kMaxCtas = 1 << 16;

unsigned grid_for(int64_t elements) {
  return static_cast<unsigned>(
      std::min<int64_t>((elements + kReduceThreads - 1) / kReduceThreads, kMaxCtas));
}

// Partials are (outputs of a group, batch), or with kBatchFirst (batch, outputs).
template <class Element, bool kBatchFirst>
__global__ void reduce_matmul_kernel(const __grid_constant__ bsparse_matmul_args args) {
  follow_kernel_before();
  const bsparse_matmul_plan& plan = args.plan;
  const int width = column_features(plan.kernel, args.block_size);
  const int64_t outputs = int64_t{plan.columns} * width;
  const int64_t features = int64_t{args.out_blocks} * args.block_size;
  const int64_t elements = args.batch * outputs;  // of one partial
  auto* const y = static_cast<Element*>(args.y);
  const auto* const bias = static_cast<const Element*>(args.bias);
  const auto* const residual = static_cast<const Element*>(args.residual);
  for (int s = blockIdx.y; s < plan.num_splits; s += gridDim.y) {
    const int32_t* split = plan.splits + 3 * static_cast<int64_t>(s);
    const float* partials = static_cast<const float*>(args.workspace) + split[1] * elements;
    const int num_partials = split[2];
    for (int64_t e = int64_t{blockIdx.x} * kReduceThreads + threadIdx.x; e < elements;
         e += int64_t{gridDim.x} * kReduceThreads) {
      const int64_t output = kBatchFirst ? e % outputs : e / args.batch;
      const int64_t batch = kBatchFirst ? e / outputs : e % args.batch;
      const int64_t in_group = output / width;
      const int64_t column =
          plan.columns == 1 ? split[0] : plan.groups[split[0] * plan.columns + in_group];
      if (column < 0) continue;
      const int64_t feature = column * width + output % width;
      if (feature >= features) continue;  // of the last unit
      float sum = partials[e];
      for (int p = 1; p < num_partials; ++p) sum += partials[p * elements + e];
      if (bias != nullptr) sum += to_float(bias[feature]);
      const int64_t place =
          args.feature_axis == 1 ? batch * features + feature : feature * args.batch + batch;
      sum = activate(sum, args.activation);
      if (residual != nullptr) sum += to_float(residual[place]);
      y[place] = from_float<Element>(sum);
    }
  }
}

template <class Element>
Kernel reduce_matmul_kernel_for(const bsparse_matmul_args& args) {
  const bool batch_first = !is_union(args.plan.kernel) && args.feature_axis == 1;
  const auto function =
      batch_first ? &reduce_matmul_kernel<Element, true> : &reduce_matmul_kernel<Element, false>;
  return {.function = reinterpret_cast<const void*>(function),
          .threads = kReduceThreads,
          .starts_early = true};
}

// Two elements a thread.
template <class Element>
__global__ void reduce_matmul_dw_kernel(const __grid_constant__ ReduceMatmulDw args) {
  const int64_t elements = args.num_blocks * args.block_elements;
  for (int64_t e = 2 * (int64_t{blockIdx.x} * kReduceThreads + threadIdx.x); e < elements;
       e += 2 * int64_t{gridDim.x} * kReduceThreads) {
    const float scale = args.output.scale(e / args.block_elements);
    float2 sum = {0.0f, 0.0f};
    for (int p = 0; p < args.num_partials && scale != 0.0f; ++p) {
      const float2 partial = *reinterpret_cast<const float2*>(args.partials + p * elements + e);
      sum.x += partial.x;
      sum.y += partial.y;
    }
    args.output.store<Element>(e, scale, sum.x, sum.y);
  }
}

template <class Element>
__global__ void reduce_dw_tiles_kernel(const __grid_constant__ ReduceDwTiles args) {
  const int64_t elements = args.places * args.cell * args.cell;
  for (int64_t e = 2 * (int64_t{blockIdx.x} * kReduceThreads + threadIdx.x); e < elements;
       e += 2 * int64_t{gridDim.x} * kReduceThreads) {
    const int64_t place = e / (args.cell * args.cell);
    const int number = args.blocks[3 * place + 2];
    if (number < 0) continue;
    const auto in_cell = static_cast<int>(e - place * args.cell * args.cell);
    const DwCell cell(number, args.block_size, args.cell);
    const float scale = args.output.scale(cell.weight);
    float2 sum = {0.0f, 0.0f};
    for (int p = 0; p < args.num_partials && scale != 0.0f; ++p) {
      const float2 partial = *reinterpret_cast<const float2*>(args.partials + p * elements + e);
      sum.x += partial.x;
      sum.y += partial.y;
    }
    args.output.store<Element>(cell.element(in_cell / args.cell, in_cell % args.cell), scale,
                               sum.x, sum.y);
  }
}

}  // namespace

bsparse_status launch_reduce_matmul(const bsparse_matmul_args& args, cudaStream_t stream) {
  constexpr int kMaxGridY = 65535;
  const int64_t width = column_features(args.plan.kernel, args.block_size);
  const dim3 grid(grid_for(args.batch * args.plan.columns * width),
                  std::min(args.plan.num_splits, kMaxGridY));
  const Kernel kernel = with_element(args.dtype, [&](auto element) {
    return reduce_matmul_kernel_for<typename decltype(element)::Type>(args);
  });
  bsparse_matmul_args copy = args;
  return launch(kernel, "adding partial columns", grid, &copy, stream);
}

cudaError_t launch_reduce_matmul_dw(const ReduceMatmulDw& args, bsparse_dtype out_dtype,
                                    cudaStream_t stream) {
  const unsigned grid = grid_for(args.num_blocks * args.block_elements / 2);
  auto* const kernel = with_element(out_dtype, [](auto element) {
    return &reduce_matmul_dw_kernel<typename decltype(element)::Type>;
  });
  kernel<<<grid, kReduceThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

cudaError_t launch_reduce_dw_tiles(const ReduceDwTiles& args, bsparse_dtype out_dtype,
                                   cudaStream_t stream) {
  const unsigned grid = grid_for(args.places * args.cell * args.cell / 2);
  auto* const kernel = with_element(out_dtype, [](auto element) {
    return &reduce_dw_tiles_kernel<typename decltype(element)::Type>;
  });
  kernel<<<grid, kReduceThreads, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace bsparse
