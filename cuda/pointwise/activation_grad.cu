// The gradient of an activation and of the bias before it, in one pass over memory: dz is written,
// and summed over the batch while it is in registers.
//
// Numbers are moved by groups of 16 bytes. With features last a lane keeps to the columns of its
// group, and the warps of a CTA take every eighth row; with features first a warp walks along a
// feature. Either way a chunk of the batch gives a sum for each feature, and the chunks are added
// up by a second kernel. What is not aligned is loaded one by one, in the same order.

#include "cuda/pointwise/activation_grad.h"

#include <algorithm>
#include <cstdint>

#include "cuda/check.h"
#include "cuda/early_launch.cuh"
#include "cuda/elements.cuh"
#include "cuda/error.h"
#include "cuda/pointwise/column_sums.cuh"
#include "cuda/pointwise/layer_norm_check.h"
#include "cuda/with_element.cuh"

namespace bsparse {
namespace {

constexpr int64_t kMaxCtas = 1 << 20;
// Numbers loaded one by one take more registers.
template <bool kWhole>
constexpr int kCtasPerSm = kWhole ? 4 : 2;

template <class Element>
constexpr int kVector = 16 / sizeof(Element);

struct ActivationGrad {
  const void* dy;
  const void* values;
  void* dz;
  void* dbias;
  float* partials;  // (chunks, features)
  int64_t batch;
  int64_t features;
  bool float_bias;
};

// d/dz of z Phi(z): Phi(z) + z phi(z), Phi by a tail that shares its exponential with phi.
__device__ __forceinline__ float gelu_slope(float z) {
  // Phi(-t) = exp(-t^2 / 2) s P(s), s = 1 / (1 + 0.3 t), t >= 0: a minimax polynomial, relative
  // error 4e-9. erff would take twice the instructions, and the kernel longer than its memory.
  constexpr float kP[] = {-0.020613231830845163f, 0.11237796444269284f,  -0.2280726481878083f,
                          0.19158852154408343f,   -0.07925298841209497f, 0.09606083734007358f,
                          0.07842455145625508f,   0.11022754095484937f,  0.11957281558995295f,
                          0.11968663537869f};
  const float t = fabsf(z);
  const float s = ptx::reciprocal(fmaf(t, 0.3f, 1.0f));
  float p = kP[0];
#pragma unroll
  for (int i = 1; i < 10; ++i) p = fmaf(p, s, kP[i]);
  const float exponential = ptx::exp2(-0.7213475204444817f * t * t);
  // Not fused with what follows, or the same number could differ between kernels.
  const float tail = __fmul_rn(exponential, s * p);
  return fmaf(z, exponential * 0.3989422804014327f, z < 0.0f ? tail : 1.0f - tail);
}

// A group's bits: taken apart before they are needed, 16-bit numbers would lie in a register each.
template <class Element>
union Group {
  uint4 bits;
  Element values[kVector<Element>];

  __device__ __forceinline__ explicit Group(uint4 bits) : bits(bits) {}
};

// A group, or with kWhole false its first `valid` numbers, one by one, and zeros.
template <bool kWhole, class Element>
__device__ __forceinline__ uint4 load_group(const Element* from, int64_t valid) {
  if constexpr (kWhole) {
    return *reinterpret_cast<const uint4*>(from);
  } else {
    Group<Element> group(uint4{});
#pragma unroll
    for (int e = 0; e < kVector<Element>; ++e) {
      if (e < valid) group.values[e] = from[e];
    }
    return group.bits;
  }
}

template <bool kWhole, class Element>
__device__ __forceinline__ void store_group(const Group<Element>& group, Element* to,
                                            int64_t valid) {
  if constexpr (kWhole) {
    *reinterpret_cast<uint4*>(to) = group.bits;
  } else {
#pragma unroll
    for (int e = 0; e < kVector<Element>; ++e) {
      if (e < valid) to[e] = group.values[e];
    }
  }
}

// Neighbours are rounded by one instruction.
__device__ __forceinline__ void round_pair(float first, float second, float* to) {
  to[0] = first;
  to[1] = second;
}
__device__ __forceinline__ void round_pair(float first, float second, __half* to) {
  *reinterpret_cast<__half2*>(to) = __floats2half2_rn(first, second);
}
__device__ __forceinline__ void round_pair(float first, float second, __nv_bfloat16* to) {
  *reinterpret_cast<__nv_bfloat162*>(to) = __floats2bfloat162_rn(first, second);
}

// `dy` becomes dz, as it is stored.
template <class Element, int kActivation>
__device__ __forceinline__ void through_activation(Group<Element>& dy,
                                                   const Group<Element>& values) {
  const auto passes = [&](int e) { return to_float(values.values[e]) > 0.0f; };
  // Not fused with the sum, which is one of rounded numbers.
  const auto product = [&](int e) {
    return __fmul_rn(to_float(dy.values[e]), gelu_slope(to_float(values.values[e])));
  };
#pragma unroll
  for (int e = 0; e < kVector<Element>; e += 2) {
    if constexpr (kActivation == BSPARSE_ACTIVATION_RELU) {
      if (!passes(e)) dy.values[e] = from_float<Element>(0.0f);
      if (!passes(e + 1)) dy.values[e + 1] = from_float<Element>(0.0f);
    } else {
      round_pair(product(e), product(e + 1), dy.values + e);
    }
  }
}

// A thread's way through memory: `groups` of them, number i at at + i * step, of which valid(i)
// numbers exist. dz is written, and what each place of a group held added up in `sums`.
template <class Element, int kActivation, bool kWhole, class Valid>
__device__ __forceinline__ void walk(const ActivationGrad& grad, int64_t at, int64_t step,
                                     int64_t groups, const Valid& valid,
                                     float (&sums)[kVector<Element>]) {
  // Loads ahead of the first store, behind which the compiler may not move them; gelu takes the
  // registers of more.
  constexpr int kAhead = !kWhole ? 1 : kActivation == BSPARSE_ACTIVATION_GELU ? 2 : 4;
  constexpr bool kActivated = kActivation != BSPARSE_ACTIVATION_NONE;
  const Element* dy = static_cast<const Element*>(grad.dy) + at;
  const Element* values = static_cast<const Element*>(grad.values) + at;
  Element* dz = static_cast<Element*>(grad.dz) + at;
  for (int64_t first = 0; first < groups; first += kAhead) {
    uint4 dys[kAhead], of[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i >= groups) break;
      dys[i] = load_group<kWhole>(dy + i * step, valid(first + i));
      if constexpr (kActivated) of[i] = load_group<kWhole>(values + i * step, valid(first + i));
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i >= groups) break;
      Group<Element> group(dys[i]);
      if constexpr (kActivated) {
        through_activation<Element, kActivation>(group, Group<Element>(of[i]));
        store_group<kWhole>(group, dz + i * step, valid(first + i));
      }
#pragma unroll
      for (int e = 0; e < kVector<Element>; ++e) sums[e] += to_float(group.values[e]);
    }
    dy += kAhead * step;
    values += kAhead * step;
    dz += kAhead * step;
  }
}

__device__ __forceinline__ int64_t steps_between(int64_t first, int64_t end, int64_t step) {
  return first < end ? (end - first - 1) / step + 1 : 0;
}

template <class Element>
__device__ __forceinline__ void store_bias(const ActivationGrad& grad, int64_t feature, float sum) {
  MutableParameters<Element>{grad.dbias, grad.float_bias}.store(feature, sum);
}

// Features last.
template <class Element, int kActivation, bool kWhole>
__global__ void __launch_bounds__(32 * kTileWarps, kCtasPerSm<kWhole>)
    columns_kernel(const __grid_constant__ ActivationGrad grad,
                   const __grid_constant__ ColumnTiling tiling) {
  follow_kernel_before();
  constexpr int kCount = kVector<Element>;
  __shared__ float shared[kTileWarps][32 * kCount];
  for (int64_t t = blockIdx.x; t < tiling.tiles(); t += gridDim.x) {
    const ColumnTile tile(tiling, t, 32 * kCount);
    const int64_t column = tile.first_column + threadIdx.x * kCount;
    const int64_t row = tile.first_row + threadIdx.y;
    float sums[kCount] = {};
    if (column < tiling.columns) {
      walk<Element, kActivation, kWhole>(
          grad, row * tiling.columns + column, kTileWarps * tiling.columns,
          steps_between(row, tile.end_row, kTileWarps),
          [&](int64_t) { return tiling.columns - column; }, sums);
    }
    if (grad.dbias == nullptr) continue;
#pragma unroll
    for (int e = 0; e < kCount; ++e) shared[threadIdx.y][threadIdx.x * kCount + e] = sums[e];
    add_warps(shared, tiling, tile, grad.partials,
              [&](int64_t feature, float sum) { store_bias<Element>(grad, feature, sum); });
  }
}

// Features first, a warp for each feature of a tile.
template <class Element, int kActivation, bool kWhole>
__global__ void __launch_bounds__(32 * kTileWarps, kCtasPerSm<kWhole>)
    rows_kernel(const __grid_constant__ ActivationGrad grad,
                const __grid_constant__ ColumnTiling tiling) {
  follow_kernel_before();
  constexpr int kCount = kVector<Element>;
  constexpr int64_t kStep = 32 * kCount;
  for (int64_t t = blockIdx.x; t < tiling.tiles(); t += gridDim.x) {
    const ColumnTile tile(tiling, t, kTileWarps);
    const int64_t feature = tile.first_column + threadIdx.y;
    if (feature >= tiling.columns) continue;
    const int64_t first = tile.first_row + threadIdx.x * kCount;
    float sums[kCount] = {};
    walk<Element, kActivation, kWhole>(
        grad, feature * grad.batch + first, kStep, steps_between(first, tile.end_row, kStep),
        [&](int64_t i) { return tile.end_row - first - i * kStep; }, sums);
    if (grad.dbias == nullptr) continue;
    float sum = sums[0];
#pragma unroll
    for (int e = 1; e < kCount; ++e) sum += sums[e];
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
    if (threadIdx.x != 0) continue;
    if (tiling.chunks == 1) {
      store_bias<Element>(grad, feature, sum);
    } else {
      grad.partials[tile.chunk * tiling.columns + feature] = sum;
    }
  }
}

template <class Element>
__global__ void __launch_bounds__(32 * kTileWarps)
    add_chunks_kernel(const __grid_constant__ ActivationGrad grad,
                      const __grid_constant__ ColumnTiling tiling) {
  follow_kernel_before();
  add_chunks(grad.partials, tiling,
             [&](int64_t feature, float sum) { store_bias<Element>(grad, feature, sum); });
}

// The batch in chunks, beside all features. Longest chains of additions: 512.
ColumnTiling tiling_of(const bsparse_activation_grad_args& args) {
  const int64_t vector = 16 / static_cast<int64_t>(element_size(args.dtype));
  ChunkPolicy policy;
  if (args.feature_axis == 1) {
    policy.tile_columns = 32 * vector;
    policy.most_rows = 512 * kTileWarps;
  } else {
    policy.tile_columns = kTileWarps;
    policy.fewest_rows = 4 * 32 * vector;
    policy.most_rows = 512 * 32;
    policy.multiple = 32 * vector;
  }
  return ColumnTiling(1, args.batch, args.features, policy);
}

unsigned ctas_for(int64_t wanted) {
  return static_cast<unsigned>(std::min<int64_t>(wanted, kMaxCtas));
}

template <class Element, int kActivation>
void launch_activation(const ActivationGrad& grad, const ColumnTiling& tiling, bool features_last,
                       bool whole, cudaStream_t stream) {
  auto* const kernel =
      features_last ? (whole ? &columns_kernel<Element, kActivation, true>
                             : &columns_kernel<Element, kActivation, false>)
                    : (whole ? &rows_kernel<Element, kActivation, true>
                             : &rows_kernel<Element, kActivation, false>);
  launch_early(kernel, ctas_for(tiling.tiles()), tile_threads(), stream, grad, tiling);
}

template <class Element>
cudaError_t launch(const bsparse_activation_grad_args& args, const ActivationGrad& grad,
                   cudaStream_t stream) {
  const ColumnTiling tiling = tiling_of(args);
  const bool features_last = args.feature_axis == 1;
  bool whole = (features_last ? args.features : args.batch) % kVector<Element> == 0;
  for (const void* pointer : {args.dy, args.values, static_cast<const void*>(args.dz)}) {
    whole = whole && is_aligned(pointer, 16);
  }
  constexpr auto kNone = BSPARSE_ACTIVATION_NONE, kRelu = BSPARSE_ACTIVATION_RELU,
                 kGelu = BSPARSE_ACTIVATION_GELU;
  auto* const launch_kernel = args.activation == kNone   ? &launch_activation<Element, kNone>
                              : args.activation == kRelu ? &launch_activation<Element, kRelu>
                                                         : &launch_activation<Element, kGelu>;
  launch_kernel(grad, tiling, features_last, whole, stream);
  if (grad.dbias != nullptr && tiling.chunks > 1) {
    launch_early(&add_chunks_kernel<Element>, ctas_for(tiling.merge_groups()), tile_threads(),
                 stream, grad, tiling);
  }
  return cudaGetLastError();
}

bsparse_status check(const bsparse_activation_grad_args& args) {
  RETURN_IF_FAILED(check_dtype("dtype", args.dtype));
  RETURN_IF_FAILED(check_range("activation", args.activation, BSPARSE_ACTIVATION_NONE,
                               BSPARSE_ACTIVATION_GELU));
  RETURN_IF_FAILED(check_range("feature_axis", args.feature_axis, 0, 1));
  RETURN_IF_FAILED(check_range("batch", args.batch, 0, INT64_MAX));
  RETURN_IF_FAILED(check_range("features", args.features, 1, INT32_MAX));
  RETURN_IF_FAILED(check_size("dy", args.batch, args.features, 1, sizeof(float)));
  if (args.dbias != nullptr) {
    RETURN_IF_FAILED(check_stored_dtype("bias_dtype", args.bias_dtype, args.dtype));
    RETURN_IF_FAILED(check_pointer("dbias", args.dbias, element_size(args.bias_dtype)));
  }
  const bool activated = args.activation != BSPARSE_ACTIVATION_NONE;
  if (!activated && (args.values != nullptr || args.dz != nullptr)) {
    return fail(BSPARSE_INVALID_ARGUMENT, "expected values and dz only with an activation");
  }
  if (args.batch == 0) return BSPARSE_OK;
  const size_t size = element_size(args.dtype);
  RETURN_IF_FAILED(check_pointer("dy", args.dy, size));
  if (!activated) return BSPARSE_OK;
  RETURN_IF_FAILED(check_pointer("values", args.values, size));
  return check_pointer("dz", args.dz, size);
}

}  // namespace

size_t activation_grad_workspace(const bsparse_activation_grad_args* args) {
  if (args->dbias == nullptr) return 0;
  const ColumnTiling tiling = tiling_of(*args);
  return tiling.chunks == 1 ? 0 : static_cast<size_t>(tiling.partials()) * sizeof(float);
}

bsparse_status activation_grad(const bsparse_activation_grad_args* request, void* stream_pointer) {
  const bsparse_activation_grad_args& args = *request;
  const auto stream = static_cast<cudaStream_t>(stream_pointer);
  RETURN_IF_FAILED(check(args));
  RETURN_IF_FAILED(
      check_workspace(args.workspace, args.workspace_bytes, activation_grad_workspace(request)));
  if (args.dbias == nullptr && args.activation == BSPARSE_ACTIVATION_NONE) return BSPARSE_OK;
  if (args.dbias == nullptr && args.batch == 0) return BSPARSE_OK;
  const ActivationGrad grad = {args.dy,
                               args.values,
                               args.dz,
                               args.dbias,
                               static_cast<float*>(args.workspace),
                               args.batch,
                               args.features,
                               args.bias_dtype == BSPARSE_FLOAT32};
  const cudaError_t error = with_element(args.dtype, [&](auto element) {
    return launch<typename decltype(element)::Type>(args, grad, stream);
  });
  return check_cuda(error, "launching the gradient of an activation");
}

}  // namespace bsparse
