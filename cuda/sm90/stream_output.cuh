// Where a warp's sums of a column go: to y, or to the CTA that stores the column.
#ifndef BSPARSE_CUDA_SM90_STREAM_OUTPUT_CUH_
#define BSPARSE_CUDA_SM90_STREAM_OUTPUT_CUH_

#include "cuda/epilogue.cuh"
#include "cuda/matmul_params.h"
#include "cuda/ptx.cuh"
#include "cuda/sm90/ptx.cuh"
#include "cuda/sm90/stream_traits.cuh"

namespace bsparse {

// The `partial` of entries that make a whole column. Others: a partial's number, or below, those
// that the partials of a split are added to.
inline constexpr int kWholeColumn = -1;

// Calls visit(place, piece, next) for pairs of pieces of the sums: `place` is where this lane's row of their
// four matrices is staged. The next piece has the next 8 outputs, or if there are none, 16 batch entries;
// a piece that is the only one is its own next.
template <class Traits, class Visit>
__device__ __forceinline__ void for_each_four_matrices(typename Traits::Sum& sum, uint32_t staging,
                                                       const Visit& visit) {
  using Tile = typename Traits::TileY;
  using Sum = typename Traits::Sum;
  constexpr int kStepN = Sum::kPiecesN > 1 ? 2 : 1;
  constexpr int kStepM = kStepN == 1 && Sum::kPiecesM > 1 ? 2 : 1;
  static_assert(Sum::kPiecesM % kStepM == 0 && Sum::kPiecesN % kStepN == 0, "whole pairs");
  const int lane = threadIdx.x % 32;
  const int next = lane / 16;
#pragma unroll
  for (int m = 0; m < Sum::kPiecesM; m += kStepM) {
#pragma unroll
    for (int n = 0; n < Sum::kPiecesN; n += kStepN) {
      const int batch = (m + next * (kStepM - 1)) * 16 + lane / 8 % 2 * 8;
      const int output = (n + next * (kStepN - 1)) * 8;
      const uint32_t place = Traits::kFeatureAxis == 1
                                 ? Tile::offset(batch + lane % 8, output / 8)
                                 : Tile::offset(output + lane % 8, batch / 8);
      visit(staging + place, sum.values[m][n], sum.values[m + kStepM - 1][n + kStepN - 1]);
    }
  }
}

// The sums of 32-bit outputs, with what was staged there if `adds`.
template <class Traits>
__device__ __forceinline__ void stage_words(const typename Traits::Sum& sum, bool adds,
                                            uint32_t staging) {
  sum.for_each_pair([&](int batch, int output, float first, float second) {
    const float values[] = {first, second};
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const uint32_t place =
          staging + (Traits::kFeatureAxis == 1 ? Traits::TileY::word_offset(batch, output + e)
                                               : Traits::TileY::word_offset(output + e, batch));
      const float more = adds ? __uint_as_float(ptx::load_shared(place)) : 0.0f;
      ptx::store_shared(place, __float_as_uint(values[e] + more));
    }
  });
}

// Adds bias, activates, adds the residual and stores the outputs of a column, by way of `staging`,
// whose barrier it waits for once if there is a residual. Where y is the residual, it is read before
// it is written, since nobody else writes it.
template <class Traits>
__device__ __forceinline__ void store_column(typename Traits::Sum& sum,
                                             const StreamMatmulParams& params, int column,
                                             int batch_begin, uint32_t staging, uint32_t barrier,
                                             uint32_t parity) {
  using Element = typename Traits::Element;
  constexpr int kMatrices = Traits::Sum::kPiecesM * Traits::Sum::kPiecesN > 1 ? 4 : 2;
  const int lane = threadIdx.x % 32;
  const int feature = column * Traits::kBlockSize;
  const int box_column = Traits::kFeatureAxis == 1 ? feature : batch_begin;
  const int box_row = Traits::kFeatureAxis == 1 ? batch_begin : feature;
  if (params.bias != nullptr) {
    const auto* bias = static_cast<const Element*>(params.bias) + feature;
    sum.transform([&](int output, float z) { return z + to_float(bias[output]); });
  }
  if (params.activation != BSPARSE_ACTIVATION_NONE) {
    sum.transform([&](int, float z) { return activate(z, params.activation); });
  }
  // All have read the tile of x that was there.
  __syncwarp();
  if (params.adds_residual) {
    if (lane == 0) {
      ptx::barrier_arrive_expect(barrier, params.y_bytes);
      ptx::copy_box_to_shared(staging, &params.residual, box_column, box_row, barrier);
    }
    ptx::barrier_wait(barrier, parity);
  }
  if constexpr (Traits::kSize == 4) {
    stage_words<Traits>(sum, params.adds_residual, staging);
  } else {
    for_each_four_matrices<Traits>(sum, staging, [&](uint32_t place, float* piece, float* next) {
      uint32_t words[4];
      const auto value_of = [&](int q) { return (q < 2 ? piece : next) + 2 * (q % 2); };
      // Only this warp reads here, and overwrites what it has read.
      if (params.adds_residual) {
        if constexpr (Traits::kFeatureAxis == 1) {
          ptx::ldmatrix_x4(words, place);
        } else {
          ptx::ldmatrix_x4_trans(words, place);
        }
#pragma unroll
        for (int q = 0; q < kMatrices; ++q) add_pair<Element>(value_of(q)[0], value_of(q)[1], words[q]);
      }
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const auto pair = make_pair<Element>(value_of(q)[0], value_of(q)[1]);
        words[q] = reinterpret_cast<const uint32_t&>(pair);
      }
      if constexpr (Traits::kFeatureAxis == 1) {
        ptx::stmatrix_x4(place, words);
      } else {
        ptx::stmatrix_x4_trans(place, words);
      }
    });
  }
  ptx::fence_async_proxy();
  __syncwarp();
  if (lane == 0) {
    ptx::copy_box_to_global_kept(&params.y, box_column, box_row, staging);
    ptx::bulk_commit();
    ptx::bulk_wait_read();
  }
  __syncwarp();
}

// Leaves a warp's sums of a column in device memory for the CTA that stores it, which then sees the
// launch's number in `flag`.
template <class Traits>
__device__ __forceinline__ void leave_partial(const typename Traits::Sum& sum, float* to,
                                              uint64_t* flag, uint64_t launch) {
  constexpr int kValues = sizeof(sum.values) / sizeof(float);
  const int lane = threadIdx.x % 32;
  const float* const values = &sum.values[0][0][0];
#pragma unroll
  for (int i = 0; i < kValues; i += 4) {
    __stcg(reinterpret_cast<float4*>(to) + i * 8 + lane,
           make_float4(values[i], values[i + 1], values[i + 2], values[i + 3]));
  }
  __syncwarp();
  if (lane == 0) ptx::store_release(flag, launch);
}

// Adds what another CTA left, once it is there, and clears the flag: a graph that is replayed
// launches under the same number.
template <class Traits>
__device__ __forceinline__ void add_partial(typename Traits::Sum& sum, const float* from,
                                            uint64_t* flag, uint64_t launch) {
  constexpr int kValues = sizeof(sum.values) / sizeof(float);
  const int lane = threadIdx.x % 32;
  float* const values = &sum.values[0][0][0];
  if (lane == 0) {
    while (ptx::load_acquire(flag) != launch) {
    }
    *flag = 0;
  }
  __syncwarp();
#pragma unroll
  for (int i = 0; i < kValues; i += 4) {
    const float4 four = __ldcg(reinterpret_cast<const float4*>(from) + i * 8 + lane);
    values[i] += four.x, values[i + 1] += four.y, values[i + 2] += four.z, values[i + 3] += four.w;
  }
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_STREAM_OUTPUT_CUH_
