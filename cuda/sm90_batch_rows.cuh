// Union tiles whose products have the batch along M, x in registers and one block column along N:
// nothing is padded where 64 outputs would be several block columns.
#ifndef BSPARSE_CUDA_SM90_BATCH_ROWS_CUH_
#define BSPARSE_CUDA_SM90_BATCH_ROWS_CUH_

#include "cuda/matmul_params.h"
#include "cuda/ptx.cuh"
#include "cuda/sm90_batch_epilogue.cuh"
#include "cuda/sm90_epilogue.cuh"
#include "cuda/sm90_policy.cuh"
#include "cuda/sm90_ptx.cuh"
#include "cuda/sm90_ring.cuh"
#include "cuda/sm90_stage_record.cuh"
#include "cuda/sm90_union.cuh"

namespace bsparse {

// Reads what a warpgroup needs of the x tile of a stage as operands of its products.
template <class Traits>
struct BatchRowsReader {
  using Rows = BatchRows<Traits>;
  uint32_t offset[Traits::kSteps];  // of this lane's row of the first tile

  __device__ __forceinline__ explicit BatchRowsReader(int group) {
    const int warp = threadIdx.x % 128 / 32, lane = threadIdx.x % 32;
    const int matrix = lane / 8, row = lane % 8;
#pragma unroll
    for (int k = 0; k < Traits::kSteps; ++k) {
      if constexpr (Traits::kFeatureAxis == 1) {
        const int batch = Rows::first_batch(group) + 16 * warp + 8 * (matrix % 2) + row;
        offset[k] = swizzled(batch * Traits::kRowBytes + 32 * k + 16 * (matrix / 2),
                             Traits::kRowBytes);
      } else {
        const int feature = 16 * k + 8 * (matrix / 2) + row;
        offset[k] = Rows::first_batch(group) / 64 * Traits::kBoxBytesX +
                    swizzled(feature * 128 + 32 * warp + 16 * (matrix % 2), 128);
      }
      offset[k] = ptx::kept(offset[k]);
    }
  }

  __device__ __forceinline__ void read(uint32_t x, typename Rows::Operand& operand) const {
    constexpr int kTileBytes =
        Traits::kFeatureAxis == 1 ? 64 * Traits::kRowBytes : Traits::kBoxBytesX;
#pragma unroll
    for (int tile = 0; tile < Rows::kTiles; ++tile) {
#pragma unroll
      for (int k = 0; k < Traits::kSteps; ++k) {
        const uint32_t from = x + offset[k] + tile * kTileBytes;
        if constexpr (Traits::kFeatureAxis == 1) {
          ptx::ldmatrix_x4(operand[tile][k], from);
        } else {
          ptx::ldmatrix_x4_trans(operand[tile][k], from);
        }
      }
    }
  }
};

// Multiplies the columns in the constant kMask.
template <class Traits, uint32_t kMask>
__device__ __forceinline__ void multiply_columns(uint32_t w,
                                                 const typename BatchRows<Traits>::Operand& x,
                                                 typename BatchRows<Traits>::Sums& sums) {
  ptx::wgmma_fence();
#pragma unroll
  for (int c = 0; c < Traits::kColumns; ++c) {
    if ((kMask >> c & 1) == 0) continue;
    const uint64_t block = ptx::operand(Traits::kLayoutA, w + c * Traits::kBoxBytes);
#pragma unroll
    for (int k = 0; k < Traits::kSteps; ++k) {
#pragma unroll
      for (int tile = 0; tile < BatchRows<Traits>::kTiles; ++tile) {
        ptx::wgmma_of_registers<typename Traits::Element, Traits::kBlockSize, Traits::kTransposeA>(
            sums[c][tile], x[tile][k], block + (k * Traits::kStepA >> 4));
      }
    }
  }
  ptx::wgmma_commit();
}

// Multiplies the columns in `mask`, of which the first kColumn are those of kMask. Each mask has code
// of its own: products that a branch comes between are waited for one by one.
template <class Traits, int kColumn = 0, uint32_t kMask = 0>
__device__ __forceinline__ void multiply_masked(uint32_t mask, uint32_t w,
                                                const typename BatchRows<Traits>::Operand& x,
                                                typename BatchRows<Traits>::Sums& sums) {
  if constexpr (kColumn < Traits::kColumns) {
    if ((mask >> kColumn & 1) != 0) {
      multiply_masked<Traits, kColumn + 1, kMask | 1u << kColumn>(mask, w, x, sums);
    } else {
      multiply_masked<Traits, kColumn + 1, kMask>(mask, w, x, sums);
    }
  } else if constexpr (kMask != 0) {
    multiply_columns<Traits, kMask>(w, x, sums);
  }
}

// A consumer warpgroup: multiplies its half of every x tile with all the weight blocks there are.
template <class Traits>
__device__ __forceinline__ void consume_batch_rows(const UnionMatmulParams& params,
                                                   const UnionShared<Traits>& shared, int group) {
  using Rows = BatchRows<Traits>;
  const BatchRowsReader<Traits> reader(group);
  StageCursor<Traits::kStages> cursor;
  ResidualBarrier residual = {shared.residual(group)};
  typename Rows::Sums sums;
  typename Rows::Operand x[Traits::kEntries];
  TileWalk walk(params);
  RecordQueue<Traits, MaskRecord<Traits>, 1> queue(params, walk, 0);
  for (; !walk.done(); walk.advance()) {
    const BatchRowsEpilogue<Traits> epilogue(params, shared.y(group), group, walk);
    const int stages = stages_of<Traits>(walk.item);
    if (stages == 0) queue.skip(walk, 0);
    Rows::clear(sums);
#pragma unroll 1
    for (int s = 0; s < stages; ++s) {
      // The same in all lanes: products are the whole warpgroup's.
      const auto record = queue.take(walk, 0, s);
      const int stage = cursor.stage;
      ptx::barrier_wait(shared.full(stage), cursor.parity);
      cursor.advance();
#pragma unroll
      for (int e = 0; e < Traits::kEntries; ++e) reader.read(shared.x(stage, e), x[e]);
      multiply_masked<Traits>(record.entries[0].mask, shared.w(stage, 0), x[0], sums);
      // All have read x: these products have begun, and so have their operands in registers; the loads
      // of the other entries are waited for (see `mixed`).
      static_assert(kMaxUnionCtas < 256, "the mask is 0");
      uint32_t mix = 0;
#pragma unroll
      for (int e = 1; e < Traits::kEntries; ++e) {
#pragma unroll
        for (const auto& tile : x[e]) mix ^= mixed(tile);
      }
      const uint32_t nothing = mix & params.ctas >> 8;
      ptx::named_barrier(1 + group + static_cast<int>(nothing), 128);
      release_x(params, shared, stage);
#pragma unroll
      for (int e = 1; e < Traits::kEntries; ++e) {
        multiply_masked<Traits>(record.entries[e].mask, shared.w(stage, e), x[e], sums);
      }
      ptx::wgmma_wait<0>();
      release_w(shared, stage);
    }
#pragma unroll
    for (int c = 0; c < Traits::kColumns; ++c) {
#pragma unroll
      for (int tile = 0; tile < Rows::kTiles; ++tile) ptx::wgmma_wait_for(sums[c][tile]);
    }
    epilogue.store(sums, residual);
  }
  if (threadIdx.x % 128 == 0) ptx::bulk_wait();
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_BATCH_ROWS_CUH_
