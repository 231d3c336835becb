// y = x W for Hopper and small batches: weights stream from memory once, at close to its speed.
//
// What such a product takes is the weights' bytes and waits for memory. So all CTAs run at once,
// with lists of entries of equal length; every warp takes a share of its CTA's list, and keeps a
// ring of its own full, which the copy engine fills: no warp waits for another before its products
// are done. Where a column is shared by several warps of a CTA, the first of them adds up what the
// others leave in shared memory, in order; where by several CTAs, the last of them what the others
// leave in device memory. It waits for a flag of each: they were started before it, and wait for
// none that was not.
#ifndef BSPARSE_CUDA_SM90_STREAM_CUH_
#define BSPARSE_CUDA_SM90_STREAM_CUH_

#include "cuda/matmul_params.h"
#include "cuda/ptx.cuh"
#include "cuda/sm90/policy.cuh"
#include "cuda/sm90/ptx.cuh"
#include "cuda/sm90/ring.cuh"
#include "cuda/sm90/stream_output.cuh"
#include "cuda/sm90/stream_traits.cuh"

namespace bsparse {

// Of blocks of 8, two to a step of the reduction: zeros for those that are not in `parts`, in place of what an
// earlier stage left.
template <int kSteps, class Fragments>
__device__ __forceinline__ void leave_out_missing(Fragments (&fragments)[kSteps], unsigned parts) {
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if ((parts >> (2 * step + half) & 1) != 0) continue;
      for (auto& a : fragments[step].a) a[2 * half] = a[2 * half + 1] = 0;
      for (auto& b : fragments[step].b) b[half] = 0;
    }
  }
}

template <class Traits>
__global__ void __launch_bounds__(32 * Traits::kWarps, 1)
    sm90_stream_kernel(const __grid_constant__ StreamMatmulParams params) {
  using Product = typename Traits::Product;
  using Sum = typename Traits::Sum;
  constexpr int kStages = Traits::kStages;
  constexpr int kEntries = Traits::kEntries;
  constexpr unsigned kAllEntries = (1u << kEntries) - 1;
  constexpr int kValues = sizeof(Sum::values) / sizeof(float);
  extern __shared__ char raw[];
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const StreamShared<Traits> shared = {(ptx::shared_address(raw) + 1023) & ~1023u, warp};
  const uint32_t list = blockIdx.x % params.lists;
  const int batch_tile = static_cast<int>(blockIdx.x / params.lists);
  const int batch_begin = batch_tile * Traits::kBatchTile;

  if (!params.plan_settled) ptx::wait_for_kernel_before();

  // This warp's entries of the list: from `begin` on, `count` of them with those that fill it. Warps
  // without any come last. The plan sees to it that columns have multiples of kEntries.
  constexpr int kRound = kEntries * Traits::kWarps;
  const int share = (params.length + kRound - 1) / kRound * kEntries;
  const int begin = min(share * warp, params.length);
  const int count = min(share, params.length - begin);
  const int4* const entries = params.entries + static_cast<int64_t>(list) * params.length + begin;
  // Entry first + lane: column, in_block, weight_block, partial.
  const auto read = [&](int first) {
    const int e = first + lane;
    return e < count ? entries[e] : make_int4(-1, -1, -1, -1);
  };
  // A block whose gate is 0 counts as missing.
  const auto leave_out = [&](int4& entry) {
    if (params.gate == nullptr || entry.y < 0) return;
    const int block = Traits::kInBlock ? entry.z >> 2 * params.side_bits : entry.z;
    if (params.gate[block] == 0.0f) entry.y = -1;
  };
  int4 now = read(0);
  int4 ahead = read(32);
  const int before = begin > 0 && count > 0 ? entries[-1].x : -1;
  if (lane < kStages) ptx::barrier_init(shared.full(lane), 1);
  if (threadIdx.x == 0) {
    ptx::prefetch_tensor_map(&params.x);
    ptx::prefetch_tensor_map(&params.w);
    ptx::prefetch_tensor_map(&params.y);
    if (params.adds_residual) ptx::prefetch_tensor_map(&params.residual);
  }
  ptx::barrier_init_fence();
  __syncwarp();
  const int place = lane % kEntries;  // in a stage, of the entry that a lane holds
  // Of the entries of this lane's stage those that are there, as bits, of the bits of all lanes.
  const auto of_stage = [&](unsigned present) { return present >> (lane - place) & kAllEntries; };
  // By the lanes that hold the entries of a stage.
  const auto issue_w = [&](int in_block, int weight_block, unsigned present, int stage) {
    // Rows of x behind the batch are not copied, and what lies there meets no other row's sums.
    if (place == 0 && of_stage(present) != 0) {
      ptx::barrier_arrive_expect(shared.full(stage), __popc(of_stage(present)) *
                                                         (params.x_bytes + Traits::BoxW::kBytes));
    }
    if (in_block < 0) return;
    int column = 0, row = 0;
    if constexpr (Traits::kInBlock) {
      const int side_bits = params.side_bits;
      const int block = weight_block >> 2 * side_bits;
      column = (weight_block & ((1 << side_bits) - 1)) * Traits::kBlockSize;
      row = ((block << side_bits) + (weight_block >> side_bits & ((1 << side_bits) - 1))) *
            Traits::kBlockSize;
    } else {
      row = weight_block * Traits::BoxW::kLines;
    }
    ptx::copy_box_to_shared(shared.w(stage) + place * Traits::BoxW::kBytes, &params.w, column, row,
                            shared.full(stage));
  };
  const auto issue_x = [&](int in_block, int stage) {
    if (in_block < 0) return;
    const int feature = in_block * Traits::kBlockSize;
    ptx::copy_box_to_shared(shared.x(stage) + place * Traits::BoxX::kBytes, &params.x,
                            Traits::kAxisX == 1 ? feature : batch_begin,
                            Traits::kAxisX == 1 ? batch_begin : feature,
                            shared.full(stage));
  };
  // So far only the plan was read. Settled weights need not wait for the kernel before this one.
  // The kernel behind may start once this one and all before that have been waited for, or, as its
  // weights are settled then too, at once.
  const bool is_first = lane < kStages * kEntries;  // to be copied
  unsigned present = __ballot_sync(~0u, now.y >= 0);
  if (params.weights_settled) {
    if (is_first) issue_w(now.y, now.z, present, lane / kEntries);
    ptx::launch_dependents();
    ptx::wait_for_kernel_before();
  } else {
    if (params.plan_settled) ptx::wait_for_kernel_before();
    ptx::launch_dependents();
    leave_out(now);
    leave_out(ahead);
    present = __ballot_sync(~0u, now.y >= 0);
    if (is_first) issue_w(now.y, now.z, present, lane / kEntries);
  }
  if (is_first) issue_x(now.y, lane / kEntries);
  unsigned present_ahead = __ballot_sync(~0u, ahead.y >= 0);
  if (lane == 0) {
    ptx::store_shared(shared.continued(warp), now.x == before ? now.x : -1);
  }
  __syncthreads();

  Sum sum;
  sum.clear();
  // Of the column under way: it began in a warp before this.
  bool continues = static_cast<int>(ptx::load_shared(shared.continued(warp))) >= 0;
  int column = -1, partial = kWholeColumn;
  int first_partial = 0, end_partial = 0;  // that are added to the column
  uint32_t parities = 0;  // a bit a stage
  int stage = 0;
  const auto partial_place = [&](int p) {
    return static_cast<int64_t>(batch_tile) * params.num_partials + p;
  };
  const auto partial_of = [&](int p) {
    return params.partials + partial_place(p) * (Traits::kSumBytes / 4);
  };
  // `staging`: a stage that nothing is on its way to.
  const auto store = [&](int staging) {
    if (partial >= 0) {
      leave_partial<Traits>(sum, partial_of(partial), params.flags + partial_place(partial),
                            params.launch);
    } else {
      store_column<Traits>(sum, params, column, batch_begin, shared.x(staging),
                           shared.full(staging), parities >> staging & 1);
      if (params.adds_residual) parities ^= 1u << staging;
    }
  };
  bool waits = false;  // for other warps' or CTAs' share of the column
#pragma unroll 1
  for (int first = 0; first < count && !waits; first += 32) {
    if (first > 0) {
      now = ahead;
      present = present_ahead;
      ahead = read(first + 32);
      leave_out(ahead);
      present_ahead = __ballot_sync(~0u, ahead.y >= 0);
    }
    // Bits of 32 entries: asked for one by one they would cost as much as the products.
    const int down = __shfl_down_sync(~0u, now.x, 1);
    const int beyond = __shfl_sync(~0u, ahead.x, 0);
    const int next = lane == 31 ? beyond : down;  // entry's column
    const unsigned ends = __ballot_sync(~0u, now.x >= 0 && next != now.x);
    const unsigned last = __ballot_sync(~0u, now.x >= 0 && next < 0);
    int2 partials = {0, 0};  // of this lane's entry, loaded long before they are needed
    if (now.w < kWholeColumn) {
      const int32_t* const split = params.splits + 3 * (kWholeColumn - 1 - now.w);
      partials = {split[1], split[1] + split[2]};
    }
    const int here = __popc(__ballot_sync(~0u, now.x >= 0));
#pragma unroll 1
    for (int e = 0; e < here; e += kEntries) {
      const unsigned parts = present >> e & kAllEntries;
      const bool is_present = parts != 0;
      const int end = e + kEntries - 1;
      const bool is_end = (ends >> end & 1) != 0;
      // Copies what comes kStages later to where all have read. `nothing` is 0, and waits for the loads
      // (see `mixed`).
      const auto refill = [&](uint32_t nothing) {
        __syncwarp();
        const int later = e + kStages * kEntries;
        if (lane - place + static_cast<int>(nothing) != later % 32) return;
        const bool soon = later < 32;
        const int in_block = soon ? now.y : ahead.y;
        issue_w(in_block, soon ? now.z : ahead.z, soon ? present : present_ahead, stage);
        issue_x(in_block, stage);
      };
      typename Product::Fragments fragments[Product::kSteps];
      if (is_present) {
        ptx::barrier_wait(shared.full(stage), parities >> stage & 1);
        parities ^= 1u << stage;
#pragma unroll
        for (int step = 0; step < Product::kSteps; ++step) {
          Product::load(fragments[step], shared.x(stage), 0, shared.w(stage), 0, step);
        }
        if (kEntries > 1 && parts != kAllEntries) leave_out_missing(fragments, parts);
      }
      if (!is_end) {
        uint32_t mix = 0;
        if (is_present) {
#pragma unroll
          for (const auto& step : fragments) mix ^= mixed(step.a) ^ mixed(step.b);
        }
        refill(mix & params.lists >> 31);
      }
      if (is_present) {
#pragma unroll
        for (int step = 0; step < Product::kSteps; ++step) {
          Product::multiply(sum, fragments[step]);
        }
      }
      if (is_end) {
        column = __shfl_sync(~0u, now.x, end);
        partial = __shfl_sync(~0u, now.w, end);
        if (continues) {
          const uint32_t to = shared.sum(warp) + 4 * lane;
          const float* const values = &sum.values[0][0][0];
#pragma unroll
          for (int i = 0; i < kValues; ++i) {
            ptx::store_shared(to + 128 * i, __float_as_uint(values[i]));
          }
        } else if (partial < kWholeColumn ||
                   ((last >> end & 1) != 0 && warp + 1 < Traits::kWarps &&
                    static_cast<int>(ptx::load_shared(shared.continued(warp + 1))) == column)) {
          // No warp waits for another CTA before all of its own CTA have left theirs.
          waits = true;
          first_partial = __shfl_sync(~0u, partials.x, end);
          end_partial = __shfl_sync(~0u, partials.y, end);
          break;
        } else {
          store(stage);
        }
        continues = false;
        sum.clear();
        refill(0);  // the products have taken all
      }
      stage = stage == kStages - 1 ? 0 : stage + 1;
    }
  }
  __syncthreads();
  if (waits) {
    float* const values = &sum.values[0][0][0];
    for (int other = warp + 1; other < Traits::kWarps; ++other) {
      if (static_cast<int>(ptx::load_shared(shared.continued(other))) != column) break;
      const uint32_t from = shared.sum(other) + 4 * lane;
#pragma unroll
      for (int i = 0; i < kValues; ++i) {
        values[i] += __uint_as_float(ptx::load_shared(from + 128 * i));
      }
    }
    for (int p = first_partial; p < end_partial; ++p) {
      add_partial<Traits>(sum, partial_of(p), params.flags + partial_place(p), params.launch);
    }
    store(0);
  }
  if (lane == 0) ptx::bulk_wait();
}

template <class Traits>
Kernel sm90_stream_entry() {
  return {.function = reinterpret_cast<const void*>(&sm90_stream_kernel<Traits>),
          .threads = 32 * Traits::kWarps,
          .shared_bytes = Traits::kSharedBytes,
          .batch_tile = Traits::kBatchTile,
          .entry_blocks = Traits::kEntries,
          .starts_early = true};
}

// The kernel for a variant; instantiates all of them for one arithmetic mode.
template <class Math, int kCell, bool kInBlock, int kFeatureAxis, bool kTranspose>
Kernel sm90_stream_for(int64_t batch) {
  constexpr int kSize = sizeof(typename Math::Element);
  switch (stream_batch_tile(batch, kSize)) {
    case 16:
      return sm90_stream_entry<
          StreamTraits<Math, kCell, kFeatureAxis, kTranspose, 16, kInBlock>>();
    case 32:
      return sm90_stream_entry<
          StreamTraits<Math, kCell, kFeatureAxis, kTranspose, 32, kInBlock>>();
    default:
      return sm90_stream_entry<StreamTraits<Math, kCell, kFeatureAxis, kTranspose,
                                            stream_batch_tile(64, kSize), kInBlock>>();
  }
}

template <class Math, int kCell, bool kInBlock>
Kernel sm90_stream_for(const MatmulVariant& variant) {
  if (variant.feature_axis == 0) {
    return variant.transpose ? sm90_stream_for<Math, kCell, kInBlock, 0, true>(variant.batch)
                             : sm90_stream_for<Math, kCell, kInBlock, 0, false>(variant.batch);
  }
  return variant.transpose ? sm90_stream_for<Math, kCell, kInBlock, 1, true>(variant.batch)
                           : sm90_stream_for<Math, kCell, kInBlock, 1, false>(variant.batch);
}

template <class Math>
Kernel sm90_stream_for(const MatmulVariant& variant) {
  switch (variant.block_size) {
    case 8:
      if constexpr (smallest_product_block(sizeof(typename Math::Element)) <= 8) {
        return sm90_stream_for<Math, 8, false>(variant);
      }
      return {};
    case 16: return sm90_stream_for<Math, 16, false>(variant);
    case 32: return sm90_stream_for<Math, 32, false>(variant);
    default: return sm90_stream_for<Math, kMaxStreamCell, true>(variant);
  }
}

}  // namespace bsparse

#endif  // BSPARSE_CUDA_SM90_STREAM_CUH_
