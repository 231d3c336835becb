#include <algorithm>

#include "cuda/early_launch.cuh"
#include "cuda/support_kernels.h"

namespace bsparse {
namespace {

constexpr int kRowsAtOnce = 8;
constexpr int64_t kMaxCtas = 1 << 16;

// A CTA takes tiles of kTile x kTile elements of a block.
template <int kTile, bool kTranspose, bool kInterleave>
__global__ void arrange_blocks_kernel(const float* w, float* out, int64_t tiles, int block_size) {
  __shared__ float tile[kTile][kTile + 1];
  const int across = block_size / kTile;
  const int lane = threadIdx.x, first_row = threadIdx.y;
  // Of eight inputs the even ones first.
  const int input = kInterleave ? lane / 8 * 8 + lane % 4 * 2 + lane % 8 / 4 : lane;
  follow_kernel_before();
  for (int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const int64_t block = t / (across * across) * block_size * block_size;
    const int in_block = static_cast<int>(t % (across * across));
    const int row = in_block / across * kTile, column = in_block % across * kTile;
    for (int r = first_row; r < kTile; r += kRowsAtOnce) {
      tile[r][lane] = w[block + (row + r) * block_size + column + lane];
    }
    __syncthreads();
    const int to = kTranspose ? column * block_size + row : row * block_size + column;
    for (int r = first_row; r < kTile; r += kRowsAtOnce) {
      out[block + to + r * block_size + lane] = kTranspose ? tile[input][r] : tile[r][input];
    }
    __syncthreads();
  }
}

template <int kTile>
void launch(const ArrangeBlocks& args, cudaStream_t stream) {
  const int across = args.block_size / kTile;
  const int64_t tiles = int64_t{args.num_blocks} * across * across;
  const auto kernel =
      args.interleave ? (args.transpose ? &arrange_blocks_kernel<kTile, true, true>
                                        : &arrange_blocks_kernel<kTile, false, true>)
                      : &arrange_blocks_kernel<kTile, true, false>;
  launch_early(kernel, dim3(static_cast<unsigned>(std::min(tiles, kMaxCtas))), dim3(kTile, kRowsAtOnce), stream,
               args.w, args.out, tiles, args.block_size);
}

}  // namespace

cudaError_t launch_arrange_blocks(const ArrangeBlocks& args, cudaStream_t stream) {
  if (args.block_size == 8) {
    launch<8>(args, stream);
  } else if (args.block_size == 16) {
    launch<16>(args, stream);
  } else {
    launch<32>(args, stream);
  }
  return cudaGetLastError();
}

}  // namespace bsparse
