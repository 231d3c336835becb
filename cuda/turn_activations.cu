#include <algorithm>

#include "cuda/early_launch.cuh"
#include "cuda/ptx.cuh"
#include "cuda/support_kernels.h"

namespace bsparse {
namespace {

// A warp turns four matrices of 8 by 8, so that whole sectors of memory are read and written. In registers, as the
// product that waits for this takes all of shared memory.
constexpr int kWarps = 8;
constexpr int kSide = 16;

__global__ void __launch_bounds__(32 * kWarps) turn_activations_kernel(const __grid_constant__ TurnActivations all) {
  follow_kernel_before();
  const Turn& args = all.turns[blockIdx.z];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t first_feature = (int64_t{blockIdx.x} * kWarps + warp) * kSide;
  const int64_t first_entry = int64_t{blockIdx.y} * kSide;
  const auto* const from = static_cast<const uint32_t*>(args.from);
  auto* const to = static_cast<uint32_t*>(args.to);
  const int row = lane / 4, pair = lane % 4;  // of a matrix, as lanes hold it
  uint32_t matrices[2][2];  // [8 batch entries][8 features]
#pragma unroll
  for (int b = 0; b < 2; ++b)
#pragma unroll
    for (int f = 0; f < 2; ++f) {
      const int64_t entry = first_entry + 8 * b + row, feature = first_feature + 8 * f;
      const bool exists = entry < args.batch && feature < args.features;
      matrices[b][f] = exists ? __ldg(from + (entry * args.features + feature) / 2 + pair) : 0;
    }
#pragma unroll
  for (int f = 0; f < 2; ++f)
#pragma unroll
    for (int b = 0; b < 2; ++b) {
      const int64_t entry = first_entry + 8 * b, feature = first_feature + 8 * f;
      const uint32_t turned = ptx::turn_matrix(matrices[b][f]);
      if (entry < args.row && feature < args.features) {
        to[((feature + row) * args.row + entry) / 2 + pair] = turned;
      }
    }
}

}  // namespace

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
