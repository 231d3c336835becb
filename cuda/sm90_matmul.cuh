// y = x W for Hopper: warpgroup products fed by bulk tensor copies, over union tiles.
//
// An item is a handful of output block columns, kUnionOutputs outputs for each CTA of a cluster. Its
// entries are the input blocks that any of them uses; each entry names the weight block of every
// column, or none. A cluster loads the x tile of an entry once and multiplies it with all the
// weight blocks there are: activations read from L2, not arithmetic, are what limits a
// block-sparse product.
//
// Outputs lie along the M of the warpgroup product and the batch along N, so one kernel serves both
// feature axes and both transposes: only the operands' majors differ. Where 64 outputs are several
// block columns, a missing block of the 64 counts as zeros, which the copy engine makes (a box
// outside the tensor).
#ifndef BSPARSE_CUDA_SM90_MATMUL_CUH_
#define BSPARSE_CUDA_SM90_MATMUL_CUH_

#include "cuda/epilogue.cuh"
#include "cuda/matmul_params.h"
#include "cuda/sm90_policy.cuh"
#include "cuda/sm90_ptx.cuh"
#include "cuda/sm90_ring.cuh"

namespace bsparse {

template <class MathT, int kBlockSizeT, int kFeatureAxisT, bool kTransposeT,
          bsparse_kernel kFamily>
struct Sm90MatmulTraits {
  using Math = MathT;
  using Element = typename Math::Element;
  static_assert(sizeof(Element) == 2, "warpgroup products of 16-bit elements");
  static constexpr int kBlockSize = kBlockSizeT;
  static constexpr int kFeatureAxis = kFeatureAxisT;
  static constexpr bool kTranspose = kTransposeT;
  static constexpr UnionTile kTile = union_tile(kBlockSize, kFamily);
  static constexpr int kBatchTile = kTile.batch_tile;
  static constexpr int kDepth = kTile.depth;
  static constexpr int kParts = kBlockSize / kDepth;  // stages that an entry fills
  static constexpr int kCluster = kTile.cluster;
  static constexpr int kColumns = kUnionOutputs / kBlockSize;  // of a CTA
  static constexpr int kItemColumns = kCluster * kColumns;
  static constexpr int kWords = bsparse_entry_words(kItemColumns);  // of an entry in the table
  static_assert(kWords <= 32, "a warp reads an entry at once");

  // A copied box of w holds kRows x kRows elements: a block, or a quarter of one of 128.
  static constexpr int kRows = kBlockSize < 64 ? kBlockSize : 64;
  static constexpr int kRowBytes = 2 * kRows;
  static constexpr int kBoxBytes = kRows * kRowBytes;
  static constexpr int kGroupBytesW = 64 * kDepth * 2;  // of w for one warpgroup and entry
  static constexpr int kStageBytesX = kBatchTile * kDepth * 2;
  static constexpr int kStageBytes = kStageBytesX + kConsumers * kGroupBytesW;

  // x: axis 1, a box (batch rows, kDepth) from each CTA; axis 0, boxes (kDepth rows, 64 of the
  // batch).
  static constexpr int kBoxesX = kFeatureAxis == 1 ? kCluster : kBatchTile / 64;
  static constexpr int kBoxBytesX = kStageBytesX / kBoxesX;
  static constexpr int kBoxBatch = kBatchTile / kBoxesX;

  // The output tile of a warpgroup, staged for the copy engine in boxes of one block column:
  // (batch rows, kRows) for axis 1; (kRows, 64 of the batch) for axis 0.
  // Large tiles in two rounds, which leaves more room for the ring.
  static constexpr int kRounds = kBatchTile > 64 ? 2 : 1;
  static constexpr int kRoundBatch = kBatchTile / kRounds;
  static constexpr int kBoxesY = kFeatureAxis == 1 ? 1 : kRoundBatch / 64;  // of a column
  static constexpr int kBoxBytesY = kRoundBatch * kRowBytes / kBoxesY;
  static constexpr int kGroupBytesY = 64 * kRoundBatch * 2;
  static constexpr int kGroupColumns = 64 / kRows;  // block columns of a warpgroup

  static constexpr int kControlBytes = 1024;  // barriers and masks
  static constexpr int kStages =
      (kMaxSharedBytes - 1024 - kControlBytes - kConsumers * kGroupBytesY) / kStageBytes;
  static constexpr int kSharedBytes =
      1024 + kControlBytes + kConsumers * kGroupBytesY + kStages * kStageBytes;
  static_assert(kStages >= 3 && kStages * 20 <= kControlBytes, "a ring of a sensible length");

  // How the tensor cores find the operands.
  static constexpr int kTransposeA = kTranspose ? 0 : 1;
  static constexpr int kTransposeB = kFeatureAxis == 1 ? 0 : 1;
  static constexpr uint64_t kLayoutA =
      ptx::operand_layout(ptx::swizzle_of(kRowBytes), kBoxBytes, 8 * kRowBytes);
  static constexpr int kStepA = kTransposeA ? 16 * kRowBytes : 32;
  static constexpr uint64_t kLayoutB =
      kTransposeB ? ptx::operand_layout(ptx::Swizzle::k128Bytes, kBoxBytesX, 1024)
                  : ptx::operand_layout(ptx::swizzle_of(2 * kDepth), 16, 8 * 2 * kDepth);
  static constexpr int kStepB = kTransposeB ? 16 * 128 : 32;
};

// Places in shared memory. Boxes want multiples of 1024 bytes.
template <class Traits>
struct UnionShared {
  uint32_t base;

  __device__ __forceinline__ uint32_t x(int stage) const { return base + stage * Traits::kStageBytes; }
  __device__ __forceinline__ uint32_t w(int stage) const { return x(stage) + Traits::kStageBytesX; }
  __device__ __forceinline__ uint32_t y(int group) const {
    return base + Traits::kStages * Traits::kStageBytes + group * Traits::kGroupBytesY;
  }
  __device__ __forceinline__ uint32_t full(int stage) const {
    return y(kConsumers) + 8 * stage;
  }
  __device__ __forceinline__ uint32_t empty(int stage) const {
    return full(Traits::kStages) + 8 * stage;
  }
  // Bit g: group g has a block in the entry of the stage.
  __device__ __forceinline__ uint32_t mask(int stage) const {
    return empty(Traits::kStages) + 4 * stage;
  }
};

// The tiles of this CTA's cluster, one after the other; the next one's item is read ahead.
template <int kCluster>
struct TileWalk {
  const UnionMatmulParams& params;
  uint32_t tile;
  uint32_t batch_tile;
  int4 item;  // group, first entry, end of entries, partial
  uint32_t next_batch_tile;
  int4 next_item;

  __device__ __forceinline__ explicit TileWalk(const UnionMatmulParams& p)
      : params(p), tile(blockIdx.x / kCluster) {
    look_ahead(tile);
    take_next();
  }

  __device__ __forceinline__ bool done() const { return tile >= params.num_tiles; }

  __device__ __forceinline__ void advance() {
    tile += gridDim.x / kCluster;
    take_next();
  }

 private:
  __device__ __forceinline__ void take_next() {
    batch_tile = next_batch_tile;
    item = next_item;
    look_ahead(tile + gridDim.x / kCluster);
  }

  // Behind the last tile: an item without entries.
  __device__ __forceinline__ void look_ahead(uint32_t t) {
    const TilePlace place = params.raster.place(min(t, params.num_tiles - 1));
    next_batch_tile = place.batch_tile;
    next_item = params.items[place.item];
    if (t >= params.num_tiles) next_item.z = next_item.y;
  }
};

// A box of x into every CTA of the cluster.
template <class Traits>
__device__ __forceinline__ void copy_x(uint32_t to, const UnionMatmulParams& params, int feature,
                                       int batch, uint32_t barrier) {
  const int column = Traits::kFeatureAxis == 1 ? feature : batch;
  const int row = Traits::kFeatureAxis == 1 ? batch : feature;
  if constexpr (Traits::kCluster == 1) {
    ptx::copy_box_to_shared(to, &params.x, column, row, barrier);
  } else {
    constexpr uint16_t kAll = (1 << Traits::kCluster) - 1;
    ptx::copy_box_to_cluster(to, &params.x, column, row, barrier, kAll);
  }
}

// The producers fill stages in the order in which the consumers empty them. Producer 0 copies x and
// says what is to come; the others share the weight blocks, since a warp issues copies one by one.
template <class Traits>
__device__ __forceinline__ void produce(const UnionMatmulParams& params,
                                        const UnionShared<Traits>& shared, int producer) {
  constexpr int kWords = Traits::kWords;
  constexpr int kRecords = 32 / kWords;  // entries that the warp reads at once
  const int lane = threadIdx.x % 32;
  const int record = lane / kWords;
  const int word_of_record = lane % kWords;
  const int rank = Traits::kCluster == 1 ? 0 : static_cast<int>(ptx::rank_in_cluster());
  const int first_column = 1 + rank * Traits::kColumns;  // word of this CTA's first column
  const int slot = word_of_record - first_column;  // this lane's column of the CTA
  const bool holds_weight = slot >= 0 && slot < Traits::kColumns;
  // Boxes of w in an entry: one a column, or the two halves of a column of 128.
  const bool copies_x = producer == 0 && word_of_record == 0;
  const bool copies_w =
      holds_weight && producer > 0 &&
      (Traits::kColumns == 1 ? producer <= kConsumers
                             : slot % (kProducers - 1) == producer - 1);

  // This lane's word of the `count` entries from `first` on.
  const auto read = [&](int first, int count) {
    return record < count ? params.entries[static_cast<int64_t>(first) * kWords + lane] : -1;
  };
  // Columns of a group share a product, so all are copied, or made zero, if one is there.
  const auto group_present = [](unsigned columns, int group) {
    constexpr int kShare = Traits::kColumns > 1 ? Traits::kColumns / kConsumers : 1;
    const int shift = Traits::kColumns > 1 ? group * kShare : 0;
    return (columns >> shift & ((1u << kShare) - 1)) != 0;
  };
  StageCursor<Traits::kStages> cursor;
  TileWalk<Traits::kCluster> walk(params);
  int next = read(walk.item.y, walk.item.z - walk.item.y);
  for (; !walk.done(); walk.advance()) {
    const int batch_begin = static_cast<int>(walk.batch_tile) * Traits::kBatchTile;
    const int entries = walk.item.z - walk.item.y;
    if (entries == 0) next = read(walk.next_item.y, walk.next_item.z - walk.next_item.y);
    for (int first = 0; first < entries; first += kRecords) {
      const int word = next;
      const int left = entries - first - kRecords;
      next = left > 0 ? read(walk.item.y + first + kRecords, left)
                      : read(walk.next_item.y, walk.next_item.z - walk.next_item.y);
      const unsigned present = __ballot_sync(~0u, holds_weight && word >= 0);
      const auto columns_of = [&](int r) {
        return present >> (r * kWords + first_column) & ((1u << Traits::kColumns) - 1);
      };
      const bool has_w = copies_w && group_present(columns_of(record),
                                                   slot * kConsumers / Traits::kColumns);
      const int row = (word >= 0 ? word : params.num_blocks) * Traits::kBlockSize;
      const int last = min(kRecords, entries - first);
#pragma unroll 1
      for (int r = 0; r < last; ++r) {
#pragma unroll 1
        for (int part = 0; part < Traits::kParts; ++part) {
          const int stage = cursor.stage;
          const uint32_t full = shared.full(stage);
          ptx::barrier_wait(shared.empty(stage), cursor.parity ^ 1);
          if (copies_x && record == r) {
            uint32_t mask = 0;
#pragma unroll
            for (int g = 0; g < kConsumers; ++g) {
              if (group_present(columns_of(r), g)) mask |= 1u << g;
            }
            ptx::store_shared(shared.mask(stage), mask);
            ptx::barrier_arrive_expect(
                full, Traits::kStageBytesX + __popc(mask) * Traits::kGroupBytesW);
            const int feature = word * Traits::kBlockSize + part * Traits::kDepth;
#pragma unroll
            for (int i = 0; i < Traits::kBoxesX / Traits::kCluster; ++i) {
              const int b = rank * (Traits::kBoxesX / Traits::kCluster) + i;
              copy_x<Traits>(shared.x(stage) + b * Traits::kBoxBytesX, params, feature,
                             batch_begin + b * Traits::kBoxBatch, full);
            }
          } else if (has_w && record == r) {
            if constexpr (Traits::kColumns == 1) {
              const int g = producer - 1;
              ptx::copy_box_to_shared(
                  shared.w(stage) + g * Traits::kGroupBytesW, &params.w,
                  64 * (Traits::kTranspose ? part : g), row + 64 * (Traits::kTranspose ? g : part),
                  full);
            } else {
              ptx::copy_box_to_shared(shared.w(stage) + slot * Traits::kBoxBytes, &params.w, 0,
                                      row, full);
            }
          }
          __syncwarp();
          // All producers count: one that fell a round behind would mistake the ring's parity.
          if (producer > 0 && lane == 0) ptx::barrier_arrive(full);
          cursor.advance();
        }
      }
    }
  }
}

// Rounds, stages and stores the accumulators of one warpgroup.
template <class Traits>
struct UnionEpilogue {
  using Element = typename Traits::Element;
  static constexpr int kBatchTile = Traits::kBatchTile;
  static constexpr int kAccumulators = kBatchTile / 2;

  const UnionMatmulParams& params;
  uint32_t staging;
  int group;
  int batch_begin;
  int partial;
  int rank;
  const int32_t* columns;  // of this CTA
  int features[Traits::kGroupColumns];  // the first of each block column, or -1

  // Reads which outputs an item has: early, since it takes a while.
  __device__ __forceinline__ UnionEpilogue(const UnionMatmulParams& p, uint32_t staging_place,
                                           int warpgroup,
                                           const TileWalk<Traits::kCluster>& walk)
      : params(p),
        staging(staging_place),
        group(warpgroup),
        batch_begin(static_cast<int>(walk.batch_tile) * kBatchTile),
        partial(walk.item.w),
        rank(Traits::kCluster == 1 ? 0 : static_cast<int>(ptx::rank_in_cluster())),
        columns(p.columns + static_cast<int64_t>(walk.item.x) * Traits::kItemColumns +
                rank * Traits::kColumns) {
#pragma unroll
    for (int c = 0; c < Traits::kGroupColumns; ++c) {
      const int output = group * 64 + c * Traits::kRows;  // of the item's
      const int column = columns[output / Traits::kBlockSize];
      features[c] =
          column < 0 ? -1 : column * Traits::kBlockSize + output % Traits::kBlockSize;
    }
  }

  // Thread t holds, at 4 * j + 2 * h + i, output 16 * warp + lane / 4 + 8 * h and batch entry
  // 8 * j + 2 * (lane % 4) + i.
  __device__ __forceinline__ void store(float (&sums)[kAccumulators]) const {
    const int thread = threadIdx.x % 128;
    const int lane = thread % 32;
    const int warp_output = thread / 32 * 16;
    if (partial >= 0) {
      store_partial(sums, warp_output + lane / 4, 2 * (lane % 4));
      return;
    }
    if (params.bias != nullptr) {
      const auto* bias = static_cast<const Element*>(params.bias);
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int m = warp_output + lane / 4 + 8 * h;
        const int output = group * 64 + m;  // of the item's
        const int column = columns[output / Traits::kBlockSize];
        const int feature = column * Traits::kBlockSize + output % Traits::kBlockSize;
        const float add = column < 0 ? 0.0f : to_float(bias[feature]);
#pragma unroll
        for (int j = 0; j < kBatchTile / 8; ++j) {
          sums[4 * j + 2 * h] += add;
          sums[4 * j + 2 * h + 1] += add;
        }
      }
    }
    if (params.activation != BSPARSE_ACTIVATION_NONE) {
#pragma unroll
      for (int i = 0; i < kAccumulators; ++i) sums[i] = activate(sums[i], params.activation);
    }
#pragma unroll
    for (int round = 0; round < Traits::kRounds; ++round) {
      // What this group stored last has left the staging memory.
      if (thread == 0) ptx::bulk_wait_read();
      ptx::named_barrier(1 + group, 128);
      stage_tile(sums, round, warp_output, lane);
      ptx::fence_async_proxy();
      ptx::named_barrier(1 + group, 128);
      if (thread == 0) store_tile(batch_begin + round * Traits::kRoundBatch);
    }
  }

  __device__ __forceinline__ void store_tile(int batch) const {
#pragma unroll
    for (int c = 0; c < Traits::kGroupColumns; ++c) {
      const int feature = features[c];
      if (feature < 0) continue;
#pragma unroll
      for (int b = 0; b < Traits::kBoxesY; ++b) {
        const uint32_t from = staging + (c * Traits::kBoxesY + b) * Traits::kBoxBytesY;
        if constexpr (Traits::kFeatureAxis == 1) {
          ptx::copy_box_to_global(&params.y, feature, batch, from);
        } else {
          ptx::copy_box_to_global(&params.y, batch + 64 * b, feature, from);
        }
      }
    }
    ptx::bulk_commit();
  }

  __device__ __forceinline__ void stage_tile(float (&sums)[kAccumulators], int round,
                                             int warp_output, int lane) const {
    // Matrices 0 and 1: outputs +0 and +8 of the first 8 batch entries; 2 and 3: of the next.
    const int matrix = lane / 8;
    const int m = warp_output + 8 * (matrix % 2);
    const int row = lane % 8;
    const int column = m / Traits::kRows;
    const int m_in_box = m % Traits::kRows;
#pragma unroll
    for (int octet = 0; octet < Traits::kRoundBatch / 8; octet += 2) {
      const int j = round * (Traits::kRoundBatch / 8) + octet;
      uint32_t words[4];
#pragma unroll
      for (int q = 0; q < 4; ++q) {
        const int i = 4 * (j + q / 2) + 2 * (q % 2);
        const auto pair = make_pair<Element>(sums[i], sums[i + 1]);
        words[q] = reinterpret_cast<const uint32_t&>(pair);
      }
      const int batch = 8 * (octet + matrix / 2);  // in the round
      if constexpr (Traits::kFeatureAxis == 1) {
        // Rows of kRowBytes, 16-byte chunks swizzled as the copy engine expects them.
        const uint32_t offset = (batch + row) * Traits::kRowBytes + 2 * m_in_box;
        const uint32_t swizzled = offset ^ (offset >> 3 & (Traits::kRowBytes - 16));
        ptx::stmatrix_x4_trans(staging + column * Traits::kBoxBytesY + swizzled, words);
      } else {
        const uint32_t offset = (m_in_box + row) * 128 + 2 * (batch % 64);
        const uint32_t swizzled = offset ^ (offset >> 3 & 112);
        ptx::stmatrix_x4(staging + (column * Traits::kBoxesY + batch / 64) * Traits::kBoxBytesY +
                             swizzled,
                         words);
      }
    }
  }

  // A segment of a split item, in float32: (outputs of the item, batch).
  __device__ __forceinline__ void store_partial(const float (&sums)[kAccumulators], int output,
                                                int batch_offset) const {
    float* const to = params.partials +
                      ((static_cast<int64_t>(partial) * Traits::kCluster + rank) * kUnionOutputs +
                       group * 64 + output) *
                          params.batch;
#pragma unroll
    for (int j = 0; j < kBatchTile / 8; ++j) {
      const int64_t batch = batch_begin + 8 * j + batch_offset;
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float* const row = to + 8 * h * params.batch;
        if (batch < params.batch) row[batch] = sums[4 * j + 2 * h];
        if (batch + 1 < params.batch) row[batch + 1] = sums[4 * j + 2 * h + 1];
      }
    }
  }
};

// A consumer warpgroup: multiplies the entries in which it has blocks.
template <class Traits>
__device__ __forceinline__ void consume(const UnionMatmulParams& params,
                                        const UnionShared<Traits>& shared, int group) {
  using Element = typename Traits::Element;
  constexpr int kAccumulators = Traits::kBatchTile / 2;
  // Says that this warpgroup is done with a stage, to all that write into it.
  const auto release = [&](int stage) {
    const int thread = threadIdx.x % 128;
    if constexpr (Traits::kCluster == 1) {
      if (thread == 0) ptx::barrier_arrive(shared.empty(stage));
    } else if (thread < Traits::kCluster) {
      ptx::barrier_arrive_in_cluster(ptx::address_in(shared.empty(stage), thread));
    }
  };
  StageCursor<Traits::kStages> cursor;
  float sums[kAccumulators];
  for (TileWalk<Traits::kCluster> walk(params); !walk.done(); walk.advance()) {
    const UnionEpilogue<Traits> epilogue(params, shared.y(group), group, walk);
    const int entries = walk.item.z - walk.item.y;
    const int stages = entries * Traits::kParts;
#pragma unroll
    for (int i = 0; i < kAccumulators; ++i) sums[i] = 0.0f;

    int pending = -1;  // stage whose products are still under way
    for (int s = 0; s < stages; ++s) {
      const int stage = cursor.stage;
      ptx::barrier_wait(shared.full(stage), cursor.parity);
      cursor.advance();
      // The same in all lanes, as the compiler must know: products are the whole warpgroup's.
      const uint32_t mask = __shfl_sync(~0u, ptx::load_shared(shared.mask(stage)), 0);
      const bool multiplies = (mask >> group & 1) != 0;
      if (multiplies) {
        ptx::wgmma_fence();
        const uint64_t a = ptx::operand(Traits::kLayoutA,
                                        shared.w(stage) + group * Traits::kGroupBytesW);
        const uint64_t b = ptx::operand(Traits::kLayoutB, shared.x(stage));
#pragma unroll
        for (int k = 0; k < Traits::kDepth / 16; ++k) {
          ptx::wgmma<Element, Traits::kBatchTile, Traits::kTransposeA, Traits::kTransposeB>(
              sums, a + (k * Traits::kStepA >> 4), b + (k * Traits::kStepB >> 4));
        }
        ptx::wgmma_commit();
        ptx::wgmma_wait<1>();
      } else {
        ptx::wgmma_wait<0>();
        ptx::named_barrier(1 + group, 128);  // all have read the mask
      }
      // Everything before this stage is done, and with nothing to do this stage is too.
      if (pending >= 0) release(pending);
      if (!multiplies) release(stage);
      pending = multiplies ? stage : -1;
    }
    ptx::wgmma_wait_for(sums);
    if (pending >= 0) release(pending);
    epilogue.store(sums);
  }
  if (threadIdx.x % 128 == 0) ptx::bulk_wait();
}

template <class Traits>
__global__ void __cluster_dims__(Traits::kCluster, 1, 1) __launch_bounds__(kUnionThreads, 1)
    sm90_matmul_kernel(const __grid_constant__ UnionMatmulParams params) {
  extern __shared__ char raw[];
  const UnionShared<Traits> shared = {(ptx::shared_address(raw) + 1023) & ~1023u};
  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&params.x);
    ptx::prefetch_tensor_map(&params.w);
    ptx::prefetch_tensor_map(&params.y);
#pragma unroll 1
    for (int stage = 0; stage < Traits::kStages; ++stage) {
      ptx::barrier_init(shared.full(stage), kProducers);
      ptx::barrier_init(shared.empty(stage), kConsumers * Traits::kCluster);
    }
    ptx::barrier_init_fence();
  }
  ptx::cluster_barrier();
  const int warpgroup = threadIdx.x / 128;
  if (warpgroup == kConsumers) {
    ptx::give_registers<40>();
    const int producer = static_cast<int>(threadIdx.x) / 32 - 4 * kConsumers;
    if (producer < kProducers) produce(params, shared, producer);
  } else {
    ptx::take_registers<232>();
    consume(params, shared, warpgroup);
  }
  // Others may still write to this CTA's shared memory.
  if constexpr (Traits::kCluster > 1) ptx::cluster_barrier();
}

template <class Traits>
Kernel sm90_matmul_entry() {
  return {.function = reinterpret_cast<const void*>(&sm90_matmul_kernel<Traits>),
          .threads = kUnionThreads,
          .shared_bytes = Traits::kSharedBytes,
          .batch_tile = Traits::kBatchTile,
          .columns = Traits::kItemColumns,
          .shared_columns = Traits::kGroupColumns,
          .cluster = Traits::kCluster,
          .store_batch = Traits::kRoundBatch};
}

// The kernel for a variant; instantiates all of them for one arithmetic mode.
template <class Math, int kBlockSize, int kFeatureAxis, bool kTranspose>
Kernel sm90_matmul_for(bsparse_kernel family) {
  switch (family) {
    case BSPARSE_SM90:
      return sm90_matmul_entry<
          Sm90MatmulTraits<Math, kBlockSize, kFeatureAxis, kTranspose, BSPARSE_SM90>>();
    case BSPARSE_SM90_PAIR:
      return sm90_matmul_entry<
          Sm90MatmulTraits<Math, kBlockSize, kFeatureAxis, kTranspose, BSPARSE_SM90_PAIR>>();
    case BSPARSE_SM90_SMALL:
      return sm90_matmul_entry<
          Sm90MatmulTraits<Math, kBlockSize, kFeatureAxis, kTranspose, BSPARSE_SM90_SMALL>>();
    default: return {};
  }
}

template <class Math, int kBlockSize>
Kernel sm90_matmul_for(const MatmulVariant& variant) {
  if (variant.feature_axis == 0) {
    return variant.transpose ? sm90_matmul_for<Math, kBlockSize, 0, true>(variant.family)
                             : sm90_matmul_for<Math, kBlockSize, 0, false>(variant.family);
  }
  return variant.transpose ? sm90_matmul_for<Math, kBlockSize, 1, true>(variant.family)
                           : sm90_matmul_for<Math, kBlockSize, 1, false>(variant.family);
}

template <class Math>
Kernel sm90_matmul_for(const MatmulVariant& variant) {
  switch (variant.block_size) {
    case 32: return sm90_matmul_for<Math, 32>(variant);
    case 64: return sm90_matmul_for<Math, 64>(variant);
    case 128: return sm90_matmul_for<Math, 128>(variant);
  }
  return {};
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_MATMUL_CUH_
