#include "cc/plan/matmul_plan.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <queue>
#include <utility>
#include <vector>

#include "cc/plan/cluster_rounds.h"
#include "cc/plan/column_groups.h"
#include "cc/plan/dw_tiles.h"
#include "cc/plan/stream_cut.h"
#include "cc/plan/sweep_stages.h"
#include "cuda/bsparse_cuda.h"

namespace bsparse {
namespace {

// Splitting costs a float32 partial written and read back, so a segment must be long enough to
// hide that.
constexpr int64_t kMinSegment = 4;

// A column is a hub when it alone would outlast its share of the device by this factor.
constexpr double kHubFactor = 1.5;

constexpr int32_t kStreamEntryWords = sizeof(StreamCut::Entry) / sizeof(int32_t);

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Items that run at once.
int64_t Slots(const PlanTarget& target) {
  const int64_t ctas = int64_t{target.sm_count} * target.ctas_per_sm;
  return std::max<int64_t>(1, ctas / target.ctas());
}

int64_t BatchTiles(int64_t batch, const PlanTarget& target) {
  return std::max<int64_t>(1, CeilDiv(batch, std::max(1, target.batch_tile)));
}

// Entries that splitting must spare a union, so many that they take some 20 us: every part leaves sums of float32, 128
// KB of each CTA and batch tile, which take 5 us to write and read again, and a kernel of their own. On an H200 an entry
// takes 0.9, 0.47, 0.25 or 0.15 us if a CTA has 1, 2, 4 or 8 columns.
int64_t WorthSplitting(const PlanTarget& target) { return std::min(130, 20 * target.cta_columns); }

// The longest segment that still balances: no item should outlast the mean load of a slot, nor
// stand out among its fellows when there are many waves. Group g has entries offsets[g] to
// offsets[g + 1].
int64_t SegmentLength(const std::vector<int64_t>& offsets, int64_t batch_tiles, bool is_union,
                      const PlanTarget& target) {
  const auto groups = static_cast<int64_t>(offsets.size()) - 1;
  const int64_t entries = offsets.back();
  const double load_per_slot = static_cast<double>(entries) * batch_tiles / Slots(target);
  const double mean_group = static_cast<double>(entries) / std::max<int64_t>(1, groups);
  const double longest = kHubFactor * std::max(mean_group, load_per_slot / 4);
  const double fair = std::min(longest, std::max(load_per_slot, 1.0));
  const int64_t segment = std::max(kMinSegment, static_cast<int64_t>(std::ceil(fair)));
  int64_t longest_group = 0;
  for (int64_t g = 0; g < groups; ++g) {
    longest_group = std::max(longest_group, offsets[g + 1] - offsets[g]);
  }
  const bool splits = !is_union || longest_group - segment >= WorthSplitting(target);
  return splits ? segment : std::max(segment, longest_group);
}

// What a column uses, by rising input block: input block, weight block.
void AppendEntries(const BlockIndex& index, int32_t column, std::vector<int32_t>* table) {
  for (int64_t e = index.offsets()[column]; e < index.offsets()[column + 1]; ++e) {
    const BlockIndex::Entry& entry = index.entries()[e];
    table->insert(table->end(), {entry.in_block, entry.weight_block});
  }
}

}  // namespace

int64_t BatchClass(int64_t batch, const PlanTarget& target) {
  if (target.kernel == BSPARSE_SM90_SWEEP) return 1;  // is cut the same for all
  const int64_t tiles = std::min(BatchTiles(batch, target), 8 * Slots(target));
  int64_t rounded = 1;
  while (rounded < tiles) rounded *= 2;
  return rounded;
}

MatmulPlan::MatmulPlan(const BlockIndex& index, int64_t batch, const PlanTarget& target)
    : target_(target) {
  if (target.kernel == BSPARSE_SM90_STREAM) {
    CutForStreams(index, batch);
  } else if (target.kernel == BSPARSE_SM90_SWEEP) {
    CutForSweeps(index);
  } else if (target.packed != 0) {
    const UnitIndex units = GatherUnits(index, target.entry_blocks, target.column_blocks);
    CutIntoItems(units.index, &units, batch);
  } else {
    CutIntoItems(index, nullptr, batch);
  }
}

void MatmulPlan::CutForStreams(const BlockIndex& index, int64_t batch) {
  // All batch tiles run at once, too.
  const int64_t batch_tiles = std::min(BatchClass(batch, target_), Slots(target_));
  const int64_t lists = Slots(target_) / batch_tiles;
  const StreamCut cut =
      target_.block_cells > 1
          ? CutIntoStreams(CellsOf(index, target_.block_cells), lists, target_.entry_blocks)
          : CutIntoStreams(index, lists, target_.entry_blocks);
  num_items_ = cut.lists;
  num_entries_ = int64_t{cut.lists} * cut.length;
  num_splits_ = static_cast<int32_t>(cut.splits.size());
  num_partials_ = cut.num_partials;
  for (const StreamCut::Entry& entry : cut.entries) {
    tables_.insert(tables_.end(),
                   {entry.column, entry.in_block, entry.weight_block, entry.partial});
  }
  for (const StreamCut::Split& split : cut.splits) {
    tables_.insert(tables_.end(), {split.column, split.first_partial, split.num_partials});
  }
}

void MatmulPlan::CutForSweeps(const BlockIndex& index) {
  SweepStages cut = CutIntoSweeps(
      index, SweepShapeOf(target_.ctas(), target_.cta_columns, target_.column_blocks,
                          target_.chunk_blocks, static_cast<int32_t>(target_.batch_tile),
                          target_.chunks));
  num_items_ = static_cast<int32_t>(cut.items.size() / 4);
  num_entries_ = static_cast<int64_t>(cut.stages.size()) / entry_words();
  num_packed_ = cut.num_packed;
  fullest_stage_ = cut.fullest_stage;
  num_ordered_ = static_cast<int64_t>(cut.order.size() + cut.records.size());
  tables_ = std::move(cut.items);
  for (const auto* part : {&cut.stages, &cut.order, &cut.records, &cut.groups}) {
    tables_.insert(tables_.end(), part->begin(), part->end());
  }
}

void MatmulPlan::CutIntoItems(const BlockIndex& index, const UnitIndex* units, int64_t batch) {
  const PlanTarget& target = target_;
  const int32_t record_words = bsparse_record_words(target.cta_columns);
  std::vector<int32_t> groups = GroupColumns(index, target.cta_columns, target.shared_columns);
  if (target.ctas() > 1) groups = DealToClusters(index, groups, target.cta_columns, target.ctas());
  const int32_t words = is_union() ? target.ctas() * record_words : entry_words();
  const auto num_groups = static_cast<int32_t>(groups.size() / target.columns);
  std::vector<int32_t> entries;
  std::vector<int64_t> offsets = {0};
  entries.reserve(words * index.num_blocks() / target.columns);
  for (int32_t g = 0; g < num_groups; ++g) {
    if (is_union()) {
      AppendRounds(index, groups.data() + int64_t{g} * target.columns, target.ctas(),
                   target.cta_columns, record_words, &entries);
      if (units != nullptr) {
        KeepStagesSmall(*units, target.ctas(), target.cta_columns,
                        static_cast<size_t>(offsets.back()) * words, &entries);
      }
    } else {
      AppendEntries(index, g, &entries);
    }
    offsets.push_back(static_cast<int64_t>(entries.size()) / words);
  }
  num_entries_ = offsets.back();
  std::vector<int32_t> order;
  if (units != nullptr) {
    PackedRecords packed =
        PackRecords(*units, entries, offsets, target.ctas(), target.cta_columns);
    entries = std::move(packed.records);
    order = std::move(packed.order);
    num_ordered_ = static_cast<int64_t>(order.size());
    num_packed_ = packed.num_packed;
  }

  const int64_t batch_tiles = BatchClass(batch, target);
  const int64_t segment = SegmentLength(offsets, batch_tiles, is_union(), target);
  std::vector<Item> items;
  std::vector<Split> splits;
  for (int32_t g = 0; g < num_groups; ++g) {
    const int64_t first = offsets[g];
    const int64_t length = offsets[g + 1] - first;
    const int64_t pieces =
        target.kernel == BSPARSE_DENSE ? 1 : std::max<int64_t>(1, CeilDiv(length, segment));
    if (pieces > 1) splits.push_back({g, num_partials_, static_cast<int32_t>(pieces)});
    for (int64_t piece = 0; piece < pieces; ++piece) {
      items.push_back({g, static_cast<int32_t>(first + length * piece / pieces),
                       static_cast<int32_t>(first + length * (piece + 1) / pieces),
                       pieces > 1 ? num_partials_++ : -1});
    }
  }
  // Longest processing time first. Stable, so that equal items keep the order of their columns
  // and neighbours go on sharing x.
  std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    return a.last_entry - a.first_entry > b.last_entry - b.first_entry;
  });

  if (units != nullptr) {
    const StageShape stage =
        StageOf(target.entry_blocks, target.column_blocks, target.cta_columns);
    for (const Item& item : items) {
      fullest_stage_ = std::max(fullest_stage_, FullestStage(entries, item.first_entry,
                                                             item.last_entry, target.ctas(), stage));
    }
  }

  num_items_ = static_cast<int32_t>(items.size());
  num_splits_ = static_cast<int32_t>(splits.size());
  tables_.reserve(4 * items.size() + entries.size() + order.size() + 3 * splits.size() +
                  groups.size());
  for (const Item& item : items) {
    tables_.insert(tables_.end(), {item.group, item.first_entry, item.last_entry, item.partial});
  }
  tables_.insert(tables_.end(), entries.begin(), entries.end());
  tables_.insert(tables_.end(), order.begin(), order.end());
  for (const Split& split : splits) {
    tables_.insert(tables_.end(), {split.group, split.first_partial, split.num_partials});
  }
  tables_.insert(tables_.end(), groups.begin(), groups.end());
}

int32_t MatmulPlan::entry_words() const {
  if (is_stream()) return kStreamEntryWords;
  if (target_.kernel == BSPARSE_SM90_SWEEP) return target_.ctas() * int32_t{BSPARSE_SWEEP_STAGE_WORDS};
  if (!is_union()) return 2;
  return target_.ctas() * (target_.packed != 0 ? int32_t{BSPARSE_PACKED_RECORD_WORDS}
                                               : bsparse_record_words(target_.cta_columns));
}

bool MatmulPlan::is_union() const { return target_.kernel == BSPARSE_SM90; }

bool MatmulPlan::is_stream() const { return target_.kernel == BSPARSE_SM90_STREAM; }

double MatmulPlan::PredictedBalance(int64_t batch) const {
  if (is_stream()) {
    int64_t stored = 0;
    for (int64_t e = 0; e < num_entries_; ++e) stored += tables_[e * kStreamEntryWords] >= 0;
    return stored == 0 ? 1.0 : static_cast<double>(num_entries_) / stored;
  }
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

namespace {

// A range of the batch shorter than this many steps is all prologue.
constexpr int64_t kMinDwSteps = 4;
constexpr int64_t kMaxDwSplits = 64;

// Ranges of the batch for work of which `slots` parts run at once, so that the last round is
// nearly full: a round that is not costs as much as one that is, and every range beyond the first
// as much as some steps, since its partial sums are written and read again, but no less than was found to
// suit batches of 8192 (so reckons cuda/cost_model.cu, too). At least `least` of them, if the batch has so many.
int32_t DwSplits(int64_t parts, int64_t slots, int64_t steps, int64_t least) {
  const double cost_of_split = std::max(0.05, 4.5 / static_cast<double>(steps));  // of a round
  const int64_t most = std::min(kMaxDwSplits, std::max<int64_t>(1, steps / kMinDwSteps));
  least = std::min(least, most);
  auto best = static_cast<int32_t>(least);
  double best_cost = std::numeric_limits<double>::infinity();
  for (int64_t splits = least; splits <= most; ++splits) {
    const double rounds = static_cast<double>(CeilDiv(parts * splits, slots)) / splits;
    const double cost = rounds + (splits > 1 ? cost_of_split * splits * parts / slots : 0.0);
    if (cost < best_cost) {
      best_cost = cost;
      best = static_cast<int32_t>(splits);
    }
  }
  return best;
}

}  // namespace

MatmulDwPlan::MatmulDwPlan(const BlockIndex& index, int64_t batch, const PlanTarget& target)
    : target_(target), num_blocks_(static_cast<int32_t>(index.num_blocks())) {
  if (target.kernel == BSPARSE_SM90_DW_TILES) {
    CutTiles(index, batch);
  } else {
    ListColumns(index, batch);
  }
}

void MatmulDwPlan::CutTiles(const BlockIndex& index, int64_t batch) {
  const int64_t steps = BatchClass(batch, target_);
  DwTileTarget tile{};
  tile.blocks = target_.cta_columns;
  tile.block_cells = target_.block_cells;
  tile.slot_blocks = target_.entry_blocks;
  tile.chunk_blocks = target_.chunk_blocks;
  tile.chunks = target_.chunks;
  tile.ctas = target_.ctas();
  tile.depth = std::max(16, target_.batch_tile);
  tile.slots = Slots(target_);
  tile.steps = steps * tile.depth / 16;
  tile.max_splits = std::min(kMaxDwSplits, steps / kMinDwSteps);
  DwTiles tiles = CutIntoDwTiles(index, tile);
  num_items_ = tiles.num_items;
  batch_splits_ = tiles.batch_splits;
  chunks_ = tiles.chunks;
  whole_items_ = tiles.whole_items;
  tables_ = std::move(tiles.items);
  blocks_offset_ = static_cast<int64_t>(tables_.size());
  tables_.insert(tables_.end(), tiles.blocks.begin(), tiles.blocks.end());
}

void MatmulDwPlan::ListColumns(const BlockIndex& index, int64_t batch) {
  const PlanTarget& target = target_;
  std::vector<int32_t> blocks;
  blocks.reserve(3 * index.entries().size());
  for (int32_t k = 0; k < index.out_blocks(); ++k) {
    const int64_t first = index.offsets()[k];
    const int64_t length = index.offsets()[k + 1] - first;
    for (int64_t e = first; e < first + length; ++e) {
      const BlockIndex::Entry& entry = index.entries()[e];
      blocks.insert(blocks.end(), {entry.in_block, k, entry.weight_block});
    }
    if (target.columns == 1) continue;
    const int64_t pieces = CeilDiv(length, target.columns);
    if (pieces > 0) chunks_ = std::max(chunks_, static_cast<int32_t>(CeilDiv(length, pieces)));
    for (int64_t piece = 0; piece < pieces; ++piece) {
      tables_.insert(tables_.end(), {k, static_cast<int32_t>(first + length * piece / pieces),
                                     static_cast<int32_t>(first + length * (piece + 1) / pieces),
                                     0});
      ++num_items_;
    }
  }
  blocks_offset_ = static_cast<int64_t>(tables_.size());
  tables_.insert(tables_.end(), blocks.begin(), blocks.end());

  // Here batch_tile is the step of the reduction.
  const int64_t steps = BatchClass(batch, target);
  if (target.kernel == BSPARSE_DENSE) return;
  if (target.kernel == BSPARSE_SM80_SMALL) {  // its CTAs take several blocks and are few
    const int64_t wanted = CeilDiv(2 * Slots(target), std::max<int64_t>(1, num_blocks_));
    batch_splits_ = static_cast<int32_t>(
        std::max<int64_t>(1, std::min({wanted, steps / kMinDwSteps, kMaxDwSplits})));
    return;
  }
  const int32_t parts = target.columns == 1 ? num_blocks_ : num_items_;
  batch_splits_ =
      DwSplits(std::max(1, parts), Slots(target), steps, std::max(1, target.shared_columns));
}

}  // namespace bsparse
