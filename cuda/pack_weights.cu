// Weight blocks of 8 to 32 in the order in which CTAs use them, and as operands lie in registers.
#include "cuda/early_launch.cuh"
#include "cuda/kernel_table.h"
#include "cuda/ptx.cuh"
#include "cuda/support_kernels.h"

namespace bsparse {
namespace {

constexpr int kWarps = 8;

// Blocks that a warp packs: together 16 outputs or more.
template <int kBlockSize>
inline constexpr int kBlocksOfWarp = kBlockSize == 8 ? 4 : 1;

// Matrices of 8 by 8 of a block: where in its operand each lies is by inputs and then outputs, four to an
// operand of 16 by 16; operands by inputs and then outputs, too. With kOutputRows the rows of a block
// are outputs.
template <int kBlockSize, bool kOutputRows>
__global__ void __launch_bounds__(32 * kWarps) pack_kernel(const __grid_constant__ PackWeights args) {
  constexpr int kBlocks = kBlocksOfWarp<kBlockSize>;
  constexpr int kBlockBytes = 2 * kBlockSize * kBlockSize;
  constexpr int kPieces = kBlocks * kBlockBytes / 512;  // of 16 bytes for each lane
  // Rows are padded, so that eight of them lie in different banks.
  constexpr int kRowBytes = 2 * kBlockSize;
  constexpr int kPitch = kBlockSize == 8 ? kRowBytes : kRowBytes + 16;
  __shared__ alignas(16) char rows[kWarps][kBlocks * kBlockSize * kPitch];
  follow_kernel_before();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t first = (int64_t{blockIdx.x} * kWarps + warp) * kBlocks;
  if (first >= args.num_blocks) return;
#pragma unroll
  for (int piece = 0; piece < kPieces; ++piece) {
    const int at = (32 * piece + lane) * 16;  // in the blocks
    const int64_t place = first + at / kBlockBytes;
    const int block = place < args.num_blocks ? __ldg(args.order + place) : -1;
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
  char* const out = args.out + first * kBlockBytes;
  const int matrix = lane / 8, row = lane % 8;
  const auto read = [&](uint32_t (&words)[4], uint32_t address) {
    if constexpr (kOutputRows) {
      ptx::ldmatrix_x4(words, address);
    } else {
      ptx::ldmatrix_x4_trans(words, address);
    }
  };
  uint32_t words[4];
  if constexpr (kBlockSize == 8) {
    read(words, from + (8 * matrix + row) * kPitch);
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      if (first + b < args.num_blocks) {
        *reinterpret_cast<uint32_t*>(out + b * kBlockBytes + 4 * lane) = words[b];
      }
    }
  } else {
    constexpr int kOperands = kBlockSize / 16;  // along a side
#pragma unroll
    for (int o = 0; o < kOperands * kOperands; ++o) {
      const int input = o / kOperands * 16 + 8 * (matrix / 2);
      const int output = o % kOperands * 16 + 8 * (matrix % 2);
      read(words, kOutputRows ? from + (output + row) * kPitch + 2 * input
                              : from + (input + row) * kPitch + 2 * output);
      *reinterpret_cast<uint4*>(out + 512 * o + 16 * lane) = {words[0], words[1], words[2],
                                                              words[3]};
    }
  }
}

template <int kBlockSize>
cudaError_t launch_pack(const PackWeights& args, bool output_rows, cudaStream_t stream) {
  constexpr int kBlocks = kWarps * kBlocksOfWarp<kBlockSize>;
  const auto ctas = static_cast<unsigned>((args.num_blocks - 1) / kBlocks + 1);
  launch_early(output_rows ? &pack_kernel<kBlockSize, true> : &pack_kernel<kBlockSize, false>,
               dim3(ctas), dim3(32 * kWarps), stream, args);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_pack_weights(const PackWeights& args, int block_size, bool output_rows,
                                cudaStream_t stream) {
  switch (block_size) {
    case 8: return launch_pack<8>(args, output_rows, stream);
    case 16: return launch_pack<16>(args, output_rows, stream);
    case 32: return launch_pack<32>(args, output_rows, stream);
    default: return cudaErrorInvalidValue;
  }
}

}  // namespace bsparse
