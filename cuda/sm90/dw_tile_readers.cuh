// Sizes of the tiled weight gradient, and how a lane reads operands of its products out of shared memory.
#ifndef BSPARSE_CUDA_SM90_DW_TILE_READERS_CUH_
#define BSPARSE_CUDA_SM90_DW_TILE_READERS_CUH_

#include <cstdint>

#include "cuda/bsparse_cuda.h"
#include "cuda/ptx.cuh"
#include "cuda/sm90/dw_tiles_policy.cuh"
#include "cuda/sm90/ptx.cuh"
#include "cuda/sm90/swizzle.cuh"

namespace bsparse {

template <class MathT, int kStoredBlockSizeT, int kFeatureAxisT>
struct DwTilesTraits {
  using Math = MathT;
  using Element = typename Math::Element;
  static constexpr int kElementBytes = sizeof(Element);
  static constexpr int kStoredBlockSize = kStoredBlockSizeT;
  static constexpr int kBlockSize = dw_tile_cell(kStoredBlockSize);  // of a cell, called block here
  static constexpr int kBlockElements = kBlockSize * kBlockSize;
  static constexpr int kFeatureAxis = kFeatureAxisT;
  static constexpr int kDepth = dw_tile_depth(kElementBytes);
  // A step is what one product sums up: batch entries of 32 bytes.
  static constexpr int kSteps = 2;
  static constexpr int kStepBatch = kDepth / kSteps;
  static_assert(kStepBatch * kElementBytes == 32);

  // A slot is a block of 16 or 32, or two blocks of 8 that have the same outputs. A product has 16
  // inputs.
  static constexpr int kSlots = dw_tile_slots(kBlockSize);  // of a warp
  static constexpr int kSlotBlocks = dw_tile_slot_blocks(kBlockSize);
  static constexpr int kParts = kBlockSize == 32 ? 2 : 1;  // of 16 features, of either operand
  static constexpr int kOctets = kBlockSize / 8;  // of outputs
  static constexpr int kBlocks = BSPARSE_DW_TILE_WARPS * kSlots * kSlotBlocks;  // of a CTA

  // In shared memory a chunk is kDepth rows of kChunkFeatures features, or the other way round.
  static constexpr int kChunkFeatures = dw_tile_chunk_features(kElementBytes);
  static constexpr int kChunkBytes = dw_tile_chunk_bytes(kElementBytes);
  static constexpr int kChunkBlocks = kChunkFeatures / kBlockSize;
  static constexpr int kRowBytes = (kFeatureAxis == 1 ? kChunkFeatures : kDepth) * kElementBytes;
  static constexpr int kBlockBytes =  // from one block to the next
      kBlockSize * (kFeatureAxis == 1 ? kElementBytes : kRowBytes);

  // Operands have the batch along their registers. ldmatrix reads them so, and turns 16-bit elements
  // round where features lie along the rows; those of 32 bits are loaded one batch entry at a time.
  static constexpr bool kLoadsMatrices = kElementBytes == 2 || kFeatureAxis == 0;

  // Neighbouring slots often have one operand in common, which is then kept: x of blocks of 16 and
  // 32, whose slots lie by input, dy of blocks of 8, whose slots lie by output. The other is read for
  // every slot.
  static constexpr bool kKeepsX = kBlockSize != 8;
};

// ldmatrix where `reads` is not 0, which must be so in all lanes or in none. A branch would cost more
// than the predicate that this becomes.
template <int kMatrices, bool kTransposed>
__device__ __forceinline__ void ldmatrix_if(uint32_t reads, uint32_t (&d)[4], uint32_t address) {
#define BSPARSE_LDMATRIX(kind, registers)                                                    \
  asm volatile(                                                                              \
      "{\n"                                                                                  \
      ".reg .pred reads;\n"                                                                  \
      "setp.ne.u32 reads, %5, 0;\n"                                                          \
      "@reads ldmatrix.sync.aligned.m8n8." kind ".shared.b16 {" registers "}, [%4];\n"       \
      "}\n"                                                                                  \
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                       \
      : "r"(address), "r"(reads)                                                             \
      : "memory")
  if constexpr (kMatrices == 4 && kTransposed) {
    BSPARSE_LDMATRIX("x4.trans", "%0, %1, %2, %3");
  } else if constexpr (kMatrices == 4) {
    BSPARSE_LDMATRIX("x4", "%0, %1, %2, %3");
  } else if constexpr (kTransposed) {
    BSPARSE_LDMATRIX("x2.trans", "%0, %1");
  } else {
    BSPARSE_LDMATRIX("x2", "%0, %1");
  }
#undef BSPARSE_LDMATRIX
}

// Likewise a load of one or two words.
__device__ __forceinline__ void load_if(uint32_t reads, uint32_t& d, uint32_t address) {
  asm volatile(
      "{\n"
      ".reg .pred reads;\n"
      "setp.ne.u32 reads, %2, 0;\n"
      "@reads ld.shared.b32 %0, [%1];\n"
      "}\n"
      : "+r"(d)
      : "r"(address), "r"(reads)
      : "memory");
}
__device__ __forceinline__ void load_if(uint32_t reads, uint32_t& first, uint32_t& second,
                                        uint32_t address) {
  asm volatile(
      "{\n"
      ".reg .pred reads;\n"
      "setp.ne.u32 reads, %3, 0;\n"
      "@reads ld.shared.v2.b32 {%0, %1}, [%2];\n"
      "}\n"
      : "+r"(first), "+r"(second)
      : "r"(address), "r"(reads)
      : "memory");
}

// Reads operands out of a chunk by ldmatrix. A block's place in its stage is in bits that the rest of an address
// leaves alone, swizzled or not, so both are combined by one instruction.
template <class Traits>
struct DwMatrixReader {
  static constexpr bool kTransposes = Traits::kFeatureAxis == 1;
  // Lanes of what swizzling moves: parts that lie side by side in a row, or steps that do.
  static constexpr int kLanes = kTransposes ? Traits::kParts : Traits::kSteps;
  uint32_t x[kLanes];  // this lane's row of a block, and its place in it
  uint32_t dy[kLanes];

  __device__ __forceinline__ DwMatrixReader() {
    const int matrix = threadIdx.x % 32 / 8, row = threadIdx.x % 8;
    const int low = matrix % 2, high = matrix / 2;
#pragma unroll
    for (int n = 0; n < kLanes; ++n) {
      const int features = kTransposes ? 2 * n : 0, batch = kTransposes ? 0 : 2 * n;
      // Of x, matrices 0 and 1 are the first and the last 8 of 16 inputs; blocks of 8 are two
      // places. 2 and 3: the second half of a step.
      x[n] = lane_offset(features + (Traits::kBlockSize == 8 ? 0 : low), batch + high, row);
      // Of dy, matrices 0 and 1 are the first and the second half of a step; 2 and 3: the next 8
      // outputs, which blocks of 8 have not.
      dy[n] = lane_offset(features + (Traits::kBlockSize == 8 ? 0 : high), batch + low, row);
    }
  }

  // Which of a slot's blocks of 8 this lane gives addresses of.
  static __device__ __forceinline__ int block_of_lane() { return threadIdx.x / 8 % 2; }

  // Of row `row` of the matrix of 8 features by half a step.
  static __device__ __forceinline__ uint32_t lane_offset(int octet, int half_step, int row) {
    const int offset = kTransposes ? (8 * half_step + row) * Traits::kRowBytes + 16 * octet
                                   : (8 * octet + row) * Traits::kRowBytes + 16 * half_step;
    return ptx::kept(swizzled(offset, Traits::kRowBytes));
  }

  // `place`: of the block, in the stage.
  static __device__ __forceinline__ uint32_t address(uint32_t stage, uint32_t place,
                                                     const uint32_t (&lanes)[kLanes], int part,
                                                     int step) {
    const int lane = kTransposes ? part : step;
    const int rows = 16 * (kTransposes ? step : part);
    return stage + (place ^ lanes[lane]) + rows * Traits::kRowBytes;
  }

  __device__ __forceinline__ void read_x(uint32_t reads, uint32_t (&to)[4], uint32_t stage,
                                         uint32_t place, int part, int step) const {
    ldmatrix_if<4, kTransposes>(reads, to, address(stage, place, x, part, step));
  }

  __device__ __forceinline__ void read_dy(uint32_t reads, uint32_t (&to)[4], uint32_t stage,
                                          uint32_t place, int part, int step) const {
    constexpr int kMatrices = Traits::kBlockSize == 8 ? 2 : 4;
    ldmatrix_if<kMatrices, kTransposes>(reads, to, address(stage, place, dy, part, step));
  }
};

// The same by words, of 32-bit elements with features along the rows. Of x two neighbouring features are
// read at once: the first is a row of the first 8 of 16, the second of the last 8. In which order
// products take batch entries does not matter if it is the same in both operands: here the even ones of a
// step come first, so that no two lanes meet at a bank.
template <class Traits>
struct DwWordReader {
  uint32_t x[2];  // of even and odd batch entries
  uint32_t dy[2];

  __device__ __forceinline__ DwWordReader() {
    const int lane = threadIdx.x % 32, row = lane / 4;
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
      const int batch = 2 * (lane % 4) + odd;
      x[odd] = lane_offset(batch, 2 * (Traits::kBlockSize == 8 ? row % 4 : row));
      dy[odd] = lane_offset(batch, row);
    }
  }

  // Of blocks of 8 the rows of 16 are four pairs of features of the one, and four of the other.
  static __device__ __forceinline__ int block_of_lane() { return threadIdx.x % 32 / 16; }

  static __device__ __forceinline__ uint32_t lane_offset(int batch, int feature) {
    return ptx::kept(swizzled(batch * Traits::kRowBytes + 4 * feature, Traits::kRowBytes));
  }

  // `part`: in bytes along a row.
  static __device__ __forceinline__ uint32_t address(uint32_t stage, uint32_t place, uint32_t lane,
                                                     uint32_t part, int step) {
    return stage + (place ^ part ^ lane) + 8 * step * Traits::kRowBytes;
  }

  __device__ __forceinline__ void read_x(uint32_t reads, uint32_t (&to)[4], uint32_t stage,
                                         uint32_t place, int part, int step) const {
    load_if(reads, to[0], to[1], address(stage, place, x[0], 64 * part, step));
    load_if(reads, to[2], to[3], address(stage, place, x[1], 64 * part, step));
  }

  __device__ __forceinline__ void read_dy(uint32_t reads, uint32_t (&to)[4], uint32_t stage,
                                          uint32_t place, int part, int step) const {
#pragma unroll
    for (int octet = 0; octet < (Traits::kBlockSize == 8 ? 1 : 2); ++octet) {
#pragma unroll
      for (int odd = 0; odd < 2; ++odd) {
        load_if(reads, to[2 * octet + odd],
                address(stage, place, dy[odd], 64 * part + 32 * octet, step));
      }
    }
  }
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_DW_TILE_READERS_CUH_
