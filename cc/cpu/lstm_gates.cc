#include "cc/cpu/lstm_gates.h"

#include "cc/cpu/kernels.h"
#include "cc/cpu/parameters.h"

namespace bsparse {
namespace {

// Cycles for one unit of the cell; a hint for the thread pool.
constexpr int64_t kForwardCycles = 15;
constexpr int64_t kBackwardCycles = 20;

template <typename T, typename C>
void Run(const CpuLstmGatesArgs& args, const LstmGatesKernels<T, C>& kernels, bool backward,
         const ParallelFor& parallel_for) {
  const WidenedVector<T> bias(args.bias, IsWide(args.bias_dtype), 4 * args.units);
  LstmGates<T, C> step;
  step.batch = args.batch;
  step.units = args.units;
  step.feature_axis = args.feature_axis;
  step.forget_bias = args.forget_bias;
  step.c = static_cast<const C*>(args.c);
  step.gates = static_cast<const T*>(args.gates);
  step.bias = bias.get();
  step.c_next = static_cast<C*>(args.c_next);
  step.h = static_cast<T*>(args.h);
  step.dc_next = static_cast<const C*>(args.dc_next);
  step.dh = static_cast<const T*>(args.dh);
  step.dc = static_cast<C*>(args.dc);
  step.dgates = static_cast<T*>(args.dgates);
  const auto kernel = backward ? kernels.backward : kernels.forward;
  const int64_t cycles = backward ? kBackwardCycles : kForwardCycles;
  parallel_for(step.rows(), step.row_size() * cycles + 1,
               [&](int64_t begin, int64_t end) { kernel(step, begin, end); });
}

void Dispatch(const CpuLstmGatesArgs& args, bool backward, const ParallelFor& parallel_for) {
  const RecurrentKernels& kernels = CurrentKernels().recurrent;
  const bool wide_cell = args.cell_dtype == DType::kFloat32;
  switch (args.dtype) {
    case DType::kFloat32:
      return Run(args, kernels.gates_float32, backward, parallel_for);
    case DType::kFloat64:
      return Run(args, kernels.gates_float64, backward, parallel_for);
    case DType::kFloat16:
      return wide_cell ? Run(args, kernels.gates_float16_wide, backward, parallel_for)
                       : Run(args, kernels.gates_float16, backward, parallel_for);
    case DType::kBFloat16:
      return wide_cell ? Run(args, kernels.gates_bfloat16_wide, backward, parallel_for)
                       : Run(args, kernels.gates_bfloat16, backward, parallel_for);
  }
}

}  // namespace

void CpuLstmGates(const CpuLstmGatesArgs& args, const ParallelFor& parallel_for) {
  Dispatch(args, /*backward=*/false, parallel_for);
}

void CpuLstmGatesGrad(const CpuLstmGatesArgs& args, const ParallelFor& parallel_for) {
  Dispatch(args, /*backward=*/true, parallel_for);
}

}  // namespace bsparse
