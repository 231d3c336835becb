// What a warp of the tiled weight gradient has: the places of its blocks, their sums, and the products
// that a stage adds to them.
#ifndef BSPARSE_CUDA_SM90_DW_TILE_SLOTS_CUH_
#define BSPARSE_CUDA_SM90_DW_TILE_SLOTS_CUH_

#include <type_traits>

#include "cuda/dw_output.cuh"
#include "cuda/sm90/dw_tile_readers.cuh"
#include "cuda/sm90/dw_tiles_policy.cuh"

namespace bsparse {

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
