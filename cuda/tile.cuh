// Tiles in shared memory, cut into chunks of 16 bytes: what cp.async writes and ldmatrix reads.
#ifndef BSPARSE_CUDA_TILE_CUH_
#define BSPARSE_CUDA_TILE_CUH_

#include <cstdint>

#include "cuda/ptx.cuh"

namespace bsparse {

inline constexpr int kChunkBytes = 16;

template <class Element>
inline constexpr int kChunkElements = kChunkBytes / static_cast<int>(sizeof(Element));

// Which dimension of an operand is contiguous: the one that is summed over, or the other.
enum class Major { kReduction, kOutput };

// Chunks change places within a row so that the rows a warp reads together lie in different
// banks. Two readers need two patterns:
//   kRows8   eight rows, one chunk of each (ldmatrix): chunk ^ row
//   kRows4   four rows, two neighbouring chunks of each (32-bit fragments of a tile whose
//            contiguous dimension is not summed over): pairs of chunks change places
enum class Swizzle { kRows8, kRows4 };

template <int kRowsT, int kRowBytesT, Swizzle kSwizzle = Swizzle::kRows8>
struct SharedTile {
  static constexpr int kRows = kRowsT;
  static constexpr int kRowBytes = kRowBytesT;
  static constexpr int kBytes = kRows * kRowBytes;
  static constexpr int kRowChunks = kRowBytes / kChunkBytes;
  static constexpr int kChunks = kRows * kRowChunks;
  static_assert((kRowChunks & (kRowChunks - 1)) == 0, "a row must be a power of two of chunks");

  // Byte offset of a chunk.
  static __device__ __forceinline__ uint32_t offset(int row, int chunk) {
    constexpr int kLineChunks = 8;  // all 32 banks
    // Shorter rows share a line of banks; only the line's number matters then.
    constexpr int kRowsPerLine = kRowChunks < kLineChunks ? kLineChunks / kRowChunks : 1;
    constexpr int kMask = (kRowChunks < kLineChunks ? kRowChunks : kLineChunks) - 1;
    const int line = row / kRowsPerLine;
    const int pattern = kSwizzle == Swizzle::kRows8 ? line & kMask : (line << 1) & kMask;
    return row * kRowBytes + ((chunk ^ pattern) * kChunkBytes);
  }

  // Byte offset of a 32-bit element.
  static __device__ __forceinline__ uint32_t word_offset(int row, int word) {
    return offset(row, word / 4) + (word % 4) * 4;
  }
};

// Rows shorter than a line of banks as they lie in memory, several to a line of 128 bytes: how the
// copy engine swizzles memory that it takes for rows of 128 bytes.
template <int kRowsT, int kRowBytesT>
struct PackedTile {
  static constexpr int kRowBytes = kRowBytesT;
  static constexpr int kBytes = kRowsT * kRowBytes;
  static constexpr int kLineBytes = 128;
  static constexpr int kLines = kBytes / kLineBytes;
  static_assert(kLineBytes % kRowBytes == 0 && kBytes % kLineBytes == 0, "lines of whole rows");

  static __device__ __forceinline__ uint32_t offset(int row, int chunk) {
    const int line = row / (kLineBytes / kRowBytes);
    const int place = row % (kLineBytes / kRowBytes) * (kRowBytes / kChunkBytes) + chunk;
    return line * kLineBytes + ((place ^ line) % 8) * kChunkBytes;
  }

  // Byte offset of a 32-bit element.
  static __device__ __forceinline__ uint32_t word_offset(int row, int word) {
    return offset(row, word / 4) + (word % 4) * 4;
  }
};

// Boxes one after the other whose rows are a chunk, so that there is nothing to swizzle. They continue
// each other's columns, or rows by a chunk each.
template <class Box>
struct MatrixTile {
  static_assert(Box::kRowBytes == kChunkBytes, "eight rows are a line of banks");

  static __device__ __forceinline__ uint32_t offset(int row, int chunk) {
    return chunk * Box::kBytes + row * kChunkBytes;
  }
};

// The tile of an operand of (outputs, reduction) elements, in the order it has in memory.
template <class Element, Major kMajor, int kOutputs, int kReduction>
using OperandTile = SharedTile<
    kMajor == Major::kReduction ? kOutputs : kReduction,
    static_cast<int>(sizeof(Element)) * (kMajor == Major::kReduction ? kReduction : kOutputs),
    kMajor == Major::kOutput && sizeof(Element) == 4 ? Swizzle::kRows4 : Swizzle::kRows8>;

// Copies one chunk to shared memory element by element, at once, with zeros after `valid`
// elements: for sources that may not be read 16 bytes at once.
template <class Element>
__device__ __forceinline__ void load_chunk_by_elements(uint32_t to, const Element* from,
                                                       int valid) {
  uint32_t words[4] = {0, 0, 0, 0};
#pragma unroll
  for (int e = 0; e < kChunkElements<Element>; ++e) {
    if (e >= valid) continue;
    if constexpr (sizeof(Element) == 2) {
      const uint32_t bits = reinterpret_cast<const uint16_t*>(from)[e];
      words[e / 2] |= bits << (16 * (e % 2));
    } else {
      words[e] = reinterpret_cast<const uint32_t*>(from)[e];
    }
  }
  ptx::store_shared_16(to, words);
}

// How the threads of a CTA share the chunks of a tile: a thread has one chunk column, and rows
// kRowStep apart, so that its addresses differ by constants.
template <class Tile, int kThreads>
struct ChunkShare {
  static_assert(kThreads % Tile::kRowChunks == 0, "threads cover whole rows");
  static constexpr int kRowStep = kThreads / Tile::kRowChunks;
  static constexpr int kRowsPerThread = (Tile::kRows + kRowStep - 1) / kRowStep;
  static constexpr bool kEven = Tile::kRows % kRowStep == 0;

  static __device__ __forceinline__ int row() { return threadIdx.x / Tile::kRowChunks; }
  static __device__ __forceinline__ int chunk() { return threadIdx.x % Tile::kRowChunks; }
  // Whether this thread has a row `step` row steps on.
  static __device__ __forceinline__ bool has(int step) {
    return kEven || row() + step * kRowStep < Tile::kRows;
  }
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_TILE_CUH_
