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

// A CTA takes a square, 32 threads a row.
constexpr int kRowsAtOnce = 8;

__global__ void __launch_bounds__(kSide * kRowsAtOnce)
    turn_floats_kernel(const __grid_constant__ Turn turn, const bool features_first) {
  __shared__ float square[kSide][kSide + 1];
  follow_kernel_before();
  const auto* const from = static_cast<const float*>(turn.from);
  auto* const to = static_cast<float*>(turn.to);
  const int lane = threadIdx.x % kSide, first_row = threadIdx.x / kSide;
  const int64_t feature = int64_t{blockIdx.x} * kSide;
  for (int64_t entry = int64_t{blockIdx.y} * kSide; entry < turn.row; entry += int64_t{gridDim.y} * kSide) {
#pragma unroll
    for (int r = first_row; r < kSide; r += kRowsAtOnce) {
      const int64_t f = feature + (features_first ? r : lane), b = entry + (features_first ? lane : r);
      const bool there = f < turn.features && b < turn.batch;
      const int64_t at = features_first ? f * turn.batch + b : b * turn.features + f;
      square[features_first ? r : lane][features_first ? lane : r] = there ? __ldg(from + at) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int r = first_row; r < kSide; r += kRowsAtOnce) {
      const int64_t f = feature + r, b = entry + lane;
      if (f < turn.features && b < turn.row) to[f * turn.row + b] = square[r][lane];
    }
    __syncthreads();
  }
}

}  // namespace

cudaError_t launch_turn_floats(const Turn& turn, bool features_first, cudaStream_t stream) {
  const dim3 ctas(static_cast<unsigned>((turn.features - 1) / kSide + 1),
                  static_cast<unsigned>(std::min<int64_t>((turn.row - 1) / kSide + 1, UINT16_MAX)));
  launch_early(turn_floats_kernel, ctas, dim3(kSide * kRowsAtOnce), stream, turn, features_first);
  return cudaGetLastError();
}

cudaError_t launch_turn_activations(const TurnActivations& args, cudaStream_t stream) {
  int64_t features = 0, row = 0;
  for (int t = 0; t < args.count; ++t) {
    features = std::max(features, args.turns[t].features);
    row = std::max(row, args.turns[t].row);
  }
  const dim3 ctas(static_cast<unsigned>((features - 1) / (kWarps * kSide) + 1),
                  static_cast<unsigned>((row - 1) / kSide + 1), static_cast<unsigned>(args.count));
  launch_early(turn_activations_kernel, ctas, dim3(32 * kWarps), stream, args);
  return cudaGetLastError();
}

}  // namespace bsparse
