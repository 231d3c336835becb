#include "cc/plan/layout_plans.h"

#include <algorithm>
#include <cstring>
#include <list>
#include <unordered_map>

#include "cc/plan/union_density.h"

namespace bsparse {
namespace {

// FNV-1a over whole words: quick, and equality is checked in full on a hit.
uint64_t Hash(const LayoutView& layout) {
  uint64_t hash = 14695981039346656037ull;
  const auto mix = [&hash](uint64_t word) { hash = (hash ^ word) * 1099511628211ull; };
  mix(static_cast<uint32_t>(layout.in_blocks));
  mix(static_cast<uint32_t>(layout.out_blocks));
  for (int64_t b = 0; b < layout.num_blocks; ++b) {
    uint64_t coordinate;
    std::memcpy(&coordinate, layout.coords + 2 * b, sizeof(coordinate));
    mix(coordinate);
    hash ^= hash >> 32;
  }
  return hash;
}

bool Equal(const LayoutView& a, const LayoutView& b) {
  return a.in_blocks == b.in_blocks && a.out_blocks == b.out_blocks &&
         a.num_blocks == b.num_blocks &&
         std::equal(a.coords, a.coords + 2 * a.num_blocks, b.coords);
}

class LayoutCache {
 public:
  std::shared_ptr<const LayoutPlans> Find(const LayoutView& layout, std::string* error) {
    const uint64_t hash = Hash(layout);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (auto found = Touch(hash, layout)) return found;
    }
    // Validated and copied outside the lock; two threads may do so for the same layout, and the
    // second then finds the first one's.
    *error = ValidateLayout(layout);
    if (!error->empty()) return nullptr;
    auto plans = std::make_shared<const LayoutPlans>(layout);
    std::lock_guard<std::mutex> lock(mutex_);
    if (auto found = Touch(hash, layout)) return found;
    recent_.push_front({hash, plans});
    by_hash_.emplace(hash, recent_.begin());
    if (recent_.size() > kLayoutCacheSize) Evict();
    return plans;
  }

 private:
  struct Node {
    uint64_t hash;
    std::shared_ptr<const LayoutPlans> plans;
  };

  std::shared_ptr<const LayoutPlans> Touch(uint64_t hash, const LayoutView& layout) {
    const auto range = by_hash_.equal_range(hash);
    for (auto it = range.first; it != range.second; ++it) {
      if (Equal(it->second->plans->layout(), layout)) {
        recent_.splice(recent_.begin(), recent_, it->second);
        return it->second->plans;
      }
    }
    return nullptr;
  }

  void Evict() {
    const auto last = std::prev(recent_.end());
    const auto range = by_hash_.equal_range(last->hash);
    for (auto it = range.first; it != range.second; ++it) {
      if (it->second == last) {
        by_hash_.erase(it);
        break;
      }
    }
    recent_.pop_back();
  }

  std::mutex mutex_;
  std::list<Node> recent_;  // most recently used first
  std::unordered_multimap<uint64_t, std::list<Node>::iterator> by_hash_;
};

}  // namespace

LayoutPlans::LayoutPlans(const LayoutView& layout)
    : coords_(layout.coords, layout.coords + 2 * layout.num_blocks),
      in_blocks_(layout.in_blocks),
      out_blocks_(layout.out_blocks) {}

LayoutView LayoutPlans::layout() const {
  return {coords_.data(), static_cast<int64_t>(coords_.size() / 2), in_blocks_, out_blocks_};
}

LayoutStatistics LayoutPlans::statistics(bool transpose, int32_t block_size) const {
  const double all = static_cast<double>(in_blocks_) * out_blocks_;
  const double density = static_cast<double>(coords_.size() / 2) / all;
  if (block_size > 16) return {density, 0.0};
  const int half = block_size == 8;
  std::call_once(union_density_once_[transpose][half], [&] {
    union_density_[transpose][half] = UnionDensity(index(transpose), 16 / block_size);
  });
  return {density, union_density_[transpose][half]};
}

const BlockIndex& LayoutPlans::index(bool transpose) const {
  std::call_once(index_once_[transpose], [this, transpose] {
    index_[transpose] = std::make_unique<const BlockIndex>(layout(), transpose);
  });
  return *index_[transpose];
}

std::shared_ptr<const MatmulPlan> LayoutPlans::matmul_plan(bool transpose, int64_t batch,
                                                           const PlanTarget& target) const {
  const BlockIndex& forward = index(transpose);
  const PlanKey key{transpose, BatchClass(batch, target), target};
  std::lock_guard<std::mutex> lock(mutex_);
  auto& plan = matmul_plans_[key];
  if (plan == nullptr) plan = std::make_shared<const MatmulPlan>(forward, batch, target);
  return plan;
}

std::shared_ptr<const MatmulDwPlan> LayoutPlans::matmul_dw_plan(int64_t batch,
                                                                const PlanTarget& target) const {
  const BlockIndex& forward = index(/*transpose=*/false);
  const PlanKey key{false, BatchClass(batch, target), target};
  std::lock_guard<std::mutex> lock(mutex_);
  auto& plan = matmul_dw_plans_[key];
  if (plan == nullptr) plan = std::make_shared<const MatmulDwPlan>(forward, batch, target);
  return plan;
}

std::shared_ptr<const LayoutPlans> FindLayoutPlans(const LayoutView& layout, std::string* error) {
  // Never destroyed: kernels may still run while the process exits.
  static LayoutCache* const cache = new LayoutCache;
  return cache->Find(layout, error);
}

}  // namespace bsparse
