// From a plan to launches: what OpKernels and XLA handlers do alike on a GPU. No TensorFlow here.
#ifndef BSPARSE_CC_KERNELS_GPU_LAUNCH_H_
#define BSPARSE_CC_KERNELS_GPU_LAUNCH_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "cc/plan/layout_plans.h"
#include "cc/plan/matmul_plan.h"
#include "cc/plan/types.h"
#include "cuda/bsparse_cuda.h"

namespace bsparse {

struct GpuStatus {
  bsparse_status code = BSPARSE_OK;
  std::string message;
  bool ok() const { return code == BSPARSE_OK; }
};

// float64 has no GPU kernels: Unsupported.
GpuStatus ToCudaDType(DType dtype, bsparse_dtype* cuda_dtype);
bsparse_activation ToCudaActivation(Activation activation);

// A product whose kernel is to be chosen.
struct GpuProduct {
  DType dtype;
  int block_size;
  int feature_axis;
  int64_t batch;
  bool is_dw;
  bsparse_float32_math float32_math;
  bool gated;
  bool aligned;  // activations lie at multiples of 16 bytes
  int in_blocks;
  int out_blocks;
  LayoutStatistics layout;
  int num_pairs = 1;  // of dw
};

// With features first copy engines, and loads of 16 bytes, want batches that are multiples of 8. The library
// sees to one pair's itself, and says so; of several it is told their sum.
constexpr bool BatchIsAligned(int64_t batch, int num_pairs, int feature_axis) {
  return num_pairs == 1 || feature_axis == 1 || batch % 8 == 0;
}

// What the planner must know for a product on the device that is current on this thread.
GpuStatus GetPlanTarget(const bsparse_cuda_api& api, const GpuProduct& product, PlanTarget* target);

// The plan as the kernels take it, its tables at `device_tables`.
bsparse_matmul_plan DevicePlan(const MatmulPlan& plan, int64_t num_blocks,
                               const int32_t* device_tables);
bsparse_matmul_dw_plan DevicePlan(const MatmulDwPlan& plan, const int32_t* device_tables);

// Device memory that stays valid until the work enqueued so far is done; null if there is none.
using DeviceAllocator = std::function<void*(size_t bytes)>;

// Enqueues the matmul that `args` describes (all but workspace set), first preparing the weights
// if they are gated or stored in float32 beside a 16-bit dtype: args.w then points to the
// weights as stored, in `weight_dtype`, num_blocks of them.
GpuStatus LaunchMatmul(const bsparse_cuda_api& api, bsparse_matmul_args args,
                       bsparse_dtype weight_dtype, int64_t num_blocks,
                       const DeviceAllocator& allocate, void* stream);

GpuStatus LaunchMatmulDw(const bsparse_cuda_api& api, bsparse_matmul_dw_args args,
                         const DeviceAllocator& allocate, void* stream);

// What a launch asks of its allocator in all, each request rounded up by RoundUpScratch: for a
// caller that has to set the memory aside beforehand. Of pointers in `args` only null or not counts.
inline constexpr size_t kScratchAlignment = 256;
constexpr size_t RoundUpScratch(size_t bytes) {
  return (bytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment;
}
size_t MatmulScratchBytes(const bsparse_cuda_api& api, const bsparse_matmul_args& args,
                          bsparse_dtype weight_dtype, int64_t num_blocks);
size_t MatmulDwScratchBytes(const bsparse_cuda_api& api, const bsparse_matmul_dw_args& args);

}  // namespace bsparse

#endif  // BSPARSE_CC_KERNELS_GPU_LAUNCH_H_
