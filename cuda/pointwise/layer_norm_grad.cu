// The gradient of layer norm. With normal = (x - mean) * rstd, dz = dy where relu let it pass, and
// g = dz * gain:
//
//   dx = rstd * (g - mean(g) - normal * mean(g * normal))     means over a segment
//   dgain = sum(dz * normal)     dbias = sum(dz)              sums over the batch
//
// Where the forward pass multiplied or added something before relu, dz is written down by the pass
// that finds dx, and the sums are taken of that.

#include "cuda/pointwise/layer_norm.cuh"

#include "cuda/check.h"
#include "cuda/early_launch.cuh"
#include "cuda/error.h"
#include "cuda/pointwise/layer_norm_check.h"
#include "cuda/pointwise/recurrent.h"
#include "cuda/with_element.cuh"

namespace bsparse {
namespace {

struct LayerNormGrad {
  const void* dy;
  const void* x;
  const void* gain;
  const void* bias;
  const float* mean;
  const float* rstd;
  const void* multiplier;
  const void* addend;
  void* dx;
  void* dz;
  void* doperand;
  void* dgain;
  void* dbias;
  Sums* partials;  // of tiles
  Sums* sums;      // (segments, batch): of g and g * normal; features first only
  int64_t batch;
  int64_t features;
  int64_t segments;
  int64_t operand_stride;
  bool relu;
  bool float_params;
  bsparse_sums sums_kind;
};

// dy, or 0 where relu held y at 0: the sign is that which the forward kernel found.
__device__ __forceinline__ float before_relu(const LayerNormGrad& grad, float dy, float normal,
                                             float gain, float bias) {
  return grad.relu && !(fmaf(normal, gain, bias) > 0.0f) ? 0.0f : dy;
}

__device__ __forceinline__ float combine(float g, float normal, float rstd, float mean_g,
                                         float mean_g_normal) {
  return rstd * fmaf(-normal, mean_g_normal, g - mean_g);
}

// ---- features last: dx by rows ----

template <class Element, int kCount, int kCached, Operand kOperand>
__global__ void __launch_bounds__(kMaxRowThreads, 1)
    dx_rows_kernel(const __grid_constant__ LayerNormGrad grad) {
  follow_kernel_before();
  __shared__ Sums shared[32];
  const int64_t size = grad.features / grad.segments;
  const float inverse_size = 1.0f / static_cast<float>(size);
  const Parameters<Element> gain = {grad.gain, grad.float_params};
  const Parameters<Element> bias = {grad.bias, grad.float_params};
  using Share = RowShare<Element, kCount, kCached>;
  for (int64_t unit = blockIdx.x; unit < grad.batch * grad.segments; unit += gridDim.x) {
    const Share x_row(static_cast<const Element*>(grad.x) + unit * size, size);
    const Share dy_row(static_cast<const Element*>(grad.dy) + unit * size, size);
    const float mean = grad.mean[unit], rstd = grad.rstd[unit];
    const int64_t feature = unit % grad.segments * size;
    const auto stride = static_cast<uint32_t>(grad.operand_stride);
    const int64_t operand_row = unit * (size / grad.operand_stride);
    const RowOperand<const Element> operands = {
        static_cast<const Element*>(kOperand == Operand::kAddend ? grad.addend : grad.multiplier) +
            operand_row,
        stride};
    constexpr float kNeutral = kOperand == Operand::kAddend ? 0.0f : 1.0f;
    // dz at `normal`, which is an addend's gradient, too; a multiplier's is put into `operand`.
    const auto dz_of = [&](float dy, float normal, float gain, float bias, float& operand) {
      if constexpr (kOperand == Operand::kNone) return before_relu(grad, dy, normal, gain, bias);
      const float z = fmaf(normal, gain, bias);
      const float out = kOperand == Operand::kAddend ? z + operand : z * operand;
      const float dout = grad.relu && !(out > 0.0f) ? 0.0f : dy;
      if constexpr (kOperand == Operand::kAddend) return dout;
      const float dz = dout * operand;
      operand = dout * z;
      return dz;
    };
    Sums sums = {0.0f, 0.0f};
    x_row.for_each_with(dy_row, [&](int64_t first, const float (&x)[kCount],
                                    const float (&dy)[kCount]) {
      float gains[kCount], biases[kCount], operand[kCount] = {};
      gain.load(feature + first, gains);
      bias.load(feature + first, biases);
      if constexpr (kOperand != Operand::kNone) operands.load(first, kNeutral, operand);
#pragma unroll
      for (int e = 0; e < kCount; ++e) {
        const float normal = (x[e] - mean) * rstd;
        const float g = dz_of(dy[e], normal, gains[e], biases[e], operand[e]) * gains[e];
        sums.a += g;
        sums.b = fmaf(g, normal, sums.b);
      }
    });
    sums = cta_sum(sums, shared);
    const float mean_g = sums.a * inverse_size, mean_g_normal = sums.b * inverse_size;
    auto* const dx = static_cast<Element*>(grad.dx) + unit * size;
    x_row.for_each_with(dy_row, [&](int64_t first, const float (&x)[kCount],
                                    const float (&dy)[kCount]) {
      float out[kCount], gains[kCount], biases[kCount], operand[kCount] = {};
      gain.load(feature + first, gains);
      bias.load(feature + first, biases);
      if constexpr (kOperand != Operand::kNone) operands.load(first, kNeutral, operand);
      if constexpr (kOperand == Operand::kNone) {
#pragma unroll
        for (int e = 0; e < kCount; ++e) {
          const float normal = (x[e] - mean) * rstd;
          const float dz = dz_of(dy[e], normal, gains[e], biases[e], operand[e]);
          out[e] = combine(dz * gains[e], normal, rstd, mean_g, mean_g_normal);
        }
      } else {
#pragma unroll
        for (int e = 0; e < kCount; ++e) {
          out[e] = dz_of(dy[e], (x[e] - mean) * rstd, gains[e], biases[e], operand[e]);
        }
        store_elements(out, static_cast<Element*>(grad.dz) + unit * size + first);
        const RowOperand<Element> doperand = {static_cast<Element*>(grad.doperand) + operand_row,
                                              stride};
        doperand.store(first, kOperand == Operand::kAddend ? out : operand);
#pragma unroll
        for (int e = 0; e < kCount; ++e) {
          out[e] = combine(out[e] * gains[e], (x[e] - mean) * rstd, rstd, mean_g, mean_g_normal);
        }
      }
      store_elements(out, dx + first);
    });
  }
}

template <class Element>
void dx_rows(const LayerNormGrad& grad, cudaStream_t stream) {
  const int64_t size = grad.features / grad.segments;
  bool aligned = true;
  for (const void* pointer :
       {grad.x, grad.dy, grad.gain, grad.bias, static_cast<const void*>(grad.dx),
        static_cast<const void*>(grad.dz)}) {
    aligned = aligned && is_aligned(pointer, 16);
  }
  if (grad.operand_stride == 1) {
    aligned = aligned && is_aligned(grad.multiplier, 16) && is_aligned(grad.addend, 16) &&
              is_aligned(grad.doperand, 16);
  }
  const RowPolicy<Element> policy(size, aligned);
  const auto ctas =
      static_cast<unsigned>(std::min<int64_t>(grad.batch * grad.segments, kMaxRowCtas));
  with_row_policy(policy, [&](auto count, auto cached) {
    constexpr int kCount = decltype(count)::value, kCached = decltype(cached)::value;
    if (grad.multiplier != nullptr) {
      launch_early(&dx_rows_kernel<Element, kCount, kCached, Operand::kMultiplier>, ctas,
                   policy.threads, stream, grad);
    } else if (grad.addend != nullptr) {
      launch_early(&dx_rows_kernel<Element, kCount, kCached, Operand::kAddend>, ctas,
                   policy.threads, stream, grad);
    } else {
      launch_early(&dx_rows_kernel<Element, kCount, kCached, Operand::kNone>, ctas,
                   policy.threads, stream, grad);
    }
  });
}

// ---- sums down columns ----

// What one row adds to the sums of kPack neighbouring columns.

// Features first, for dx: g and g * normal of a feature's row.
template <class Element, int kPack>
class DxTerms {
 public:
  __device__ __forceinline__ DxTerms(const LayerNormGrad& grad, int64_t segment, int64_t column)
      : grad_(grad) {
    load_elements(grad.mean + segment * grad.batch + column, mean_);
    load_elements(grad.rstd + segment * grad.batch + column, rstd_);
  }

  __device__ __forceinline__ void get(int64_t feature, const float (&x)[kPack],
                                      const float (&dy)[kPack], Sums (&terms)[kPack]) const {
    const float gain = Parameters<Element>{grad_.gain, grad_.float_params}[feature];
    const float bias = Parameters<Element>{grad_.bias, grad_.float_params}[feature];
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      const float normal = (x[e] - mean_[e]) * rstd_[e];
      const float g = before_relu(grad_, dy[e], normal, gain, bias) * gain;
      terms[e] = {g, g * normal};
    }
  }

 private:
  const LayerNormGrad& grad_;
  float mean_[kPack], rstd_[kPack];
};

// Features last, for dgain and dbias: dz * normal and dz of a batch entry's row.
template <class Element, int kPack>
class ParamTerms {
 public:
  __device__ __forceinline__ ParamTerms(const LayerNormGrad& grad, int64_t, int64_t column)
      : grad_(grad) {
    const int64_t size = grad.features / grad.segments;
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      gain_[e] = Parameters<Element>{grad.gain, grad.float_params}[column + e];
      bias_[e] = Parameters<Element>{grad.bias, grad.float_params}[column + e];
      segment_[e] = (column + e) / size;
    }
  }

  __device__ __forceinline__ void get(int64_t entry, const float (&x)[kPack],
                                      const float (&dy)[kPack], Sums (&terms)[kPack]) const {
#pragma unroll
    for (int e = 0; e < kPack; ++e) {
      const int64_t statistic = entry * grad_.segments + segment_[e];
      const float normal = (x[e] - grad_.mean[statistic]) * grad_.rstd[statistic];
      const float dz = before_relu(grad_, dy[e], normal, gain_[e], bias_[e]);
      terms[e] = {dz * normal, dz};
    }
  }

 private:
  const LayerNormGrad& grad_;
  float gain_[kPack], bias_[kPack];
  int64_t segment_[kPack];
};

struct StoreSums {
  __device__ __forceinline__ void operator()(const LayerNormGrad& grad, int64_t at,
                                             Sums sums) const {
    grad.sums[at] = sums;
  }
};

template <class Element>
struct StoreParams {
  __device__ __forceinline__ void operator()(const LayerNormGrad& grad, int64_t feature,
                                             Sums sums) const {
    if (grad.sums_kind == BSPARSE_SUMS_ADDED) {
      static_cast<float*>(grad.dgain)[feature] += sums.a;
      static_cast<float*>(grad.dbias)[feature] += sums.b;
      return;
    }
    const bool wide = grad.float_params || grad.sums_kind == BSPARSE_SUMS_IN_FLOAT32;
    MutableParameters<Element>{grad.dgain, wide}.store(feature, sums.a);
    MutableParameters<Element>{grad.dbias, wide}.store(feature, sums.b);
  }
};

// Of columns that are one chunk the sums are complete, and `store` gets them; else they are
// partials.
template <class Element, int kPack, template <class, int> class Terms, class Store>
__global__ void __launch_bounds__(32 * kTileWarps)
    column_sums_kernel(const __grid_constant__ LayerNormGrad grad,
                       const __grid_constant__ ColumnTiling tiling, Store store) {
  follow_kernel_before();
  __shared__ Sums shared[kTileWarps][kTileColumns];
  for (int64_t t = blockIdx.x; t < tiling.tiles(); t += gridDim.x) {
    const ColumnTile tile(tiling, t);
    for_each_column<kPack>(tile, tiling.columns, [&](int64_t column) {
      const Terms<Element, kPack> terms_of(grad, tile.segment, column);
      Sums sums[kPack] = {};
#pragma unroll 4
      for (int64_t row = tile.first_row + threadIdx.y; row < tile.end_row; row += kTileWarps) {
        float x[kPack], dy[kPack];
        Sums terms[kPack];
        load_elements(static_cast<const Element*>(grad.x) + row * tiling.columns + column, x);
        load_elements(static_cast<const Element*>(grad.dy) + row * tiling.columns + column, dy);
        terms_of.get(row, x, dy, terms);
#pragma unroll
        for (int e = 0; e < kPack; ++e) sums[e] += terms[e];
      }
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        shared[threadIdx.y][column - tile.first_column + e] = sums[e];
      }
    });
    add_warps(shared, tiling, tile, grad.partials,
              [&](int64_t at, const Sums& sums) { store(grad, at, sums); });
  }
}

// Adds up the chunks of each column of each segment.
template <class Store>
__global__ void __launch_bounds__(32 * kTileWarps)
    merge_sums_kernel(const __grid_constant__ LayerNormGrad grad,
                      const __grid_constant__ ColumnTiling tiling, Store store) {
  follow_kernel_before();
  add_chunks(grad.partials, tiling,
             [&](int64_t at, const Sums& sums) { store(grad, at, sums); });
}

// ---- features first: dx by columns, dgain and dbias by rows ----

template <class Element, int kPack>
__global__ void __launch_bounds__(32 * kTileWarps)
    dx_columns_kernel(const __grid_constant__ LayerNormGrad grad,
                      const __grid_constant__ ColumnTiling tiling) {
  const float inverse_size = 1.0f / static_cast<float>(tiling.segment_rows);
  const Parameters<Element> gain = {grad.gain, grad.float_params};
  const Parameters<Element> bias = {grad.bias, grad.float_params};
  for (int64_t t = blockIdx.x; t < tiling.tiles(); t += gridDim.x) {
    const ColumnTile tile(tiling, t);
    for_each_column<kPack>(tile, tiling.columns, [&](int64_t column) {
      const int64_t statistic = tile.segment * tiling.columns + column;
      float mean[kPack], rstd[kPack], mean_g[kPack], mean_g_normal[kPack];
      load_elements(grad.mean + statistic, mean);
      load_elements(grad.rstd + statistic, rstd);
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        mean_g[e] = grad.sums[statistic + e].a * inverse_size;
        mean_g_normal[e] = grad.sums[statistic + e].b * inverse_size;
      }
#pragma unroll 4
      for (int64_t row = tile.first_row + threadIdx.y; row < tile.end_row; row += kTileWarps) {
        const int64_t at = row * tiling.columns + column;
        float x[kPack], dy[kPack];
        load_elements(static_cast<const Element*>(grad.x) + at, x);
        load_elements(static_cast<const Element*>(grad.dy) + at, dy);
        const float gain_f = gain[row], bias_f = bias[row];
#pragma unroll
        for (int e = 0; e < kPack; ++e) {
          const float normal = (x[e] - mean[e]) * rstd[e];
          const float g = before_relu(grad, dy[e], normal, gain_f, bias_f) * gain_f;
          x[e] = combine(g, normal, rstd[e], mean_g[e], mean_g_normal[e]);
        }
        store_elements(x, static_cast<Element*>(grad.dx) + at);
      }
    });
  }
}

// A warp for each feature.
template <class Element, int kPack>
__global__ void __launch_bounds__(32 * kTileWarps)
    param_rows_kernel(const __grid_constant__ LayerNormGrad grad) {
  const int64_t size = grad.features / grad.segments;
  for (int64_t feature = int64_t{blockIdx.x} * kTileWarps + threadIdx.y; feature < grad.features;
       feature += int64_t{gridDim.x} * kTileWarps) {
    const float gain = Parameters<Element>{grad.gain, grad.float_params}[feature];
    const float bias = Parameters<Element>{grad.bias, grad.float_params}[feature];
    const int64_t row = feature * grad.batch;
    const int64_t statistic = feature / size * grad.batch;
    Sums sums = {0.0f, 0.0f};
#pragma unroll 2
    for (int64_t n = threadIdx.x * kPack; n < grad.batch; n += 32 * kPack) {
      float x[kPack], dy[kPack], mean[kPack], rstd[kPack];
      load_elements(static_cast<const Element*>(grad.x) + row + n, x);
      load_elements(static_cast<const Element*>(grad.dy) + row + n, dy);
      load_elements(grad.mean + statistic + n, mean);
      load_elements(grad.rstd + statistic + n, rstd);
#pragma unroll
      for (int e = 0; e < kPack; ++e) {
        const float normal = (x[e] - mean[e]) * rstd[e];
        const float dz = before_relu(grad, dy[e], normal, gain, bias);
        sums.a = fmaf(dz, normal, sums.a);
        sums.b += dz;
      }
    }
    sums = warp_sum(sums);
    if (threadIdx.x == 0) StoreParams<Element>()(grad, feature, sums);
  }
}

unsigned ctas_for(int64_t wanted) {
  return static_cast<unsigned>(std::min<int64_t>(wanted, kMaxRowCtas));
}

// Of dgain and dbias with features last, of dx with features first.
ColumnTiling tiling_of(const bsparse_layer_norm_grad_args& args) {
  if (args.feature_axis == 1) return ColumnTiling(1, args.batch, args.features);
  return ColumnTiling(args.segments, args.features / args.segments, args.batch);
}

template <class Element, int kPack, template <class, int> class Terms, class Store>
void column_sums(const LayerNormGrad& grad, const ColumnTiling& tiling, Store store,
                 cudaStream_t stream) {
  launch_early(&column_sums_kernel<Element, kPack, Terms, Store>, ctas_for(tiling.tiles()),
               tile_threads(), stream, grad, tiling, store);
  if (tiling.chunks == 1) return;
  launch_early(&merge_sums_kernel<Store>, ctas_for(tiling.merge_groups()), tile_threads(), stream,
               grad, tiling, store);
}

template <class Element, int kPack>
void features_first(const LayerNormGrad& grad, const ColumnTiling& tiling, cudaStream_t stream) {
  if (grad.batch > 0) {
    column_sums<Element, kPack, DxTerms>(grad, tiling, StoreSums(), stream);
    dx_columns_kernel<Element, kPack>
        <<<ctas_for(tiling.tiles()), tile_threads(), 0, stream>>>(grad, tiling);
  }
  const int64_t ctas = (grad.features - 1) / kTileWarps + 1;
  param_rows_kernel<Element, kPack><<<ctas_for(ctas), tile_threads(), 0, stream>>>(grad);
}

template <class Element, int kPack>
void features_last(const LayerNormGrad& grad, const ColumnTiling& tiling, cudaStream_t stream) {
  if (grad.batch > 0) dx_rows<Element>(grad, stream);
  LayerNormGrad params = grad;
  if (grad.dz != nullptr) {
    params.dy = grad.dz;
    params.relu = false;
  }
  column_sums<Element, kPack, ParamTerms>(params, tiling, StoreParams<Element>(), stream);
}

template <class Element>
cudaError_t launch(const bsparse_layer_norm_grad_args& args, const LayerNormGrad& grad,
                   cudaStream_t stream) {
  const ColumnTiling tiling = tiling_of(args);
  bool pairs = tiling.columns % 2 == 0;
  for (const void* pointer : {args.x, args.dy, static_cast<const void*>(args.dx),
                              static_cast<const void*>(args.dz)}) {
    pairs = pairs && is_aligned(pointer, 2 * sizeof(Element));
  }
  pairs = pairs && is_aligned(args.mean, 8) && is_aligned(args.rstd, 8);
  if (args.feature_axis == 1) {
    pairs ? features_last<Element, 2>(grad, tiling, stream)
          : features_last<Element, 1>(grad, tiling, stream);
  } else {
    pairs ? features_first<Element, 2>(grad, tiling, stream)
          : features_first<Element, 1>(grad, tiling, stream);
  }
  return cudaGetLastError();
}

}  // namespace

size_t layer_norm_grad_workspace(const bsparse_layer_norm_grad_args* args) {
  const ColumnTiling tiling = tiling_of(*args);
  const int64_t sums = args->feature_axis == 1 ? 0 : args->segments * args->batch;
  return static_cast<size_t>(tiling.partials() + sums) * sizeof(Sums);
}

bsparse_status layer_norm_grad(const bsparse_layer_norm_grad_args* request,
                               void* stream_pointer) {
  const bsparse_layer_norm_grad_args& args = *request;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  RETURN_IF_FAILED(check_layer_norm_grad(args));
  RETURN_IF_FAILED(
      check_workspace(args.workspace, args.workspace_bytes, layer_norm_grad_workspace(request)));
  auto* const partials = static_cast<Sums*>(args.workspace);
  const LayerNormGrad grad = {args.dy,
                              args.x,
                              args.gain,
                              args.bias,
                              args.mean,
                              args.rstd,
                              args.multiplier,
                              args.addend,
                              args.dx,
                              args.dz,
                              args.doperand,
                              args.dgain,
                              args.dbias,
                              partials,
                              partials + tiling_of(args).partials(),
                              args.batch,
                              args.features,
                              args.segments,
                              std::max<int64_t>(args.operand_stride, 1),
                              args.relu != 0,
                              args.param_dtype == BSPARSE_FLOAT32,
                              static_cast<bsparse_sums>(args.sums)};
  const cudaError_t error = with_element(args.dtype, [&](auto element) {
    return launch<typename decltype(element)::Type>(args, grad, stream);
  });
  return check_cuda(error, "launching the gradient of a layer norm");
}

}  // namespace bsparse
