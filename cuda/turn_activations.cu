#include <algorithm>

#include "cuda/early_launch.cuh"
#include "cuda/ptx.cuh"
#include "cuda/support_kernels.h"

namespace bsparse {
namespace {

// A warp turns a square of 32 by 32, in matrices of 8 by 8, so that it reads and writes 64 bytes of a row at
// once, 16 a lane. In registers, as the streams that wait for this take all of shared memory.
constexpr int kWarps = 4;
constexpr int kSide = 32;
constexpr int kWords = 4;  // of 16 bytes

__global__ void __launch_bounds__(32 * kWarps)
    turn_activations_kernel(const __grid_constant__ TurnActivations all) {
  follow_kernel_before();
  const Turn& turn = all.turns[blockIdx.z];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int row = lane / 4, column = lane % 4;  // of a matrix, as lanes hold it: two elements
  const int64_t first_feature = (int64_t{blockIdx.x} * kWarps + warp) * kSide;
  const int64_t first_entry = int64_t{blockIdx.y} * kSide;
  // What a lane reads are features of one batch entry, and what it writes are batch entries of one feature. So
  // matrix (m, w) has of every eight of them two, w and the half of its rows or columns say which.
  uint32_t words[kWords][kWords];
  const int64_t from_feature = first_feature + 8 * column;
#pragma unroll
  for (int m = 0; m < kWords; ++m) {
    const int64_t entry = first_entry + 8 * (row / 2) + 2 * m + row % 2;
    uint4 read = {};
    if (entry < turn.batch && from_feature < turn.features) {
      read = __ldg(reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(turn.from) +
                                                  entry * turn.features + from_feature));
    }
    words[m][0] = read.x, words[m][1] = read.y, words[m][2] = read.z, words[m][3] = read.w;
  }
  const int64_t to_entry = first_entry + 8 * column;
#pragma unroll
  for (int w = 0; w < kWords; ++w) {
    const int64_t feature = first_feature + 8 * (row / 2) + 2 * w + row % 2;
    uint4 turned;
    turned.x = ptx::turn_matrix(words[0][w]);
    turned.y = ptx::turn_matrix(words[1][w]);
    turned.z = ptx::turn_matrix(words[2][w]);
    turned.w = ptx::turn_matrix(words[3][w]);
    if (to_entry < turn.row && feature < turn.features) {
      *reinterpret_cast<uint4*>(static_cast<uint16_t*>(turn.to) + feature * turn.row + to_entry) =
          turned;
    }
  }
}

// Float32: a CTA takes a square, 16 threads a row of it, four elements each.
constexpr int kFloatSide = 64;
constexpr int kRowThreads = kFloatSide / 4;
constexpr int kFloatThreads = 256;
constexpr int kRowsAtOnce = kFloatThreads / kRowThreads;

// Elements `first` to `first` + 3 of a row, as far as there are so many; zeros behind.
__device__ __forceinline__ float4 load_four(const float* row, int64_t first, int64_t end, bool aligned) {
  if (aligned && first + 4 <= end) return __ldg(reinterpret_cast<const float4*>(row + first));
  float4 four;
  four.x = first < end ? __ldg(row + first) : 0.0f;
  four.y = first + 1 < end ? __ldg(row + first + 1) : 0.0f;
  four.z = first + 2 < end ? __ldg(row + first + 2) : 0.0f;
  four.w = first + 3 < end ? __ldg(row + first + 3) : 0.0f;
  return four;
}

__device__ __forceinline__ bool rows_are_aligned(const void* data, int64_t row) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && row % 4 == 0;
}

__global__ void __launch_bounds__(kFloatThreads)
    turn_floats_kernel(const __grid_constant__ TurnActivations all) {
  constexpr int kRows = kFloatSide / kRowsAtOnce;  // of a thread
  __shared__ float square[kFloatSide][kFloatSide + 1];
  follow_kernel_before();
  const Turn& turn = all.turns[blockIdx.z];
  const auto* const from = static_cast<const float*>(turn.from);
  auto* const to = static_cast<float*>(turn.to);
  const bool aligned = rows_are_aligned(turn.from, turn.features);
  const int first_row = threadIdx.x / kRowThreads, first_column = 4 * (threadIdx.x % kRowThreads);
  const int64_t feature = int64_t{blockIdx.x} * kFloatSide;
  if (feature >= turn.features) return;
  for (int64_t entry = int64_t{blockIdx.y} * kFloatSide; entry < turn.row;
       entry += int64_t{gridDim.y} * kFloatSide) {
    float4 read[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int64_t b = entry + first_row + r * kRowsAtOnce;
      const int64_t end = b < turn.batch ? turn.features : 0;
      read[r] = load_four(from + b * turn.features, feature + first_column, end, aligned);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int row = first_row + r * kRowsAtOnce;
      square[first_column][row] = read[r].x;
      square[first_column + 1][row] = read[r].y;
      square[first_column + 2][row] = read[r].z;
      square[first_column + 3][row] = read[r].w;
    }
    __syncthreads();
    const int64_t b = entry + first_column;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int row = first_row + r * kRowsAtOnce;
      const float* const turned = &square[row][first_column];
      if (feature + row < turn.features && b < turn.row) {
        *reinterpret_cast<float4*>(to + (feature + row) * turn.row + b) = {turned[0], turned[1], turned[2],
                                                                           turned[3]};
      }
    }
    __syncthreads();
  }
}

// A thread takes four elements of a row.
__global__ void __launch_bounds__(kFloatThreads)
    pad_floats_kernel(const __grid_constant__ TurnActivations all) {
  follow_kernel_before();
  const Turn& turn = all.turns[blockIdx.z];
  const auto* const from = static_cast<const float*>(turn.from);
  auto* const to = static_cast<float*>(turn.to);
  const bool aligned = rows_are_aligned(turn.from, turn.batch);
  const int64_t b = (int64_t{blockIdx.x} * kFloatThreads + threadIdx.x) * 4;
  if (b >= turn.row) return;
  for (int64_t f = blockIdx.y; f < turn.features; f += gridDim.y) {
    *reinterpret_cast<float4*>(to + f * turn.row + b) =
        load_four(from + f * turn.batch, b, turn.batch, aligned);
  }
}

// The longest of all turns.
Turn longest(const TurnActivations& args) {
  Turn longest{};
  for (int t = 0; t < args.count; ++t) {
    longest.features = std::max(longest.features, args.turns[t].features);
    longest.row = std::max(longest.row, args.turns[t].row);
  }
  return longest;
}

// CTAs that elements make, of which each takes so many.
dim3 ctas_of(int64_t x, int64_t elements_x, int64_t y, int64_t elements_y, int count) {
  return dim3(static_cast<unsigned>((x - 1) / elements_x + 1),
              static_cast<unsigned>((y - 1) / elements_y + 1), static_cast<unsigned>(count));
}

// The same where a CTA goes on to others along y, of which a grid holds no more.
dim3 some_ctas_of(int64_t x, int64_t elements_x, int64_t y, int64_t elements_y, int count) {
  dim3 ctas = ctas_of(x, elements_x, y, elements_y, count);
  ctas.y = std::min<unsigned>(ctas.y, UINT16_MAX);
  return ctas;
}

}  // namespace

cudaError_t launch_turn_floats(const TurnActivations& args, cudaStream_t stream) {
  const Turn most = longest(args);
  launch_early(turn_floats_kernel,
               some_ctas_of(most.features, kFloatSide, most.row, kFloatSide, args.count),
               dim3(kFloatThreads), stream, args);
  return cudaGetLastError();
}

cudaError_t launch_pad_floats(const TurnActivations& args, cudaStream_t stream) {
  const Turn most = longest(args);
  launch_early(pad_floats_kernel, some_ctas_of(most.row, 4 * kFloatThreads, most.features, 1, args.count),
               dim3(kFloatThreads), stream, args);
  return cudaGetLastError();
}

cudaError_t launch_turn_activations(const TurnActivations& args, cudaStream_t stream) {
  const Turn most = longest(args);
  launch_early(turn_activations_kernel,
               ctas_of(most.features, kWarps * kSide, most.row, kSide, args.count), dim3(32 * kWarps),
               stream, args);
  return cudaGetLastError();
}

}  // namespace bsparse
