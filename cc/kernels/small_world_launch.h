// The small-world LSTM over a sequence on a GPU: every launch of all its steps, for OpKernels and
// XLA handlers alike. No TensorFlow here.
#ifndef BSPARSE_CC_KERNELS_SMALL_WORLD_LAUNCH_H_
#define BSPARSE_CC_KERNELS_SMALL_WORLD_LAUNCH_H_

#include <cstddef>
#include <vector>

#include "cc/cpu/small_world_loop.h"
#include "cc/kernels/gpu_launch.h"
#include "cuda/bsparse_cuda.h"

namespace bsparse {

// The parameters of a net; one of each for every product.
struct GpuSmallWorldNet {
  SmallWorldShape shape;
  // All but x, y and the workspace; empty for a direction that a call does not take: forward
  // products are those of the way forward, and of a way back that has kept nothing.
  std::vector<bsparse_matmul_args> forward, transposed;
  std::vector<const void*> gains;   // (width)
  std::vector<const void*> biases;  // (width)
};

// The arguments of a product, all but its plan and its pointers.
GpuStatus SmallWorldProduct(const SmallWorldShape& shape, int block_size, int product,
                            bool transpose, bsparse_float32_math float32_math, bsparse_matmul_args* args);

// Bytes of scratch memory that a call takes, at a multiple of kScratchAlignment. Of pointers in
// `net` only null or not counts.
size_t SmallWorldScratchBytes(const bsparse_cuda_api& api, const GpuSmallWorldNet& net, bool kept);
size_t SmallWorldGradScratchBytes(const bsparse_cuda_api& api, const GpuSmallWorldNet& net,
                                  bool kept);

// With `kept`, products, operands and statistics of all steps are written; else `states` has no
// room for them.
GpuStatus LaunchSmallWorld(const bsparse_cuda_api& api, const GpuSmallWorldNet& net, bool kept,
                           SmallWorldStates states, void* scratch, void* stream);

// dgains and dbiases, one for each product, are in float32. Without `kept`, `states` has operands
// of all steps, which are written.
GpuStatus LaunchSmallWorldGrad(const bsparse_cuda_api& api, const GpuSmallWorldNet& net, bool kept,
                               SmallWorldStates states, SmallWorldGradients grads,
                               const std::vector<void*>& dgains,
                               const std::vector<void*>& dbiases, void* scratch, void* stream);

}  // namespace bsparse

#endif  // BSPARSE_CC_KERNELS_SMALL_WORLD_LAUNCH_H_
