#include "cc/cpu/activation_grad.h"

#include "cc/cpu/kernels.h"
#include "cc/cpu/parameters.h"
#include "cc/cpu/scratch.h"

namespace bsparse {
namespace {

// Cycles for one number; a hint for the thread pool.
constexpr int64_t kReluCycles = 1;
constexpr int64_t kGeluCycles = 4;

template <typename T>
void Run(const CpuActivationGradArgs& args,
         void (*kernel)(const ActivationGrad<T>&, int64_t, int64_t),
         const ParallelFor& parallel_for) {
  ActivationGrad<T> grad;
  grad.activation = args.activation;
  grad.feature_axis = args.feature_axis;
  grad.batch = args.batch;
  grad.features = args.features;
  grad.dy = static_cast<const T*>(args.dy);
  grad.values = static_cast<const T*>(args.values);
  grad.dz = static_cast<T*>(args.dz);
  const int64_t summed = args.dbias == nullptr ? 0 : args.features;
  const Scratch<double> sums(grad.chunks() * summed);
  if (summed > 0) grad.sums = sums.get();
  const int64_t cycles = args.activation == Activation::kGelu ? kGeluCycles : kReluCycles;
  const int64_t numbers = grad.units() == 0 ? 0 : args.batch * args.features / grad.units();
  parallel_for(grad.units(), numbers * cycles + 1,
               [&](int64_t begin, int64_t end) { kernel(grad, begin, end); });
  if (summed == 0) return;
  const VectorToNarrow<T> dbias(args.dbias, IsWide(args.bias_dtype), summed);
  for (int64_t chunk = 1; chunk < grad.chunks(); ++chunk) {
    for (int64_t f = 0; f < summed; ++f) grad.sums[f] += grad.sums[chunk * summed + f];
  }
  for (int64_t f = 0; f < summed; ++f) {
    dbias.get()[f] = static_cast<Accumulator<T>>(grad.sums[f]);
  }
  dbias.Store();
}

}  // namespace

void CpuActivationGrad(const CpuActivationGradArgs& args, const ParallelFor& parallel_for) {
  const ActivationGradKernels& kernels = CurrentKernels().activation_grad;
  switch (args.dtype) {
    case DType::kFloat32:
      return Run(args, kernels.float32, parallel_for);
    case DType::kFloat64:
      return Run(args, kernels.float64, parallel_for);
    case DType::kFloat16:
      return Run(args, kernels.float16, parallel_for);
    case DType::kBFloat16:
      return Run(args, kernels.bfloat16, parallel_for);
  }
}

}  // namespace bsparse
