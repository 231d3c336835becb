#include "cc/cpu/layer_norm.h"

#include "cc/cpu/kernels.h"
#include "cc/cpu/parameters.h"

namespace bsparse {
namespace {

// Cycles for one number, all passes together; a hint for the thread pool.
constexpr int64_t kForwardCycles = 2;
constexpr int64_t kBackwardCycles = 3;

template <typename T>
LayerNorm<T> TaskOf(const CpuLayerNormShape& shape) {
  LayerNorm<T> norm;
  norm.batch = shape.batch;
  norm.features = shape.features;
  norm.segments = shape.segments;
  norm.feature_axis = shape.feature_axis;
  norm.relu = shape.relu;
  return norm;
}

int64_t CyclesPerUnit(const CpuLayerNormShape& shape, int64_t units, int64_t cycles) {
  return units == 0 ? 1 : shape.batch * shape.features / units * cycles + 1;
}

template <typename T>
void Forward(const CpuLayerNormArgs& args, const LayerNormKernels<T>& kernels,
             const ParallelFor& parallel_for) {
  using Sum = Accumulator<T>;
  const CpuLayerNormShape& shape = args.shape;
  const WidenedVector<T> gain(args.gain, IsWide(shape.param_dtype), shape.features);
  const WidenedVector<T> bias(args.bias, IsWide(shape.param_dtype), shape.features);
  LayerNorm<T> norm = TaskOf<T>(shape);
  norm.epsilon = args.epsilon;
  norm.x = static_cast<const T*>(args.x);
  norm.gain = gain.get();
  norm.bias = bias.get();
  norm.mean = static_cast<Sum*>(args.mean);
  norm.rstd = static_cast<Sum*>(args.rstd);
  norm.out = static_cast<T*>(args.y);
  parallel_for(norm.units(), CyclesPerUnit(shape, norm.units(), kForwardCycles),
               [&](int64_t begin, int64_t end) { kernels.normalize(norm, begin, end); });
}

template <typename T>
void Backward(const CpuLayerNormGradArgs& args, const LayerNormKernels<T>& kernels,
              const ParallelFor& parallel_for) {
  using Sum = Accumulator<T>;
  const CpuLayerNormShape& shape = args.shape;
  const bool is_wide = IsWide(shape.param_dtype);
  const WidenedVector<T> gain(args.gain, is_wide, shape.features);
  const WidenedVector<T> bias(args.bias, is_wide, shape.features);
  const VectorToNarrow<T> dgain(args.dgain, is_wide, shape.features);
  const VectorToNarrow<T> dbias(args.dbias, is_wide, shape.features);
  LayerNorm<T> norm = TaskOf<T>(shape);
  norm.x = static_cast<const T*>(args.x);
  norm.dy = static_cast<const T*>(args.dy);
  norm.gain = gain.get();
  norm.bias = bias.get();
  // The gradient only reads the statistics.
  norm.mean = static_cast<Sum*>(const_cast<void*>(args.mean));
  norm.rstd = static_cast<Sum*>(const_cast<void*>(args.rstd));
  norm.out = static_cast<T*>(args.dx);
  norm.dgain = dgain.get();
  norm.dbias = dbias.get();
  parallel_for(norm.units(), CyclesPerUnit(shape, norm.units(), kBackwardCycles),
               [&](int64_t begin, int64_t end) { kernels.dx(norm, begin, end); });
  parallel_for(norm.param_units(), CyclesPerUnit(shape, norm.param_units(), kBackwardCycles),
               [&](int64_t begin, int64_t end) { kernels.params(norm, begin, end); });
  dgain.Store();
  dbias.Store();
}

}  // namespace

void CpuLayerNorm(const CpuLayerNormArgs& args, const ParallelFor& parallel_for) {
  const RecurrentKernels& kernels = CurrentKernels().recurrent;
  switch (args.shape.dtype) {
    case DType::kFloat32:
      return Forward<float>(args, kernels.norm_float32, parallel_for);
    case DType::kFloat16:
      return Forward<Float16>(args, kernels.norm_float16, parallel_for);
    case DType::kBFloat16:
      return Forward<BFloat16>(args, kernels.norm_bfloat16, parallel_for);
    case DType::kFloat64:
      return Forward<double>(args, kernels.norm_float64, parallel_for);
  }
}

void CpuLayerNormGrad(const CpuLayerNormGradArgs& args, const ParallelFor& parallel_for) {
  const RecurrentKernels& kernels = CurrentKernels().recurrent;
  switch (args.shape.dtype) {
    case DType::kFloat32:
      return Backward<float>(args, kernels.norm_float32, parallel_for);
    case DType::kFloat16:
      return Backward<Float16>(args, kernels.norm_float16, parallel_for);
    case DType::kBFloat16:
      return Backward<BFloat16>(args, kernels.norm_bfloat16, parallel_for);
    case DType::kFloat64:
      return Backward<double>(args, kernels.norm_float64, parallel_for);
  }
}

}  // namespace bsparse
