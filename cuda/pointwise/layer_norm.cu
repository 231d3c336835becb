// Layer norm: statistics and normalisation.

#include "cuda/pointwise/layer_norm.cuh"

#include "cuda/check.h"
#include "cuda/early_launch.cuh"
#include "cuda/error.h"
#include "cuda/pointwise/layer_norm_check.h"
#include "cuda/pointwise/recurrent.h"
#include "cuda/with_element.cuh"

namespace bsparse {
namespace {

struct LayerNorm {
  const void* x;
  const void* gain;
  const void* bias;
  const void* multiplier;
  const void* addend;
  void* y;
  float* mean;
  float* rstd;
  float2* partials;  // (segments, chunks, batch): mean, sum of squared distances from it
  int64_t batch;
  int64_t features;
  int64_t segments;
  int64_t operand_stride;
  int sharers;  // CTAs that write a row: each sums all of it
  float epsilon;
  bool relu;
  bool float_params;
};

__device__ __forceinline__ float finish(const LayerNorm& norm, float normal, float gain,
                                        float bias) {
  const float z = fmaf(normal, gain, bias);
  // Written so that a NaN falls through.
  return norm.relu && z < 0.0f ? 0.0f : z;
}

__device__ __forceinline__ float reciprocal_deviation(float variance, float epsilon) {
  return 1.0f / sqrtf((variance < 0.0f ? 0.0f : variance) + epsilon);
}

// ---- features last ----

template <class Element, int kCount, int kCached, Operand kOperand>
__global__ void __launch_bounds__(kMaxRowThreads, 1)
    normalize_rows_kernel(const __grid_constant__ LayerNorm norm) {
  __shared__ Sums shared[32];
  const int64_t size = norm.features / norm.segments;
  const float inverse_size = 1.0f / static_cast<float>(size);
  const Parameters<Element> gain = {norm.gain, norm.float_params};
  const Parameters<Element> bias = {norm.bias, norm.float_params};
  const int share = static_cast<int>(blockIdx.x) % norm.sharers;
  // This CTA writes the numbers from `written` on, up to `end_written`.
  const int64_t slice = (size / kCount + norm.sharers - 1) / norm.sharers * kCount;
  const int64_t written = share * slice, end_written = min(written + slice, size);
  const int64_t begin = written / kCount;
  const int64_t early =
      (begin + (threadIdx.x + blockDim.x - begin % blockDim.x) % blockDim.x) * kCount;
  if (norm.sharers > 1) {
    const int64_t feature = blockIdx.x / norm.sharers % norm.segments * size;
    for (int64_t first = written + threadIdx.x * kCount; first < end_written;
         first += int64_t{blockDim.x} * kCount) {
      gain.prefetch(feature + first);
      bias.prefetch(feature + first);
    }
  }
  follow_kernel_before();
  for (int64_t unit = blockIdx.x / norm.sharers; unit < norm.batch * norm.segments;
       unit += gridDim.x / norm.sharers) {
    const RowShare<Element, kCount, kCached> row(
        static_cast<const Element*>(norm.x) + unit * size, size);
    const int64_t feature = unit % norm.segments * size;
    // Of this thread's first numbers to be written: they arrive while it sums.
    float gains[kCount], biases[kCount];
    if (norm.sharers > 1 && early < end_written) {
      gain.load(feature + early, gains);
      bias.load(feature + early, biases);
    }
    Sums sums = {0.0f, 0.0f};
    row.for_each([&](int64_t, const float (&x)[kCount]) {
#pragma unroll
      for (int e = 0; e < kCount; ++e) sums.a += x[e];
    });
    const float shift = cta_sum(sums, shared).a * inverse_size;
    // The differences' own mean makes up for the rounding of the first one.
    sums = {0.0f, 0.0f};
    row.for_each([&](int64_t, const float (&x)[kCount]) {
#pragma unroll
      for (int e = 0; e < kCount; ++e) {
        const float difference = x[e] - shift;
        sums.a += difference;
        sums.b = fmaf(difference, difference, sums.b);
      }
    });
    sums = cta_sum(sums, shared);
    const float rest = sums.a * inverse_size;
    const float mean = shift + rest;
    const float rstd = reciprocal_deviation(sums.b * inverse_size - rest * rest, norm.epsilon);
    if (threadIdx.x == 0 && share == 0) {
      norm.mean[unit] = mean;
      norm.rstd[unit] = rstd;
    }
    if (norm.y == nullptr) continue;
    auto* const y = static_cast<Element*>(norm.y) + unit * size;
    const RowOperand<const Element> operand = {
        static_cast<const Element*>(kOperand == Operand::kAddend ? norm.addend : norm.multiplier) +
            unit * (size / norm.operand_stride),
        static_cast<uint32_t>(norm.operand_stride)};
    row.for_each([&](int64_t first, const float (&x)[kCount]) {
      if (first < written || first >= end_written) return;
      float out[kCount];
      if (norm.sharers == 1 || first != early) {
        gain.load(feature + first, gains);
        bias.load(feature + first, biases);
      }
      if constexpr (kOperand == Operand::kNone) {
#pragma unroll
        for (int e = 0; e < kCount; ++e) {
          out[e] = finish(norm, (x[e] - mean) * rstd, gains[e], biases[e]);
        }
      } else {
        operand.load(first, kOperand == Operand::kAddend ? 0.0f : 1.0f, out);
#pragma unroll
        for (int e = 0; e < kCount; ++e) {
          const float z = fmaf((x[e] - mean) * rstd, gains[e], biases[e]);
          out[e] = kOperand == Operand::kAddend ? z + out[e] : z * out[e];
          if (norm.relu && out[e] < 0.0f) out[e] = 0.0f;
        }
      }
      store_elements(out, y + first);
    });
  }
}

template <class Element>
cudaError_t normalize_rows(LayerNorm norm, cudaStream_t stream) {
  const int64_t size = norm.features / norm.segments;
  bool aligned = true;
  for (const void* pointer :
       {norm.x, norm.gain, norm.bias, static_cast<const void*>(norm.y)}) {
    aligned = aligned && is_aligned(pointer, 16);
  }
  if (norm.operand_stride == 1) {
    aligned = aligned && is_aligned(norm.multiplier, 16) && is_aligned(norm.addend, 16);
  }
  const RowPolicy<Element> policy(size, aligned);
  const int64_t rows = norm.batch * norm.segments;
  if (norm.y != nullptr && norm.y != norm.x && rows <= kSharedRows && size >= kSharedRowSize) {
    norm.sharers = kRowSharers;
  }
  const auto ctas = static_cast<unsigned>(std::min(rows, kMaxRowCtas) * norm.sharers);
  with_row_policy(policy, [&](auto count, auto cached) {
    constexpr int kCount = decltype(count)::value, kCached = decltype(cached)::value;
    if (norm.multiplier != nullptr) {
      launch_early(&normalize_rows_kernel<Element, kCount, kCached, Operand::kMultiplier>, ctas,
                   policy.threads, stream, norm);
    } else if (norm.addend != nullptr) {
      launch_early(&normalize_rows_kernel<Element, kCount, kCached, Operand::kAddend>, ctas,
                   policy.threads, stream, norm);
    } else {
      launch_early(&normalize_rows_kernel<Element, kCount, kCached, Operand::kNone>, ctas,
                   policy.threads, stream, norm);
    }
  });
  return cudaGetLastError();
}

// ---- features first ----

// Of some numbers: their mean, and the sum of their squared distances from it. The mean is merged
// in double: rounded at every merge it would be off by more than its last place.
struct Moments {
  double mean;
  float count, squares;
};

// Chan, Golub and LeVeque 1979.
__device__ __forceinline__ Moments merge(Moments a, Moments b) {
  if (b.count == 0.0f) return a;
  if (a.count == 0.0f) return b;
  const float count = a.count + b.count;
  const double difference = b.mean - a.mean;
  const float distance = static_cast<float>(difference);
  const float share = b.count / count;
  return {fma(difference, static_cast<double>(share), a.mean), count,
          a.squares + b.squares + distance * distance * a.count * share};
}

template <class Element, int kPack>
__global__ void __launch_bounds__(32 * kTileWarps)
    column_moments_kernel(const __grid_constant__ LayerNorm norm,
                          const __grid_constant__ ColumnTiling tiling) {
  // Numbers summed from one shift: a neighbour of theirs, so that little cancels.
  constexpr int kChain = 32;
  __shared__ Moments shared[kTileWarps][kTileColumns];
  const auto* const x = static_cast<const Element*>(norm.x);
  for (int64_t t = blockIdx.x; t < tiling.tiles(); t += gridDim.x) {
    const ColumnTile tile(tiling, t);
    for_each_column<kPack>(tile, tiling.columns, [&](int64_t column) {
      Moments moments[kPack] = {};
      for (int64_t row = tile.first_row + threadIdx.y; row < tile.end_row;
           row += kChain * kTileWarps) {
        const int count = static_cast<int>(
            min(int64_t{kChain}, (tile.end_row - row - 1) / kTileWarps + 1));
        float shift[kPack], sum[kPack] = {}, squares[kPack] = {};
        load_elements(x + row * tiling.columns + column, shift);
#pragma unroll 8
        for (int i = 1; i < count; ++i) {
          float values[kPack];
          load_elements(x + (row + i * kTileWarps) * tiling.columns + column, values);
#pragma unroll
          for (int e = 0; e < kPack; ++e) {
            const float difference = values[e] - shift[e];
            sum[e] += difference;
            squares[e] = fmaf(difference, difference, squares[e]);
          }
        }
#pragma unroll
        for (int e = 0; e < kPack; ++e) {
          const float mean = sum[e] / static_cast<float>(count);
          // Squares may fall below 0 by rounding, and then stand for 0.
          const float rest = squares[e] - sum[e] * mean;
          moments[e] = merge(moments[e], {static_cast<double>(shift[e]) + mean,
                                          static_cast<float>(count), rest < 0.0f ? 0.0f : rest});
        }
      }
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        shared[threadIdx.y][column - tile.first_column + e] = moments[e];
      }
    });
    __syncthreads();
    const int local = threadIdx.y * 32 + threadIdx.x;
    const int64_t column = tile.first_column + local;
    if (local < kTileColumns && column < tiling.columns) {
      Moments moments = shared[0][local];
      for (int warp = 1; warp < kTileWarps; ++warp) moments = merge(moments, shared[warp][local]);
      norm.partials[(tile.segment * tiling.chunks + tile.chunk) * tiling.columns + column] = {
          static_cast<float>(moments.mean), moments.squares};
    }
    __syncthreads();
  }
}

// Adds up the chunks of each column of each segment.
__global__ void __launch_bounds__(32 * kTileWarps)
    merge_moments_kernel(const __grid_constant__ LayerNorm norm,
                         const __grid_constant__ ColumnTiling tiling) {
  __shared__ Moments shared[kTileWarps][32];
  const int64_t groups = (tiling.columns - 1) / 32 + 1;
  for (int64_t g = blockIdx.x; g < tiling.segments * groups; g += gridDim.x) {
    const int64_t segment = g / groups;
    const int64_t column = g % groups * 32 + threadIdx.x;
    Moments moments = {};
    if (column < tiling.columns) {
      const float2* const partials =
          norm.partials + segment * tiling.chunks * tiling.columns + column;
#pragma unroll 4
      for (int64_t chunk = threadIdx.y; chunk < tiling.chunks; chunk += kTileWarps) {
        const float2 partial = partials[chunk * tiling.columns];
        const int64_t rows =
            min(tiling.chunk_rows, tiling.segment_rows - chunk * tiling.chunk_rows);
        moments = merge(moments, {partial.x, static_cast<float>(rows), partial.y});
      }
    }
    shared[threadIdx.y][threadIdx.x] = moments;
    __syncthreads();
    if (threadIdx.y == 0 && column < tiling.columns) {
      for (int warp = 1; warp < kTileWarps; ++warp) {
        moments = merge(moments, shared[warp][threadIdx.x]);
      }
      const int64_t at = segment * tiling.columns + column;
      norm.mean[at] = static_cast<float>(moments.mean);
      norm.rstd[at] = reciprocal_deviation(
          moments.squares / static_cast<float>(tiling.segment_rows), norm.epsilon);
    }
    __syncthreads();
  }
}

template <class Element, int kPack>
__global__ void __launch_bounds__(32 * kTileWarps)
    normalize_columns_kernel(const __grid_constant__ LayerNorm norm,
                             const __grid_constant__ ColumnTiling tiling) {
  const Parameters<Element> gain = {norm.gain, norm.float_params};
  const Parameters<Element> bias = {norm.bias, norm.float_params};
  for (int64_t t = blockIdx.x; t < tiling.tiles(); t += gridDim.x) {
    const ColumnTile tile(tiling, t);
    for_each_column<kPack>(tile, tiling.columns, [&](int64_t column) {
      float mean[kPack], rstd[kPack];
      load_elements(norm.mean + tile.segment * tiling.columns + column, mean);
      load_elements(norm.rstd + tile.segment * tiling.columns + column, rstd);
#pragma unroll 4
      for (int64_t row = tile.first_row + threadIdx.y; row < tile.end_row; row += kTileWarps) {
        float values[kPack];
        const int64_t at = row * tiling.columns + column;
        load_elements(static_cast<const Element*>(norm.x) + at, values);
        const float g = gain[row], b = bias[row];
#pragma unroll
        for (int e = 0; e < kPack; ++e) {
          values[e] = finish(norm, (values[e] - mean[e]) * rstd[e], g, b);
        }
        store_elements(values, static_cast<Element*>(norm.y) + at);
      }
    });
  }
}

ColumnTiling tiling_of(const bsparse_layer_norm_args& args) {
  return ColumnTiling(args.segments, args.features / args.segments, args.batch);
}

template <class Element, int kPack>
cudaError_t normalize_columns(const LayerNorm& norm, const ColumnTiling& tiling,
                              cudaStream_t stream) {
  const auto ctas = static_cast<unsigned>(std::min<int64_t>(tiling.tiles(), kMaxRowCtas));
  const int64_t groups = tiling.segments * ((tiling.columns - 1) / 32 + 1);
  column_moments_kernel<Element, kPack><<<ctas, tile_threads(), 0, stream>>>(norm, tiling);
  merge_moments_kernel<<<static_cast<unsigned>(std::min<int64_t>(groups, kMaxRowCtas)),
                         tile_threads(), 0, stream>>>(norm, tiling);
  normalize_columns_kernel<Element, kPack><<<ctas, tile_threads(), 0, stream>>>(norm, tiling);
  return cudaGetLastError();
}

template <class Element>
cudaError_t launch(const bsparse_layer_norm_args& args, const LayerNorm& norm,
                   cudaStream_t stream) {
  if (args.feature_axis == 1) return normalize_rows<Element>(norm, stream);
  const bool pairs = args.batch % 2 == 0 && is_aligned(args.x, 2 * sizeof(Element)) &&
                     is_aligned(args.y, 2 * sizeof(Element)) && is_aligned(args.mean, 8) &&
                     is_aligned(args.rstd, 8);
  return pairs ? normalize_columns<Element, 2>(norm, tiling_of(args), stream)
               : normalize_columns<Element, 1>(norm, tiling_of(args), stream);
}

}  // namespace

size_t layer_norm_workspace(const bsparse_layer_norm_args* args) {
  if (args->feature_axis == 1 || args->batch == 0) return 0;
  return static_cast<size_t>(tiling_of(*args).partials()) * sizeof(float2);
}

bsparse_status layer_norm(const bsparse_layer_norm_args* request, void* stream_pointer) {
  const bsparse_layer_norm_args& args = *request;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  RETURN_IF_FAILED(check_layer_norm(args));
  if (args.batch == 0) return BSPARSE_OK;
  RETURN_IF_FAILED(
      check_workspace(args.workspace, args.workspace_bytes, layer_norm_workspace(request)));
  const LayerNorm norm = {args.x,
                          args.gain,
                          args.bias,
                          args.multiplier,
                          args.addend,
                          args.y,
                          args.mean,
                          args.rstd,
                          static_cast<float2*>(args.workspace),
                          args.batch,
                          args.features,
                          args.segments,
                          std::max<int64_t>(args.operand_stride, 1),
                          /*sharers=*/1,
                          args.epsilon,
                          args.relu != 0,
                          args.param_dtype == BSPARSE_FLOAT32};
  const cudaError_t error = with_element(args.dtype, [&](auto element) {
    return launch<typename decltype(element)::Type>(args, norm, stream);
  });
  return check_cuda(error, "launching a layer norm");
}

}  // namespace bsparse
