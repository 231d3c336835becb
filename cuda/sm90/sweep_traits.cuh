// Sweeps on Hopper: sizes, and places in shared memory.
#ifndef BSPARSE_CUDA_SM90_SWEEP_TRAITS_CUH_
#define BSPARSE_CUDA_SM90_SWEEP_TRAITS_CUH_

#include "cuda/bsparse_cuda.h"
#include "cuda/dtype.cuh"
#include "cuda/matmul_params.h"
#include "cuda/ptx.cuh"
#include "cuda/sm90/policy.cuh"
#include "cuda/sm90/ptx.cuh"

namespace bsparse {

template <class MathT, int kBlockSizeT, int kFeatureAxisT>
struct SweepTraits {
  using Math = MathT;
  using Element = typename Math::Element;
  static_assert(sizeof(Element) == 2);
  static constexpr int kBlockSize = kBlockSizeT;
  static constexpr int kFeatureAxis = kFeatureAxisT;
  static constexpr int kBlockBytes = 2 * kBlockSize * kBlockSize;
  static constexpr int kWarpOutputs = kSweepOutputs / BSPARSE_SWEEP_WARPS;
  static constexpr int kWarpColumns = kWarpOutputs / kBlockSize;
  static_assert(kWarpColumns <= 4, "a byte each in a header");
  static constexpr int kColumnPieces = kBlockSize / 8;       // of 8 outputs
  static constexpr int kOutputPieces = kWarpOutputs / 8;     // of a warp
  static constexpr int kBatchPieces = kSweepBatchTile / 16;  // of 16 batch entries
  using ColumnSums = float[kColumnPieces][kBatchPieces][4];

  static constexpr int kLaneBytes = kBlockBytes / 32;

  // Of a block, or of two blocks of 8. Weights come as operands lie in registers (pack_weights.cu).
  template <int kBlocks>
  static __device__ __forceinline__ void load_weights(
      uint32_t (&w)[kColumnPieces][kBlocks * kBlockSize / 8], uint32_t from) {
    if constexpr (kBlockSize == 8) {
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        w[0][block] = ptx::load_shared(from + block * kBlockBytes);
      }
    } else {
      uint32_t words[4];
      ptx::load_shared_16(words, from);
#pragma unroll
      for (int i = 0; i < 4; ++i) w[i / 2][i % 2] = words[i];
    }
  }
};

// A stage is a record, boxes of x, and weights.
struct SweepShared {
  uint32_t base;
  uint32_t stage_bytes;
  uint32_t barriers;

  __device__ __forceinline__ SweepShared(const SweepMatmulParams& params, const void* raw)
      : base(ptx::kept((ptx::shared_address(raw) + 1023) & ~1023u)),
        stage_bytes(params.stage_bytes),
        barriers(base + params.ring_stages * params.stage_bytes) {}

  __device__ __forceinline__ uint32_t stage(int stage) const { return base + stage * stage_bytes; }
  __device__ __forceinline__ uint32_t full(int stage) const { return barriers + 16 * stage; }
  __device__ __forceinline__ uint32_t empty(int stage) const { return barriers + 16 * stage + 8; }
};

// A box of x into this CTA, or into all of the cluster.
template <class Traits>
__device__ __forceinline__ void copy_sweep_box(uint32_t to, const SweepMatmulParams& params,
                                               int feature, int batch, uint32_t barrier) {
  const int column = Traits::kFeatureAxis == 1 ? feature : batch;
  const int row = Traits::kFeatureAxis == 1 ? batch : feature;
  if (params.ctas == 1) {
    ptx::copy_box_to_shared(to, &params.x, column, row, barrier);
  } else {
    ptx::copy_box_to_cluster(to, &params.x, column, row, barrier, (1u << params.ctas) - 1);
  }
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_SWEEP_TRAITS_CUH_
