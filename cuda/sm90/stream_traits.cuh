// Streams on Hopper: sizes, operand tiles and places in shared memory.
#ifndef BSPARSE_CUDA_SM90_STREAM_TRAITS_CUH_
#define BSPARSE_CUDA_SM90_STREAM_TRAITS_CUH_

#include <cstdint>
#include <type_traits>

#include "cuda/sm90/policy.cuh"
#include "cuda/tile.cuh"
#include "cuda/warp_mma.cuh"

namespace bsparse {

// kInBlock: what are called blocks are cells of larger ones.
template <class MathT, int kBlockSizeT, int kFeatureAxisT, bool kTransposeT, int kBatchTileT,
          bool kInBlockT>
struct StreamTraits {
  using Math = MathT;
  using Element = typename Math::Element;
  static constexpr int kSize = sizeof(Element);
  static constexpr int kBlockSize = kBlockSizeT;
  static constexpr int kFeatureAxis = kFeatureAxisT;  // of y
  static constexpr int kAxisX =
      stream_turns_inputs(kBlockSizeT, kFeatureAxisT, kBatchTileT, kSize) ? 0 : kFeatureAxisT;
  static constexpr int kBatchTile = kBatchTileT;
  static constexpr bool kInBlock = kInBlockT;

  // Entries of a column that are multiplied at once, each with a box of x and one of w.
  static constexpr int kEntries = stream_entries(kBlockSize);
  static constexpr int kReduction = kEntries * kBlockSize;

  // The copy engine swizzles boxes just as these tiles expect. Weight blocks that lie in one
  // piece come as rows of 128 bytes: few rows are faster to copy than many short ones.
  static constexpr Major kMajorX = kAxisX == 1 ? Major::kReduction : Major::kOutput;
  static constexpr Major kMajorW = kTransposeT ? Major::kReduction : Major::kOutput;
  template <int kRows, int kColumns>
  using Box = SharedTile<kRows, kColumns * kSize>;
  using BoxX = std::conditional_t<kAxisX == 1, Box<kBatchTile, kBlockSize>, Box<kBlockSize, kBatchTile>>;
  using BoxW = std::conditional_t<
      kInBlock, Box<kBlockSize, kBlockSize>, PackedTile<kBlockSize, kBlockSize * kSize>>;
  // Rows of boxes of x with features first continue in the next box, as swizzles do there.
  using TileX = std::conditional_t<kAxisX == 0, Box<kReduction, kBatchTile>,
                                   std::conditional_t<kEntries == 1, BoxX, MatrixTile<BoxX>>>;
  using TileW = std::conditional_t<kEntries == 1, BoxW, MatrixTile<BoxW>>;
  static constexpr int kBytesX = kEntries * BoxX::kBytes;
  // A tile begins where a swizzle does.
  static constexpr int kPlaceBytesW =
      kEntries > 1 ? kEntries * BoxW::kBytes : BoxW::kBytes < 1024 ? 1024 : BoxW::kBytes;
  // Staged where a tile of x was.
  using TileY =
      std::conditional_t<kFeatureAxis == 1, Box<kBatchTile, kBlockSize>, Box<kBlockSize, kBatchTile>>;
  static_assert(BoxX::kRowBytes <= 128, "boxes as wide as a swizzle");
  using Product =
      WarpProduct<Math, kMajorX, kMajorW, TileX, TileW, kReduction, kBatchTile, kBlockSize>;
  using Sum = typename Product::Sum;

  static constexpr int kWarps = stream_warps(kBlockSize, kBatchTile, kSize);
  static constexpr int kSumBytes = kBatchTile * kBlockSize * 4;
  static constexpr int kControlBytes = 2048;
  static constexpr int kRoom = kMaxSharedBytes - 1024 - kControlBytes - kWarps * kSumBytes;
  static constexpr int kFit = kRoom / (kWarps * (kBytesX + kPlaceBytesW));
  // Of a warp, which holds the entries of what is under way.
  static constexpr int kMaxStages =
      kStreamStages * kEntries <= 32 ? kStreamStages : 32 / kEntries;
  static constexpr int kStages = kFit < kMaxStages ? kFit : kMaxStages;
  static_assert(kStages >= 2, "one tile is multiplied while another arrives");
  static_assert(8 * kWarps * kStages + 8 * kWarps <= kControlBytes, "barriers have room");
  static constexpr int kSharedBytes =
      1024 + kControlBytes +
      kWarps * (kSumBytes + kStages * (kBytesX + kPlaceBytesW));
};

// Places of a warp in shared memory; `base` is a multiple of 1024 bytes.
template <class Traits>
struct StreamShared {
  uint32_t base;
  int warp;

  __device__ __forceinline__ uint32_t x(int stage) const {
    return base + (warp * Traits::kStages + stage) * Traits::kBytesX;
  }
  __device__ __forceinline__ uint32_t w(int stage) const {
    return base + Traits::kWarps * Traits::kStages * Traits::kBytesX +
           (warp * Traits::kStages + stage) * Traits::kPlaceBytesW;
  }
  // What warp `of` leaves for the warp that stores the column.
  __device__ __forceinline__ uint32_t sum(int of) const {
    return base +
           Traits::kWarps * Traits::kStages * (Traits::kBytesX + Traits::kPlaceBytesW) +
           of * Traits::kSumBytes;
  }
  __device__ __forceinline__ uint32_t full(int stage) const {
    return sum(Traits::kWarps) + 8 * (warp * Traits::kStages + stage);
  }
  // The column that warp `of` begins with, if it goes on from the warp before, or -1.
  __device__ __forceinline__ uint32_t continued(int of) const {
    return sum(Traits::kWarps) + 8 * Traits::kWarps * Traits::kStages + 4 * of;
  }
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_STREAM_TRAITS_CUH_
