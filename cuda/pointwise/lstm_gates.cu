// The pointwise part of an LSTM cell and its gradient, one thread for a few neighbouring units.

#include <algorithm>

#include "cuda/check.h"
#include "cuda/early_launch.cuh"
#include "cuda/elements.cuh"
#include "cuda/error.h"
#include "cuda/pointwise/layer_norm_check.h"
#include "cuda/pointwise/recurrent.h"
#include "cuda/with_element.cuh"

namespace bsparse {
namespace {

constexpr int kThreads = 256;
constexpr int kVector = 4;
constexpr int64_t kMaxGridX = 1 << 20;
constexpr int64_t kMaxGridY = 65535;

// float32 results deserve the exact functions. For 16-bit ones these do, with an error of 1e-7,
// and the arithmetic stays below the time that memory takes.
template <class Element>
__device__ __forceinline__ float sigmoid(float x) {
  return __fdividef(1.0f, 1.0f + __expf(-x));
}
template <>
__device__ __forceinline__ float sigmoid<float>(float x) {
  return 1.0f / (1.0f + expf(-x));
}

template <class Element>
__device__ __forceinline__ float tanh_of(float x) {
  const float square = x * x;
  // Near 0 the quotient would lose the digits that a series keeps.
  const float series = x * fmaf(square, fmaf(square, 0.13333334f, -0.33333333f), 1.0f);
  const float quotient = 1.0f - __fdividef(2.0f, 1.0f + __expf(2.0f * x));
  return square < 0.01f ? series : quotient;
}
template <>
__device__ __forceinline__ float tanh_of<float>(float x) {
  return tanhf(x);
}

// Tensors as rows of contiguous numbers: a batch entry's units, or with features first all there
// is. The four gates of a row follow each other.
struct LstmGates {
  const void* c;
  const void* gates;
  const void* bias;
  const void* gain;
  const float* mean;
  const float* rstd;
  void* c_next;
  void* h;
  const void* dc_next;
  const void* dh;
  const void* dh_more;
  void* dc;
  void* dgates;
  int64_t rows;
  int64_t row_size;
  int64_t units;
  int64_t numbers_per_bias;  // 1, or with features first the batch
  float forget_bias;
  bool float_bias;
};

template <int kCount>
struct Cell {
  float i[kCount], f[kCount], g[kCount], o[kCount];
  float c[kCount], c_next[kCount], tanh_c[kCount];
};

// One gate's numbers j ... of a row, normalised as the kernels of layer norm do it.
template <class Element, int kCount>
__device__ __forceinline__ void normalize(const LstmGates& args, int64_t row, int gate, int64_t j,
                                          float (&values)[kCount]) {
  const float mean = args.mean[row * 4 + gate], rstd = args.rstd[row * 4 + gate];
  float gains[kCount], biases[kCount];
  Parameters<Element>{args.gain, args.float_bias}.load(gate * args.units + j, gains);
  Parameters<Element>{args.bias, args.float_bias}.load(gate * args.units + j, biases);
#pragma unroll
  for (int e = 0; e < kCount; ++e) {
    values[e] = fmaf((values[e] - mean) * rstd, gains[e], biases[e]);
  }
}

// The cells at numbers j ... of a row.
template <class Element, class CellElement, int kCount>
__device__ __forceinline__ void compute(const LstmGates& args, int64_t row, int64_t j,
                                        Cell<kCount>& cell) {
  const auto* const gates = static_cast<const Element*>(args.gates) +
                            row * 4 * args.row_size + j;
  load_elements(gates, cell.i);
  load_elements(gates + args.row_size, cell.f);
  load_elements(gates + 2 * args.row_size, cell.g);
  load_elements(gates + 3 * args.row_size, cell.o);
  load_elements(static_cast<const CellElement*>(args.c) + row * args.row_size + j, cell.c);
  if (args.gain != nullptr) {
    normalize<Element>(args, row, 0, j, cell.i);
    normalize<Element>(args, row, 1, j, cell.f);
    normalize<Element>(args, row, 2, j, cell.g);
    normalize<Element>(args, row, 3, j, cell.o);
  } else if (args.bias != nullptr) {
    const Parameters<Element> bias = {args.bias, args.float_bias};
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      const int64_t unit = args.numbers_per_bias == 1 ? j + e : (j + e) / args.numbers_per_bias;
      cell.i[e] += bias[unit];
      cell.f[e] += bias[unit + args.units];
      cell.g[e] += bias[unit + 2 * args.units];
      cell.o[e] += bias[unit + 3 * args.units];
    }
  }
#pragma unroll
  for (int e = 0; e < kCount; ++e) {
    cell.i[e] = sigmoid<Element>(cell.i[e]);
    cell.f[e] = sigmoid<Element>(cell.f[e] + args.forget_bias);
    cell.g[e] = tanh_of<Element>(cell.g[e]);
    cell.o[e] = sigmoid<Element>(cell.o[e]);
    cell.c_next[e] = fmaf(cell.f[e], cell.c[e], cell.i[e] * cell.g[e]);
    cell.tanh_c[e] = tanh_of<Element>(cell.c_next[e]);
  }
}

// Calls f(row, j) for every kCount-th number of every row.
template <int kCount, class F>
__device__ __forceinline__ void for_each(const LstmGates& args, const F& f) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x * kCount;
  const int64_t first = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kCount;
  for (int64_t row = int64_t{blockIdx.y} * blockDim.y + threadIdx.y; row < args.rows;
       row += int64_t{gridDim.y} * blockDim.y) {
    for (int64_t j = first; j < args.row_size; j += step) f(row, j);
  }
}

template <class Element, class CellElement, int kCount>
__global__ void __launch_bounds__(kThreads)
    lstm_gates_kernel(const __grid_constant__ LstmGates args) {
  follow_kernel_before();
  for_each<kCount>(args, [&](int64_t row, int64_t j) {
    Cell<kCount> cell;
    compute<Element, CellElement>(args, row, j, cell);
    float h[kCount];
#pragma unroll
    for (int e = 0; e < kCount; ++e) h[e] = cell.o[e] * cell.tanh_c[e];
    const int64_t at = row * args.row_size + j;
    store_elements(cell.c_next, static_cast<CellElement*>(args.c_next) + at);
    store_elements(h, static_cast<Element*>(args.h) + at);
  });
}

template <class Element, class CellElement, int kCount>
__global__ void __launch_bounds__(kThreads)
    lstm_gates_grad_kernel(const __grid_constant__ LstmGates args) {
  follow_kernel_before();
  for_each<kCount>(args, [&](int64_t row, int64_t j) {
    Cell<kCount> cell;
    compute<Element, CellElement>(args, row, j, cell);
    const int64_t at = row * args.row_size + j;
    float dc_next[kCount], dh[kCount], dc[kCount], di[kCount], df[kCount], dg[kCount], do_[kCount];
    load_elements(static_cast<const CellElement*>(args.dc_next) + at, dc_next);
    load_elements(static_cast<const Element*>(args.dh) + at, dh);
    if (args.dh_more != nullptr) {
      float more[kCount];
      load_elements(static_cast<const Element*>(args.dh_more) + at, more);
#pragma unroll
      for (int e = 0; e < kCount; ++e) dh[e] += more[e];
    }
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      const float i = cell.i[e], f = cell.f[e], g = cell.g[e], o = cell.o[e];
      const float slope = 1.0f - cell.tanh_c[e] * cell.tanh_c[e];
      const float d = fmaf(dh[e] * o, slope, dc_next[e]);
      dc[e] = d * f;
      di[e] = d * g * i * (1.0f - i);
      df[e] = d * cell.c[e] * f * (1.0f - f);
      dg[e] = d * i * (1.0f - g * g);
      do_[e] = dh[e] * cell.tanh_c[e] * o * (1.0f - o);
    }
    auto* const dgates = static_cast<Element*>(args.dgates) + row * 4 * args.row_size + j;
    store_elements(dc, static_cast<CellElement*>(args.dc) + at);
    store_elements(di, dgates);
    store_elements(df, dgates + args.row_size);
    store_elements(dg, dgates + 2 * args.row_size);
    store_elements(do_, dgates + 3 * args.row_size);
  });
}

template <class Element, class CellElement, int kCount>
cudaError_t launch(const LstmGates& args, bool backward, cudaStream_t stream) {
  const int64_t steps = (args.row_size - 1) / kCount + 1;
  unsigned width = 32;
  while (width < kThreads && width < steps) width *= 2;
  const dim3 block(width, kThreads / width);
  const dim3 grid(static_cast<unsigned>(std::min((steps - 1) / block.x + 1, kMaxGridX)),
                  static_cast<unsigned>(std::min((args.rows - 1) / block.y + 1, kMaxGridY)));
  if (backward) {
    launch_early(&lstm_gates_grad_kernel<Element, CellElement, kCount>, grid, block, stream, args);
  } else {
    launch_early(&lstm_gates_kernel<Element, CellElement, kCount>, grid, block, stream, args);
  }
  return cudaGetLastError();
}

template <class Element, class CellElement>
cudaError_t launch(const LstmGates& args, bool backward, cudaStream_t stream) {
  bool aligned = args.row_size % kVector == 0;
  for (const void* pointer : {args.gates, args.dh, args.dh_more, static_cast<const void*>(args.h),
                              static_cast<const void*>(args.dgates)}) {
    aligned = aligned && is_aligned(pointer, kVector * sizeof(Element));
  }
  for (const void* pointer : {args.c, args.dc_next, static_cast<const void*>(args.c_next),
                              static_cast<const void*>(args.dc)}) {
    aligned = aligned && is_aligned(pointer, kVector * sizeof(CellElement));
  }
  if (args.gain != nullptr) {
    aligned = aligned && is_aligned(args.gain, 16) && is_aligned(args.bias, 16);
  }
  return aligned ? launch<Element, CellElement, kVector>(args, backward, stream)
                 : launch<Element, CellElement, 1>(args, backward, stream);
}

cudaError_t dispatch(const bsparse_lstm_gates_args& request, const LstmGates& args, bool backward,
                     cudaStream_t stream) {
  const bool float_cell = request.cell_dtype == BSPARSE_FLOAT32;
  return with_element(request.dtype, [&](auto element) {
    using Element = typename decltype(element)::Type;
    return float_cell ? launch<Element, float>(args, backward, stream)
                      : launch<Element, Element>(args, backward, stream);
  });
}

bsparse_status check(const bsparse_lstm_gates_args& args, bool backward) {
  RETURN_IF_FAILED(check_dtype("dtype", args.dtype));
  RETURN_IF_FAILED(check_stored_dtype("cell_dtype", args.cell_dtype, args.dtype));
  RETURN_IF_FAILED(check_stored_dtype("bias_dtype", args.bias_dtype, args.dtype));
  RETURN_IF_FAILED(check_range("feature_axis", args.feature_axis, 0, 1));
  RETURN_IF_FAILED(check_range("batch", args.batch, 0, INT64_MAX));
  RETURN_IF_FAILED(check_range("units", args.units, 0, INT32_MAX / 4));
  RETURN_IF_FAILED(check_size("gates", args.batch, args.units, 4, sizeof(float)));
  if (args.batch == 0 || args.units == 0) return BSPARSE_OK;
  const size_t size = element_size(args.dtype), cell_size = element_size(args.cell_dtype);
  RETURN_IF_FAILED(check_pointer("c", args.c, cell_size));
  RETURN_IF_FAILED(check_pointer("gates", args.gates, size));
  if (args.bias != nullptr) {
    RETURN_IF_FAILED(check_pointer("bias", args.bias, element_size(args.bias_dtype)));
  }
  if (args.gain != nullptr) {
    if (args.feature_axis != 1 || args.bias == nullptr) {
      return fail(BSPARSE_INVALID_ARGUMENT,
                  "gain: expected features last and a bias; feature_axis is %d",
                  static_cast<int>(args.feature_axis));
    }
    RETURN_IF_FAILED(check_pointer("gain", args.gain, element_size(args.bias_dtype)));
    RETURN_IF_FAILED(check_pointer("mean", args.mean, sizeof(float)));
    RETURN_IF_FAILED(check_pointer("rstd", args.rstd, sizeof(float)));
  }
  if (args.dh_more != nullptr) RETURN_IF_FAILED(check_pointer("dh_more", args.dh_more, size));
  if (!backward) {
    RETURN_IF_FAILED(check_pointer("c_next", args.c_next, cell_size));
    return check_pointer("h", args.h, size);
  }
  RETURN_IF_FAILED(check_pointer("dc_next", args.dc_next, cell_size));
  RETURN_IF_FAILED(check_pointer("dh", args.dh, size));
  RETURN_IF_FAILED(check_pointer("dc", args.dc, cell_size));
  return check_pointer("dgates", args.dgates, size);
}

bsparse_status run(const bsparse_lstm_gates_args& request, bool backward, void* stream) {
  RETURN_IF_FAILED(check(request, backward));
  if (request.batch == 0 || request.units == 0) return BSPARSE_OK;
  const bool last = request.feature_axis == 1;
  LstmGates args{};
  args.c = request.c;
  args.gates = request.gates;
  args.bias = request.bias;
  args.gain = request.gain;
  args.mean = request.mean;
  args.rstd = request.rstd;
  if (backward) {
    args.dc_next = request.dc_next;
    args.dh = request.dh;
    args.dh_more = request.dh_more;
    args.dc = request.dc;
    args.dgates = request.dgates;
  } else {
    args.c_next = request.c_next;
    args.h = request.h;
  }
  args.rows = last ? request.batch : 1;
  args.row_size = last ? request.units : request.units * request.batch;
  args.units = request.units;
  args.numbers_per_bias = last ? 1 : request.batch;
  args.forget_bias = request.forget_bias;
  args.float_bias = request.bias_dtype == BSPARSE_FLOAT32;
  return check_cuda(dispatch(request, args, backward, static_cast<cudaStream_t>(stream)),
                    "launching the gates of an LSTM");
}

}  // namespace

bsparse_status lstm_gates(const bsparse_lstm_gates_args* args, void* stream) {
  return run(*args, /*backward=*/false, stream);
}

bsparse_status lstm_gates_grad(const bsparse_lstm_gates_args* args, void* stream) {
  return run(*args, /*backward=*/true, stream);
}

}  // namespace bsparse
