// The plan that an op took last, which is usually the next call's, too: choosing a kernel takes a microsecond or two.
#ifndef BSPARSE_CC_KERNELS_PLAN_MEMO_H_
#define BSPARSE_CC_KERNELS_PLAN_MEMO_H_

#include <cstdint>
#include <memory>
#include <mutex>

#include "cc/kernels/gpu_launch.h"
#include "cc/plan/layout_plans.h"
#include "cuda/bsparse_cuda.h"

namespace bsparse {

// What a plan depends on, beside the attributes of the op and the device that its kernel is made for.
struct PlanRequest {
  std::shared_ptr<const LayoutPlans> layout;  // kept, so that no other can come to its address
  int64_t batch;
  bsparse_float32_math float32_math;  // TensorFlow's switch may be turned between calls
  bool gated;
  bool aligned;

  bool operator==(const PlanRequest& other) const {
    return layout == other.layout && batch == other.batch && float32_math == other.float32_math &&
           gated == other.gated && aligned == other.aligned;
  }
};

// Thread-safe.
template <class Plan>
class PlanMemo {
 public:
  // Sets *plan. `choose` is GpuStatus(std::shared_ptr<const Plan>*), and is asked if the last request was another.
  template <class Choose>
  GpuStatus Find(const PlanRequest& request, const Choose& choose, std::shared_ptr<const Plan>* plan) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (plan_ != nullptr && last_ == request) {
        *plan = plan_;
        return {};
      }
    }
    const GpuStatus status = choose(plan);  // may take long: others need not wait
    if (!status.ok()) return status;
    std::lock_guard<std::mutex> lock(mutex_);
    last_ = request;
    plan_ = *plan;
    return status;
  }

 private:
  std::mutex mutex_;
  PlanRequest last_{};
  std::shared_ptr<const Plan> plan_;  // null: there was no request yet
};

}  // namespace bsparse

#endif  // BSPARSE_CC_KERNELS_PLAN_MEMO_H_
