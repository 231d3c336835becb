// From the sums of products that have the batch along M to y: bias, activation, residual, rounding,
// bulk tensor stores.
#ifndef BSPARSE_CUDA_SM90_BATCH_EPILOGUE_CUH_
#define BSPARSE_CUDA_SM90_BATCH_EPILOGUE_CUH_

#include "cuda/epilogue.cuh"
#include "cuda/matmul_params.h"
#include "cuda/sm90_epilogue.cuh"
#include "cuda/sm90_policy.cuh"
#include "cuda/sm90_ptx.cuh"
#include "cuda/sm90_union.cuh"

namespace bsparse {

// The sums of a warpgroup: its half of the batch tile, by all of the CTA's columns. Thread t holds, at
// [column][tile][4 * j + 2 * h + i], batch entry 64 * tile + 16 * warp + lane / 4 + 8 * h of the
// warpgroup's and output 8 * j + 2 * (lane % 4) + i of the column.
template <class Traits>
struct BatchRows {
  static constexpr int kBatch = Traits::kBatchTile / kConsumers;
  static constexpr int kColumns = Traits::kColumns;
  static constexpr int kTiles = kBatch / 64;
  static constexpr int kSums = Traits::kBlockSize / 2;
  using Sums = float[kColumns][kTiles][kSums];
  using Operand = uint32_t[kTiles][Traits::kSteps][4];

  // Of the CTA's, a warpgroup's first.
  static __device__ __forceinline__ int first_batch(int group) { return group * kBatch; }

  static __device__ __forceinline__ void clear(Sums& sums) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (float& sum : sums[c][tile]) sum = 0.0f;
      }
    }
  }
};

// Rounds, stages and stores the sums of one warpgroup.
template <class Traits>
struct BatchRowsEpilogue {
  using Element = typename Traits::Element;
  using Rows = BatchRows<Traits>;
  // Boxes of a column are (kBoxBatch, features) or (features, kBoxBatch).
  static constexpr int kBoxBatch = Traits::kRoundBatch / Traits::kBoxesY;
  static constexpr int kBoxes = Rows::kBatch / kBoxBatch;
  static constexpr int kColumnBytes = kBoxes * Traits::kBoxBytesY;
  // Columns that the staging memory holds.
  static constexpr int kRoundColumns = Traits::kGroupBytesY / kColumnBytes;
  static_assert(Rows::kColumns % kRoundColumns == 0 && Traits::kDepth == Traits::kBlockSize,
                "boxes of y as the launcher makes them");

  const UnionMatmulParams& params;
  uint32_t staging;
  int group;
  int batch_begin;
  int partial;
  uint32_t rank;
  int features[Rows::kColumns];  // the first of each column, or -1

  // Reads which outputs an item has: early, since it takes a while.
  __device__ __forceinline__ BatchRowsEpilogue(const UnionMatmulParams& p, uint32_t staging_place,
                                               int warpgroup, const TileWalk& walk)
      : params(p),
        staging(staging_place),
        group(warpgroup),
        batch_begin(static_cast<int>(walk.batch_tile) * Traits::kBatchTile +
                    Rows::first_batch(warpgroup)),
        partial(walk.item.w),
        rank(ptx::rank_in_cluster()) {
    const int32_t* const columns =
        p.columns + (static_cast<int64_t>(walk.item.x) * p.ctas + rank) * Traits::kColumns;
#pragma unroll
    for (int c = 0; c < Rows::kColumns; ++c) {
      features[c] = columns[c] < 0 ? -1 : columns[c] * Traits::kBlockSize;
    }
  }

  __device__ __forceinline__ void store(typename Rows::Sums& sums,
                                        ResidualBarrier& residual) const {
    if (partial >= 0) {
      store_partial(sums);
      return;
    }
    if (params.bias != nullptr) add_bias(sums);
    if (params.activation == BSPARSE_ACTIVATION_RELU) {
      apply<BSPARSE_ACTIVATION_RELU>(sums);
    } else if (params.activation == BSPARSE_ACTIVATION_GELU) {
      apply<BSPARSE_ACTIVATION_GELU>(sums);
    }
    const int thread = threadIdx.x % 128;
#pragma unroll
    for (int first = 0; first < Rows::kColumns; first += kRoundColumns) {
      // What this group stored last has left the staging memory.
      if (thread == 0) {
        ptx::bulk_wait_read();
        if (params.adds_residual) load_residual(first, residual.barrier);
      }
      ptx::named_barrier(1 + group, 128);
      if (params.adds_residual) {
        residual.wait();
#pragma unroll
        for (int c = 0; c < kRoundColumns; ++c) {
          add_residual(sums[first + c], staging + c * kColumnBytes);
        }
      }
#pragma unroll
      for (int c = 0; c < kRoundColumns; ++c) stage(sums[first + c], staging + c * kColumnBytes);
      ptx::fence_async_proxy();
      ptx::named_barrier(1 + group, 128);
      if (thread == 0) store_columns(first);
    }
  }

 private:
  template <int kActivation>
  static __device__ __forceinline__ void apply(typename Rows::Sums& sums) {
#pragma unroll
    for (int c = 0; c < Rows::kColumns; ++c) {
#pragma unroll
      for (int tile = 0; tile < Rows::kTiles; ++tile) {
#pragma unroll
        for (float& sum : sums[c][tile]) sum = activate(sum, kActivation);
      }
    }
  }

  __device__ __forceinline__ void add_bias(typename Rows::Sums& sums) const {
    const auto* const bias = static_cast<const Element*>(params.bias);
#pragma unroll
    for (int c = 0; c < Rows::kColumns; ++c) {
      if (features[c] < 0) continue;
#pragma unroll
      for (int e = 0; e < Rows::kSums; ++e) {
        if (e % 4 >= 2) continue;
        const int output = e / 4 * 8 + threadIdx.x % 4 * 2 + e % 2;
        const float add = to_float(bias[features[c] + output]);
#pragma unroll
        for (int tile = 0; tile < Rows::kTiles; ++tile) {
          sums[c][tile][e] += add;
          sums[c][tile][e + 2] += add;
        }
      }
    }
  }

  __device__ __forceinline__ void stage(const float (&column)[Rows::kTiles][Rows::kSums],
                                        uint32_t to) const {
    for_each_four_matrices(to, [&](uint32_t place, int tile, int octet) {
      uint32_t words[4];
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int e = 4 * (octet + q / 2) + 2 * (q % 2);
        const auto pair = make_pair<Element>(column[tile][e], column[tile][e + 1]);
        words[q] = reinterpret_cast<const uint32_t&>(pair);
      }
      if constexpr (Traits::kFeatureAxis == 1) {
        ptx::stmatrix_x4(place, words);
      } else {
        ptx::stmatrix_x4_trans(place, words);
      }
    });
  }

  // What a warp reads here, it alone will overwrite.
  __device__ __forceinline__ void add_residual(float (&column)[Rows::kTiles][Rows::kSums],
                                               uint32_t from) const {
    for_each_four_matrices(from, [&](uint32_t place, int tile, int octet) {
      uint32_t words[4];
      if constexpr (Traits::kFeatureAxis == 1) {
        ptx::ldmatrix_x4(words, place);
      } else {
        ptx::ldmatrix_x4_trans(words, place);
      }
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int e = 4 * (octet + q / 2) + 2 * (q % 2);
        add_pair<Element>(column[tile][e], column[tile][e + 1], words[q]);
      }
    });
  }

  // Calls visit(place, tile, octet) for octets `octet` and the next of a column staged at `staged`:
  // `place` is where this lane's row of their four matrices is.
  template <class Visit>
  __device__ __forceinline__ void for_each_four_matrices(uint32_t staged,
                                                         const Visit& visit) const {
    const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    const int matrix = lane / 8, row = lane % 8;
#pragma unroll
    for (int tile = 0; tile < Rows::kTiles; ++tile) {
#pragma unroll
      for (int octet = 0; octet < Traits::kBlockSize / 8; octet += 2) {
        // Matrices 0 and 1: batch entries +0 and +8 of the first 8 outputs; 2 and 3: of the next.
        const int batch = 16 * warp + 8 * (matrix % 2);
        const int output = 8 * (octet + matrix / 2);
        if constexpr (Traits::kFeatureAxis == 1) {
          const uint32_t offset = (64 * tile + batch + row) * Traits::kRowBytes + 2 * output;
          visit(staged + swizzled(offset, Traits::kRowBytes), tile, octet);
        } else {
          const uint32_t offset = (output + row) * 128 + 2 * batch;
          visit(staged + tile * Traits::kBoxBytesY + swizzled(offset, 128), tile, octet);
        }
      }
    }
  }

  // Calls visit(staged, column, row) for the boxes of a round of columns that are in y.
  template <class Visit>
  __device__ __forceinline__ void for_each_box(int first, const Visit& visit) const {
#pragma unroll
    for (int c = 0; c < kRoundColumns; ++c) {
      if (features[first + c] < 0) continue;
#pragma unroll
      for (int b = 0; b < kBoxes; ++b) {
        const uint32_t staged = staging + c * kColumnBytes + b * Traits::kBoxBytesY;
        const int batch = batch_begin + b * kBoxBatch;
        if constexpr (Traits::kFeatureAxis == 1) {
          visit(staged, features[first + c], batch);
        } else {
          visit(staged, batch, features[first + c]);
        }
      }
    }
  }

  __device__ __forceinline__ void store_columns(int first) const {
    for_each_box(first, [&](uint32_t from, int column, int row) {
      ptx::copy_box_to_global(&params.y, column, row, from);
    });
    ptx::bulk_commit();
  }

  // To where the same outputs will be staged. Where y is the residual they are read before they are
  // written, since nobody else writes them.
  __device__ __forceinline__ void load_residual(int first, uint32_t barrier) const {
    uint32_t bytes = 0;
    for_each_box(first, [&](uint32_t, int, int) { bytes += Traits::kBoxBytesY; });
    ptx::barrier_arrive_expect(barrier, bytes);
    for_each_box(first, [&](uint32_t to, int column, int row) {
      ptx::copy_box_to_shared(to, &params.residual, column, row, barrier);
    });
  }

  // A segment of a split item, in float32: (outputs of the item, batch).
  __device__ __forceinline__ void store_partial(const typename Rows::Sums& sums) const {
    const int lane = threadIdx.x % 32;
    const int64_t place = (static_cast<int64_t>(partial) * params.ctas + rank) * kUnionOutputs;
#pragma unroll
    for (int c = 0; c < Rows::kColumns; ++c) {
#pragma unroll
      for (int tile = 0; tile < Rows::kTiles; ++tile) {
#pragma unroll
        for (int e = 0; e < Rows::kSums; ++e) {
          const int output = c * Traits::kBlockSize + e / 4 * 8 + lane % 4 * 2 + e % 2;
          const int64_t batch = batch_begin + 64 * tile + threadIdx.x % 128 / 32 * 16 + lane / 4 +
                                e % 4 / 2 * 8;
          if (batch < params.batch) {
            params.partials[(place + output) * params.batch + batch] = sums[c][tile][e];
          }
        }
      }
    }
  }
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_BATCH_EPILOGUE_CUH_
