// Everything derived from one layout, computed once and shared by all that use the layout: the
// nodes of a graph, its gradients, eager calls, XLA executables.
#ifndef BSPARSE_CC_PLAN_LAYOUT_PLANS_H_
#define BSPARSE_CC_PLAN_LAYOUT_PLANS_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "cc/plan/block_index.h"
#include "cc/plan/matmul_plan.h"

namespace bsparse {

// What the choice of a kernel looks at.
struct LayoutStatistics {
  double density;  // stored blocks over all blocks
  double union_density;  // of blocks of 8 and 16 (union_density.h); of others 0
};

// Thread-safe. Indices and plans are built on first use and live as long as this object.
class LayoutPlans {
 public:
  explicit LayoutPlans(const LayoutView& layout);  // `layout` must be valid; it is copied

  LayoutView layout() const;
  LayoutStatistics statistics(bool transpose, int32_t block_size) const;
  const BlockIndex& index(bool transpose) const;
  std::shared_ptr<const MatmulPlan> matmul_plan(bool transpose, int64_t batch,
                                                const PlanTarget& target) const;
  std::shared_ptr<const MatmulDwPlan> matmul_dw_plan(int64_t batch,
                                                     const PlanTarget& target) const;

 private:
  // transpose, batch class, target
  using PlanKey = std::tuple<bool, int64_t, PlanTarget>;

  const std::vector<int32_t> coords_;
  const int32_t in_blocks_;
  const int32_t out_blocks_;
  mutable std::once_flag index_once_[2];
  mutable std::unique_ptr<const BlockIndex> index_[2];
  // [transpose][whether blocks have 8 features, or 16]
  mutable std::once_flag union_density_once_[2][2];
  mutable double union_density_[2][2];
  mutable std::mutex mutex_;
  mutable std::map<PlanKey, std::shared_ptr<const MatmulPlan>> matmul_plans_;
  mutable std::map<PlanKey, std::shared_ptr<const MatmulDwPlan>> matmul_dw_plans_;
};

// The process-wide cache, keyed by content: equal layouts give the same object, whatever tensor
// they came in. Returns null and sets *error if the layout is not valid. Keeps the most recently
// used kLayoutCacheSize layouts; objects handed out outlive their eviction.
inline constexpr int kLayoutCacheSize = 256;
std::shared_ptr<const LayoutPlans> FindLayoutPlans(const LayoutView& layout, std::string* error);

}  // namespace bsparse

#endif  // BSPARSE_CC_PLAN_LAYOUT_PLANS_H_
