#include "cc/plan/matmul_plan.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <queue>
#include <vector>

namespace bsparse {
namespace {

// Splitting costs a float32 partial written and read back, so a segment must be long enough to
// hide that.
constexpr int64_t kMinSegment = 4;

// A column is a hub when it alone would outlast its share of the device by this factor.
constexpr double kHubFactor = 1.5;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t Slots(const PlanTarget& target) {
  return std::max<int64_t>(1, int64_t{target.sm_count} * target.ctas_per_sm);
}

int64_t BatchTiles(int64_t batch, const PlanTarget& target) {
  return std::max<int64_t>(1, CeilDiv(batch, std::max(1, target.batch_tile)));
}

// The longest segment that still balances: no item should outlast the mean load of a slot, nor
// stand out among its fellows when there are many waves.
int64_t SegmentLength(const BlockIndex& index, int64_t batch_tiles, const PlanTarget& target) {
  const int64_t blocks = index.num_blocks();
  const double load_per_slot = static_cast<double>(blocks) * batch_tiles / Slots(target);
  const double mean_column = static_cast<double>(blocks) / std::max(1, index.out_blocks());
  const double longest = kHubFactor * std::max(mean_column, load_per_slot / 4);
  const double fair = std::min(longest, std::max(load_per_slot, 1.0));
  return std::max(kMinSegment, static_cast<int64_t>(std::ceil(fair)));
}

}  // namespace

int64_t BatchClass(int64_t batch, const PlanTarget& target) {
  const int64_t tiles = std::min(BatchTiles(batch, target), 8 * Slots(target));
  int64_t rounded = 1;
  while (rounded < tiles) rounded *= 2;
  return rounded;
}

MatmulPlan::MatmulPlan(const BlockIndex& index, int64_t batch, const PlanTarget& target)
    : target_(target), num_entries_(index.num_blocks()) {
  const int64_t batch_tiles = BatchClass(batch, target);
  const int64_t segment = SegmentLength(index, batch_tiles, target);
  std::vector<Item> items;
  std::vector<Split> splits;
  for (int32_t k = 0; k < index.out_blocks(); ++k) {
    const int64_t first = index.offsets()[k];
    const int64_t length = index.offsets()[k + 1] - first;
    const int64_t pieces = std::max<int64_t>(1, CeilDiv(length, segment));
    if (pieces > 1) {
      splits.push_back({k, num_partials_, static_cast<int32_t>(pieces)});
    }
    for (int64_t piece = 0; piece < pieces; ++piece) {
      items.push_back({k, static_cast<int32_t>(first + length * piece / pieces),
                       static_cast<int32_t>(first + length * (piece + 1) / pieces),
                       pieces > 1 ? num_partials_++ : -1});
    }
  }
  // Longest processing time first. Stable, so that equal items keep the order of their columns
  // and neighbours go on sharing x.
  std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    return a.last_entry - a.first_entry > b.last_entry - b.first_entry;
  });

  num_items_ = static_cast<int32_t>(items.size());
  num_splits_ = static_cast<int32_t>(splits.size());
  tables_.reserve(4 * items.size() + 2 * num_entries_ + 3 * splits.size());
  for (const Item& item : items) {
    tables_.insert(tables_.end(),
                   {item.out_block, item.first_entry, item.last_entry, item.partial});
  }
  for (const BlockIndex::Entry& entry : index.entries()) {
    tables_.insert(tables_.end(), {entry.in_block, entry.weight_block});
  }
  for (const Split& split : splits) {
    tables_.insert(tables_.end(), {split.out_block, split.first_partial, split.num_partials});
  }
}

double MatmulPlan::PredictedBalance(int64_t batch) const {
  const int64_t slots = Slots(target_);
  const int64_t batch_tiles = BatchTiles(batch, target_);
  std::priority_queue<int64_t, std::vector<int64_t>, std::greater<int64_t>> loads;
  for (int64_t s = 0; s < slots; ++s) loads.push(0);
  int64_t total = 0;
  int64_t busiest = 0;
  for (int32_t i = 0; i < num_items_; ++i) {
    const int64_t work = tables_[4 * i + 2] - tables_[4 * i + 1];
    for (int64_t t = 0; t < batch_tiles; ++t) {
      const int64_t load = loads.top() + work;
      loads.pop();
      loads.push(load);
      total += work;
      busiest = std::max(busiest, load);
    }
  }
  return total == 0 ? 1.0 : static_cast<double>(busiest) * slots / total;
}

MatmulDwPlan::MatmulDwPlan(const BlockIndex& index, int64_t batch, const PlanTarget& target)
    : num_blocks_(static_cast<int32_t>(index.num_blocks())) {
  tables_.reserve(3 * index.entries().size());
  for (int32_t k = 0; k < index.out_blocks(); ++k) {
    for (int64_t e = index.offsets()[k]; e < index.offsets()[k + 1]; ++e) {
      const BlockIndex::Entry& entry = index.entries()[e];
      tables_.insert(tables_.end(), {entry.in_block, k, entry.weight_block});
    }
  }
  // Here batch_tile is the step of the reduction; a range shorter than a few steps is all
  // prologue.
  constexpr int64_t kMinSteps = 4;
  const int64_t steps = BatchClass(batch, target);
  const int64_t wanted = CeilDiv(2 * Slots(target), std::max<int64_t>(1, num_blocks_));
  batch_splits_ = static_cast<int32_t>(
      std::max<int64_t>(1, std::min({wanted, steps / kMinSteps, int64_t{64}})));
}

}  // namespace bsparse
