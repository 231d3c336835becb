// What the drivers (layer_norm.cc, lstm_gates.cc) ask of the vector code.
#ifndef BSPARSE_CC_CPU_RECURRENT_KERNELS_H_
#define BSPARSE_CC_CPU_RECURRENT_KERNELS_H_

#include <cstdint>

#include "cc/cpu/dtype.h"

namespace bsparse {

// Activations are read by their strides: element (n, f) of a (batch, features) or (features,
// batch) tensor. One of the two axes is contiguous, and vectors run along that one.

// Columns that are worked on together where the sums run down the columns.
inline constexpr int64_t kPanel = 64;

// A layer norm or its gradient. Statistics are (batch, segments) or (segments, batch).
template <typename T>
struct LayerNorm {
  using Sum = Accumulator<T>;

  int64_t batch = 0;
  int64_t features = 0;
  int64_t segments = 1;
  int feature_axis = 1;
  bool relu = false;
  double epsilon = 0;
  const T* x = nullptr;
  const T* dy = nullptr;  // of the gradient only
  const Sum* gain = nullptr;
  const Sum* bias = nullptr;
  Sum* mean = nullptr;
  Sum* rstd = nullptr;
  T* out = nullptr;  // y, or dx
  Sum* dgain = nullptr;
  Sum* dbias = nullptr;

  int64_t segment_size() const { return features / segments; }
  // Of `out`: rows of a segment each, or panels of columns of a segment.
  int64_t units() const { return segments * (feature_axis == 1 ? batch : Panels(batch)); }
  // Of dgain and dbias: panels of features of a segment, or features.
  int64_t param_units() const {
    return feature_axis == 1 ? segments * Panels(segment_size()) : features;
  }
  static int64_t Panels(int64_t columns) { return (columns + kPanel - 1) / kPanel; }
};

template <typename T>
struct LayerNormKernels {
  // Each works on the units [begin, end).
  void (*normalize)(const LayerNorm<T>& norm, int64_t begin, int64_t end);
  void (*dx)(const LayerNorm<T>& norm, int64_t begin, int64_t end);
  void (*params)(const LayerNorm<T>& norm, int64_t begin, int64_t end);
};

// The pointwise part of an LSTM cell or its gradient, cell states stored as C.
template <typename T, typename C>
struct LstmGates {
  using Sum = Accumulator<T>;

  int64_t batch = 0;
  int64_t units = 0;
  int feature_axis = 1;
  Sum forget_bias = 0;
  const C* c = nullptr;        // of the step before
  const T* gates = nullptr;    // i, f, g, o before their activations
  const Sum* bias = nullptr;   // (4 * units) or null
  C* c_next = nullptr;
  T* h = nullptr;
  const C* dc_next = nullptr;  // of the gradient only
  const T* dh = nullptr;
  C* dc = nullptr;
  T* dgates = nullptr;

  int64_t rows() const { return feature_axis == 1 ? batch : units; }
  int64_t row_size() const { return feature_axis == 1 ? units : batch; }
};

template <typename T, typename C>
struct LstmGatesKernels {
  // Each works on the rows [begin, end).
  void (*forward)(const LstmGates<T, C>& step, int64_t begin, int64_t end);
  void (*backward)(const LstmGates<T, C>& step, int64_t begin, int64_t end);
};

struct RecurrentKernels {
  LayerNormKernels<float> norm_float32;
  LayerNormKernels<double> norm_float64;
  LayerNormKernels<Float16> norm_float16;
  LayerNormKernels<BFloat16> norm_bfloat16;
  LstmGatesKernels<float, float> gates_float32;
  LstmGatesKernels<double, double> gates_float64;
  LstmGatesKernels<Float16, Float16> gates_float16;
  LstmGatesKernels<Float16, float> gates_float16_wide;
  LstmGatesKernels<BFloat16, BFloat16> gates_bfloat16;
  LstmGatesKernels<BFloat16, float> gates_bfloat16_wide;
};

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_RECURRENT_KERNELS_H_
