// From the inputs and outputs of Bsparse>SmallWorldLstm and its gradient to the loop over time, for
// OpKernels and XLA handlers alike.
#ifndef BSPARSE_CC_KERNELS_SMALL_WORLD_STATES_H_
#define BSPARSE_CC_KERNELS_SMALL_WORLD_STATES_H_

#include <cstdint>
#include <vector>

#include "cc/cpu/small_world_loop.h"
#include "cc/ops/small_world.h"

namespace bsparse {

SmallWorldShape SmallWorldShapeOf(const SmallWorldAttrs& attrs, DType dtype, DType cell_dtype,
                                  DType param_dtype, int64_t steps, int64_t batch, int64_t units);

// Addresses of inputs and outputs by their place in the op's lists.
struct SmallWorldAddresses {
  std::vector<void*> inputs;  // only read
  std::vector<void*> outputs;
};

// The states of a call, and the gradients of its way back; scratch is left open. Without `kept` the
// gradient's states have the operands that it puts out.
SmallWorldStates ForwardStates(const SmallWorldAttrs& attrs, const SmallWorldShape& shape,
                               const SmallWorldAddresses& at);
SmallWorldStates BackwardStates(const SmallWorldAttrs& attrs, const SmallWorldShape& shape,
                                const SmallWorldAddresses& at);
SmallWorldGradients Gradients(const SmallWorldAttrs& attrs, const SmallWorldShape& shape,
                              const SmallWorldAddresses& at);

// A list among them: `count` addresses from `first` on.
template <typename Pointer>
std::vector<Pointer> Addresses(const std::vector<void*>& all, int first, int count) {
  return {all.begin() + first, all.begin() + first + count};
}

// Of the gradient, the first of its outputs that are a list.
inline int FirstDgain() { return 4; }
inline int FirstDbias(const SmallWorldAttrs& attrs) { return 4 + attrs.products; }

}  // namespace bsparse

#endif  // BSPARSE_CC_KERNELS_SMALL_WORLD_STATES_H_
