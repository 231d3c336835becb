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

// A step of the sum takes 32 bytes of inputs of each batch entry: 16 of 16 bits, or 8 in TF32. Of blocks of 8 in
// 16 bit two make one, and one alone half of one.
template <class MathT, int kBlockSizeT, int kFeatureAxisT, int kBatchTileT>
struct SweepTraits {
  using Math = MathT;
  using Element = typename Math::Element;
  static constexpr int kBlockSize = kBlockSizeT;
  static constexpr int kFeatureAxis = kFeatureAxisT;
  static constexpr int kBatchTile = kBatchTileT;
  static constexpr int kElementBytes = sizeof(Element);
  static constexpr int kInputBytes = kBlockSize * kElementBytes;  // of a block and batch entry
  static constexpr int kBlockBytes = kBlockSize * kInputBytes;
  static constexpr int kStepBytes = 32;
  static constexpr int kSteps = kInputBytes > kStepBytes ? kInputBytes / kStepBytes : 1;  // of a block
  static constexpr int kStepBlocks = kInputBytes < kStepBytes ? kStepBytes / kInputBytes : 1;

  static constexpr int kWarpOutputs = sweep_outputs(kBatchTile) / BSPARSE_SWEEP_WARPS;
  static constexpr int kWarpColumns = kWarpOutputs / kBlockSize;
  static_assert(kWarpColumns <= 8, "a byte each in a header");
  static constexpr int kColumnPieces = kBlockSize / 8;    // of 8 outputs
  static constexpr int kOutputPieces = kWarpOutputs / 8;  // of a warp
  static constexpr int kBatchPieces = kBatchTile / 16;    // of 16 batch entries
  using ColumnSums = float[kColumnPieces][kBatchPieces][4];

  // A box of x has rows of batch entries, or of features: these in panels, as a copied row has 128 bytes at most.
  static constexpr int kBoxFeatures = BSPARSE_SWEEP_BOX_ROW_BYTES / kElementBytes;
  static constexpr int kBoxBytes = BSPARSE_SWEEP_BOX_ROW_BYTES * kBatchTile;
  static constexpr int kBatchBytes = kBatchTile * kElementBytes;
  static constexpr int kPanels = kFeatureAxis == 0 && kBatchBytes > 128 ? kBatchBytes / 128 : 1;
  static constexpr int kPanelBytes = kBoxBytes / kPanels;
  static constexpr int kPanelBatch = kBatchTile / kPanels;
  static constexpr int kRowBytes = kFeatureAxis == 1 ? 128 : kPanelBatch * kElementBytes;

  // Weights come as operands lie in registers (pack_weights.cu, pack_tf32_weights.cu).
  static constexpr int kLaneBytes = kBlockBytes / kSteps / 32;

  // Of a step of a block, or of as many blocks of 8 as make one.
  template <int kBlocks, int kWords>
  static __device__ __forceinline__ void load_weights(uint32_t (&w)[kColumnPieces][kWords],
                                                      uint32_t from) {
    static_assert(kBlocks * kLaneBytes == 4 * kColumnPieces * kWords);
    if constexpr (kLaneBytes == 4) {
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        w[0][block] = ptx::load_shared(from + block * kBlockBytes);
      }
    } else if constexpr (kLaneBytes == 8) {
      const uint2 words = ptx::load_shared_8(from);
      w[0][0] = words.x;
      w[0][1] = words.y;
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
#pragma unroll
  for (int panel = 0; panel < Traits::kPanels; ++panel) {
    const int entry = batch + panel * Traits::kPanelBatch;
    const int column = Traits::kFeatureAxis == 1 ? feature : entry;
    const int row = Traits::kFeatureAxis == 1 ? entry : feature;
    const uint32_t place = to + panel * Traits::kPanelBytes;
    if (params.ctas == 1) {
      ptx::copy_box_to_shared(place, &params.x, column, row, barrier);
    } else {
      ptx::copy_box_to_cluster(place, &params.x, column, row, barrier, (1u << params.ctas) - 1);
    }
  }
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_SWEEP_TRAITS_CUH_
