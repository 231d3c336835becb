// Union tiles of small blocks: the batch along M as in sm90_batch_rows.cuh, but multiplied warp by
// warp. A warpgroup's product would need code for every set of columns that an entry may have; a
// warp's has no price for a branch, and does not wait for three other warps.
#ifndef BSPARSE_CUDA_SM90_WARP_ROWS_CUH_
#define BSPARSE_CUDA_SM90_WARP_ROWS_CUH_

#include "cuda/matmul_params.h"
#include "cuda/ptx.cuh"
#include "cuda/sm90_batch_epilogue.cuh"
#include "cuda/sm90_batch_rows.cuh"
#include "cuda/sm90_epilogue.cuh"
#include "cuda/sm90_ptx.cuh"
#include "cuda/sm90_ring.cuh"
#include "cuda/sm90_union.cuh"

namespace bsparse {

// Reads the weight blocks of a stage, and multiplies.
template <class Traits>
struct WarpRowsProduct {
  using Rows = BatchRows<Traits>;
  using Block = uint32_t[4];
  static_assert(Traits::kBlockSize == 16 && Traits::kSteps == 1, "a block is four matrices");

  uint32_t offset;  // of the row that this lane reads of a block

  __device__ __forceinline__ WarpRowsProduct() {
    const int matrix = threadIdx.x % 32 / 8, row = threadIdx.x % 8;
    // Matrices 0 and 1: the first 8 outputs by the first and the next 8 inputs; 2 and 3: the next 8
    // outputs.
    const int input = 8 * (matrix % 2), output = 8 * (matrix / 2);
    offset = Traits::kOutputRows ? (output + row) * Traits::kRowBytes + 2 * input
                                 : (input + row) * Traits::kRowBytes + 2 * output;
    offset = ptx::kept(swizzled(offset, Traits::kRowBytes));
  }

  __device__ __forceinline__ void read(uint32_t w, Block& block) const {
    if constexpr (Traits::kOutputRows) {
      ptx::ldmatrix_x4(block, w + offset);
    } else {
      ptx::ldmatrix_x4_trans(block, w + offset);
    }
  }

  // Bit c of `blocks`: there is a block of column c, the first of them in `block`, the others behind
  // it, at `w` and on. Leaves there the first of the next entry; behind a warpgroup's last block lies
  // what nobody uses, behind a full stage the next one or y.
  __device__ __forceinline__ void multiply(uint32_t blocks, uint32_t& w, Block& block,
                                           const typename Rows::Operand& x,
                                           typename Rows::Sums& sums) const {
#pragma unroll
    for (int c = 0; c < Rows::kColumns; ++c) {
      if ((blocks >> c & 1) == 0) continue;
      Block next;
      read(w, next);
      w += Traits::kBoxBytes;
#pragma unroll
      for (int tile = 0; tile < Rows::kTiles; ++tile) {
#pragma unroll
        for (int octet = 0; octet < 2; ++octet) {
          const uint32_t b[2] = {block[2 * octet], block[2 * octet + 1]};
          Traits::Math::mma(reinterpret_cast<float(&)[4]>(sums[c][tile][4 * octet]), x[tile][0], b);
        }
      }
#pragma unroll
      for (int q = 0; q < 4; ++q) block[q] = next[q];
    }
  }
};

// Says that this warp is done with a stage, to all that write it.
template <class Traits>
__device__ __forceinline__ void release_stage_of_warp(const UnionMatmulParams& params,
                                                      const UnionShared<Traits>& shared,
                                                      int stage) {
  const uint32_t lane = threadIdx.x % 32;
  if (lane < params.ctas) {
    ptx::barrier_arrive_in_cluster(ptx::address_in(shared.empty_x(stage), lane));
  }
  if (lane == 0) ptx::barrier_arrive(shared.empty_w(stage));
}

// A warp of a consumer warpgroup: multiplies its rows of the x tiles with the weight blocks of the
// warpgroup's columns.
template <class Traits>
__device__ __forceinline__ void consume_warp_rows(const UnionMatmulParams& params,
                                                  const UnionShared<Traits>& shared, int group) {
  using Rows = BatchRows<Traits>;
  constexpr int kBits = Traits::kEntries * Rows::kColumns;  // of a warpgroup
  const BatchRowsReader<Traits> reader(group);
  const WarpRowsProduct<Traits> product;
  StageCursor<Traits::kStages> cursor;
  ResidualBarrier residual = {shared.residual(group)};
  typename Rows::Sums sums;
  typename Rows::Operand x[2];
  for (TileWalk walk(params); !walk.done(); walk.advance()) {
    const BatchRowsEpilogue<Traits> epilogue(params, shared.y(group), group, walk);
    const int stages = stages_of<Traits>(walk.item);
    Rows::clear(sums);
#pragma unroll 1
    for (int s = 0; s < stages; ++s) {
      const int stage = cursor.stage;
      ptx::barrier_wait(shared.full(stage), cursor.parity);
      cursor.advance();
      const uint32_t all = ptx::load_shared(shared.mask(stage));
      const uint32_t blocks = all >> group * kBits;
      const auto of_entry = [&](int e) {
        return blocks >> e * Rows::kColumns & ((1u << Rows::kColumns) - 1);
      };
      uint32_t w = shared.w(stage, 0);
      if (group > 0) w += __popc(all & ((1u << kBits) - 1)) * Traits::kBoxBytes;
      typename WarpRowsProduct<Traits>::Block block;
      product.read(w, block);
      w += Traits::kBoxBytes;
      if (of_entry(0) != 0) reader.read(shared.x(stage, 0), x[0]);
#pragma unroll
      for (int e = 0; e < Traits::kEntries; ++e) {
        if (e + 1 < Traits::kEntries && of_entry(e + 1) != 0) {
          reader.read(shared.x(stage, e + 1), x[(e + 1) % 2]);
        }
        if (of_entry(e) != 0) product.multiply(of_entry(e), w, block, x[e % 2], sums);
      }
      __syncwarp();
      release_stage_of_warp(params, shared, stage);
    }
    epilogue.store(sums, residual);
  }
  if (threadIdx.x % 128 == 0) ptx::bulk_wait();
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_WARP_ROWS_CUH_
