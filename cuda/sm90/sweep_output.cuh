// From the sums of a sweep's warp to y: bias, activation, residual, and stores of 16 bytes a lane.
#ifndef BSPARSE_CUDA_SM90_SWEEP_OUTPUT_CUH_
#define BSPARSE_CUDA_SM90_SWEEP_OUTPUT_CUH_

#include <cstring>

#include "cuda/dtype.cuh"
#include "cuda/epilogue.cuh"
#include "cuda/matmul_params.h"
#include "cuda/ptx.cuh"
#include "cuda/sm90/sweep_traits.cuh"

namespace bsparse {

// Of the four lanes of a quad lane q gets what each has as number q, from lane p as number p. Done twice it
// changes nothing.
__device__ __forceinline__ void exchange_in_quad(uint32_t (&words)[4]) {
  const int lane = threadIdx.x % 4;
#pragma unroll
  for (int bit = 1; bit <= 2; bit *= 2) {
    const bool upper = (lane & bit) != 0;
#pragma unroll
    for (int low = 0; low < 4; ++low) {
      if ((low & bit) != 0) continue;
      uint32_t& a = words[low];
      uint32_t& b = words[low | bit];
      const uint32_t got = __shfl_xor_sync(~0u, upper ? a : b, bit);
      (upper ? a : b) = got;
    }
  }
}

template <class Traits>
class SweepOutput {
 public:
  using Element = typename Traits::Element;
  static constexpr int kPieces = Traits::kOutputPieces;  // of 8 outputs
  static_assert(kPieces == 4, "one for each lane of a quad");

  __device__ __forceinline__ SweepOutput(const SweepMatmulParams& params, uint32_t item,
                                         uint32_t batch_tile, int warp)
      : params_(params), batch_(int64_t{batch_tile} * kSweepBatchTile) {
    const int piece = threadIdx.x % 4;
    const int64_t columns = int64_t{params.ctas} * (kSweepOutputs / Traits::kBlockSize);
    const int64_t place = item * columns +
                          (ptx::rank_in_cluster() * BSPARSE_SWEEP_WARPS + warp) * Traits::kWarpColumns +
                          piece / Traits::kColumnPieces;
    column_ = __ldg(params.columns + place);
  }

  __device__ __forceinline__ void store(
      typename Traits::ColumnSums (&sums)[Traits::kWarpColumns]) const {
    const int lane = threadIdx.x % 32;
    // Not before: it would be waited for where the tile began.
    const auto column = static_cast<int>(ptx::kept(column_));
    const int feature =  // of this lane's piece, or -1: no such column
        column < 0 ? -1
                   : column * Traits::kBlockSize + lane % 4 % Traits::kColumnPieces * 8;
    int features[kPieces];
#pragma unroll
    for (int n = 0; n < kPieces; ++n) features[n] = __shfl_sync(~0u, feature, n);
    finish(features, sums);
    if constexpr (Traits::kFeatureAxis == 1) {
      // 16 bytes are 8 outputs of a batch entry.
#pragma unroll
      for (int i = 0; i < 2 * Traits::kBatchPieces; ++i) {
        const int64_t batch = batch_ + 8 * i + lane / 4;
        const bool there = batch < params_.batch && feature >= 0;
        move(there, batch * params_.out_features + feature,
             [&](int n) { return pair(sums, n, i); }, [](uint32_t word) { return word; });
      }
    } else {
      // 8 batch entries of an output.
#pragma unroll
      for (int n = 0; n < kPieces; ++n) {
#pragma unroll
        for (int i = 0; i < 2 * Traits::kBatchPieces; i += 4) {
          const int64_t batch = batch_ + 8 * (i + lane % 4);
          const bool there = batch < params_.batch && features[n] >= 0;
          move(there, (features[n] + int64_t{lane / 4}) * params_.batch + batch,
               [&](int m) { return pair(sums, n, i + m); },
               [](uint32_t word) { return ptx::turn_matrix(word); });
        }
      }
    }
  }

 private:
  // Two neighbouring outputs of piece n and a batch entry, which is among 8 i to 8 i + 7.
  static __device__ __forceinline__ float* pair(
      typename Traits::ColumnSums (&sums)[Traits::kWarpColumns], int n, int i) {
    return sums[n / Traits::kColumnPieces][n % Traits::kColumnPieces][i / 2] + 2 * (i % 2);
  }

  // Stores 16 bytes at `place`: four words of pairs, each turned, and exchanged in the quad; or what the residual
  // adds to them, which comes the other way.
  template <class PairOf, class TurnWord>
  __device__ __forceinline__ void move(bool there, int64_t place, const PairOf& pair_of,
                                       const TurnWord& turn) const {
    uint32_t words[4] = {};
    if (params_.residual != nullptr) {
      if (there) {
        const uint4 read =
            *reinterpret_cast<const uint4*>(static_cast<const Element*>(params_.residual) + place);
        words[0] = read.x;
        words[1] = read.y;
        words[2] = read.z;
        words[3] = read.w;
      }
      exchange_in_quad(words);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float* const two = pair_of(i);
        add_pair<Element>(two[0], two[1], turn(words[i]));
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float* const two = pair_of(i);
      const Pair<Element> rounded = make_pair<Element>(two[0], two[1]);
      memcpy(&words[i], &rounded, sizeof(rounded));
      words[i] = turn(words[i]);
    }
    exchange_in_quad(words);
    if (there) {
      *reinterpret_cast<uint4*>(static_cast<Element*>(params_.y) + place) = {words[0], words[1],
                                                                             words[2], words[3]};
    }
  }

  // Bias and activation.
  __device__ __forceinline__ void finish(
      const int (&features)[kPieces],
      typename Traits::ColumnSums (&sums)[Traits::kWarpColumns]) const {
    if (params_.bias != nullptr) {
#pragma unroll
      for (int n = 0; n < kPieces; ++n) {
        if (features[n] < 0) continue;
        const auto* const bias =
            static_cast<const Element*>(params_.bias) + features[n] + threadIdx.x % 4 * 2;
        const float first = to_float(bias[0]), second = to_float(bias[1]);
#pragma unroll
        for (int i = 0; i < 2 * Traits::kBatchPieces; ++i) {
          pair(sums, n, i)[0] += first;
          pair(sums, n, i)[1] += second;
        }
      }
    }
    if (params_.activation == BSPARSE_ACTIVATION_NONE) return;
#pragma unroll
    for (int n = 0; n < kPieces; ++n)
#pragma unroll
      for (int i = 0; i < 2 * Traits::kBatchPieces; ++i)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& z = pair(sums, n, i)[e];
          z = activate(z, params_.activation);
        }
  }

  const SweepMatmulParams& params_;
  int64_t batch_;  // the tile's first
  int column_;     // of this lane's piece, or -1
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_SWEEP_OUTPUT_CUH_
