// dw[b] = x[c]^T dy[k] in exact float32, by fused multiply-adds, for blocks of 8 and 16: a warp computes a block on
// its own. Larger ones: sm80/exact_blocks_dw.cu.
//
// A lane computes 8 inputs by 8 outputs. As these are few tiles, lanes share the batch, and add up at the
// end. x and dy, with features first, come straight from memory into registers, four batch entries of a
// feature at once: warps of a CTA have blocks that come one after the other, which mostly have x or dy in
// common, so that half of it comes out of L1. The launch turns x and dy round where they have not features
// first (matmul_dw_launch.cu).
#include "cuda/matmul_params.h"
#include "cuda/ptx.cuh"
#include "cuda/sm80/exact_sums.cuh"

namespace bsparse {
namespace {

template <int kBlockSizeT>
struct ExactDwTraits {
  static constexpr int kBlockSize = kBlockSizeT;
  static constexpr int kSide = 8;  // inputs, and outputs, of a lane
  static constexpr int kTiles = kBlockSize / kSide;  // along a block
  static constexpr int kBatchLanes = 32 / (kTiles * kTiles);
  static constexpr int kStep = 4 * kBatchLanes;  // batch entries
  static constexpr int kWarps = 4;
  static constexpr int kDepth = kStep;  // so that the batch is split as finely as can be
  static constexpr int kChain = 32 * kStep;  // batch entries after which sums are added to others
};

// x, or dy, of a lane: rows of eight features.
struct LaneRows {
  uint64_t at;  // address of the next step's first row
  uint64_t row;

  // `left`: batch entries from this lane's on.
  template <bool kWhole>
  __device__ __forceinline__ void load(float (&rows)[8][4], int64_t left) const {
    uint64_t from = at;
#pragma unroll
    for (int r = 0; r < 8; ++r, from += row) load_row<kWhole>(rows[r], from, left);
  }

  template <bool kWhole>
  static __device__ __forceinline__ void load_row(float (&to)[4], uint64_t from, int64_t left) {
    const auto* const four = reinterpret_cast<const float*>(from);
    if constexpr (kWhole) {
      const float4 read = __ldg(reinterpret_cast<const float4*>(four));
      to[0] = read.x, to[1] = read.y, to[2] = read.z, to[3] = read.w;
    } else {
#pragma unroll
      for (int b = 0; b < 4; ++b) to[b] = b < left ? __ldg(four + b) : 0.0f;
    }
  }
};

// sums += x dy^T over `steps` steps; rows go on to the next. Of dy a row is read for the next step as soon as
// it has been used, so only x is waited for.
template <class Traits, bool kWhole>
__device__ __forceinline__ void multiply_steps(ExactSums& sums, LaneRows& x, LaneRows& dy, int steps,
                                               int64_t left) {
  constexpr uint64_t kStepBytes = Traits::kStep * sizeof(float);
  float inputs[8][4], outputs[8][4];
  dy.load<kWhole>(outputs, left);
#pragma unroll 1
  for (; steps > 0; --steps) {
    x.load<kWhole>(inputs, left);
    x.at += kStepBytes;
    left -= Traits::kStep;
    // The last step reads its own again.
    if (steps > 1) dy.at += kStepBytes;
    uint64_t next = dy.at;
#pragma unroll
    for (int k = 0; k < 8; ++k, next += dy.row) {
#pragma unroll
      for (int b = 0; b < 4; ++b)
#pragma unroll
        for (int c = 0; c < 8; ++c) sums[c][k] = fmaf(inputs[c][b], outputs[k][b], sums[c][k]);
      LaneRows::load_row<kWhole>(outputs[k], next, left);
    }
  }
  dy.at += kStepBytes;
}

// Adds up what lanes have of different batch entries: of its kCount sums each keeps a part, in order.
template <int kCount, int kLanes>
__device__ __forceinline__ void add_over_lanes(float* sums) {
  if constexpr (kLanes > 1) {
    const bool upper = (threadIdx.x & kLanes / 2) != 0;
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      const float other = __shfl_xor_sync(~0u, upper ? sums[i] : sums[kCount / 2 + i], kLanes / 2);
      sums[i] = (upper ? sums[kCount / 2 + i] : sums[i]) + other;
    }
    add_over_lanes<kCount / 2, kLanes / 2>(sums);
  }
}

template <class Traits>
__global__ void __launch_bounds__(32 * Traits::kWarps, 12 / Traits::kWarps)
    sm80_exact_matmul_dw_kernel(const __grid_constant__ MatmulDwParams params) {
  extern __shared__ __align__(128) char shared[];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int split = blockIdx.x % params.splits;
  const int64_t number = int64_t{blockIdx.x / params.splits} * Traits::kWarps + warp;  // of a block
  if (number >= params.num_blocks) return;
  const int32_t* const block = params.blocks + 3 * number;
  const int32_t weight_block = block[2];
  const bool partial = params.partials != nullptr;
  const float gate = params.output.scale(weight_block);
  // This lane's inputs and outputs in the block.
  const int tile = lane / Traits::kBatchLanes;
  const int input = tile / Traits::kTiles * Traits::kSide;
  const int output = tile % Traits::kTiles * Traits::kSide;

  ExactSums sums = {};
  if (gate != 0.0f) {
    const ExactSumStore store(ptx::shared_address(shared) + warp * ExactSumStore::kBytes);
    const int64_t end = params.stages.begin(split) + params.stages.size(split);
    int pair = 0;
    bool first = true;
#pragma unroll 1
    for (int64_t stage = params.stages.begin(split); stage < end;) {
      while (stage >= params.stages.first[pair + 1]) ++pair;
      const MatmulDwParams::Operands& of = params.pairs[pair];
      const int64_t pair_begin = params.stages.first[pair];
      const int64_t begin = (stage - pair_begin) * Traits::kDepth;
      stage = min(end, params.stages.first[pair + 1]);
      int64_t left = min(of.batch, (stage - pair_begin) * Traits::kDepth) - begin;
      const int lane_batch = lane % Traits::kBatchLanes * 4;
      const auto rows_of = [&](const void* data, int64_t feature) {
        const auto* const from = static_cast<const float*>(data) + feature * of.batch + begin + lane_batch;
        return LaneRows{reinterpret_cast<uint64_t>(from), sizeof(float) * of.batch};
      };
      LaneRows x = rows_of(of.x, int64_t{block[0]} * Traits::kBlockSize + input);
      LaneRows dy = rows_of(of.dy, int64_t{block[1]} * Traits::kBlockSize + output);
      const bool aligned = of.x_aligned && of.dy_aligned;
#pragma unroll 1
      for (; left > 0; left -= Traits::kChain) {
        const auto entries = static_cast<int>(min(left, int64_t{Traits::kChain}));
        const int whole = aligned ? entries / Traits::kStep : 0;
        const int rest = (entries - whole * Traits::kStep + Traits::kStep - 1) / Traits::kStep;
        const int64_t mine = left - lane_batch;
        if (whole > 0) multiply_steps<Traits, true>(sums, x, dy, whole, mine);
        if (rest > 0) {
          multiply_steps<Traits, false>(sums, x, dy, rest, mine - whole * Traits::kStep);
        }
        if (left > Traits::kChain || stage < end) {
          store.take(sums, first);
          first = false;
        }
      }
    }
    if (!first) store.give(sums);
  }
  constexpr int kKept = Traits::kSide * Traits::kSide / Traits::kBatchLanes;
  float* const flat = &sums[0][0];
  add_over_lanes<Traits::kSide * Traits::kSide, Traits::kBatchLanes>(flat);
  // The lane with the upper bits has the later sums.
  const int kept_first = lane % Traits::kBatchLanes * kKept;
  constexpr int kBlockElements = Traits::kBlockSize * Traits::kBlockSize;
#pragma unroll
  for (int i = 0; i < kKept; i += 2) {
    const int at = kept_first + i;
    const int64_t element = (input + at / Traits::kSide) * Traits::kBlockSize + output + at % Traits::kSide;
    if (partial) {
      float* const to = params.partials +
                        (int64_t{split} * params.num_blocks + weight_block) * kBlockElements + element;
      *reinterpret_cast<float2*>(to) = {flat[i], flat[i + 1]};
    } else {
      params.output.store<float>(int64_t{weight_block} * kBlockElements + element, gate, flat[i], flat[i + 1]);
    }
  }
}

template <int kBlockSize>
Kernel exact_matmul_dw_for() {
  using Traits = ExactDwTraits<kBlockSize>;
  return {.function = reinterpret_cast<const void*>(&sm80_exact_matmul_dw_kernel<Traits>),
          .threads = 32 * Traits::kWarps,
          .shared_bytes = Traits::kWarps * ExactSumStore::kBytes,
          .blocks_per_cta = Traits::kWarps,
          .depth = Traits::kDepth};
}

}  // namespace

Kernel sm80_exact_matmul_dw(int block_size) {
  switch (block_size) {
    case 8: return exact_matmul_dw_for<8>();
    case 16: return exact_matmul_dw_for<16>();
  }
  return {};
}

}  // namespace bsparse
