// From float32 accumulators to the output: bias, activation, rounding, coalesced stores.
#ifndef BSPARSE_CUDA_EPILOGUE_CUH_
#define BSPARSE_CUDA_EPILOGUE_CUH_

#include "cuda/bsparse_cuda.h"
#include "cuda/dtype.cuh"
#include "cuda/tile.cuh"
#include "cuda/warp_mma.cuh"

namespace bsparse {

__device__ __forceinline__ float activate(float z, int activation) {
  // Written so that a NaN falls through.
  if (activation == BSPARSE_ACTIVATION_RELU) return z < 0.0f ? 0.0f : z;
  if (activation == BSPARSE_ACTIVATION_GELU) {
    return z * (0.5f + 0.5f * erff(z * 0.70710678118654752f));
  }
  return z;
}

// Writes one chunk of 16 bytes, or its first `valid` elements one by one.
template <class Element>
__device__ __forceinline__ void store_chunk(Element* to, uint4 chunk, int valid, bool aligned) {
  constexpr int kElements = kChunkElements<Element>;
  if (aligned && valid >= kElements) {
    *reinterpret_cast<uint4*>(to) = chunk;
    return;
  }
  const auto* elements = reinterpret_cast<const Element*>(&chunk);
#pragma unroll
  for (int e = 0; e < kElements; ++e) {
    if (e < valid) to[e] = elements[e];
  }
}

// Where a warp's accumulator lies in the output tile of its CTA.
struct WarpPosition {
  int batch;   // first batch entry, in the tile
  int output;  // first output feature, in the block
};

// Where the tile lies in y.
struct OutputTile {
  int64_t batch_begin;
  int64_t batch_end;   // of y: the tile may stick out
  int64_t batch;       // entries of y
  int64_t features;    // of y
  int64_t feature_begin;
};

// Adds bias, activates and stores an output tile through shared memory at `buffer`, which all
// warps have finished with. Registers hold scattered pairs; y wants whole rows.
template <class Element, int kFeatureAxis, int kBatchTile, int kBlockSize, int kThreads, int kM,
          int kN>
__device__ __forceinline__ void store_output(Accumulator<kM, kN>& accumulator,
                                             const WarpPosition& warp, const OutputTile& place,
                                             const Element* bias, int activation, Element* y,
                                             bool y_aligned, char* buffer) {
  constexpr int kSize = static_cast<int>(sizeof(Element));
  constexpr int kPerChunk = kChunkElements<Element>;
  // (batch, output) or (output, batch), as in y.
  using Tile = std::conditional_t<kFeatureAxis == 1, SharedTile<kBatchTile, kBlockSize * kSize>,
                                  SharedTile<kBlockSize, kBatchTile * kSize>>;
  const auto element = [&](int row, int column) {
    return reinterpret_cast<Element*>(buffer + Tile::offset(row, column / kPerChunk)) +
           column % kPerChunk;
  };
  if (bias != nullptr) {
    bias += place.feature_begin + warp.output;
    accumulator.transform([&](int column, float z) { return z + to_float(bias[column]); });
  }
  if (activation != BSPARSE_ACTIVATION_NONE) {
    accumulator.transform([&](int, float z) { return activate(z, activation); });
  }
  accumulator.for_each_pair([&](int row, int column, float first, float second) {
    const int batch = warp.batch + row;
    const int output = warp.output + column;
    const auto pair = make_pair<Element>(first, second);
    if constexpr (kFeatureAxis == 1) {
      *reinterpret_cast<Pair<Element>*>(element(batch, output)) = pair;
    } else {
      *element(output, batch) = pair.first;
      *element(output + 1, batch) = pair.second;
    }
  });
  __syncthreads();

#pragma unroll 4
  for (int c = threadIdx.x; c < Tile::kChunks; c += kThreads) {
    const int row = c / Tile::kRowChunks;
    const int chunk = c % Tile::kRowChunks;
    const uint4 data = *reinterpret_cast<const uint4*>(buffer + Tile::offset(row, chunk));
    if constexpr (kFeatureAxis == 1) {
      const int64_t batch = place.batch_begin + row;
      if (batch >= place.batch_end) break;
      store_chunk(y + batch * place.features + place.feature_begin + chunk * kPerChunk, data,
                  kPerChunk, y_aligned);
    } else {
      const int64_t batch = place.batch_begin + chunk * kPerChunk;
      const int64_t left = place.batch_end - batch;
      if (left <= 0) continue;
      store_chunk(y + (place.feature_begin + row) * place.batch + batch, data,
                  left < kPerChunk ? static_cast<int>(left) : kPerChunk, y_aligned);
    }
  }
}

// Stores a segment of a split column as it is, in float32, (batch, bs) or (bs, batch).
template <int kFeatureAxis, int kBlockSize, int kM, int kN>
__device__ __forceinline__ void store_partial(const Accumulator<kM, kN>& accumulator,
                                              const WarpPosition& warp, const OutputTile& place,
                                              float* partial) {
  accumulator.for_each_pair([&](int row, int column, float first, float second) {
    const int64_t batch = place.batch_begin + warp.batch + row;
    const int output = warp.output + column;
    if (batch >= place.batch_end) return;
    if constexpr (kFeatureAxis == 1) {
      *reinterpret_cast<float2*>(partial + batch * kBlockSize + output) = {first, second};
    } else {
      partial[output * place.batch + batch] = first;
      partial[(output + 1) * place.batch + batch] = second;
    }
  });
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_EPILOGUE_CUH_
