#include <algorithm>

#include "cuda/check.h"
#include "cuda/dtype.cuh"
#include "cuda/early_launch.cuh"
#include "cuda/elements.cuh"
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
constexpr unsigned kMaxGridSplits = 65535;

unsigned grid_for(int64_t elements) {
  return static_cast<unsigned>(
      std::min<int64_t>((elements + kReduceThreads - 1) / kReduceThreads, kMaxCtas));
}

// Partials are (outputs of a group, batch), and so is y: features come first. A row of CTAs takes an output, a thread
// kCount batch entries, whose place in partials and y is a multiple of their size.
template <class Element, int kCount>
__global__ void __launch_bounds__(kReduceThreads)
    reduce_rows_kernel(const __grid_constant__ bsparse_matmul_args args) {
  follow_kernel_before();
  const bsparse_matmul_plan& plan = args.plan;
  const int width = column_features(plan.kernel, args.block_size);
  const int output = blockIdx.y;
  const int64_t elements = args.batch * gridDim.y;  // of one partial
  const auto* const residual = static_cast<const Element*>(args.residual);
  for (int s = blockIdx.z; s < plan.num_splits; s += gridDim.z) {
    const int32_t* const split = plan.splits + 3 * static_cast<int64_t>(s);
    const int32_t column =
        plan.columns == 1 ? split[0] : plan.groups[split[0] * plan.columns + output / width];
    const int64_t feature = int64_t{column} * width + output % width;
    if (column < 0 || feature >= int64_t{args.out_blocks} * args.block_size) continue;  // of the last unit
    const float* const partials =
        static_cast<const float*>(args.workspace) + split[1] * elements + output * args.batch;
    const float bias =
        args.bias == nullptr ? 0.0f : to_float(static_cast<const Element*>(args.bias)[feature]);
    for (int64_t batch = kCount * (int64_t{blockIdx.x} * kReduceThreads + threadIdx.x);
         batch < args.batch; batch += kCount * int64_t{gridDim.x} * kReduceThreads) {
      float sums[kCount] = {}, added[kCount] = {};
      for (int p = 0; p < split[2]; ++p) {
        float partial[kCount];
        load_elements(partials + p * elements + batch, partial);
#pragma unroll
        for (int i = 0; i < kCount; ++i) sums[i] += partial[i];
      }
      const int64_t place = feature * args.batch + batch;
      if (residual != nullptr) load_elements(residual + place, added);
#pragma unroll
      for (int i = 0; i < kCount; ++i) sums[i] = activate(sums[i] + bias, args.activation) + added[i];
      store_elements(sums, static_cast<Element*>(args.y) + place);
    }
  }
}

// Both are (batch, outputs), with features last.
template <class Element>
__global__ void __launch_bounds__(kReduceThreads)
    reduce_batch_first_kernel(const __grid_constant__ bsparse_matmul_args args) {
  follow_kernel_before();
  const bsparse_matmul_plan& plan = args.plan;
  const int width = column_features(plan.kernel, args.block_size);
  const int64_t outputs = int64_t{plan.columns} * width;
  const int64_t features = int64_t{args.out_blocks} * args.block_size;
  const int64_t elements = args.batch * outputs;  // of one partial
  const auto* const bias = static_cast<const Element*>(args.bias);
  const auto* const residual = static_cast<const Element*>(args.residual);
  for (int s = blockIdx.y; s < plan.num_splits; s += gridDim.y) {
    const int32_t* const split = plan.splits + 3 * static_cast<int64_t>(s);
    const float* const partials = static_cast<const float*>(args.workspace) + split[1] * elements;
    for (int64_t e = int64_t{blockIdx.x} * kReduceThreads + threadIdx.x; e < elements;
         e += int64_t{gridDim.x} * kReduceThreads) {
      const auto output = static_cast<int>(e % outputs);
      const int64_t column =
          plan.columns == 1 ? split[0] : plan.groups[split[0] * plan.columns + output / width];
      const int64_t feature = column * width + output % width;
      if (column < 0 || feature >= features) continue;  // of the last unit
      float sum = 0.0f;
      for (int p = 0; p < split[2]; ++p) sum += partials[p * elements + e];
      if (bias != nullptr) sum += to_float(bias[feature]);
      const int64_t place = e / outputs * features + feature;
      sum = activate(sum, args.activation);
      if (residual != nullptr) sum += to_float(residual[place]);
      static_cast<Element*>(args.y)[place] = from_float<Element>(sum);
    }
  }
}

// Partials are (outputs of a group, batch), but y is (batch, features): those of union tiles with features last. A CTA
// turns squares round. Rows of y are multiples of 16 bytes, and eight outputs are neighbours in it.
constexpr int kTurnedOutputs = 32, kTurnedBatch = 64;

template <class Element>
__global__ void __launch_bounds__(kReduceThreads)
    reduce_turned_kernel(const __grid_constant__ bsparse_matmul_args args) {
  constexpr int kWarps = kReduceThreads / 32;
  constexpr int kRows = kTurnedOutputs / kWarps, kColumns = kTurnedBatch / 32;  // of a thread
  constexpr int kRun = 8;
  static_assert(kTurnedBatch * kTurnedOutputs == kReduceThreads * kRun);
  __shared__ float square[kTurnedOutputs][kTurnedBatch + 1];
  follow_kernel_before();
  const bsparse_matmul_plan& plan = args.plan;
  const int width = column_features(plan.kernel, args.block_size);
  const int outputs = plan.columns * width;  // of a group
  const int64_t features = int64_t{args.out_blocks} * args.block_size;
  const int64_t elements = args.batch * outputs;  // of one partial
  const int first_output = static_cast<int>(blockIdx.x % (outputs / kTurnedOutputs)) * kTurnedOutputs;
  const int64_t first_batch = int64_t{blockIdx.x / (outputs / kTurnedOutputs)} * kTurnedBatch;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int s = blockIdx.y; s < plan.num_splits; s += gridDim.y) {
    const int32_t* const split = plan.splits + 3 * static_cast<int64_t>(s);
    const float* const partials = static_cast<const float*>(args.workspace) + split[1] * elements;
    float sums[kRows][kColumns] = {};
    for (int p = 0; p < split[2]; ++p) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int64_t row = p * elements + (first_output + warp + r * kWarps) * args.batch;
#pragma unroll
        for (int c = 0; c < kColumns; ++c) {
          const int64_t batch = first_batch + 32 * c + lane;
          if (batch < args.batch) sums[r][c] += partials[row + batch];
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) square[warp + r * kWarps][32 * c + lane] = sums[r][c];
    }
    __syncthreads();
    const int in_square = static_cast<int>(threadIdx.x) % (kTurnedOutputs / kRun) * kRun;
    const int column_in_batch = static_cast<int>(threadIdx.x) / (kTurnedOutputs / kRun);
    const int64_t batch = first_batch + column_in_batch;
    const int output = first_output + in_square;
    const int32_t column = plan.groups[split[0] * plan.columns + output / width];
    const int64_t feature = int64_t{column} * width + output % width;
    if (column >= 0 && feature < features && batch < args.batch) {
      const auto* const bias = static_cast<const Element*>(args.bias);
      const auto* const residual = static_cast<const Element*>(args.residual);
      const int64_t place = batch * features + feature;
      constexpr int kVector = 16 / sizeof(Element);
#pragma unroll
      for (int first = 0; first < kRun; first += kVector) {
        float z[kVector], added[kVector] = {};
        if (residual != nullptr) load_elements(residual + place + first, added);
#pragma unroll
        for (int i = 0; i < kVector; ++i) {
          z[i] = square[in_square + first + i][column_in_batch];
          if (bias != nullptr) z[i] += to_float(bias[feature + first + i]);
          z[i] = activate(z[i], args.activation) + added[i];
        }
        store_elements(z, static_cast<Element*>(args.y) + place + first);
      }
    }
    __syncthreads();
  }
}

// How the partials of a product are added up: kernels, and the grid for each split.
struct MatmulReduction {
  const void* function;
  dim3 grid;
};

template <class Element>
MatmulReduction reduction_of(const bsparse_matmul_args& args) {
  const int64_t outputs = int64_t{args.plan.columns} * column_features(args.plan.kernel, args.block_size);
  if (args.feature_axis == 0) {
    constexpr int kCount = 4;
    const bool aligned = args.batch % kCount == 0 && is_aligned(args.y, kCount * sizeof(Element)) &&
                         is_aligned(args.residual, kCount * sizeof(Element));
    const auto function = aligned ? &reduce_rows_kernel<Element, kCount> : &reduce_rows_kernel<Element, 1>;
    const dim3 grid(grid_for(aligned ? args.batch / kCount : args.batch), static_cast<unsigned>(outputs),
                    kMaxGridSplits);
    return {reinterpret_cast<const void*>(function), grid};
  }
  if (is_union(args.plan.kernel)) {
    const int64_t squares = outputs / kTurnedOutputs * ((args.batch - 1) / kTurnedBatch + 1);
    return {reinterpret_cast<const void*>(&reduce_turned_kernel<Element>),
            dim3(static_cast<unsigned>(squares), kMaxGridSplits)};
  }
  return {reinterpret_cast<const void*>(&reduce_batch_first_kernel<Element>),
          dim3(grid_for(args.batch * outputs), kMaxGridSplits)};
}

// Four elements a thread, of one block: their number is a power of two.
constexpr int kDwElements = 4;

// Sums of the partials of dw at `e`.
__device__ __forceinline__ float4 sum_partials(const float* partials, int count, int64_t elements,
                                               int64_t e) {
  float4 sum = {};
  for (int p = 0; p < count; ++p) {
    const float4 partial = *reinterpret_cast<const float4*>(partials + p * elements + e);
    sum.x += partial.x;
    sum.y += partial.y;
    sum.z += partial.z;
    sum.w += partial.w;
  }
  return sum;
}

template <class Element>
__global__ void __launch_bounds__(kReduceThreads)
    reduce_matmul_dw_kernel(const __grid_constant__ ReduceMatmulDw args) {
  follow_kernel_before();
  const int64_t elements = args.num_blocks * args.block_elements;
  const int log_block = __ffs(args.block_elements) - 1;
  for (int64_t e = kDwElements * (int64_t{blockIdx.x} * kReduceThreads + threadIdx.x); e < elements;
       e += kDwElements * int64_t{gridDim.x} * kReduceThreads) {
    const float scale = args.output.scale(e >> log_block);
    const float4 sum = sum_partials(args.partials, scale != 0.0f ? args.num_partials : 0, elements, e);
    args.output.store<Element>(e, scale, sum.x, sum.y);
    args.output.store<Element>(e + 2, scale, sum.z, sum.w);
  }
}

template <class Element>
__global__ void __launch_bounds__(kReduceThreads)
    reduce_dw_tiles_kernel(const __grid_constant__ ReduceDwTiles args) {
  follow_kernel_before();
  const int log_cell = __ffs(args.cell) - 1;
  const int64_t elements = args.places << 2 * log_cell;
  for (int64_t e = kDwElements * (int64_t{blockIdx.x} * kReduceThreads + threadIdx.x); e < elements;
       e += kDwElements * int64_t{gridDim.x} * kReduceThreads) {
    const int64_t place = e >> 2 * log_cell;
    const int number = args.blocks[3 * place + 2];
    if (number < 0) continue;
    const auto in_cell = static_cast<int>(e - (place << 2 * log_cell));
    const DwCell cell(number, args.block_size, args.cell);
    const float scale = args.output.scale(cell.weight);
    const float4 sum = sum_partials(args.partials, scale != 0.0f ? args.num_partials : 0, elements, e);
    const int64_t to = cell.element(in_cell >> log_cell, in_cell & (args.cell - 1));
    args.output.store<Element>(to, scale, sum.x, sum.y);
    args.output.store<Element>(to + 2, scale, sum.z, sum.w);
  }
}

}  // namespace

bsparse_status launch_reduce_matmul(const bsparse_matmul_args& args, cudaStream_t stream) {
  MatmulReduction reduction = with_element(args.dtype, [&](auto element) {
    return reduction_of<typename decltype(element)::Type>(args);
  });
  unsigned& splits = reduction.grid.z > 1 ? reduction.grid.z : reduction.grid.y;
  splits = std::min<unsigned>(splits, args.plan.num_splits);
  const Kernel kernel = {.function = reduction.function, .threads = kReduceThreads, .starts_early = true};
  bsparse_matmul_args copy = args;
  return launch(kernel, "adding partial columns", reduction.grid, &copy, stream);
}

cudaError_t launch_reduce_matmul_dw(const ReduceMatmulDw& args, bsparse_dtype out_dtype,
                                    cudaStream_t stream) {
  const unsigned grid = grid_for(args.num_blocks * args.block_elements / kDwElements);
  auto* const kernel = with_element(out_dtype, [](auto element) {
    return &reduce_matmul_dw_kernel<typename decltype(element)::Type>;
  });
  launch_early(kernel, dim3(grid), dim3(kReduceThreads), stream, args);
  return cudaGetLastError();
}

cudaError_t launch_reduce_dw_tiles(const ReduceDwTiles& args, bsparse_dtype out_dtype,
                                   cudaStream_t stream) {
  const unsigned grid = grid_for(args.places * args.cell * args.cell / kDwElements);
  auto* const kernel = with_element(out_dtype, [](auto element) {
    return &reduce_dw_tiles_kernel<typename decltype(element)::Type>;
  });
  launch_early(kernel, dim3(grid), dim3(kReduceThreads), stream, args);
  return cudaGetLastError();
}

}  // namespace bsparse
