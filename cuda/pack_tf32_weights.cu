// Blocks of float32 weights, of 8 and 16, in the order in which sweeps use them, rounded to TF32, and as operands lie
// in registers.
#include "cuda/early_launch.cuh"
#include "cuda/kernel_launch.h"
#include "cuda/ptx.cuh"
#include "cuda/support_kernels.h"

namespace bsparse {
namespace {

constexpr int kWarps = 8;
constexpr int kWarpElements = 256;  // four blocks of 8, or one of 16

// Of an operand of 8 inputs by 8 outputs lane 4 g + t has output g of inputs t and t + 4, or 2 t and 2 t + 1.
// Its words of all outputs of a block are neighbours, for 8 inputs after the other.
template <int kBlockSize, bool kOutputRows, bool kNeighbours>
__global__ void __launch_bounds__(32 * kWarps)
    pack_tf32_kernel(const __grid_constant__ PackWeights args) {
  constexpr int kBlockElements = kBlockSize * kBlockSize;
  constexpr int kBlocks = kWarpElements / kBlockElements;
  constexpr int kColumnPieces = kBlockSize / 8;
  __shared__ alignas(16) float staged[kWarps][kWarpElements];
  follow_kernel_before();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t square = int64_t{blockIdx.x} * kWarps + warp;
  if (square >= args.num_packed) return;
#pragma unroll
  for (int at = 4 * lane; at < kWarpElements; at += 4 * 32) {
    const int block = __ldg(args.order + square * kBlocks + at / kBlockElements);
    // A block whose gate is 0 may hold anything.
    const bool used = block >= 0 && (args.gate == nullptr || __ldg(args.gate + block) != 0.0f);
    float4 words = {};
    if (used) {
      words = __ldg(reinterpret_cast<const float4*>(
          args.w + (int64_t{block} * kBlockElements + at % kBlockElements) * sizeof(float)));
    }
    *reinterpret_cast<float4*>(&staged[warp][at]) = words;
  }
  __syncwarp();
  auto* const out = reinterpret_cast<uint2*>(args.out) + square * (kWarpElements / 2);
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int operand = 0; operand < kWarpElements / 64; ++operand) {
    const int block = operand * 64 / kBlockElements;
    const int step = operand % (kColumnPieces * kColumnPieces) / kColumnPieces;
    const int piece = operand % kColumnPieces;
    const auto element = [&](int input) {
      const int i = 8 * step + input, o = 8 * piece + g;
      const int place = kOutputRows ? o * kBlockSize + i : i * kBlockSize + o;
      return ptx::round_to_tf32(__float_as_uint(staged[warp][block * kBlockElements + place]));
    };
    const int first = kNeighbours ? 2 * t : t, second = kNeighbours ? 2 * t + 1 : t + 4;
    out[(operand / kColumnPieces * 32 + lane) * kColumnPieces + piece] = {element(first),
                                                                         element(second)};
  }
}

template <int kBlockSize, bool kOutputRows>
void launch_pack(const PackWeights& args, bool neighbours, cudaStream_t stream) {
  const auto ctas = static_cast<unsigned>((args.num_packed - 1) / kWarps + 1);
  launch_early(neighbours ? &pack_tf32_kernel<kBlockSize, kOutputRows, true>
                          : &pack_tf32_kernel<kBlockSize, kOutputRows, false>,
               dim3(ctas), dim3(32 * kWarps), stream, args);
}

}  // namespace

cudaError_t launch_pack_tf32_weights(const PackWeights& args, int block_size, bool output_rows,
                                     bool neighbours, cudaStream_t stream) {
  if (block_size == 8) {
    output_rows ? launch_pack<8, true>(args, neighbours, stream)
                : launch_pack<8, false>(args, neighbours, stream);
  } else if (block_size == 16) {
    output_rows ? launch_pack<16, true>(args, neighbours, stream)
                : launch_pack<16, false>(args, neighbours, stream);
  } else {
    return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}

}  // namespace bsparse
