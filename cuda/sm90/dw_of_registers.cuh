// Weight gradients by columns in TF32 with features last. The tensor cores want both operands along the batch, and here
// both lie across it. x is multiplied out of registers, which a warp loads word by word, and dy is turned round
// where it lies in shared memory, by warps that do nothing else.
#ifndef BSPARSE_CUDA_SM90_DW_OF_REGISTERS_CUH_
#define BSPARSE_CUDA_SM90_DW_OF_REGISTERS_CUH_

#include "cuda/ptx.cuh"
#include "cuda/sm90/ptx.cuh"
#include "cuda/sm90/swizzle.cuh"

namespace bsparse {

inline constexpr int kDwTurners = 4;  // warps

// A box, as the copy engine leaves it: 32 batch entries' rows of 32 features.
inline constexpr int kTurnedSide = 32;
inline constexpr int kTurnedRowBytes = 4 * kTurnedSide;
inline constexpr int kTurnedBoxBytes = kTurnedSide * kTurnedRowBytes;

// Products take eight batch entries, in the order 0 2 4 6 1 3 5 7: so a lane has neighbours where mma.m16n8k8 has t
// and t + 4, and the 32 words of a load of x lie in different banks.
__host__ __device__ constexpr int turned_entry(int place) { return 2 * (place % 4) + place / 4; }

// A box of dy, whose rows become its features, a lane each. For one warp. Addresses are as swizzled() has them, of a box
// that begins at a multiple of eight rows.
__device__ __forceinline__ void turn_box(uint32_t box) {
  const int lane = threadIdx.x % 32;
  uint32_t words[kTurnedSide];
  const uint32_t from = ptx::kept(box + 4 * lane);
#pragma unroll
  for (int entry = 0; entry < kTurnedSide; ++entry) {
    words[entry] = ptx::load_shared((from ^ entry % 8 << 4) + entry * kTurnedRowBytes);
  }
  __syncwarp();
  const uint32_t to = ptx::kept(box + lane * kTurnedRowBytes + (lane % 8 << 4));
#pragma unroll
  for (int chunk = 0; chunk < kTurnedSide / 4; ++chunk) {
    uint32_t four[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) four[i] = words[chunk / 2 * 8 + turned_entry(chunk % 2 * 4 + i)];
    ptx::store_shared_16(to ^ chunk << 4, four);
  }
}

// The x of a stage as operands of 64 inputs by 8 batch entries.
struct DwInputs {
  static constexpr int kStepEntries = 8;
  static constexpr int kTileBytes = 64 / kTurnedSide * kTurnedBoxBytes;  // of an operand's inputs

  uint32_t offsets[4];  // of a thread's words

  __device__ __forceinline__ DwInputs() {
    const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int input = 16 * warp + lane / 4 + 8 * (i % 2);
      const int entry = turned_entry(lane % 4 + 4 * (i / 2));
      offsets[i] = ptx::kept(input / kTurnedSide * kTurnedBoxBytes +
                             swizzled(entry * kTurnedRowBytes + input % kTurnedSide * 4, kTurnedRowBytes));
    }
  }

  // `x`: of the stage, from the first tile's inputs on.
  template <int kTiles>
  __device__ __forceinline__ void read(uint32_t x, int step, uint32_t (&words)[kTiles][4]) const {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        words[t][i] = ptx::load_shared(x + offsets[i] + t * kTileBytes +
                                       step * kStepEntries * kTurnedRowBytes);
      }
    }
  }
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_DW_OF_REGISTERS_CUH_
