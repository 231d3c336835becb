// The product of two tiles in shared memory by one warp, accumulated in float32 registers.
#ifndef BSPARSE_CUDA_WARP_MMA_CUH_
#define BSPARSE_CUDA_WARP_MMA_CUH_

#include "cuda/dtype.cuh"
#include "cuda/ptx.cuh"
#include "cuda/tile.cuh"

namespace bsparse {

// A (kM, kN) accumulator spread over a warp as mma.sync leaves it: lane 4 g + t holds, of each
// (16, 8) piece, rows g and g + 8, columns 2 t and 2 t + 1. With kM = 8 rows g + 8 are padding.
// The exact float32 path keeps the same spread, so that epilogues need to know only one.
template <int kMT, int kNT>
struct Accumulator {
  static constexpr int kM = kMT;
  static constexpr int kN = kNT;
  static constexpr int kPiecesM = (kM + 15) / 16;
  static constexpr int kPiecesN = kN / 8;
  static constexpr int kRowsPerPiece = kM < 16 ? 1 : 2;
  static_assert(kM == 8 || kM % 16 == 0, "a warp's rows come in 8 or in multiples of 16");
  static_assert(kN % 8 == 0, "a warp's columns come in multiples of 8");

  float values[kPiecesM][kPiecesN][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int m = 0; m < kPiecesM; ++m)
#pragma unroll
      for (int n = 0; n < kPiecesN; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) values[m][n][e] = 0.0f;
  }

  // Replaces every value by map(column, value).
  template <class Map>
  __device__ __forceinline__ void transform(const Map& map) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < kPiecesN; ++n)
#pragma unroll
      for (int m = 0; m < kPiecesM; ++m)
#pragma unroll
        for (int e = 0; e < 2 * kRowsPerPiece; ++e) {
          values[m][n][e] = map(n * 8 + lane % 4 * 2 + e % 2, values[m][n][e]);
        }
  }

  // Calls visit(row, column, value at (row, column), value at (row, column + 1)) for each pair
  // that this lane holds.
  template <class Visit>
  __device__ __forceinline__ void for_each_pair(const Visit& visit) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < kPiecesM; ++m)
#pragma unroll
      for (int half = 0; half < kRowsPerPiece; ++half)
#pragma unroll
        for (int n = 0; n < kPiecesN; ++n) {
          visit(m * 16 + half * 8 + lane / 4, n * 8 + lane % 4 * 2, values[m][n][half * 2],
                values[m][n][half * 2 + 1]);
        }
  }
};

// One step of the reduction covers two chunks of a row: 16 elements of 16 bits, or 8 of 32.
inline constexpr int kStepChunks = 2;

// Fragments of A, (kM, step), for mma.sync. `Tile` is an OperandTile; `row` the first of the
// kM output rows in it.
template <class Math, Major kMajor, int kM, class Tile>
__device__ __forceinline__ void load_a(uint32_t (&a)[4], uint32_t tile, int row, int step) {
  using Element = typename Math::Element;
  const int lane = threadIdx.x % 32;
  if constexpr (kMajor == Major::kReduction) {
    if constexpr (kM == 8) {
      ptx::ldmatrix_x2(a[0], a[2],
                       tile + Tile::offset(row + lane % 8, step * kStepChunks + lane / 8 % 2));
    } else {
      ptx::ldmatrix_x4(a, tile + Tile::offset(row + lane % 16, step * kStepChunks + lane / 16));
    }
  } else if constexpr (sizeof(Element) == 2) {
    constexpr int kStep = kStepChunks * kChunkElements<Element>;
    if constexpr (kM == 8) {
      ptx::ldmatrix_x2_trans(a[0], a[2], tile + Tile::offset(step * kStep + lane % 16, row / 8));
    } else {
      ptx::ldmatrix_x4_trans(a, tile + Tile::offset(step * kStep + lane % 8 + lane / 16 * 8,
                                                    row / 8 + lane / 8 % 2));
    }
  } else {
    // ldmatrix transposes 16-bit elements only.
    constexpr int kStep = kStepChunks * kChunkElements<Element>;
    const int k = step * kStep + lane % 4;
    a[0] = ptx::load_shared(tile + Tile::word_offset(k, row + lane / 4));
    a[2] = ptx::load_shared(tile + Tile::word_offset(k + 4, row + lane / 4));
    if constexpr (kM != 8) {
      a[1] = ptx::load_shared(tile + Tile::word_offset(k, row + 8 + lane / 4));
      a[3] = ptx::load_shared(tile + Tile::word_offset(k + 4, row + 8 + lane / 4));
    }
  }
  if constexpr (kM == 8) a[1] = a[3] = 0;
  if constexpr (sizeof(Element) == 4 && Math::kMultiplier == Multiplier::kMma) {
#pragma unroll
    for (int e = 0; e < 4; ++e) a[e] = ptx::round_to_tf32(a[e]);
  }
}

// Fragments of all of B, (step, kN), for mma.sync; `column` is the first of the kN in the tile.
template <class Math, Major kMajor, int kN, class Tile>
__device__ __forceinline__ void load_b(uint32_t (&b)[kN / 8][2], uint32_t tile, int column,
                                       int step) {
  using Element = typename Math::Element;
  const int lane = threadIdx.x % 32;
  constexpr int kStep = kStepChunks * kChunkElements<Element>;
  if constexpr (kMajor == Major::kReduction || sizeof(Element) == 2) {
    constexpr bool kTranspose = kMajor == Major::kOutput;
    const auto address = [&](int n) {
      return kTranspose
                 ? tile + Tile::offset(step * kStep + lane % 16, (column + n) / 8 + lane / 16)
                 : tile + Tile::offset(column + n + lane % 8 + lane / 16 * 8,
                                       step * kStepChunks + lane / 8 % 2);
    };
#pragma unroll
    for (int n = 0; n + 16 <= kN; n += 16) {
      uint32_t d[4];
      if constexpr (kTranspose) {
        ptx::ldmatrix_x4_trans(d, address(n));
      } else {
        ptx::ldmatrix_x4(d, address(n));
      }
      b[n / 8][0] = d[0], b[n / 8][1] = d[1];
      b[n / 8 + 1][0] = d[2], b[n / 8 + 1][1] = d[3];
    }
    if constexpr (kN % 16 == 8) {
      // Lanes 16 and up give no address to ldmatrix.x2.
      constexpr int n = kN - 8;
      const uint32_t last = kTranspose
                                ? tile + Tile::offset(step * kStep + lane % 16, (column + n) / 8)
                                : tile + Tile::offset(column + n + lane % 8,
                                                      step * kStepChunks + lane / 8 % 2);
      if constexpr (kTranspose) {
        ptx::ldmatrix_x2_trans(b[n / 8][0], b[n / 8][1], last);
      } else {
        ptx::ldmatrix_x2(b[n / 8][0], b[n / 8][1], last);
      }
    }
  } else {
    const int k = step * kStep + lane % 4;
#pragma unroll
    for (int n = 0; n < kN / 8; ++n) {
      b[n][0] = ptx::load_shared(tile + Tile::word_offset(k, column + n * 8 + lane / 4));
      b[n][1] = ptx::load_shared(tile + Tile::word_offset(k + 4, column + n * 8 + lane / 4));
    }
  }
  if constexpr (sizeof(Element) == 4 && Math::kMultiplier == Multiplier::kMma) {
#pragma unroll
    for (int n = 0; n < kN / 8; ++n) {
      b[n][0] = ptx::round_to_tf32(b[n][0]);
      b[n][1] = ptx::round_to_tf32(b[n][1]);
    }
  }
}

// One warp's share of a product of two tiles: rows `row` and up of A, (outputs, reduction), times
// columns `column` and up of B, written (outputs, reduction) too. For mma.sync: fragments of a
// step are loaded ahead of their use.
template <class MathT, Major kMajorA, Major kMajorB, class TileA, class TileB, int kReduction,
          int kM, int kN>
struct WarpProduct {
  using Math = MathT;
  using Sum = Accumulator<kM, kN>;
  static constexpr int kStep = kStepChunks * kChunkElements<typename Math::Element>;
  static constexpr int kSteps = kReduction / kStep;
  static_assert(kReduction % kStep == 0, "the reduction of a tile is cut into whole steps");

  struct Fragments {
    uint32_t a[Sum::kPiecesM][4];
    uint32_t b[Sum::kPiecesN][2];
  };

  static __device__ __forceinline__ void load(Fragments& fragments, uint32_t tile_a, int row,
                                              uint32_t tile_b, int column, int step) {
#pragma unroll
    for (int m = 0; m < Sum::kPiecesM; ++m) {
      load_a<Math, kMajorA, kM, TileA>(fragments.a[m], tile_a, row + m * 16, step);
    }
    load_b<Math, kMajorB, kN, TileB>(fragments.b, tile_b, column, step);
  }

  static __device__ __forceinline__ void multiply(Sum& sum, const Fragments& fragments) {
#pragma unroll
    for (int m = 0; m < Sum::kPiecesM; ++m)
#pragma unroll
      for (int n = 0; n < Sum::kPiecesN; ++n) {
        Math::mma(sum.values[m][n], fragments.a[m], fragments.b[n]);
      }
  }

  // All steps of a tile, by the multipliers that do not have fragments loaded ahead of their use:
  // their sums leave no registers for it.
  static __device__ __forceinline__ void multiply_tile(Sum& sum, uint32_t tile_a, int row,
                                                       uint32_t tile_b, int column) {
    if constexpr (Math::kMultiplier == Multiplier::kFma) {
      multiply_exactly(sum, tile_a, row, tile_b, column);
    } else {
#pragma unroll 1
      for (int step = 0; step < kSteps; ++step) {
        Fragments fragments;
        load(fragments, tile_a, row, tile_b, column, step);
        multiply_parts(sum, fragments);
      }
    }
  }

 private:
  // The product of operands that are sums of two parts.
  static __device__ __forceinline__ void multiply_parts(Sum& sum, const Fragments& fragments) {
    uint32_t big_a[Sum::kPiecesM][4], small_a[Sum::kPiecesM][4];
    const auto split = [](uint32_t bits, uint32_t& big, uint32_t& small) {
      const auto parts = Math::split(bits);
      big = parts.big, small = parts.small;
    };
#pragma unroll
    for (int m = 0; m < Sum::kPiecesM; ++m)
#pragma unroll
      for (int e = 0; e < 4; ++e) split(fragments.a[m][e], big_a[m][e], small_a[m][e]);
#pragma unroll
    for (int n = 0; n < Sum::kPiecesN; ++n) {
      uint32_t big_b[2], small_b[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) split(fragments.b[n][e], big_b[e], small_b[e]);
#pragma unroll
      for (int m = 0; m < Sum::kPiecesM; ++m) {
        float step[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        ptx::mma_tf32(step, small_a[m], big_b);
        ptx::mma_tf32(step, big_a[m], small_b);
        ptx::mma_tf32(step, big_a[m], big_b);
#pragma unroll
        for (int e = 0; e < 4; ++e) sum.values[m][n][e] += step[e];
      }
    }
  }

  // The exact float32 product, straight from the tiles. Four terms are added up before they meet
  // the running sum, which halves the error of a long sum.
  static __device__ __forceinline__ void multiply_exactly(Sum& sum, uint32_t tile_a, int row,
                                                          uint32_t tile_b, int column) {
    const int lane = threadIdx.x % 32;
    const int first_row = row + lane / 4;
    const int first_column = column + lane % 4 * 2;
#pragma unroll 1
    for (int k = 0; k < kReduction; k += 4) {
      float a[kM / 8][4];
#pragma unroll
      for (int m = 0; m < kM / 8; ++m) {
        if constexpr (kMajorA == Major::kReduction) {
          const float4 v =
              ptx::load_shared_float4(tile_a + TileA::offset(first_row + m * 8, k / 4));
          a[m][0] = v.x, a[m][1] = v.y, a[m][2] = v.z, a[m][3] = v.w;
        } else {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            a[m][e] = __uint_as_float(
                ptx::load_shared(tile_a + TileA::word_offset(k + e, first_row + m * 8)));
          }
        }
      }
#pragma unroll
      for (int n = 0; n < kN / 8; ++n) {
        float b[2][4];
        if constexpr (kMajorB == Major::kReduction) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const float4 v =
                ptx::load_shared_float4(tile_b + TileB::offset(first_column + n * 8 + c, k / 4));
            b[c][0] = v.x, b[c][1] = v.y, b[c][2] = v.z, b[c][3] = v.w;
          }
        } else {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float2 v = ptx::load_shared_float2(
                tile_b + TileB::word_offset(k + e, first_column + n * 8));
            b[0][e] = v.x, b[1][e] = v.y;
          }
        }
#pragma unroll
        for (int m = 0; m < kM / 8; ++m)
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            float four = a[m][0] * b[c][0];
#pragma unroll
            for (int e = 1; e < 4; ++e) four = fmaf(a[m][e], b[c][e], four);
            sum.values[m / 2][n][m % 2 * 2 + c] += four;
          }
      }
    }
  }
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_WARP_MMA_CUH_
