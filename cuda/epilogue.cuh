// From float32 accumulators to the output: bias, activation, residual, rounding, coalesced stores.
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

// What goes onto the sums on their way to y; each of them or none.
template <class Element>
struct Finish {
  const Element* bias;
  int activation;
  const Element* residual;  // like y, and may be y: an element is read before it is written
  bool residual_aligned;
};

// Calls move(row, chunk, first element in y, valid elements) for this thread's chunks of an output
// tile, staged as `Tile`, as far as they lie in y.
template <class Element, int kFeatureAxis, class Tile, int kThreads, int kUnroll, class Move>
__device__ __forceinline__ void for_each_output_chunk(const OutputTile& place, const Move& move) {
  constexpr int kPerChunk = kChunkElements<Element>;
#pragma unroll kUnroll
  for (int c = threadIdx.x; c < Tile::kChunks; c += kThreads) {
    const int row = c / Tile::kRowChunks;
    const int chunk = c % Tile::kRowChunks;
    if constexpr (kFeatureAxis == 1) {
      const int64_t batch = place.batch_begin + row;
      if (batch >= place.batch_end) break;
      move(row, chunk, batch * place.features + place.feature_begin + chunk * kPerChunk,
           kPerChunk);
    } else {
      const int64_t batch = place.batch_begin + chunk * kPerChunk;
      const int64_t left = place.batch_end - batch;
      if (left <= 0) continue;
      move(row, chunk, (place.feature_begin + row) * place.batch + batch,
           left < kPerChunk ? static_cast<int>(left) : kPerChunk);
    }
  }
}

// Finishes and stores an output tile through shared memory at `buffer`, which all warps are done
// with. Registers hold scattered pairs; y and the residual want whole rows.
template <class Element, int kFeatureAxis, int kBatchTile, int kBlockSize, int kThreads, int kM,
          int kN>
__device__ __forceinline__ void store_output(Accumulator<kM, kN>& accumulator,
                                             const WarpPosition& warp, const OutputTile& place,
                                             const Finish<Element>& finish, Element* y,
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
  if (finish.bias != nullptr) {
    const Element* const bias = finish.bias + place.feature_begin + warp.output;
    accumulator.transform([&](int column, float z) { return z + to_float(bias[column]); });
  }
  if (finish.activation != BSPARSE_ACTIVATION_NONE) {
    accumulator.transform([&](int, float z) { return activate(z, finish.activation); });
  }
  if (finish.residual != nullptr) {
    for_each_output_chunk<Element, kFeatureAxis, Tile, kThreads, 1>(
        place, [&](int row, int chunk, int64_t from, int valid) {
          const uint32_t to = ptx::shared_address(buffer + Tile::offset(row, chunk));
          if (finish.residual_aligned) {
            ptx::cp_async_16(to, finish.residual + from, valid * kSize);
          } else {
            load_chunk_by_elements(to, finish.residual + from, valid);
          }
        });
    ptx::cp_async_commit();
    ptx::cp_async_wait<0>();
    __syncthreads();
  }
  accumulator.for_each_pair([&](int row, int column, float first, float second) {
    const int batch = warp.batch + row;
    const int output = warp.output + column;
    if constexpr (kFeatureAxis == 1) {
      auto* const place = reinterpret_cast<Pair<Element>*>(element(batch, output));
      if (finish.residual != nullptr) {
        first += to_float(place->first);
        second += to_float(place->second);
      }
      *place = make_pair<Element>(first, second);
    } else {
      Element* const places[] = {element(output, batch), element(output + 1, batch)};
      if (finish.residual != nullptr) {
        first += to_float(*places[0]);
        second += to_float(*places[1]);
      }
      *places[0] = from_float<Element>(first);
      *places[1] = from_float<Element>(second);
    }
  });
  __syncthreads();

  for_each_output_chunk<Element, kFeatureAxis, Tile, kThreads, 4>(
      place, [&](int row, int chunk, int64_t to, int valid) {
        const uint4 data = *reinterpret_cast<const uint4*>(buffer + Tile::offset(row, chunk));
        store_chunk(y + to, data, valid, y_aligned);
      });
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
