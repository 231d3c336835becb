// From the sums of a sweep's warp to y: bias, activation, residual, and stores of 16 bytes a lane.
#ifndef BSPARSE_CUDA_SM90_SWEEP_OUTPUT_CUH_
#define BSPARSE_CUDA_SM90_SWEEP_OUTPUT_CUH_

#include <cstring>

#include "cuda/dtype.cuh"
#include "cuda/epilogue.cuh"
#include "cuda/matmul_params.h"
#include "cuda/ptx.cuh"
#include "cuda/sm90/sweep_operands.cuh"
#include "cuda/sm90/sweep_traits.cuh"

namespace bsparse {

// How the 16 bytes that lanes have of sums become 16 bytes that lie side by side in y, and back.

struct AsTheyLie {
  static __device__ __forceinline__ void to_memory(uint32_t (&)[4]) {}
  static __device__ __forceinline__ void from_memory(uint32_t (&)[4]) {}
};

// Of each two lanes the even one gets the other's first half for its own second one.
struct ExchangedInPairs {
  static __device__ __forceinline__ void to_memory(uint32_t (&words)[4]) {
    const bool odd = threadIdx.x % 2 != 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t got = __shfl_xor_sync(~0u, odd ? words[i] : words[2 + i], 1);
      (odd ? words[i] : words[2 + i]) = got;
    }
  }
  static __device__ __forceinline__ void from_memory(uint32_t (&words)[4]) { to_memory(words); }
};

// Of the four lanes of a quad lane q gets what each has as number q, from lane p as number p.
struct ExchangedInQuads {
  static __device__ __forceinline__ void to_memory(uint32_t (&words)[4]) {
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
  static __device__ __forceinline__ void from_memory(uint32_t (&words)[4]) { to_memory(words); }
};

// The same of matrices of 16-bit elements turned round.
struct TurnedAndExchanged {
  static __device__ __forceinline__ void to_memory(uint32_t (&words)[4]) {
    turn(words);
    ExchangedInQuads::to_memory(words);
  }
  static __device__ __forceinline__ void from_memory(uint32_t (&words)[4]) {
    ExchangedInQuads::from_memory(words);
    turn(words);
  }

 private:
  static __device__ __forceinline__ void turn(uint32_t (&words)[4]) {
#pragma unroll
    for (uint32_t& word : words) word = ptx::turn_matrix(word);
  }
};

template <class Traits>
class SweepOutput {
 public:
  using Element = typename Traits::Element;
  using Sums = typename Traits::ColumnSums[Traits::kWarpColumns];
  static constexpr int kPieces = Traits::kOutputPieces;  // of 8 outputs
  static_assert(kPieces % 4 == 0 && kPieces <= 32);

  __device__ __forceinline__ SweepOutput(const SweepMatmulParams& params, uint32_t item,
                                         uint32_t batch_tile, int warp)
      : params_(params), batch_(int64_t{batch_tile} * Traits::kBatchTile) {
    const int piece = threadIdx.x % kPieces;
    const int64_t columns = int64_t{params.ctas} * BSPARSE_SWEEP_WARPS * Traits::kWarpColumns;
    const int64_t place = item * columns +
                          (ptx::rank_in_cluster() * BSPARSE_SWEEP_WARPS + warp) * Traits::kWarpColumns +
                          piece / Traits::kColumnPieces;
    column_ = __ldg(params.columns + place);
  }

  __device__ __forceinline__ void store(Sums& sums) const {
    const int lane = threadIdx.x % 32;
    // Not before: it would be waited for where the tile began.
    const auto column = static_cast<int>(ptx::kept(column_));
    const int mine =  // the first of this lane's piece, or -1: no such column
        column < 0 ? -1
                   : column * Traits::kBlockSize + lane % kPieces % Traits::kColumnPieces * 8;
    const auto feature_of = [&](int piece) { return __shfl_sync(~0u, mine, piece); };
    finish(feature_of, sums);
    if constexpr (Traits::kFeatureAxis == 1) {
      store_features_last(feature_of, sums);
    } else {
      store_features_first(feature_of, sums);
    }
  }

 private:
  // Two neighbouring outputs, 2 t and 2 t + 1 of piece n for lane 4 g + t. Of eight batch entries, 8 i to 8 i + 7, the
  // lane has number g; where it takes four of them (SweepFourBatchEntries), i % 4 of those, 32 apart for i / 4.
  static __device__ __forceinline__ float* pair(Sums& sums, int n, int i) {
    return sums[n / Traits::kColumnPieces][n % Traits::kColumnPieces][i / 2] + 2 * (i % 2);
  }

  // 16 bytes are 8 outputs of a batch entry, of one of four pieces for each lane of a quad; or 4, of one of two.
  template <class FeatureOf>
  __device__ __forceinline__ void store_features_last(const FeatureOf& feature_of, Sums& sums) const {
    constexpr bool kFloat = sizeof(Element) == 4;
    constexpr int kTogether = kFloat ? 2 : 4;
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < kPieces; n += kTogether) {
      const int first = feature_of(n + lane % kTogether);
      const int64_t feature = first + (kFloat ? lane % 4 / 2 * 4 : 0);
#pragma unroll
      for (int i = 0; i < 2 * Traits::kBatchPieces; ++i) {
        const int64_t batch = batch_ + 8 * i + lane / 4;
        const bool there = batch < params_.batch && first >= 0;
        const int64_t place = batch * params_.out_features + feature;
        if constexpr (kFloat) {
          float* const a = pair(sums, n, i);
          float* const b = pair(sums, n + 1, i);
          move<ExchangedInPairs>(there, place, {a, a + 1, b, b + 1});
        } else {
          move<ExchangedInQuads>(there, place, {pair(sums, n, i), pair(sums, n + 1, i),
                                                pair(sums, n + 2, i), pair(sums, n + 3, i)});
        }
      }
    }
  }

  // 8 batch entries of an output; or 4, as they lie in a lane.
  template <class FeatureOf>
  __device__ __forceinline__ void store_features_first(const FeatureOf& feature_of,
                                                       Sums& sums) const {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < kPieces; ++n) {
      const int feature = feature_of(n);
#pragma unroll
      for (int i = 0; i < 2 * Traits::kBatchPieces; i += 4) {
        if constexpr (kTakesFourBatchEntries<Traits>) {
          const int64_t batch = batch_ + 8 * i + 4 * (lane / 4);
          const bool there = batch < params_.batch && feature >= 0;
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int64_t row = feature + int64_t{2 * (lane % 4) + e};
            move<AsTheyLie>(there, row * params_.batch + batch,
                            {pair(sums, n, i) + e, pair(sums, n, i + 1) + e,
                             pair(sums, n, i + 2) + e, pair(sums, n, i + 3) + e});
          }
        } else {
          const int64_t batch = batch_ + 8 * (i + lane % 4);
          const bool there = batch < params_.batch && feature >= 0;
          move<TurnedAndExchanged>(there, (feature + int64_t{lane / 4}) * params_.batch + batch,
                                   {pair(sums, n, i), pair(sums, n, i + 1), pair(sums, n, i + 2),
                                    pair(sums, n, i + 3)});
        }
      }
    }
  }

  // Stores 16 bytes at `place`, with what the residual adds to them, which comes the other way. `from`: of each word
  // of sums, two of 16 bits or one float.
  template <class Exchange>
  __device__ __forceinline__ void move(bool there, int64_t place, float* const (&from)[4]) const {
    if (params_.residual != nullptr) {
      uint32_t words[4] = {};
      if (there) {
        const uint4 read =
            *reinterpret_cast<const uint4*>(static_cast<const Element*>(params_.residual) + place);
        words[0] = read.x;
        words[1] = read.y;
        words[2] = read.z;
        words[3] = read.w;
      }
      Exchange::from_memory(words);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if constexpr (sizeof(Element) == 4) {
          *from[i] += __uint_as_float(words[i]);
        } else {
          add_pair<Element>(from[i][0], from[i][1], words[i]);
        }
      }
    }
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (sizeof(Element) == 4) {
        words[i] = __float_as_uint(*from[i]);
      } else {
        const Pair<Element> rounded = make_pair<Element>(from[i][0], from[i][1]);
        memcpy(&words[i], &rounded, sizeof(rounded));
      }
    }
    Exchange::to_memory(words);
    if (there) {
      *reinterpret_cast<uint4*>(static_cast<Element*>(params_.y) + place) = {words[0], words[1],
                                                                             words[2], words[3]};
    }
  }

  // Bias and activation.
  template <class FeatureOf>
  __device__ __forceinline__ void finish(const FeatureOf& feature_of, Sums& sums) const {
    if (params_.bias != nullptr) {
#pragma unroll
      for (int n = 0; n < kPieces; ++n) {
        const int feature = feature_of(n);
        if (feature < 0) continue;
        const auto* const bias =
            static_cast<const Element*>(params_.bias) + feature + threadIdx.x % 4 * 2;
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
