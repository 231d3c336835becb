// From the accumulators of a warpgroup to y: bias, activation, residual, rounding, bulk tensor stores.
#ifndef BSPARSE_CUDA_SM90_EPILOGUE_CUH_
#define BSPARSE_CUDA_SM90_EPILOGUE_CUH_

#include "cuda/epilogue.cuh"
#include "cuda/matmul_params.h"
#include "cuda/sm90/ptx.cuh"
#include "cuda/sm90/swizzle.cuh"
#include "cuda/sm90/union.cuh"

namespace bsparse {

// A warpgroup waits here for its boxes of the residual, which one thread asks for.
struct ResidualBarrier {
  uint32_t barrier;
  uint32_t parity = 0;

  __device__ __forceinline__ void wait() {
    ptx::barrier_wait(barrier, parity);
    parity ^= 1;
  }
};

// Which of the tile's numbers a thread of a warpgroup holds: of kOutputs outputs kBatches batch entries each. The
// accumulators of a product hold, at 4 * j + 2 * h + i, row 16 * warp + lane / 4 + 8 * h and
// column 8 * j + 2 * (lane % 4) + i; outputs are its rows, or, where inputs are turned, its columns.
template <class Traits>
struct HeldSums {
  static constexpr int kOutputs = Traits::kTurnsInputs ? 16 : 2;
  static constexpr int kBatches = Traits::kBatchTile / 2 / kOutputs;

  static __device__ constexpr int index(int output, int batch) {
    return Traits::kTurnsInputs
               ? 32 * (batch / 2) + 4 * (output / 2) + 2 * (batch % 2) + output % 2
               : 4 * (batch / 2) + 2 * output + batch % 2;
  }

  // Of the warpgroup's outputs and the tile's batch entries the thread's i-th.
  static __device__ __forceinline__ int output(int i) { return Traits::kTurnsInputs ? column(i) : row(i); }
  static __device__ __forceinline__ int batch(int i) { return Traits::kTurnsInputs ? row(i) : column(i); }

 private:
  static __device__ __forceinline__ int row(int i) {
    return 64 * (i / 2) + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4 + 8 * (i % 2);
  }
  static __device__ __forceinline__ int column(int i) {
    return 8 * (i / 2) + 2 * (threadIdx.x % 4) + i % 2;
  }
};

// The last round of a tile, rounded: it is staged and stored while the next tile is multiplied, since the
// staging memory is not free before the round ahead of it has left.
template <class Traits>
struct DeferredRound {
  static constexpr bool kUsed = Traits::kRounds == 2 && Traits::kSize == 2;
  uint32_t words[kUsed ? Traits::kRoundBatch / 4 : 1];
  int feature;  // UnionEpilogue::feature()
  int batch;
  bool waits = false;
};

// Rounds, stages and stores the accumulators of one warpgroup.
template <class Traits>
struct UnionEpilogue {
  using Element = typename Traits::Element;
  static constexpr int kBatchTile = Traits::kBatchTile;
  static constexpr int kAccumulators = kBatchTile / 2;
  using Held = HeldSums<Traits>;

  const UnionMatmulParams& params;
  uint32_t staging;
  int group;
  int batch_begin;
  int partial;  // of this CTA, or -1
  const int32_t* columns;  // of this CTA
  int column;  // of the boxes of y that this thread copies, or -1

  // Asks which outputs an item has: early, since it takes a while.
  __device__ __forceinline__ UnionEpilogue(const UnionMatmulParams& p, uint32_t staging_place,
                                           int warpgroup,
                                           const TileWalk& walk)
      : params(p),
        staging(staging_place),
        group(warpgroup),
        batch_begin(static_cast<int>(walk.batch_tile) * kBatchTile),
        partial(walk.item.w),
        columns(p.columns + static_cast<int64_t>(walk.item.x) * Traits::kColumns) {
    column = columns[copied_output() / Traits::kColumnFeatures];
  }

  // Of a warpgroup the first threads copy, each the boxes of a width.
  static __device__ __forceinline__ bool copies() { return threadIdx.x % 128 < Traits::kWidthsY; }

  // `deferred` must have been finished.
  __device__ __forceinline__ void store(float (&sums)[kAccumulators], ResidualBarrier& residual,
                                        DeferredRound<Traits>& deferred) const {
    const int thread = threadIdx.x % 128;
    const int lane = thread % 32;
    const int warp_output = thread / 32 * 16;
    if (partial >= 0) {
      store_partial(sums);
      return;
    }
    if (params.bias != nullptr) {
      const auto* bias = static_cast<const Element*>(params.bias);
#pragma unroll
      for (int o = 0; o < Held::kOutputs; ++o) {
        const int output = group * 64 + Held::output(o);  // of the item's
        const int column = columns[output / Traits::kColumnFeatures];
        const int feature =
            column * Traits::kColumnFeatures + output % Traits::kColumnFeatures;
        // The last column may lie half outside.
        const bool there = column >= 0 && feature < params.out_features;
        const float add = there ? to_float(bias[feature]) : 0.0f;
#pragma unroll
        for (int b = 0; b < Held::kBatches; ++b) sums[Held::index(o, b)] += add;
      }
    }
    if (params.activation != BSPARSE_ACTIVATION_NONE) {
#pragma unroll
      for (int i = 0; i < kAccumulators; ++i) sums[i] = activate(sums[i], params.activation);
    }
    const bool defers = DeferredRound<Traits>::kUsed && !params.adds_residual;
#pragma unroll
    for (int round = 0; round < Traits::kRounds; ++round) {
      const int batch = batch_begin + round * Traits::kRoundBatch;
      if (defers && round == 1) {
        defer(sums, round, batch, deferred);
        continue;
      }
      // What this group stored last has left the staging memory.
      if (copies()) ptx::bulk_wait_read();
      if (params.adds_residual && thread < 32) {
        __syncwarp();
        load_residual(batch, residual.barrier);
      }
      ptx::named_barrier(1 + group, 128);
      if (params.adds_residual) {
        residual.wait();
        add_residual(sums, round, warp_output, lane);
      }
      stage_tile(sums, round, warp_output, lane);
      ptx::fence_async_proxy();
      ptx::named_barrier(1 + group, 128);
      if (copies()) store_boxes(params, staging, feature(), batch);
    }
  }

  __device__ __forceinline__ void defer(const float (&sums)[kAccumulators], int round, int batch,
                                        DeferredRound<Traits>& deferred) const {
    if constexpr (DeferredRound<Traits>::kUsed) {
#pragma unroll
      for (int i = 0; i < Traits::kRoundBatch / 4; ++i) {
        const int at = round * (Traits::kRoundBatch / 2) + 2 * i;
        const auto pair = make_pair<Element>(sums[at], sums[at + 1]);
        deferred.words[i] = reinterpret_cast<const uint32_t&>(pair);
      }
      deferred.feature = feature();
      deferred.batch = batch;
      deferred.waits = true;
    }
  }

  // Stages and stores a round of the tile before.
  static __device__ __forceinline__ void finish(const UnionMatmulParams& params, uint32_t staging,
                                                int group, DeferredRound<Traits>& deferred) {
    if constexpr (DeferredRound<Traits>::kUsed) {
      if (!deferred.waits) return;
      const int thread = threadIdx.x % 128;
      if (copies()) ptx::bulk_wait_read();
      ptx::named_barrier(1 + group, 128);
      for_each_four_matrices(staging, 0, thread / 32 * 16, thread % 32, [&](uint32_t place, int j) {
        uint32_t words[4];
#pragma unroll
        for (int q = 0; q < 4; ++q) words[q] = deferred.words[2 * j + q];
        stage_matrices(place, words);
      });
      ptx::fence_async_proxy();
      ptx::named_barrier(1 + group, 128);
      if (copies()) store_boxes(params, staging, deferred.feature, deferred.batch);
      deferred.waits = false;
    }
  }

 private:
  // The first output of the boxes of y that this thread copies, among the CTA's.
  __device__ __forceinline__ int copied_output() const {
    return group * 64 + threadIdx.x % Traits::kWidthsY * Traits::kWidthY;
  }

  // And among all; -1 if there is none.
  __device__ __forceinline__ int feature() const {
    return column < 0 ? -1
                      : column * Traits::kColumnFeatures + copied_output() % Traits::kColumnFeatures;
  }

  // Calls visit(staged, column, row) for the boxes of a round that this thread copies.
  template <class Visit>
  static __device__ __forceinline__ void for_each_box(uint32_t staging, int feature, int batch,
                                                      const Visit& visit) {
    if (feature < 0) return;
    const uint32_t first = staging + threadIdx.x % 128 * Traits::kBoxesY * Traits::kBoxBytesY;
#pragma unroll
    for (int b = 0; b < Traits::kBoxesY; ++b) {
      const uint32_t staged = first + b * Traits::kBoxBytesY;
      if constexpr (Traits::kFeatureAxis == 1) {
        visit(staged, feature, batch);
      } else {
        visit(staged, batch + Traits::kLineBatch * b, feature);
      }
    }
  }

  static __device__ __forceinline__ void store_boxes(const UnionMatmulParams& params,
                                                     uint32_t staging, int feature, int batch) {
    for_each_box(staging, feature, batch, [&](uint32_t from, int column, int row) {
      ptx::copy_box_to_global(&params.y, column, row, from);
    });
    ptx::bulk_commit();
  }

  // To where the same outputs will be staged; called by the first warp. Where y is the residual they are
  // read before they are written, since nobody else writes them.
  __device__ __forceinline__ void load_residual(int batch, uint32_t barrier) const {
    const uint32_t widths = __ballot_sync(~0u, copies() && column >= 0);
    if (threadIdx.x % 128 == 0) {
      ptx::barrier_arrive_expect(barrier, __popc(widths) * Traits::kBoxesY * Traits::kBoxBytesY);
    }
    __syncwarp();
    if (!copies()) return;
    for_each_box(staging, feature(), batch, [&](uint32_t to, int column, int row) {
      ptx::copy_box_to_shared(to, &params.residual, column, row, barrier);
    });
  }

  // What a thread, or with pairs its warp, reads here, it alone will overwrite.
  __device__ __forceinline__ void add_residual(float (&sums)[kAccumulators], int round,
                                               int warp_output, int lane) const {
    if constexpr (Traits::kSize == 4) {
      for_each_float(round, [&](uint32_t place, int i) {
        sums[i] += __uint_as_float(ptx::load_shared(place));
      });
    } else {
      for_each_four_matrices(round, warp_output, lane, [&](uint32_t place, int j) {
        uint32_t words[4];
        if constexpr (Traits::kFeatureAxis == 1) {
          ptx::ldmatrix_x4_trans(words, place);
        } else {
          ptx::ldmatrix_x4(words, place);
        }
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          const int i = 4 * (j + q / 2) + 2 * (q % 2);
          add_pair<Element>(sums[i], sums[i + 1], words[q]);
        }
      });
    }
  }

  __device__ __forceinline__ void stage_tile(float (&sums)[kAccumulators], int round,
                                             int warp_output, int lane) const {
    if constexpr (Traits::kSize == 4) {
      for_each_float(round, [&](uint32_t place, int i) {
        ptx::store_shared(place, __float_as_uint(sums[i]));
      });
    } else {
      for_each_four_matrices(round, warp_output, lane, [&](uint32_t place, int j) {
        uint32_t words[4];
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          const int i = 4 * (j + q / 2) + 2 * (q % 2);
          const auto pair = make_pair<Element>(sums[i], sums[i + 1]);
          words[q] = reinterpret_cast<const uint32_t&>(pair);
        }
        stage_matrices(place, words);
      });
    }
  }

  static __device__ __forceinline__ void stage_matrices(uint32_t place, const uint32_t (&words)[4]) {
    if constexpr (Traits::kFeatureAxis == 1) {
      ptx::stmatrix_x4_trans(place, words);
    } else {
      ptx::stmatrix_x4(place, words);
    }
  }

  // Calls visit(place, i) for where each sums[i] of a round is staged.
  template <class Visit>
  __device__ __forceinline__ void for_each_float(int round, const Visit& visit) const {
    constexpr int kBatches = Held::kBatches / Traits::kRounds;
#pragma unroll
    for (int b = round * kBatches; b < (round + 1) * kBatches; ++b) {
#pragma unroll
      for (int o = 0; o < Held::kOutputs; ++o) {
        const int output = Held::output(o);
        const int batch = Held::batch(b) - round * Traits::kRoundBatch;
        const int width = output / Traits::kWidthY, feature = output % Traits::kWidthY;
        if constexpr (Traits::kFeatureAxis == 1) {
          const uint32_t offset = batch * Traits::kRowBytesY + feature * 4;
          visit(staging + width * Traits::kBoxBytesY + swizzled(offset, Traits::kRowBytesY),
                Held::index(o, b));
        } else {
          const int box = width * Traits::kBoxesY + batch / Traits::kLineBatch;
          const uint32_t offset = feature * 128 + batch % Traits::kLineBatch * 4;
          visit(staging + box * Traits::kBoxBytesY + swizzled(offset, 128), Held::index(o, b));
        }
      }
    }
  }

  // Calls visit(place, j) for octets j and j + 1 of the batch, in turn: `place` is where this lane's
  // row of their four matrices is staged.
  template <class Visit>
  __device__ __forceinline__ void for_each_four_matrices(int round, int warp_output, int lane,
                                                         const Visit& visit) const {
    for_each_four_matrices(staging, round, warp_output, lane, visit);
  }

  template <class Visit>
  static __device__ __forceinline__ void for_each_four_matrices(uint32_t staging, int round,
                                                                int warp_output, int lane,
                                                                const Visit& visit) {
    // Matrices 0 and 1: outputs +0 and +8 of the first 8 batch entries; 2 and 3: of the next.
    const int matrix = lane / 8;
    const int m = warp_output + 8 * (matrix % 2);
    const int row = lane % 8;
    const int column = m / Traits::kWidthY;
    const int m_in_box = m % Traits::kWidthY;
#pragma unroll
    for (int octet = 0; octet < Traits::kRoundBatch / 8; octet += 2) {
      const int j = round * (Traits::kRoundBatch / 8) + octet;
      const int batch = 8 * (octet + matrix / 2);  // in the round
      if constexpr (Traits::kFeatureAxis == 1) {
        const uint32_t offset = (batch + row) * Traits::kRowBytesY + 2 * m_in_box;
        visit(staging + column * Traits::kBoxBytesY + swizzled(offset, Traits::kRowBytesY), j);
      } else {
        const uint32_t offset = (m_in_box + row) * 128 + 2 * (batch % 64);
        visit(staging + (column * Traits::kBoxesY + batch / 64) * Traits::kBoxBytesY +
                  swizzled(offset, 128),
              j);
      }
    }
  }

  // A segment of a split item, in float32: (outputs of the item, batch).
  __device__ __forceinline__ void store_partial(const float (&sums)[kAccumulators]) const {
    float* const to = params.partials +
                      (static_cast<int64_t>(partial) * kUnionOutputs + group * 64) * params.batch;
#pragma unroll
    for (int b = 0; b < Held::kBatches; ++b) {
      const int64_t batch = batch_begin + Held::batch(b);
      if (batch >= params.batch) continue;
#pragma unroll
      for (int o = 0; o < Held::kOutputs; ++o) {
        to[Held::output(o) * params.batch + batch] = sums[Held::index(o, b)];
      }
    }
  }
};

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_EPILOGUE_CUH_
