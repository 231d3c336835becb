// y = x W for Hopper, blocks of 8 and 16 at low densities: all of x passes by many output columns.
//
// A CTA computes 512 outputs of 64 batch entries, 32 outputs a warp. Whole boxes of x, of 64 features, come into
// shared memory, with the blocks that its columns have there; each warp goes from column to column, and in a column
// from block to block, and multiplies by mma.sync. So nothing is padded: union tiles multiply 64 outputs for a
// block of 8 or 16, and a missing block beside it counts as zeros. What limits is shared memory, out of which each
// block reads its x (docs/kernel-notes.md). The CTAs of a cluster have other outputs and share x.
#ifndef BSPARSE_CUDA_SM90_SWEEP_CUH_
#define BSPARSE_CUDA_SM90_SWEEP_CUH_

#include "cuda/bsparse_cuda.h"
#include "cuda/dtype.cuh"
#include "cuda/matmul_params.h"
#include "cuda/ptx.cuh"
#include "cuda/sm90/policy.cuh"
#include "cuda/sm90/ptx.cuh"
#include "cuda/sm90/ring.cuh"
#include "cuda/sm90/sweep_output.cuh"
#include "cuda/sm90/sweep_traits.cuh"

namespace bsparse {

// Where a warp's lanes find operands in a stage's boxes of x. A row of a box has 128 bytes, in which 16-byte
// chunk c of row r is at c ^ r % 8. kInputs: those of an operand, 16 or 8. Of 16 blocks of 8 make two, each of which
// half of the lanes find.
template <class Traits, int kInputs>
struct SweepOperands {
  static constexpr int kPieces = Traits::kBatchPieces;
  static constexpr int kWords = kInputs / 4;  // of a lane, for 16 batch entries
  static constexpr int kBlocks = kInputs / Traits::kBlockSize;
  uint32_t row;   // from the box, and
  uint32_t flip;  // what the block's place in a row, or that of the batch piece, is flipped by

  __device__ __forceinline__ explicit SweepOperands(int lane) {
    const int matrix = lane / 8, in_matrix = lane % 8;
    if constexpr (Traits::kFeatureAxis == 1) {
      // Rows are batch entries. A block of 16 has two chunks; one of 8 is read for two pieces at once.
      row = 128 * (kInputs == 8 ? lane : lane % 16);
      flip = 16 * ((kInputs == Traits::kBlockSize && kInputs == 16 ? matrix / 2 : 0) ^ in_matrix);
    } else {
      // Rows are features.
      row = 128 * (kInputs == Traits::kBlockSize && kInputs == 16 ? 8 * (matrix / 2) + in_matrix
                                                                  : in_matrix);
      flip = 16 * ((kInputs == 8 ? matrix : matrix % 2) ^ in_matrix);
    }
  }

  // Of a block at a place, counted in blocks from the stage's first box on.
  __device__ __forceinline__ uint32_t address(uint32_t boxes, uint32_t place) const {
    if constexpr (Traits::kFeatureAxis == 1) {
      const uint32_t bytes = place * (2 * Traits::kBlockSize);  // 128 of them in each box
      return boxes + row + ((bytes + (bytes & ~127u) * (BSPARSE_SWEEP_BOX_BYTES / 128 - 1)) ^ flip);
    } else {
      return boxes + row + place * (128 * Traits::kBlockSize);
    }
  }

  // x of a block, or of two, for each batch piece.
  __device__ __forceinline__ void load(uint32_t at, uint32_t (&x)[kPieces][kWords]) const {
    constexpr int kLoadPieces = 4 / kWords;  // of one instruction
#pragma unroll
    for (int i = 0; i < kPieces; i += kLoadPieces) {
      uint32_t words[4];
      if constexpr (Traits::kFeatureAxis == 1) {
        ptx::ldmatrix_x4(words, at + i * 16 * 128);
      } else {
        ptx::ldmatrix_x4_trans(words, at + (flip ^ i * 32));
      }
#pragma unroll
      for (int w = 0; w < 4; ++w) x[i + w / kWords][w % kWords] = words[w];
    }
  }
};

// Where a warp is in a stage: addresses of the next block's place and weights.
struct SweepCursor {
  uint32_t boxes;
  uint32_t places;
  uint32_t weights;
};

// Multiplies a block of a column, or two of 8 inputs. Every load is needed here, so that none is under way when the
// stage is released.
template <class Traits, int kInputs>
__device__ __forceinline__ void sweep_blocks(const SweepOperands<Traits, kInputs>& operands,
                                             uint32_t place, SweepCursor& cursor,
                                             typename Traits::ColumnSums& sums) {
  constexpr int kBlocks = SweepOperands<Traits, kInputs>::kBlocks;
  uint32_t x[Traits::kBatchPieces][kInputs / 4];
  uint32_t w[Traits::kColumnPieces][kInputs / 8];
  Traits::template load_weights<kBlocks>(w, cursor.weights);
  operands.load(operands.address(cursor.boxes, place), x);
  cursor.weights += kBlocks * Traits::kBlockBytes;
  cursor.places += kBlocks;
#pragma unroll
  for (int n = 0; n < Traits::kColumnPieces; ++n)
#pragma unroll
    for (int i = 0; i < Traits::kBatchPieces; ++i) Traits::Math::mma(sums[n][i], x[i], w[n]);
}

// Multiplies the blocks of one column in a stage.
template <class Traits>
__device__ __forceinline__ void sweep_column(int blocks,
                                             const SweepOperands<Traits, 16>& operands,
                                             SweepCursor& cursor,
                                             typename Traits::ColumnSums& sums) {
  constexpr int kBlocks = SweepOperands<Traits, 16>::kBlocks;
  // Of two blocks the lanes of the upper half have the second.
  const uint32_t mine = kBlocks == 2 ? threadIdx.x % 32 / 16 : 0;
#pragma unroll 1
  for (; blocks >= kBlocks; blocks -= kBlocks) {
    sweep_blocks<Traits>(operands, ptx::load_shared_byte(cursor.places + mine), cursor, sums);
  }
  if constexpr (kBlocks == 2) {
    if (blocks > 0) {
      const SweepOperands<Traits, 8> single(threadIdx.x % 32);
      sweep_blocks<Traits>(single, ptx::load_shared_byte(cursor.places), cursor, sums);
    }
  }
}

// The tiles of this CTA, one after the other, batch tile by batch tile. Every round of tiles is dealt to the
// clusters in the opposite order of the one before: items come heaviest first.
struct SweepWalk {
  const SweepMatmulParams& params;
  uint32_t tile;
  uint32_t step;
  uint32_t batch_tile;
  uint32_t item;
  int2 stages;  // first and end

  __device__ __forceinline__ explicit SweepWalk(const SweepMatmulParams& p)
      : params(p), tile(ptx::cluster_id()), step(2 * (ptx::clusters() - tile) - 1) {
    find(tile);
    stages = read_stages(item);
    look_ahead();
  }

  __device__ __forceinline__ bool done() const { return tile >= params.num_tiles; }

  __device__ __forceinline__ void advance() {
    tile += step;
    step = 2 * ptx::clusters() - step;
    find(min(tile, params.num_tiles - 1));
    // Not before: it would be waited for where the tile that is done began.
    stages = {static_cast<int>(ptx::kept(next.x)), static_cast<int>(ptx::kept(next.y))};
    look_ahead();
  }

 private:
  __device__ __forceinline__ void find(uint32_t number) {
    batch_tile = params.items_of_batch_tile.quotient(number);
    item = params.items_of_batch_tile.remainder(number, batch_tile);
  }

  __device__ __forceinline__ int2 read_stages(uint32_t of) const {
    const auto* const range = reinterpret_cast<const int*>(params.items + of) + 1;
    return {__ldg(range), __ldg(range + 1)};
  }

  __device__ __forceinline__ void look_ahead() {
    const uint32_t number = min(tile + step, params.num_tiles - 1);
    const uint32_t of = params.items_of_batch_tile.quotient(number);
    next = read_stages(params.items_of_batch_tile.remainder(number, of));
  }

  int2 next;
};

// What a producer warp does, which fills every kSweepProducers-th stage: one thread issues all copies, and slowly.
template <class Traits>
__device__ __forceinline__ void fill_sweep_stages(const SweepMatmulParams& params,
                                                  const SweepShared& shared, int turn) {
  const bool elected = ptx::elected();
  const int lane = threadIdx.x % 32;
  const uint32_t rank = ptx::rank_in_cluster();
  StageCursor cursor(params.ring_stages);
  cursor.advance(turn);
  int from = turn;  // of the tile's stages the first that is this warp's
  for (SweepWalk walk(params); !walk.done(); walk.advance()) {
    const int batch = static_cast<int>(walk.batch_tile) * kSweepBatchTile;
    const int stages = walk.stages.y - walk.stages.x;
    int4 read[2] = {};
#pragma unroll 1
    for (int i = 0; from < stages; from += kSweepProducers, ++i) {
      // Each lane reads one of the next 32.
      if (i % 32 == 0) {
        const int stage = min(walk.stages.x + from + kSweepProducers * lane, walk.stages.y - 1);
        const int4* const row = params.stages + 2 * (int64_t{stage} * params.ctas + rank);
        read[0] = __ldg(row);
        read[1] = __ldg(row + 1);
      }
      const auto word = [&](int value) { return __shfl_sync(~0u, value, i % 32); };
      const int record = word(read[0].x), sizes = word(read[0].y);
      const int first = word(read[0].z), blocks = word(read[0].w);
      const int numbers[] = {word(read[1].x), word(read[1].y), word(read[1].z), word(read[1].w)};
      ptx::barrier_wait(shared.empty(cursor.stage), cursor.parity ^ 1);
      if (elected) {
        const uint32_t full = shared.full(cursor.stage), to = shared.stage(cursor.stage);
        const uint32_t boxes = static_cast<uint32_t>(sizes) >> 16;
        const uint32_t record_bytes = 16 * (sizes & 0xffff);
        const uint32_t weight_bytes = blocks * Traits::kBlockBytes;
        const uint32_t box_bytes = boxes * BSPARSE_SWEEP_BOX_BYTES;
        ptx::barrier_arrive_expect(full, box_bytes + record_bytes + weight_bytes);
        const uint32_t x = to + BSPARSE_SWEEP_RECORD_BYTES;
#pragma unroll
        for (uint32_t b = 0; b < BSPARSE_SWEEP_BOXES; ++b) {
          if (b >= boxes || (b & (params.ctas - 1)) != rank) continue;  // ctas: a power of two
          const int box = static_cast<uint32_t>(numbers[b / 2]) >> 16 * (b % 2) & 0xffff;
          copy_sweep_box<Traits>(x + b * BSPARSE_SWEEP_BOX_BYTES, params,
                                 box * BSPARSE_SWEEP_BOX_FEATURES, batch, full);
        }
        ptx::copy_bytes_to_shared(to, params.records + static_cast<int64_t>(record) * 16,
                                  record_bytes, full);
        if (weight_bytes > 0) {
          ptx::copy_bytes_to_shared(
              x + box_bytes, params.weights + static_cast<int64_t>(first) * Traits::kBlockBytes,
              weight_bytes, full);
        }
      }
      __syncwarp();
      cursor.advance(kSweepProducers);
    }
    from -= stages;
  }
}

template <class Traits>
__device__ __forceinline__ void sweep(const SweepMatmulParams& params, const SweepShared& shared,
                                      int warp) {
  const int lane = threadIdx.x % 32;
  const SweepOperands<Traits, 16> operands(lane);
  StageCursor cursor(params.ring_stages);
  for (SweepWalk walk(params); !walk.done(); walk.advance()) {
    const SweepOutput<Traits> output(params, walk.item, walk.batch_tile, warp);
    typename Traits::ColumnSums sums[Traits::kWarpColumns] = {};
#pragma unroll 1
    for (int stages = walk.stages.y - walk.stages.x; stages > 0; --stages) {
      const uint32_t stage = shared.stage(cursor.stage);
      ptx::barrier_wait(shared.full(cursor.stage), cursor.parity);
      const uint2 header = ptx::load_shared_8(stage + BSPARSE_SWEEP_HEADER_BYTES * warp);
      const uint32_t first = header.y & 0xffff;
      SweepCursor at;
      at.boxes = stage + BSPARSE_SWEEP_RECORD_BYTES;
      at.places = stage + BSPARSE_SWEEP_WARPS * BSPARSE_SWEEP_HEADER_BYTES + first;
      at.weights = at.boxes + (header.y >> 16) * BSPARSE_SWEEP_BOX_BYTES +
                   first * Traits::kBlockBytes + lane * Traits::kLaneBytes;
#pragma unroll
      for (int c = 0; c < Traits::kWarpColumns; ++c) {
        sweep_column<Traits>(header.x >> 8 * c & 0xff, operands, at, sums[c]);
      }
      // All loads of the stage are over by now (see `mixed`): each was needed by a product of the loop that it is in, and
      // warps issue in order.
      ptx::keep_in_place(sums);
      __syncwarp();
      // Any CTA of the cluster may write to any other's stage.
      if (static_cast<uint32_t>(lane) < params.ctas) {
        ptx::barrier_arrive_in_cluster(ptx::address_in(shared.empty(cursor.stage), lane));
      }
      cursor.advance();
    }
    output.store(sums);
  }
}

template <class Traits>
__global__ void __launch_bounds__(kSweepThreads, 1)
    sm90_sweep_kernel(const __grid_constant__ SweepMatmulParams params) {
  extern __shared__ char raw[];
  const SweepShared shared(params, raw);
  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&params.x);
    for (int stage = 0; stage < params.ring_stages; ++stage) {
      ptx::barrier_init(shared.full(stage), 1);
      ptx::barrier_init(shared.empty(stage), BSPARSE_SWEEP_WARPS * params.ctas);
    }
    ptx::barrier_init_fence();
  }
  ptx::cluster_barrier();
  const int warp = threadIdx.x / 32;
  if (warp >= BSPARSE_SWEEP_WARPS) {
    ptx::give_registers<kSweepProducerRegisters>();
    const int producer = warp - BSPARSE_SWEEP_WARPS;
    if (producer < kSweepProducers) fill_sweep_stages<Traits>(params, shared, producer);
  } else {
    ptx::take_registers<kSweepConsumerRegisters>();
    sweep<Traits>(params, shared, warp);
  }
  // Others may still write to this CTA's shared memory.
  if (params.ctas > 1) ptx::cluster_barrier();
}

template <class Math, int kBlockSize, int kFeatureAxis>
Kernel sm90_sweep_for() {
  using Traits = SweepTraits<Math, kBlockSize, kFeatureAxis>;
  return {.function = reinterpret_cast<const void*>(&sm90_sweep_kernel<Traits>),
          .threads = kSweepThreads,
          .shared_bytes = kMaxSharedBytes,
          .batch_tile = kSweepBatchTile,
          .columns = kSweepOutputs / kBlockSize,
          .box_features = BSPARSE_SWEEP_BOX_FEATURES,
          .column_blocks = column_blocks(kBlockSize),
          .packs = true};
}

// The kernel for a variant; weights come packed, transposed or not.
template <class Math>
Kernel sm90_sweep_for(const MatmulVariant& variant) {
  switch (variant.block_size) {
    case 8:
      return variant.feature_axis == 0 ? sm90_sweep_for<Math, 8, 0>() : sm90_sweep_for<Math, 8, 1>();
    case 16:
      return variant.feature_axis == 0 ? sm90_sweep_for<Math, 16, 0>()
                                       : sm90_sweep_for<Math, 16, 1>();
  }
  return {};
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_SWEEP_CUH_
