// What the driver (activation_grad.cc) asks of the vector code.
#ifndef BSPARSE_CC_CPU_ACTIVATION_GRAD_KERNELS_H_
#define BSPARSE_CC_CPU_ACTIVATION_GRAD_KERNELS_H_

#include <algorithm>
#include <cstdint>

#include "cc/cpu/dtype.h"
#include "cc/plan/types.h"

namespace bsparse {

template <typename T>
struct ActivationGrad {
  // A unit of work with features last: so many features of so many batch entries.
  static constexpr int64_t kPanel = 1024;
  static constexpr int64_t kPanelEntries = 256;
  // With features first: so many batch entries of a feature.
  static constexpr int64_t kRowEntries = 4096;

  Activation activation = Activation::kNone;
  int feature_axis = 1;
  int64_t batch = 0;
  int64_t features = 0;
  const T* dy = nullptr;
  const T* values = nullptr;
  T* dz = nullptr;
  double* sums = nullptr;  // (chunks, features) or null: dz summed over a chunk

  int64_t chunk_entries() const { return feature_axis == 1 ? kPanelEntries : kRowEntries; }
  int64_t chunks() const {
    return std::max<int64_t>(1, (batch + chunk_entries() - 1) / chunk_entries());
  }
  int64_t chunk_units() const {
    return feature_axis == 1 ? (features + kPanel - 1) / kPanel : features;
  }
  int64_t units() const { return chunks() * chunk_units(); }
};

struct ActivationGradKernels {
  // Each works on the units [begin, end).
  void (*float32)(const ActivationGrad<float>& grad, int64_t begin, int64_t end);
  void (*float64)(const ActivationGrad<double>& grad, int64_t begin, int64_t end);
  void (*float16)(const ActivationGrad<Float16>& grad, int64_t begin, int64_t end);
  void (*bfloat16)(const ActivationGrad<BFloat16>& grad, int64_t begin, int64_t end);
};

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_ACTIVATION_GRAD_KERNELS_H_
