// The small-world LSTM over a sequence on the CPU. No TensorFlow here.
#ifndef BSPARSE_CC_CPU_SMALL_WORLD_H_
#define BSPARSE_CC_CPU_SMALL_WORLD_H_

#include <memory>
#include <vector>

#include "cc/cpu/parallel_for.h"
#include "cc/cpu/small_world_loop.h"
#include "cc/plan/layout_plans.h"

namespace bsparse {

// The parameters of a net; one of each for every product.
struct CpuSmallWorldNet {
  SmallWorldShape shape;
  int block_size = 0;
  std::vector<std::shared_ptr<const LayoutPlans>> plans;
  std::vector<const void*> weights;
  std::vector<const void*> gains;   // (width)
  std::vector<const void*> biases;  // (width)
};

// With `kept`, products, operands and statistics of all steps are written; else `states` has no
// room for them.
void CpuSmallWorld(const CpuSmallWorldNet& net, bool kept, SmallWorldStates states,
                   const ParallelFor& parallel_for);

// dgains and dbiases, one for each product, are in float32, of float64 in float64. Without `kept`,
// `states` has operands of all steps, which are written.
void CpuSmallWorldGrad(const CpuSmallWorldNet& net, bool kept, SmallWorldStates states,
                       SmallWorldGradients grads, const std::vector<void*>& dgains,
                       const std::vector<void*>& dbiases, const ParallelFor& parallel_for);

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_SMALL_WORLD_H_
