// y = x W in exact float32, by fused multiply-adds: a warp computes a block column, or 32 outputs of one, on its own.
//
// A lane computes 8 outputs of 8 batch entries. Its x comes straight from memory into registers, four inputs
// ahead, as nobody else needs it but up to three lanes with other outputs; weights come through shared
// memory. So no warp waits for another. x has features first: the launch turns it round where it has not
// (matmul_launch.cu).
//
// A running sum of many products would err two to three times as much as cuBLAS, whose kernels add up in pieces. So
// after every 64 terms sums are added to others in shared memory.
#include <algorithm>

#include "cuda/epilogue.cuh"
#include "cuda/matmul_params.h"
#include "cuda/ptx.cuh"
#include "cuda/sm80/exact_sums.cuh"
#include "cuda/sm80/policy.cuh"

namespace bsparse {
namespace {

template <int kBlockSizeT, int kFeatureAxisT>
struct ExactTraits {
  static constexpr int kBlockSize = kBlockSizeT;
  static constexpr int kFeatureAxis = kFeatureAxisT;
  static constexpr int kSide = 8;  // outputs, and batch entries, of a lane
  static constexpr int kOutputs = std::min(kBlockSize, 32);  // of a warp
  static constexpr int kWarps = kBlockSize / kOutputs;
  static constexpr int kOutputLanes = kOutputs / kSide;
  static constexpr int kBatchLanes = 32 / kOutputLanes;
  static constexpr int kBatchTile = kSide * kBatchLanes;
  // Weights come in parts of a block: so many inputs by the warp's outputs.
  static constexpr int kPartInputs = std::min(kBlockSize, 16);
  static constexpr int kParts = kBlockSize / kPartInputs;
  static constexpr int kPartBytes = kPartInputs * kOutputs * 4;
  static constexpr int kRing = 3;  // parts
  static constexpr int kStepInputs = 4;  // read ahead
  static constexpr int kSteps = kPartInputs / kStepInputs;
  static_assert(kSteps % 2 == 0, "two buffers take turns");
  static constexpr int kChainTerms = 64;
  static constexpr int kWarpBytes = kRing * kPartBytes + ExactSumStore::kBytes;
  static constexpr int kSharedBytes = kWarps * kWarpBytes;
};

// Of a lane: [output][batch entry]. These are four neighbours, and four half a tile behind.
using Sums = ExactSums;

// x of a step: [input][batch entry].
using Inputs = float[4][8];

// Reads x of a lane's batch entries. kWhole: the tile does not stick out, and rows are aligned.
template <class Traits, bool kWhole>
class LaneInputs {
 public:
  __device__ __forceinline__ LaneInputs(const MatmulParams& params, int64_t batch)
      : x_(reinterpret_cast<uint64_t>(static_cast<const float*>(params.x) + batch)),
        row_(sizeof(float) * params.x_row) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t left = params.batch - (batch + half * Traits::kBatchTile / 2);
      left_[half] = static_cast<int>(left < 0 ? 0 : left < 4 ? left : 4);
    }
  }

  // Addresses are numbers here, so that from one input to the next they are only added to.
  __device__ __forceinline__ uint64_t at(int in_block, int input) const {
    return x_ + (int64_t{in_block} * Traits::kBlockSize + input) * row_;
  }

  // Reads a step's, and goes to the next.
  __device__ __forceinline__ void load(Inputs& inputs, uint64_t& at) const {
#pragma unroll
    for (int i = 0; i < Traits::kStepInputs; ++i, at += row_) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const auto* const four = reinterpret_cast<const float*>(at) + half * (Traits::kBatchTile / 2);
        float* const to = inputs[i] + 4 * half;
        if constexpr (kWhole) {
          const float4 read = __ldg(reinterpret_cast<const float4*>(four));
          to[0] = read.x, to[1] = read.y, to[2] = read.z, to[3] = read.w;
        } else {
#pragma unroll
          for (int b = 0; b < 4; ++b) to[b] = b < left_[half] ? __ldg(four + b) : 0.0f;
        }
      }
    }
  }

 private:
  uint64_t x_;  // address of the first of the batch entries
  uint64_t row_;
  int left_[2];  // batch entries that there are of each four
};

// A warp's ring of weights and its sums in shared memory.
template <class Traits>
struct WarpShared {
  static constexpr int kRowChunks = Traits::kOutputs / 4;
  static constexpr int kChunks = Traits::kPartInputs * kRowChunks;  // of a part
  const float* w;  // this lane's first chunk, of weight block 0
  uint32_t ring;  // where this lane copies to
  ExactSumStore sums;

  __device__ __forceinline__ WarpShared(const MatmulParams& params, uint32_t place)
      : ring(place + threadIdx.x % 32 * 16), sums(place + Traits::kRing * Traits::kPartBytes) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    w = static_cast<const float*>(params.w) + warp * Traits::kOutputs +
        lane / kRowChunks * Traits::kBlockSize + lane % kRowChunks * 4;
  }

  // Copies a part of a block. Lanes take rows by rows, so that what each takes is at constant distances.
  __device__ __forceinline__ void copy_weights(int stage, int weight_block, int part) const {
    static_assert(32 % kRowChunks == 0);
    const float* const from =
        w + (int64_t{weight_block} * Traits::kBlockSize + part * Traits::kPartInputs) * Traits::kBlockSize;
#pragma unroll
    for (int c = 0; c < kChunks; c += 32) {
      if (kChunks % 32 != 0 && static_cast<int>(threadIdx.x % 32) >= kChunks) break;
      ptx::cp_async_16(ring + stage * Traits::kPartBytes + c * 16,
                       from + c / kRowChunks * Traits::kBlockSize, 16);
    }
  }
};

// sums += W^T x for a step's inputs. `weights`: of the first of them, and this lane's first output.
template <class Traits>
__device__ __forceinline__ void multiply_step(Sums& sums, const Inputs& x, uint32_t weights) {
#pragma unroll
  for (int i = 0; i < Traits::kStepInputs; ++i) {
    const float4 low = ptx::load_shared_float4(weights + i * Traits::kOutputs * 4);
    const float4 high = ptx::load_shared_float4(weights + i * Traits::kOutputs * 4 + 16);
    const float w[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int o = 0; o < 8; ++o)
#pragma unroll
      for (int b = 0; b < 8; ++b) sums[o][b] = fmaf(x[i][b], w[o], sums[o][b]);
  }
}

// Adds up an item. Tiles that are not whole read x only when it is needed.
template <class Traits, bool kWhole>
__device__ __forceinline__ void compute(Sums& sums, const MatmulParams& params, const int4& item,
                                        int64_t batch, int output_lane, const char* shared) {
  const uint32_t place = ptx::shared_address(shared) + threadIdx.x / 32 * Traits::kWarpBytes;
  const WarpShared<Traits> warp(params, place);
  const LaneInputs<Traits, kWhole> lane(params, batch);
  const int parts = (item.z - item.y) * Traits::kParts;
  const auto entry_of = [&](int part) {
    return __ldg(params.entries + item.y + min(part, parts - 1) / Traits::kParts);
  };
  const auto copy_weights = [&](int part, int stage, int weight_block) {
    if (part < parts) warp.copy_weights(stage, weight_block, part % Traits::kParts);
    ptx::cp_async_commit();
  };
  const auto inputs_at = [&](int part, int in_block) {
    return lane.at(in_block, part % Traits::kParts * Traits::kPartInputs);
  };
  // Of the part at hand and the next two.
  const int2 begin = entry_of(0);
  int2 next = entry_of(1), second = entry_of(2);
  copy_weights(0, 0, begin.y);
  copy_weights(1, 1, next.y);
  uint64_t at = inputs_at(0, begin.x);
  const uint32_t ring = place + output_lane * 32;  // weights of this lane's outputs
  Inputs inputs[2];
  if (kWhole) lane.load(inputs[0], at);
  int stage = 0;
  constexpr int kChain = Traits::kChainTerms / Traits::kPartInputs;
#pragma unroll 1
  for (int part = 0;;) {
    const int chain_end = min(parts, part + kChain);
#pragma unroll 1
    for (; part < chain_end; ++part) {
      const int2 third = entry_of(part + 3);
      ptx::cp_async_wait<1>();
      // The part has come for all lanes, and all are through with the one before, in whose place the copy goes.
      __syncwarp();
      copy_weights(part + 2, stage == 0 ? Traits::kRing - 1 : stage - 1, second.y);
      const uint32_t weights = ring + stage * Traits::kPartBytes;
#pragma unroll
      for (int step = 0; step < Traits::kSteps; ++step) {
        const bool last = step == Traits::kSteps - 1;
        if (!kWhole) lane.load(inputs[step % 2], at);
        if (last) at = inputs_at(part + 1, next.x);
        if (kWhole) lane.load(inputs[(step + 1) % 2], at);
        multiply_step<Traits>(sums, inputs[step % 2],
                              weights + step * Traits::kStepInputs * Traits::kOutputs * 4);
      }
      next = second;
      second = third;
      stage = stage == Traits::kRing - 1 ? 0 : stage + 1;
    }
    const bool first = part <= kChain;
    if (part == parts) {
      if (!first) warp.sums.give(sums);
      break;
    }
    warp.sums.take(sums, first);
  }
  ptx::cp_async_wait<0>();
}

// Where an element of y, or of a partial, lies.
struct Place {
  int64_t begin;
  int64_t feature_step;
  int64_t batch_step;
};

// Stores sums, with what the residual adds.
template <class Traits>
__device__ __forceinline__ void store(Sums& sums, float* y, const float* residual, const Place& place,
                                      int64_t batch, int64_t batch_end, bool aligned) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t first = batch + half * (Traits::kBatchTile / 2);
    const auto at = [&](int o, int b) {
      return place.begin + o * place.feature_step + (first + b) * place.batch_step;
    };
    // Fours of neighbours: batch entries of an output, or outputs of a batch entry.
    constexpr bool kByBatch = Traits::kFeatureAxis == 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int o = kByBatch ? i : i % 2 * 4, b = kByBatch ? 0 : i / 2;
      const auto sum = [&](int e) -> float& {
        return kByBatch ? sums[o][4 * half + e] : sums[o + e][4 * half + b];
      };
      const int64_t left = batch_end - (first + b);
      const int valid = kByBatch ? static_cast<int>(left < 0 ? 0 : left < 4 ? left : 4) : left > 0 ? 4 : 0;
      const int64_t to = at(o, b);
      if (aligned && valid == 4) {
        float4 four = {sum(0), sum(1), sum(2), sum(3)};
        if (residual != nullptr) {
          const float4 more = *reinterpret_cast<const float4*>(residual + to);
          four.x += more.x, four.y += more.y, four.z += more.z, four.w += more.w;
        }
        *reinterpret_cast<float4*>(y + to) = four;
      } else {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (e < valid) y[to + e] = residual == nullptr ? sum(e) : sum(e) + residual[to + e];
        }
      }
    }
  }
}

template <class Traits>
__global__ void __launch_bounds__(32 * Traits::kWarps, 12 / Traits::kWarps)
    sm80_exact_matmul_kernel(const __grid_constant__ MatmulParams params) {
  extern __shared__ __align__(128) char shared[];
  const TilePlace work = params.raster.place(blockIdx.x);
  const int4 item = params.items[work.item];  // out_block, first, end of entries, partial
  const int lane = threadIdx.x % 32;
  const int output_lane = lane % Traits::kOutputLanes;
  const int64_t batch =
      (params.first_batch_tile + work.batch_tile) * static_cast<int64_t>(Traits::kBatchTile) +
      lane / Traits::kOutputLanes * 4;
  Sums sums = {};
  if (item.z > item.y) {
    const int64_t tile_end = (params.first_batch_tile + work.batch_tile + 1) * int64_t{Traits::kBatchTile};
    if (params.x_aligned && tile_end <= params.batch) {
      compute<Traits, true>(sums, params, item, batch, output_lane, shared);
    } else {
      compute<Traits, false>(sums, params, item, batch, output_lane, shared);
    }
  }
  const int in_block = threadIdx.x / 32 * Traits::kOutputs + output_lane * Traits::kSide;
  const bool partial = item.w >= 0;
  const int64_t features = partial ? Traits::kBlockSize : params.out_features;
  const int64_t feature = in_block + (partial ? 0 : int64_t{item.x} * Traits::kBlockSize);
  const Place place = {Traits::kFeatureAxis == 1 ? feature : feature * params.batch,
                       Traits::kFeatureAxis == 1 ? 1 : params.batch,
                       Traits::kFeatureAxis == 1 ? features : 1};
  if (partial) {
    store<Traits>(sums, params.partials + item.w * (params.batch * Traits::kBlockSize), nullptr, place,
                  batch, params.batch, Traits::kFeatureAxis == 1 || params.batch % 4 == 0);
    return;
  }
  if (params.bias != nullptr) {
    const float* const bias = static_cast<const float*>(params.bias) + feature;
#pragma unroll
    for (int o = 0; o < 8; ++o) {
      const float add = __ldg(bias + o);
#pragma unroll
      for (int b = 0; b < 8; ++b) sums[o][b] += add;
    }
  }
  if (params.activation != BSPARSE_ACTIVATION_NONE) {
#pragma unroll
    for (int o = 0; o < 8; ++o)
#pragma unroll
      for (int b = 0; b < 8; ++b) sums[o][b] = activate(sums[o][b], params.activation);
  }
  store<Traits>(sums, static_cast<float*>(params.y), static_cast<const float*>(params.residual), place,
                batch, params.batch,
                params.y_aligned && (params.residual == nullptr || params.residual_aligned));
}

template <int kBlockSize>
Kernel exact_matmul_for(int feature_axis) {
  const auto entry = [](auto traits) -> Kernel {
    using Traits = decltype(traits);
    return {.function = reinterpret_cast<const void*>(&sm80_exact_matmul_kernel<Traits>),
            .threads = 32 * Traits::kWarps,
            .shared_bytes = Traits::kSharedBytes,
            .batch_tile = Traits::kBatchTile};
  };
  return feature_axis == 0 ? entry(ExactTraits<kBlockSize, 0>{}) : entry(ExactTraits<kBlockSize, 1>{});
}

}  // namespace

Kernel sm80_exact_matmul(int block_size, int feature_axis) {
  switch (block_size) {
    case 8: return exact_matmul_for<8>(feature_axis);
    case 16: return exact_matmul_for<16>(feature_axis);
    case 32: return exact_matmul_for<32>(feature_axis);
    case 64: return exact_matmul_for<64>(feature_axis);
    case 128: return exact_matmul_for<128>(feature_axis);
  }
  return {};
}

}  // namespace bsparse
