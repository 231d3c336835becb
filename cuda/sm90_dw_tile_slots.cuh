// What a warp of the tiled weight gradient has: the places of its blocks, their sums, and the products
// that a stage adds to them.
#ifndef BSPARSE_CUDA_SM90_DW_TILE_SLOTS_CUH_
#define BSPARSE_CUDA_SM90_DW_TILE_SLOTS_CUH_

#include "cuda/dtype.cuh"
#include "cuda/matmul_params.h"
#include "cuda/ptx.cuh"
#include "cuda/sm90_epilogue.cuh"
#include "cuda/sm90_policy.cuh"
#include "cuda/sm90_ptx.cuh"

namespace bsparse {

template <class MathT, int kBlockSizeT, int kFeatureAxisT>
struct DwTilesTraits {
  using Math = MathT;
  using Element = typename Math::Element;
  static_assert(sizeof(Element) == 2, "ldmatrix transposes 16-bit elements only");
  static constexpr int kBlockSize = kBlockSizeT;
  static_assert(kBlockSize == 8 || kBlockSize == 16, "a product has 16 inputs");
  static constexpr int kFeatureAxis = kFeatureAxisT;
  static constexpr int kDepth = kDwTileDepth;

  // A slot is what one product of 16 inputs computes: a block of 16, or two blocks of 8 that have the
  // same outputs.
  static constexpr int kSlots = dw_tile_slots(kBlockSize);  // of a warp
  static constexpr int kSlotBlocks = 16 / kBlockSize;
  static constexpr int kOctets = kBlockSize / 8;  // of outputs
  static constexpr int kBlocks = BSPARSE_DW_TILE_WARPS * kSlots * kSlotBlocks;  // of a CTA

  // In shared memory a chunk of 64 features is kDepth rows of 64 features, or 64 rows of kDepth
  // batch entries.
  static constexpr int kChunkBytes = 64 * kDepth * 2;
  static constexpr int kChunkBlocks = 64 / kBlockSize;
  static constexpr int kRowBytes = kFeatureAxis == 1 ? 128 : 2 * kDepth;
  static constexpr int kBlockBytes =
      kFeatureAxis == 1 ? 2 * kBlockSize : kBlockSize * kRowBytes;  // from one block to the next

  // Neighbouring slots often have one operand in common, which is then kept: x of blocks of 16,
  // whose slots lie by input, dy of blocks of 8, whose slots lie by output. The other is read for
  // every slot.
  static constexpr bool kKeepsX = kBlockSize == 16;
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

// Reads operands out of a chunk. A block's place in its stage is in bits that the rest of an address
// leaves alone, swizzled or not, so both are combined by one instruction.
template <class Traits>
struct DwTileReader {
  static constexpr int kSteps = Traits::kFeatureAxis == 1 ? 1 : Traits::kDepth / 16;
  uint32_t x[kSteps];  // this lane's row of a block, and its place in it
  uint32_t dy[kSteps];

  __device__ __forceinline__ DwTileReader() {
    const int matrix = threadIdx.x % 32 / 8, row = threadIdx.x % 8;
    const int low = matrix % 2, high = matrix / 2;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      // Of x, matrices 0 and 1 are the first and the last 8 of 16 inputs; blocks of 8 are two
      // places. 2 and 3: the next 8 batch entries.
      x[step] = lane_offset(Traits::kBlockSize == 16 ? low : 0, 2 * step + high, row);
      // Of dy, matrices 0 and 1 are the first and the next 8 batch entries; 2 and 3: the next 8
      // outputs, which blocks of 8 have not.
      dy[step] = lane_offset(Traits::kBlockSize == 16 ? high : 0, 2 * step + low, row);
    }
  }

  // Of row `row` of the matrix of 8 features by 8 batch entries, in octets.
  static __device__ __forceinline__ uint32_t lane_offset(int features, int batch, int row) {
    const int offset = Traits::kFeatureAxis == 1
                           ? (8 * batch + row) * Traits::kRowBytes + 16 * features
                           : (8 * features + row) * Traits::kRowBytes + 16 * batch;
    return ptx::kept(swizzled(offset, Traits::kRowBytes));
  }

  // `place`: of the block, in the stage.
  static __device__ __forceinline__ uint32_t address(uint32_t stage, uint32_t place,
                                                     const uint32_t (&lane)[kSteps], int step) {
    if constexpr (Traits::kFeatureAxis == 1) {
      return stage + (place ^ lane[0]) + step * 16 * Traits::kRowBytes;
    } else {
      return stage + (place ^ lane[step]);
    }
  }

  __device__ __forceinline__ void read_x(uint32_t reads, uint32_t (&to)[4], uint32_t stage,
                                         uint32_t place, int step) const {
    ldmatrix_if<4, Traits::kFeatureAxis == 1>(reads, to, address(stage, place, x, step));
  }

  __device__ __forceinline__ void read_dy(uint32_t reads, uint32_t (&to)[4], uint32_t stage,
                                          uint32_t place, int step) const {
    ldmatrix_if<2 * Traits::kOctets, Traits::kFeatureAxis == 1>(reads, to,
                                                                address(stage, place, dy, step));
  }
};

// Operands in registers: what is kept, and what is read for the slots ahead.
template <class Traits>
struct DwTileFragments {
  static constexpr int kAhead = kDwTileAhead;
  uint32_t kept[4] = {};
  uint32_t read[kAhead + 1][4] = {};

  // A number that is there when all reads are over; see `mixed`.
  __device__ __forceinline__ uint32_t mix() const {
    uint32_t mix = kept[0];
#pragma unroll
    for (const auto& piece : read) mix ^= piece[0];
    return mix;
  }
};

template <class Traits>
class DwTileSlots {
  static constexpr int kSlots = Traits::kSlots;
  static constexpr int kSlotBlocks = Traits::kSlotBlocks;
  using Reader = DwTileReader<Traits>;
  using Fragments = DwTileFragments<Traits>;

 public:
  // `blocks`: this warp's in the plan's table. Lanes that give addresses of the second block of a slot
  // have its place.
  __device__ __forceinline__ explicit DwTileSlots(const int32_t* blocks) {
    const int which = threadIdx.x / 8 % kSlotBlocks;
    int kept_before = -1, count = 0;
    uint32_t changes = 0;
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      const int32_t* const block = blocks + 3 * (i * kSlotBlocks + which);
      const int x = block[0], dy = block[1];
      const int kept = Traits::kKeepsX ? x : dy;
      places_[i] = dy < 0 ? 0
                          : packed(place(Traits::kKeepsX ? dy : x), place(kept));
      count += dy >= 0;
      changes |= static_cast<uint32_t>(dy >= 0 && kept != kept_before) << i;
      kept_before = kept;
    }
    // The compiler does not know that they are the same in all lanes.
    count_ = __shfl_sync(~0u, count, 0);
    changes_ = __shfl_sync(~0u, changes, 0);
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
#pragma unroll
      for (int octet = 0; octet < Traits::kOctets; ++octet) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sums_[i][octet][e] = 0.0f;
      }
    }
  }

  // Adds the products of 16 batch entries of a stage.
  __device__ __forceinline__ void multiply(const Reader& reader, uint32_t stage, int step,
                                           Fragments& fragments) {
    constexpr int kAhead = Fragments::kAhead;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      read(reader, stage, step, i, fragments.read[i]);
    }
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      if (i % kDwTileGroup == 0 && i >= count_) break;
      constexpr int kPlaces = kAhead + 1;
      if (i + kAhead < kSlots) {
        read(reader, stage, step, i + kAhead, fragments.read[(i + kAhead) % kPlaces]);
      }
      keep(reader, stage, step, i, fragments.kept);
      // Of a slot that is not there something is added to sums that nobody reads.
      const uint32_t(&piece)[4] = fragments.read[i % kPlaces];
      if constexpr (Traits::kKeepsX) {
#pragma unroll
        for (int octet = 0; octet < Traits::kOctets; ++octet) {
          const uint32_t b[2] = {piece[2 * octet], piece[2 * octet + 1]};
          Traits::Math::mma(sums_[i][octet], fragments.kept, b);
        }
      } else {
        const uint32_t b[2] = {fragments.kept[0], fragments.kept[1]};
        Traits::Math::mma(sums_[i][0], piece, b);
      }
    }
  }

  // As mma.sync leaves them: lane 4 g + t holds inputs g and g + 8, outputs 2 t and 2 t + 1 of each octet.
  // `partials`: for this warp's blocks, as they lie in `blocks`, or null.
  __device__ __forceinline__ void store(const DwOutput& output, const int32_t* blocks,
                                        float* partials) const {
    using Element = typename Traits::Element;
    constexpr int kBlockSize = Traits::kBlockSize;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      if (i >= count_) break;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int block = i * kSlotBlocks + half * (kSlotBlocks - 1);
        const int64_t weight = blocks[3 * block + 2];
        if (weight < 0) continue;
        const int input = lane / 4 + (kSlotBlocks == 1 ? 8 * half : 0);
        const int in_block = input * kBlockSize + 2 * (lane % 4);
        if (partials != nullptr) {
          float* const to = partials + block * kBlockSize * kBlockSize + in_block;
#pragma unroll
          for (int octet = 0; octet < Traits::kOctets; ++octet) {
            *reinterpret_cast<float2*>(to + 8 * octet) = {
                sums_[i][octet][2 * half], sums_[i][octet][2 * half + 1]};
          }
          continue;
        }
        const float scale = output.scale(weight);
        const int64_t place = weight * kBlockSize * kBlockSize + in_block;
#pragma unroll
        for (int octet = 0; octet < Traits::kOctets; ++octet) {
          output.store<Element>(place + 8 * octet, scale, sums_[i][octet][2 * half],
                                       sums_[i][octet][2 * half + 1]);
        }
      }
    }
  }

 private:
  // Places are multiples of 16 below 2^17: one in bits 4 to 16, one in bits 17 to 29.
  static constexpr uint32_t kPlaceMask = 0x1FFF0;
  static_assert(kMaxDwTileChunks * Traits::kChunkBytes <= kPlaceMask + 16);

  static __device__ __forceinline__ uint32_t packed(uint32_t read, uint32_t kept) {
    return read | kept << 13;
  }

  // In bytes, of a block that the plan numbers by chunk and in its chunk.
  static __device__ __forceinline__ uint32_t place(int block) {
    return block / Traits::kChunkBlocks * Traits::kChunkBytes +
           block % Traits::kChunkBlocks * Traits::kBlockBytes;
  }

  __device__ __forceinline__ void read(const Reader& reader, uint32_t stage, int step, int i,
                                       uint32_t (&to)[4]) const {
    const uint32_t place = places_[i] & kPlaceMask;
    if constexpr (Traits::kKeepsX) {
      reader.read_dy(i < count_, to, stage, place, step);
    } else {
      reader.read_x(i < count_, to, stage, place, step);
    }
  }

  __device__ __forceinline__ void keep(const Reader& reader, uint32_t stage, int step, int i,
                                       uint32_t (&to)[4]) const {
    const uint32_t place = places_[i] >> 13 & kPlaceMask;
    if constexpr (Traits::kKeepsX) {
      reader.read_x(changes_ & 1u << i, to, stage, place, step);
    } else {
      reader.read_dy(changes_ & 1u << i, to, stage, place, step);
    }
  }

  uint32_t places_[kSlots];
  int count_;
  uint32_t changes_;  // bit i: what slot i keeps is another than that of the slot before
  float sums_[kSlots][Traits::kOctets][4];
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_DW_TILE_SLOTS_CUH_
