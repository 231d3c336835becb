#include <algorithm>

#include "cuda/support_kernels.h"

namespace bsparse {
namespace {

constexpr int kTile = 32;
constexpr int kRowsAtOnce = 8;
constexpr int64_t kMaxCtas = 1 << 16;

// A CTA takes tiles of kTile x kTile elements of a block.
__global__ void transpose_blocks_kernel(const float* w, float* out, int64_t tiles,
                                        int block_size) {
  __shared__ float tile[kTile][kTile + 1];
  const int across = block_size / kTile;
  const int lane = threadIdx.x, first_row = threadIdx.y;
  for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const int64_t block = t / (across * across) * block_size * block_size;
    const int in_block = static_cast<int>(t % (across * across));
    const int row = in_block / across * kTile, column = in_block % across * kTile;
    for (int r = first_row; r < kTile; r += kRowsAtOnce) {
      tile[r][lane] = w[block + (row + r) * block_size + column + lane];
    }
    __syncthreads();
    for (int r = first_row; r < kTile; r += kRowsAtOnce) {
      out[block + (column + r) * block_size + row + lane] = tile[lane][r];
    }
    __syncthreads();
  }
}

}  // namespace

cudaError_t launch_transpose_blocks(const TransposeBlocks& args, cudaStream_t stream) {
  const int across = args.block_size / kTile;
  const int64_t tiles = int64_t{args.num_blocks} * across * across;
  transpose_blocks_kernel<<<static_cast<unsigned>(std::min(tiles, kMaxCtas)),
                            dim3(kTile, kRowsAtOnce), 0, stream>>>(args.w, args.out, tiles,
                                                                   args.block_size);
  return cudaGetLastError();
}

}  // namespace bsparse
