// What a warp of the tiled weight gradient has: the places of its blocks, their sums, and the products
// that a stage adds to them.
#ifndef BSPARSE_CUDA_SM90_DW_TILE_SLOTS_CUH_
#define BSPARSE_CUDA_SM90_DW_TILE_SLOTS_CUH_

#include <type_traits>

#include "cuda/dtype.cuh"
#include "cuda/matmul_params.h"
#include "cuda/ptx.cuh"
#include "cuda/sm90_epilogue.cuh"
#include "cuda/sm90_dw_tiles_policy.cuh"
#include "cuda/sm90_ptx.cuh"

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

// Operands in registers: what is kept, and what is read for every slot, of a slot of one part for those
// ahead, too. Words leave fewer registers, as each has an address of its own.
template <class Traits>
struct DwTileFragments {
  static constexpr int kAhead = Traits::kLoadsMatrices ? kDwTileAhead : 1;
  static constexpr int kReads = Traits::kParts == 1 ? kAhead + 1 : Traits::kParts;
  uint32_t kept[Traits::kParts][4] = {};
  uint32_t read[kReads][4] = {};

  // A number that is there when all reads are over; see `mixed`.
  __device__ __forceinline__ uint32_t mix() const {
    uint32_t mix = 0;
#pragma unroll
    for (const auto& piece : kept) mix ^= piece[0];
#pragma unroll
    for (const auto& piece : read) mix ^= piece[0];
    return mix;
  }
};

template <class Traits>
class DwTileSlots {
  static constexpr int kSlots = Traits::kSlots;
  static constexpr int kSlotBlocks = Traits::kSlotBlocks;
  using Fragments = DwTileFragments<Traits>;

 public:
  using Reader = std::conditional_t<Traits::kLoadsMatrices, DwMatrixReader<Traits>,
                                    DwWordReader<Traits>>;

  // `blocks`: this warp's in the plan's table. Lanes that give addresses of the second block of a slot
  // have its place.
  __device__ __forceinline__ explicit DwTileSlots(const int32_t* blocks) {
    const int which = kSlotBlocks == 1 ? 0 : Reader::block_of_lane();
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
      for (auto& part : sums_[i]) {
#pragma unroll
        for (auto& octet : part) {
#pragma unroll
          for (float& sum : octet) sum = 0.0f;
        }
      }
    }
  }

  // Adds the products of a step of a stage.
  __device__ __forceinline__ void multiply(const Reader& reader, uint32_t stage, int step,
                                           Fragments& fragments) {
    if constexpr (Traits::kParts == 1) {
      multiply_whole(reader, stage, step, fragments);
    } else {
      multiply_quarters(reader, stage, step, fragments);
    }
  }

  // As mma.sync leaves them: lane 4 g + t holds rows g and g + 8, columns 2 t and 2 t + 1 of each
  // octet. `partials`: for this warp's blocks, as they lie in `blocks`, or null.
  __device__ __forceinline__ void store(const DwOutput& output, const int32_t* blocks,
                                        float* partials) const {
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      if (i >= count_) break;
#pragma unroll
      for (int row = 0; row < 2 * Traits::kParts; ++row) {  // of this lane
        const int block = i * kSlotBlocks + block_of(row);
        const int number = blocks[3 * block + 2];
        if (number < 0) continue;
        const int input = input_of(row), output_pair = 2 * (threadIdx.x % 4);
        const auto& octets = sums_[i][row / 2];
        const int first = 2 * (row % 2);
        if (partials != nullptr) {
          float* const to =
              partials + block * Traits::kBlockElements + input * kBlockSize + output_pair;
#pragma unroll
          for (int octet = 0; octet < Traits::kOctets; ++octet) {
            *reinterpret_cast<float2*>(to + 8 * octet) = {octets[octet][first],
                                                          octets[octet][first + 1]};
          }
          continue;
        }
        const DwCell cell(number, Traits::kStoredBlockSize, kBlockSize);
        const float scale = output.scale(cell.weight);
#pragma unroll
        for (int octet = 0; octet < Traits::kOctets; ++octet) {
          output.store<typename Traits::Element>(cell.element(input, output_pair + 8 * octet), scale,
                                                 octets[octet][first], octets[octet][first + 1]);
        }
      }
    }
  }

 private:
  static constexpr int kBlockSize = Traits::kBlockSize;
  // Two rows of a lane are neighbouring inputs (DwWordReader).
  static constexpr bool kPairsRows = !Traits::kLoadsMatrices;

  // Where a row of this lane belongs: the block in its slot, and the input.
  static __device__ __forceinline__ int block_of(int row) {
    if constexpr (kSlotBlocks == 1) return 0;
    return kPairsRows ? Reader::block_of_lane() : row;
  }
  static __device__ __forceinline__ int input_of(int row) {
    const int g = threadIdx.x % 32 / 4;
    if constexpr (kSlotBlocks == 2) return kPairsRows ? 2 * (g % 4) + row : g;
    return kPairsRows ? 16 * (row / 2) + 2 * g + row % 2 : 8 * row + g;
  }

  // Places are multiples of 16 below 2^17: one in bits 4 to 16, one in bits 17 to 29.
  static constexpr uint32_t kPlaceMask = 0x1FFF0;
  static_assert(kDwTileRingBytes / 2 <= kPlaceMask + 16);

  static __device__ __forceinline__ uint32_t packed(uint32_t read, uint32_t kept) {
    return read | kept << 13;
  }

  // In bytes, of a block that the plan numbers by chunk and in its chunk.
  static __device__ __forceinline__ uint32_t place(int block) {
    return block / Traits::kChunkBlocks * Traits::kChunkBytes +
           block % Traits::kChunkBlocks * Traits::kBlockBytes;
  }

  __device__ __forceinline__ void multiply_whole(const Reader& reader, uint32_t stage, int step,
                                                 Fragments& fragments) {
    constexpr int kAhead = Fragments::kAhead;
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      read(reader, stage, step, i, 0, fragments.read[i]);
    }
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      if (i % kDwTileGroup == 0 && i >= count_) break;
      constexpr int kPlaces = kAhead + 1;
      if (i + kAhead < kSlots) {
        read(reader, stage, step, i + kAhead, 0, fragments.read[(i + kAhead) % kPlaces]);
      }
      keep(reader, stage, step, i, 0, fragments.kept[0]);
      // Of a slot that is not there something is added to sums that nobody reads.
      if constexpr (Traits::kKeepsX) {
        multiply_part(i, 0, fragments.kept[0], 0, fragments.read[i % kPlaces]);
      } else {
        multiply_part(i, 0, fragments.read[i % kPlaces], 0, fragments.kept[0]);
      }
    }
  }

  // A block of 32 by quarters: each part of x by each part of dy. A part of the next block is read as
  // soon as this one's is done with; every other block takes the parts of dy in the other order, so
  // that what was read last is not needed first.
  __device__ __forceinline__ void multiply_quarters(const Reader& reader, uint32_t stage, int step,
                                                    Fragments& fragments) {
    auto& x = fragments.kept;
    auto& dy = fragments.read;
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      keep(reader, stage, step, 0, part, x[part]);
      read(reader, stage, step, 0, part, dy[part]);
    }
#pragma unroll
    for (int i = 0; i < kSlots; ++i) {
      if (i >= count_) break;
      const bool more = i + 1 < kSlots;
      const int first = i % 2, second = 1 - first;
      multiply_part(i, 0, x[0], first, dy[first]);
      multiply_part(i, 0, x[0], second, dy[second]);
      if (more) keep(reader, stage, step, i + 1, 0, x[0]);
      multiply_part(i, 1, x[1], second, dy[second]);
      if (more) read(reader, stage, step, i + 1, second, dy[second]);
      multiply_part(i, 1, x[1], first, dy[first]);
      if (more) keep(reader, stage, step, i + 1, 1, x[1]);
      if (more) read(reader, stage, step, i + 1, first, dy[first]);
    }
  }

  // 16 inputs by 16 outputs, or by the 8 of a block.
  __device__ __forceinline__ void multiply_part(int i, int inputs, const uint32_t (&x)[4],
                                                int outputs, const uint32_t (&dy)[4]) {
    constexpr int kPartOctets = Traits::kOctets / Traits::kParts;
#pragma unroll
    for (int octet = 0; octet < kPartOctets; ++octet) {
      const uint32_t b[2] = {dy[2 * octet], dy[2 * octet + 1]};
      Traits::Math::mma(sums_[i][inputs][kPartOctets * outputs + octet], x, b);
    }
  }

  // The part of slot i that is read for every slot.
  __device__ __forceinline__ void read(const Reader& reader, uint32_t stage, int step, int i,
                                       int part, uint32_t (&to)[4]) const {
    const uint32_t place = places_[i] & kPlaceMask;
    if constexpr (Traits::kKeepsX) {
      reader.read_dy(i < count_, to, stage, place, part, step);
    } else {
      reader.read_x(i < count_, to, stage, place, part, step);
    }
  }

  // The part that is kept unless slot i needs another.
  __device__ __forceinline__ void keep(const Reader& reader, uint32_t stage, int step, int i,
                                       int part, uint32_t (&to)[4]) const {
    const uint32_t place = places_[i] >> 13 & kPlaceMask;
    if constexpr (Traits::kKeepsX) {
      reader.read_x(changes_ & 1u << i, to, stage, place, part, step);
    } else {
      reader.read_dy(changes_ & 1u << i, to, stage, place, part, step);
    }
  }

  uint32_t places_[kSlots];
  int count_;
  uint32_t changes_;  // bit i: what slot i keeps is another than that of the slot before
  float sums_[kSlots][Traits::kParts][Traits::kOctets][4];
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_DW_TILE_SLOTS_CUH_
