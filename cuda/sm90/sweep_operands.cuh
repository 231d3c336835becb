// How a sweep's warp reads x out of boxes in shared memory.
//
// Rows of a box have 128 bytes, in which 16-byte chunk c of row r is at c ^ r % 8, or 64 bytes, in which it is at
// c ^ r / 2 % 4. Of an operand of 16 batch entries by kBytes of inputs lane 4 g + t has batch entries g and g + 8.
#ifndef BSPARSE_CUDA_SM90_SWEEP_OPERANDS_CUH_
#define BSPARSE_CUDA_SM90_SWEEP_OPERANDS_CUH_

#include "cuda/ptx.cuh"
#include "cuda/sm90/sweep_traits.cuh"

namespace bsparse {

// By ldmatrix, matrices of 8 by 16 bytes. kBytes: a step's inputs, or half of them. Of two blocks of a step half of the
// lanes find each.
template <class Traits, int kBytes>
class SweepMatrices {
 public:
  static constexpr int kWords = kBytes / 8;  // of a lane, for 16 batch entries
  static constexpr int kBlocks = kBytes > Traits::kInputBytes ? kBytes / Traits::kInputBytes : 1;

  __device__ __forceinline__ explicit SweepMatrices(int lane) {
    const int matrix = lane / 8, in_matrix = lane % 8;
    // Matrices come by batch entries and then by inputs.
    const int inputs = kBytes == 32 && kBlocks == 1 ? matrix / 2 : 0;
    const int batch = kBytes == 16 ? matrix : matrix % 2;
    if constexpr (Traits::kFeatureAxis == 1) {
      row_ = 128 * (8 * batch + in_matrix);
      flip_ = 16 * (inputs ^ in_matrix);
    } else {
      row_ = Traits::kRowBytes * (8 * inputs + in_matrix);
      flip_ = 16 * (batch ^ (Traits::kRowBytes == 128 ? in_matrix : in_matrix / 2));
    }
  }

  // Of a block at a place, counted in blocks from the stage's first box on.
  __device__ __forceinline__ uint32_t address(uint32_t boxes, uint32_t place) const {
    if constexpr (Traits::kFeatureAxis == 1) {
      const uint32_t bytes = place * Traits::kInputBytes;  // 128 of them in each box
      return boxes + row_ + ((bytes + (bytes & ~127u) * (Traits::kBatchTile - 1)) ^ flip_);
    } else {
      static_assert(Traits::kPanels == 1);
      return boxes + row_ + place * (Traits::kRowBytes * Traits::kBlockSize);
    }
  }

  // x of a step of what is at an address, for each batch piece.
  __device__ __forceinline__ void load(uint32_t at, int step,
                                       uint32_t (&x)[Traits::kBatchPieces][kWords]) const {
    constexpr int kLoadPieces = 4 / kWords;  // of one instruction
#pragma unroll
    for (int i = 0; i < Traits::kBatchPieces; i += kLoadPieces) {
      uint32_t words[4];
      if constexpr (Traits::kFeatureAxis == 1) {
        ptx::ldmatrix_x4(words, (at ^ step * Traits::kStepBytes) + i * 16 * 128);
      } else {
        ptx::ldmatrix_x4_trans(words, at + (flip_ ^ i * 32));
      }
#pragma unroll
      for (int w = 0; w < 4; ++w) x[i + w / kWords][w % kWords] = words[w];
    }
  }

 private:
  uint32_t row_;   // from the box, and
  uint32_t flip_;  // what the block's place in a row, or that of the batch piece, is flipped by
};

// TF32 with features first, which ldmatrix does not turn round: a lane reads four neighbouring batch entries
// of an input at once. So in every 32 batch entries piece p has numbers 4 g + 2 p and 4 g + 2 p + 1 in the
// places of g and g + 8. Of eight inputs lane 4 g + t has 2 t and 2 t + 1, which lie in different banks for
// all t, in the places of t and t + 4; so do weights (pack_tf32_weights.cu).
template <class Traits>
class SweepFourBatchEntries {
 public:
  static constexpr int kWords = 4;
  static constexpr int kBlocks = 1;
  static_assert(Traits::kRowBytes == 128 && Traits::kPanelBatch == 32);

  __device__ __forceinline__ explicit SweepFourBatchEntries(int lane)
      : from_(128 * (lane % 4 * 2) + 16 * (lane / 4 ^ lane % 4 * 2)) {}

  __device__ __forceinline__ uint32_t address(uint32_t boxes, uint32_t place) const {
    constexpr int kBoxBlocks = Traits::kBoxFeatures / Traits::kBlockSize;
    constexpr uint32_t kOtherPanels = Traits::kBoxBytes - Traits::kPanelBytes;
    return boxes + from_ + place * (128 * Traits::kBlockSize) + place / kBoxBlocks * kOtherPanels;
  }

  __device__ __forceinline__ void load(uint32_t at, int step,
                                       uint32_t (&x)[Traits::kBatchPieces][kWords]) const {
#pragma unroll
    for (int panel = 0; panel < Traits::kPanels; ++panel) {
#pragma unroll
      for (int input = 0; input < 2; ++input) {
        uint32_t words[4];
        ptx::load_shared_16(words, (at ^ input * (128 + 16)) + step * 8 * 128 +
                                       panel * Traits::kPanelBytes);
#pragma unroll
        for (int w = 0; w < 4; ++w) x[2 * panel + w / 2][2 * input + w % 2] = words[w];
      }
    }
  }

 private:
  uint32_t from_;
};

template <class Traits>
inline constexpr bool kTakesFourBatchEntries = Traits::kElementBytes == 4 && Traits::kFeatureAxis == 0;

template <class Traits, int kBytes>
using SweepOperands = std::conditional_t<kTakesFourBatchEntries<Traits>, SweepFourBatchEntries<Traits>,
                                         SweepMatrices<Traits, kBytes>>;

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_SWEEP_OPERANDS_CUH_
