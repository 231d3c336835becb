// Weight blocks of 8 to 32 in the order in which CTAs use them, and as operands lie in registers.
#include "cuda/early_launch.cuh"
#include "cuda/kernel_launch.h"
#include "cuda/ptx.cuh"
#include "cuda/sm90/policy.cuh"
#include "cuda/support_kernels.h"

namespace bsparse {
namespace {

constexpr int kWarps = 8;

// One warp a square. In an operand of 16 inputs by 16 outputs, of 16 bytes a lane, matrices of 8 by 8 come
// by inputs and then outputs, as mma.m16n8k16 has it; so do operands in a square. With kOutputRows the
// rows of a block are outputs.
//
// With kAsColumns a block of 16 is two operands of mma.m16n8k16's other side, 16 inputs by 8 outputs: matrices come by
// outputs and then inputs. A block of 8 is one of mma.m16n8k8, 4 bytes a lane.
template <int kBlockSize, bool kOutputRows, bool kAsColumns>
__global__ void __launch_bounds__(32 * kWarps) pack_kernel(const __grid_constant__ PackWeights args) {
  constexpr int kSide = kBlockSize < 16 ? 16 : kBlockSize;
  constexpr int kBlocks = kSide / kBlockSize;  // along a side
  constexpr int kBlockBytes = 2 * kBlockSize * kBlockSize;
  constexpr int kPieces = 2 * kSide * kSide / 512;  // of 16 bytes for each lane
  constexpr int kRowBytes = 2 * kBlockSize;
  // Padded, so that eight rows lie in different banks.
  constexpr int kPitch = kBlockSize == 8 ? kRowBytes : kRowBytes + 16;
  __shared__ alignas(16) char rows[kWarps][kBlocks * kBlocks * kBlockSize * kPitch];
  follow_kernel_before();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t square = int64_t{blockIdx.x} * kWarps + warp;
  if (square >= args.num_packed) return;
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    const int at = (32 * piece + lane) * 16;  // in the blocks of the square
    const int block = __ldg(args.order + square * kBlocks * kBlocks + at / kBlockBytes);
    // A block whose gate is 0 may hold anything.
    const bool used = block >= 0 && (args.gate == nullptr || __ldg(args.gate + block) != 0.0f);
    uint4 words = {};
    if (used) {
      words = __ldg(reinterpret_cast<const uint4*>(args.w + int64_t{block} * kBlockBytes +
                                                   at % kBlockBytes));
    }
    *reinterpret_cast<uint4*>(&rows[warp][at / kRowBytes * kPitch + at % kRowBytes]) = words;
  }
  __syncwarp();
  const uint32_t from = ptx::shared_address(rows[warp]);
  char* const out = args.out + square * 2 * kSide * kSide;
  const int matrix = lane / 8, row = lane % 8;
  constexpr int kOperands = kSide / 16;  // along a side
#pragma unroll
  for (int o = 0; o < kOperands * kOperands; ++o) {
    const int input = o / kOperands * 16 + 8 * (kAsColumns ? matrix % 2 : matrix / 2);
    const int output = o % kOperands * 16 + 8 * (kAsColumns ? matrix / 2 : matrix % 2);
    uint32_t address = from;
    if constexpr (kBlocks > 1) {
      address += (8 * matrix + row) * kPitch;  // the matrix is a block
    } else if constexpr (kOutputRows) {
      address += (output + row) * kPitch + 2 * input;
    } else {
      address += (input + row) * kPitch + 2 * output;
    }
    uint32_t words[4];
    if constexpr (kOutputRows) {
      ptx::ldmatrix_x4(words, address);
    } else {
      ptx::ldmatrix_x4_trans(words, address);
    }
    if constexpr (kAsColumns && kBlockSize == 8) {
#pragma unroll
      for (int block = 0; block < 4; ++block) {
        *reinterpret_cast<uint32_t*>(out + 128 * block + 4 * lane) = words[block];
      }
    } else {
      *reinterpret_cast<uint4*>(out + 512 * o + 16 * lane) = {words[0], words[1], words[2],
                                                              words[3]};
    }
  }
}

template <int kBlockSize, bool kAsColumns>
cudaError_t launch_pack(const PackWeights& args, bool output_rows, cudaStream_t stream) {
  const auto ctas = static_cast<unsigned>((args.num_packed - 1) / kWarps + 1);
  launch_early(output_rows ? &pack_kernel<kBlockSize, true, kAsColumns>
                           : &pack_kernel<kBlockSize, false, kAsColumns>,
               dim3(ctas), dim3(32 * kWarps), stream, args);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_pack_weights(const PackWeights& args, int block_size, bool output_rows,
                                bool as_columns, cudaStream_t stream) {
  switch (block_size) {
    case 8:
      return as_columns ? launch_pack<8, true>(args, output_rows, stream)
                        : launch_pack<8, false>(args, output_rows, stream);
    case 16:
      return as_columns ? launch_pack<16, true>(args, output_rows, stream)
                        : launch_pack<16, false>(args, output_rows, stream);
    case 32: return launch_pack<32, false>(args, output_rows, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace bsparse
