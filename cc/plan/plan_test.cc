// The planner's promises: layouts checked, every block worked once, work balanced, plans shared.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cc/plan/block_index.h"
#include "cc/plan/cluster_rounds.h"
#include "cc/plan/column_groups.h"
#include "cc/plan/layout_plans.h"
#include "cc/plan/matmul_plan.h"
#include "cc/plan/plan_c_api.h"
#include "cc/plan/stream_cut.h"
#include "cuda/bsparse_cuda.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

constexpr PlanTarget kTarget{/*sm_count=*/132, /*batch_tile=*/128, /*ctas_per_sm=*/2};

struct Layout {
  std::vector<int32_t> coords;
  int32_t in_blocks, out_blocks;
  LayoutView view() const {
    return {coords.data(), static_cast<int64_t>(coords.size() / 2), in_blocks, out_blocks};
  }
};

// Each block with probability `density`; the first `hubs` columns full. Shuffled.
Layout Random(int32_t in_blocks, int32_t out_blocks, double density, int hubs, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::pair<int32_t, int32_t>> blocks;
  for (int32_t c = 0; c < in_blocks; ++c) {
    for (int32_t k = 0; k < out_blocks; ++k) {
      if (k < hubs || std::uniform_real_distribution<>(0, 1)(random) < density) {
        blocks.emplace_back(c, k);
      }
    }
  }
  std::shuffle(blocks.begin(), blocks.end(), random);
  Layout layout{{}, in_blocks, out_blocks};
  for (const auto& [c, k] : blocks) layout.coords.insert(layout.coords.end(), {c, k});
  return layout;
}

TEST(ValidateLayout, TakesAnyOrderAndNoBlocks) {
  EXPECT_EQ(ValidateLayout(Random(7, 5, 0.5, 0, 1).view()), "");
  EXPECT_EQ(ValidateLayout(Layout{{}, 3, 3}.view()), "");
}

TEST(ValidateLayout, NamesTheFirstBadCoordinate) {
  EXPECT_EQ(ValidateLayout(Layout{{0, 0, 1, 2}, 2, 2}.view()),
            "coords[1] = (1, 2) is out of range: the layout has 2 input blocks and 2 output blocks");
  EXPECT_NE(ValidateLayout(Layout{{0, -1}, 2, 2}.view()).find("coords[0] = (0, -1)"),
            std::string::npos);
  EXPECT_EQ(ValidateLayout(Layout{{1, 1, 0, 0, 1, 1}, 2, 2}.view()),
            "coords[2] = (1, 1) repeats coords[0]: each block may be given once");
}

TEST(ValidateLayout, DoesNotOverflowOnHugeLayouts) {
  const int32_t last = 2147483646;
  EXPECT_EQ(ValidateLayout(Layout{{last, last, last, last - 1}, last + 1, last + 1}.view()), "");
}

TEST(BlockIndex, ListsEachBlockOnceInOrder) {
  const Layout layout = Random(9, 14, 0.3, 1, 2);
  for (const bool transpose : {false, true}) {
    const BlockIndex index(layout.view(), transpose);
    EXPECT_EQ(index.in_blocks(), transpose ? 14 : 9);
    EXPECT_EQ(index.out_blocks(), transpose ? 9 : 14);
    std::set<int32_t> seen;
    for (int32_t k = 0; k < index.out_blocks(); ++k) {
      for (int64_t e = index.offsets()[k]; e < index.offsets()[k + 1]; ++e) {
        const auto& entry = index.entries()[e];
        EXPECT_EQ(layout.coords[2 * entry.weight_block], transpose ? k : entry.in_block);
        EXPECT_EQ(layout.coords[2 * entry.weight_block + 1], transpose ? entry.in_block : k);
        EXPECT_TRUE(seen.insert(entry.weight_block).second);
        if (e > index.offsets()[k]) {
          EXPECT_LT(index.entries()[e - 1].in_block, entry.in_block);
        }
      }
    }
    EXPECT_EQ(static_cast<int64_t>(seen.size()), index.num_blocks());
  }
}

TEST(BlockIndex, CellsLieInTheirBlocksWhateverIsTransposed) {
  const Layout layout = Random(6, 5, 0.4, 1, 3);
  const int32_t cells = 4, of_block = cells * cells;
  for (const bool transpose : {false, true}) {
    const BlockIndex index = CellsOf(BlockIndex(layout.view(), transpose), cells);
    EXPECT_EQ(index.in_blocks(), cells * (transpose ? 5 : 6));
    EXPECT_EQ(index.out_blocks(), cells * (transpose ? 6 : 5));
    EXPECT_EQ(2 * index.num_blocks(), static_cast<int64_t>(layout.coords.size()) * of_block);
    for (int32_t k = 0; k < index.out_blocks(); ++k) {
      for (int64_t e = index.offsets()[k]; e < index.offsets()[k + 1]; ++e) {
        const auto& entry = index.entries()[e];
        const int32_t block = entry.weight_block / of_block, cell = entry.weight_block % of_block;
        const int32_t row = layout.coords[2 * block] * cells + cell / cells;
        const int32_t column = layout.coords[2 * block + 1] * cells + cell % cells;
        EXPECT_EQ(row, transpose ? k : entry.in_block);
        EXPECT_EQ(column, transpose ? entry.in_block : k);
      }
    }
  }
}

MatmulPlan::Item ItemOf(const MatmulPlan& plan, int32_t i) {
  const int32_t* row = plan.tables().data() + plan.items_offset() + 4 * i;
  return {row[0], row[1], row[2], row[3]};
}

TEST(MatmulPlan, ItemsCoverEveryColumnOnceHeaviestFirst) {
  for (const int hubs : {0, 1, 3}) {
    const Layout layout = Random(200, 150, 0.05, hubs, 3);
    const BlockIndex index(layout.view(), false);
    const MatmulPlan plan(index, /*batch=*/64, kTarget);
    std::vector<int64_t> covered(index.num_blocks(), 0);
    std::set<int32_t> columns;
    std::set<int32_t> partials;
    int64_t previous = index.num_blocks();
    for (int32_t i = 0; i < plan.num_items(); ++i) {
      const MatmulPlan::Item item = ItemOf(plan, i);
      columns.insert(item.group);
      for (int32_t e = item.first_entry; e < item.last_entry; ++e) {
        ++covered[e];
        EXPECT_GE(e, index.offsets()[item.group]);
        EXPECT_LT(e, index.offsets()[item.group + 1]);
      }
      EXPECT_LE(item.last_entry - item.first_entry, previous);
      previous = item.last_entry - item.first_entry;
      if (item.partial >= 0) {
        EXPECT_TRUE(partials.insert(item.partial).second);
      }
    }
    EXPECT_EQ(static_cast<int32_t>(columns.size()), 150);
    EXPECT_TRUE(std::all_of(covered.begin(), covered.end(), [](int64_t n) { return n == 1; }));
    EXPECT_EQ(static_cast<int32_t>(partials.size()), plan.num_partials());
  }
}

TEST(MatmulPlan, PartialsOfASplitColumnAreInTheOrderOfItsEntries) {
  const Layout layout = Random(400, 60, 0.02, 2, 4);
  const BlockIndex index(layout.view(), false);
  const MatmulPlan plan(index, /*batch=*/32, kTarget);
  ASSERT_GE(plan.num_splits(), 2);
  std::vector<MatmulPlan::Item> by_partial(plan.num_partials());
  for (int32_t i = 0; i < plan.num_items(); ++i) {
    const MatmulPlan::Item item = ItemOf(plan, i);
    if (item.partial >= 0) by_partial[item.partial] = item;
  }
  const int32_t* splits = plan.tables().data() + plan.splits_offset();
  for (int32_t s = 0; s < plan.num_splits(); ++s) {
    const int32_t column = splits[3 * s], first = splits[3 * s + 1], count = splits[3 * s + 2];
    int64_t next = index.offsets()[column];
    for (int32_t p = first; p < first + count; ++p) {
      EXPECT_EQ(by_partial[p].group, column);
      EXPECT_EQ(by_partial[p].first_entry, next);
      next = by_partial[p].last_entry;
    }
    EXPECT_EQ(next, index.offsets()[column + 1]);
  }
}

TEST(MatmulPlan, HubsDoNotUnbalanceIt) {
  // Two of 576 columns hold 20 times the mean: without a split the busiest slot would work that
  // much longer than the others.
  const Layout layout = Random(576, 576, 0.03, 2, 5);
  const BlockIndex index(layout.view(), false);
  for (const int64_t batch : {32, 128, 1024, 8192}) {
    const MatmulPlan plan(index, batch, kTarget);
    // A large batch balances by itself, as long as the hubs start first.
    if (batch <= 128) {
      EXPECT_GE(plan.num_splits(), 2) << "batch " << batch;
    }
    EXPECT_LT(plan.PredictedBalance(batch), 1.35) << "batch " << batch;
  }
}

TEST(MatmulPlan, UniformColumnsStayWholeWhenTheBatchFillsTheDevice) {
  Layout layout{{}, 64, 64};
  for (int32_t c = 0; c < 64; ++c) {
    for (int32_t i = 0; i < 16; ++i) {
      layout.coords.insert(layout.coords.end(), {c, (c + i) % 64});
    }
  }
  const BlockIndex index(layout.view(), false);
  const MatmulPlan plan(index, /*batch=*/8192, kTarget);
  EXPECT_EQ(plan.num_items(), 64);
  EXPECT_EQ(plan.num_splits(), 0);
}

TEST(MatmulPlan, EmptyColumnsAndEmptyLayouts) {
  const BlockIndex index(Layout{{0, 1}, 2, 3}.view(), false);
  const MatmulPlan plan(index, 1, kTarget);
  EXPECT_EQ(plan.num_items(), 3);
  const BlockIndex nothing(Layout{{}, 2, 3}.view(), false);
  EXPECT_EQ(MatmulPlan(nothing, 0, kTarget).num_items(), 3);
  EXPECT_EQ(MatmulPlan(nothing, 100, kTarget).PredictedBalance(100), 1.0);
}

// A kernel whose items are `ctas` unions of 4 columns, of which neighbouring pairs share a product.
PlanTarget UnionTarget(int32_t ctas) {
  PlanTarget target;
  target.sm_count = 132;
  target.batch_tile = 256;
  target.kernel = BSPARSE_SM90;
  target.columns = 4 * ctas;
  target.cta_columns = 4;
  target.shared_columns = 2;
  return target;
}

// A hub column of so many blocks beside columns of one.
Layout Hub(int32_t blocks) {
  Layout layout{{}, blocks, 16};
  for (int32_t k = 0; k < 16; ++k) {
    for (int32_t c = 0; c < (k == 0 ? blocks : 1); ++c) {
      layout.coords.insert(layout.coords.end(), {c, k});
    }
  }
  return layout;
}

TEST(MatmulPlan, AUnionIsSplitOnlyIfThatPaysForAnotherKernel) {
  PlanTarget large = UnionTarget(1);  // blocks of 128, whose entries take longer
  large.columns = large.cta_columns = large.shared_columns = 1;
  const Layout small_hub = Hub(20), hub = Hub(60);
  const BlockIndex small(small_hub.view(), false), long_column(hub.view(), false);
  EXPECT_EQ(MatmulPlan(small, 256, UnionTarget(1)).num_splits(), 0);
  EXPECT_EQ(MatmulPlan(small, 256, large).num_splits(), 1);
  EXPECT_EQ(MatmulPlan(long_column, 256, UnionTarget(1)).num_splits(), 1);
}

TEST(ColumnGroups, HoldEveryColumnOnce) {
  const Layout layout = Random(40, 53, 0.1, 1, 12);
  const BlockIndex index(layout.view(), false);
  const std::vector<int32_t> groups = GroupColumns(index, 8, 2);
  ASSERT_EQ(groups.size(), 7 * 8);
  std::multiset<int32_t> columns(groups.begin(), groups.end());
  EXPECT_EQ(columns.count(-1), 7 * 8 - 53);
  for (int32_t k = 0; k < 53; ++k) EXPECT_EQ(columns.count(k), 1);
}

TEST(ColumnGroups, BringTogetherColumnsThatUseTheSameInputs) {
  // Columns k and k + 8 are alike, and no others share anything.
  Layout layout{{}, 64, 16};
  for (int32_t k = 0; k < 16; ++k) {
    for (int32_t i = 0; i < 8; ++i) layout.coords.insert(layout.coords.end(), {8 * (k % 8) + i, k});
  }
  const BlockIndex index(layout.view(), false);
  const std::vector<int32_t> groups = GroupColumns(index, 2, 2);
  for (size_t g = 0; g < groups.size(); g += 2) EXPECT_EQ(groups[g] % 8, groups[g + 1] % 8);
}

TEST(MatmulPlan, RoundsGiveEveryCtaWhatItsColumnsUse) {
  const Layout layout = Random(60, 45, 0.15, 2, 13);
  const BlockIndex index(layout.view(), false);
  constexpr int32_t kWords = 8;
  for (const int32_t ctas : {1, 2, 4, 8}) {
    for (const int64_t batch : {64, 8192}) {
      const MatmulPlan plan(index, batch, UnionTarget(ctas));
      ASSERT_EQ(plan.entry_words(), kWords * ctas);
      const int32_t* entries = plan.tables().data() + plan.entries_offset();
      const int32_t* groups = plan.tables().data() + plan.groups_offset();
      std::set<int32_t> seen;
      for (int32_t i = 0; i < plan.num_items(); ++i) {
        const MatmulPlan::Item item = ItemOf(plan, i);
        for (int32_t e = item.first_entry; e < item.last_entry; ++e) {
          std::vector<int32_t> received(ctas, -1);
          for (int32_t r = 0; r < ctas; ++r) {
            const int32_t* record = entries + (int64_t{e} * ctas + r) * kWords;
            if (record[1] != 0) { EXPECT_TRUE(record[1] >> r & 1); }
            for (int32_t to = 0; to < ctas; ++to) {
              if ((record[1] >> to & 1) == 0) continue;
              EXPECT_EQ(received[to], -1);
              received[to] = record[0];
            }
            int present = 0;
            for (int32_t c = 0; c < 4; ++c) {
              const int32_t block = record[2 + c];
              if (block < 0) continue;
              ++present;
              EXPECT_TRUE(seen.insert(block).second);
              EXPECT_EQ(layout.coords[2 * block], record[0]);
              EXPECT_EQ(layout.coords[2 * block + 1],
                        groups[(int64_t{item.group} * ctas + r) * 4 + c]);
            }
            EXPECT_EQ(present > 0, record[0] >= 0);
          }
          for (int32_t r = 0; r < ctas; ++r) {
            EXPECT_EQ(received[r], entries[(int64_t{e} * ctas + r) * kWords]);
          }
        }
      }
      EXPECT_EQ(static_cast<int64_t>(seen.size()), index.num_blocks());
    }
  }
}

TEST(ClusterRounds, AreAsManyAsTheBusiestCtaNeedsAndShareWhatTheyCan) {
  // Four CTAs of one column. Blocks 0 to 3 are for all; 4 for 0 and 1, 5 for 2 and 3; 6 for 0, 1
  // and 2, 7 for 3: six rounds, in which every block is read once.
  Layout layout{{}, 8, 4};
  const int32_t users[8] = {15, 15, 15, 15, 3, 12, 7, 8};
  for (int32_t i = 0; i < 8; ++i) {
    for (int32_t k = 0; k < 4; ++k) {
      if (users[i] >> k & 1) layout.coords.insert(layout.coords.end(), {i, k});
    }
  }
  const BlockIndex index(layout.view(), false);
  const int32_t columns[4] = {0, 1, 2, 3};
  std::vector<int32_t> table;
  AppendRounds(index, columns, 4, 1, 4, &table);
  EXPECT_EQ(table.size(), 6 * 4 * 4);
  int reads = 0, words = 0;
  for (size_t i = 1; i < table.size(); i += 4) {
    reads += table[i] != 0;
    words += __builtin_popcount(table[i]);
  }
  EXPECT_EQ(reads, 8);
  EXPECT_EQ(words, 24);
}

TEST(ClusterRounds, ReadAgainRatherThanKeepTheBusiestCtaWaiting) {
  // CTA 0 and 1 share blocks 0 and 1, 1 and 2 share 2 and 3, 2 and 0 share 4 and 5: each needs four,
  // no two pairs fit into one round, and in four rounds three CTAs take twelve blocks.
  Layout layout{{0, 0, 0, 1, 1, 0, 1, 1, 2, 1, 2, 2, 3, 1, 3, 2, 4, 0, 4, 2, 5, 0, 5, 2}, 6, 3};
  const BlockIndex index(layout.view(), false);
  const int32_t columns[3] = {0, 1, 2};
  std::vector<int32_t> table;
  AppendRounds(index, columns, 3, 1, 4, &table);
  EXPECT_EQ(table.size(), 4 * 3 * 4);
}

TEST(ClusterRounds, DealGroupsOfLikeLengthTogether) {
  const Layout layout = Random(50, 24, 0.3, 2, 21);
  const BlockIndex index(layout.view(), false);
  std::vector<int32_t> groups(24);
  std::iota(groups.begin(), groups.end(), 0);
  const std::vector<int32_t> dealt = DealToClusters(index, groups, 3, 3);
  ASSERT_EQ(dealt.size(), 27);
  EXPECT_EQ(std::count(dealt.begin(), dealt.end(), -1), 3);
  std::set<int32_t> inputs[9];
  for (int g = 0; g < 9; ++g) {
    for (int c = 0; c < 3; ++c) {
      const int32_t k = dealt[3 * g + c];
      if (k < 0) continue;
      for (int64_t e = index.offsets()[k]; e < index.offsets()[k + 1]; ++e) {
        inputs[g].insert(index.entries()[e].in_block);
      }
    }
    if (g > 0) { EXPECT_LE(inputs[g].size(), inputs[g - 1].size()); }
  }
}

// Checks that lists hold every block once and in order, in multiples of `entries` of a column, and that
// partials are as splits say.
void ExpectWhole(const BlockIndex& index, const StreamCut& cut, int32_t entries_at_once) {
  ASSERT_EQ(static_cast<int64_t>(cut.entries.size()), int64_t{cut.lists} * cut.length);
  std::set<int32_t> blocks;
  std::set<std::pair<int32_t, int32_t>> pieces;  // column, partial
  std::set<int32_t> added_up;
  const auto rank = [](const StreamCut::Entry& e) {
    return e.partial >= 0 ? 0 : e.partial == -1 ? 1 : 2;
  };
  for (int32_t list = 0; list < cut.lists; ++list) {
    const StreamCut::Entry* const entries = cut.entries.data() + int64_t{list} * cut.length;
    EXPECT_EQ(cut.length % entries_at_once, 0);
    bool filling = false;
    int32_t before = -1;
    for (int32_t e = 0; e < cut.length; ++e) {
      const StreamCut::Entry& entry = entries[e];
      EXPECT_EQ(entry.column, entries[e - e % entries_at_once].column) << "taken at once";
      EXPECT_FALSE(filling && entry.column >= 0) << "an entry behind the filling";
      filling = entry.column < 0;
      if (filling) continue;
      if (before >= 0) EXPECT_LE(rank(entries[e - 1]), rank(entry)) << "order of " << e;
      if (entry.column != before) {
        EXPECT_FALSE(before >= 0 && rank(entries[e - 1]) == 2) << "two sums wait on a list";
        EXPECT_EQ(added_up.count(entry.column), 0u) << "a partial behind its sum";
        if (rank(entry) == 2) added_up.insert(entry.column);
        EXPECT_TRUE(pieces.insert({entry.column, entry.partial}).second)
            << "column " << entry.column << " twice";
      }
      before = entry.column;
      const int64_t first = index.offsets()[entry.column];
      const int64_t end = index.offsets()[entry.column + 1];
      if (entry.in_block < 0) {
        EXPECT_TRUE(first == end || e % entries_at_once > 0) << "entries without blocks alone";
        const bool goes_on = e + 1 < cut.length && entries[e + 1].column == entry.column;
        EXPECT_FALSE(goes_on && entries[e + 1].in_block >= 0) << "a block behind the filling";
        continue;
      }
      EXPECT_TRUE(blocks.insert(entry.weight_block).second);
      EXPECT_TRUE(std::any_of(index.entries().begin() + first, index.entries().begin() + end,
                              [&](const BlockIndex::Entry& stored) {
                                return stored.in_block == entry.in_block &&
                                       stored.weight_block == entry.weight_block;
                              }));
    }
  }
  EXPECT_EQ(static_cast<int64_t>(blocks.size()), index.num_blocks());
  int32_t partials = 0;
  for (const StreamCut::Split& split : cut.splits) {
    EXPECT_EQ(split.first_partial, partials);
    EXPECT_GT(split.num_partials, 0);
    const int32_t number = static_cast<int32_t>(&split - cut.splits.data());
    EXPECT_EQ(pieces.erase({split.column, -2 - number}), 1u);
    for (int32_t p = 0; p < split.num_partials; ++p) {
      EXPECT_EQ(pieces.erase({split.column, partials++}), 1u);
    }
  }
  EXPECT_EQ(partials, cut.num_partials);
  for (int32_t k = 0; k < index.out_blocks(); ++k) {
    const bool split = std::any_of(cut.splits.begin(), cut.splits.end(),
                                   [&](const StreamCut::Split& s) { return s.column == k; });
    EXPECT_EQ(pieces.erase({k, -1}), split ? 0u : 1u) << "column " << k;
  }
  EXPECT_TRUE(pieces.empty());
}

TEST(CutIntoStreams, HoldsEveryBlockOnce) {
  for (const double density : {0.0, 0.02, 0.3, 1.0}) {
    for (const int hubs : {0, 1, 3}) {
      const BlockIndex index(Random(70, 23, density, hubs, 11).view(), /*transpose=*/false);
      for (const int64_t lists : {1, 2, 10, 132, 5000}) {
        SCOPED_TRACE(testing::Message() << density << " " << hubs << " " << lists);
        for (const int32_t entries : {1, 2, 4}) {
          const StreamCut cut = CutIntoStreams(index, lists, entries);
          EXPECT_LE(cut.lists, lists);
          ExpectWhole(index, cut, entries);
        }
      }
    }
  }
}

TEST(CutIntoStreams, BalancesAndSplitsOnlyWhereThatPays) {
  const auto mean = [](const BlockIndex& index) { return index.num_blocks() / 132.0; };
  const BlockIndex even(Random(640, 640, 0.016, 0, 12).view(), /*transpose=*/false);
  const StreamCut columns = CutIntoStreams(even, 132);
  EXPECT_EQ(columns.num_partials, 0);
  EXPECT_LE(columns.length, 1.1 * mean(even));
  const BlockIndex hubs(Random(640, 640, 0.012, 5, 12).view(), /*transpose=*/false);
  const StreamCut split = CutIntoStreams(hubs, 132);
  EXPECT_GE(split.splits.size(), 5u);
  EXPECT_LE(split.length, 1.1 * mean(hubs));
}

TEST(MatmulPlan, OfStreamsHasListsForAllSlots) {
  PlanTarget target{/*sm_count=*/132, /*batch_tile=*/64};
  target.kernel = BSPARSE_SM90_STREAM;
  const Layout layout = Random(200, 200, 0.1, 1, 13);
  const BlockIndex index(layout.view(), /*transpose=*/false);
  const MatmulPlan one(index, /*batch=*/64, target);
  EXPECT_EQ(one.num_items(), 132);
  EXPECT_EQ(one.num_entries() % 132, 0);
  EXPECT_EQ(one.entries_offset(), 0);
  EXPECT_EQ(one.splits_offset(), 4 * one.num_entries());
  EXPECT_EQ(static_cast<int64_t>(one.tables().size()),
            4 * one.num_entries() + 3 * one.num_splits());
  EXPECT_LE(one.PredictedBalance(64), 1.25);  // an entry more or less is not worth a partial
  EXPECT_EQ(MatmulPlan(index, /*batch=*/128, target).num_items(), 66);
  target.entry_blocks = 2;
  EXPECT_EQ(MatmulPlan(index, /*batch=*/64, target).num_entries() % (2 * 132), 0);
  target.entry_blocks = 1;
  target.block_cells = 2;
  EXPECT_GE(MatmulPlan(index, /*batch=*/64, target).num_entries(), 4 * index.num_blocks());
}

TEST(MatmulDwPlan, ItemsHoldBlocksOfOneColumn) {
  const Layout layout = Random(60, 45, 0.3, 2, 14);
  const BlockIndex index(layout.view(), false);
  PlanTarget target = UnionTarget(2);
  target.cta_columns = target.columns;
  const MatmulDwPlan plan(index, /*batch=*/8192, target);
  const int32_t* items = plan.tables().data() + plan.items_offset();
  const int32_t* blocks = plan.tables().data() + plan.blocks_offset();
  int32_t next = 0;
  for (int32_t i = 0; i < plan.num_items(); ++i) {
    const int32_t* item = items + 4 * i;
    EXPECT_EQ(item[1], next);
    EXPECT_GT(item[2], item[1]);
    EXPECT_LE(item[2] - item[1], 8);
    for (int32_t b = item[1]; b < item[2]; ++b) EXPECT_EQ(blocks[3 * b + 1], item[0]);
    next = item[2];
  }
  EXPECT_EQ(next, plan.num_blocks());
}

TEST(MatmulPlan, TheDenseProductIsNotSplit) {
  PlanTarget dense;
  dense.sm_count = 132;
  dense.batch_tile = std::numeric_limits<int32_t>::max();
  dense.kernel = BSPARSE_DENSE;
  const Layout layout = Random(400, 60, 0.9, 2, 15);
  const MatmulPlan plan(BlockIndex(layout.view(), false), 64, dense);
  EXPECT_EQ(plan.num_items(), 60);
  EXPECT_EQ(plan.num_splits(), 0);
}

TEST(MatmulDwPlan, TheDenseProductListsBlocksByColumn) {
  PlanTarget dense;
  dense.sm_count = 132;
  dense.batch_tile = std::numeric_limits<int32_t>::max();
  dense.kernel = BSPARSE_DENSE;
  const Layout layout = Random(40, 60, 0.3, 2, 16);
  const MatmulDwPlan plan(BlockIndex(layout.view(), false), 64, dense);
  const int32_t* blocks = plan.tables().data() + plan.blocks_offset();
  for (int32_t b = 1; b < plan.num_blocks(); ++b) {
    EXPECT_GE(blocks[3 * b + 1], blocks[3 * b - 2]);
  }
}

TEST(MatmulDwPlan, ListsEveryBlockAndSplitsTheBatchWhenThereAreFew) {
  const Layout few = Random(4, 4, 1.0, 0, 6);
  const BlockIndex index(few.view(), false);
  const MatmulDwPlan plan(index, /*batch=*/16384, kTarget);
  EXPECT_EQ(plan.num_blocks(), 16);
  EXPECT_GT(plan.batch_splits(), 1);
  std::set<int32_t> seen;
  for (int32_t b = 0; b < plan.num_blocks(); ++b) {
    const int32_t* row = plan.tables().data() + 3 * b;
    EXPECT_EQ(few.coords[2 * row[2]], row[0]);
    EXPECT_EQ(few.coords[2 * row[2] + 1], row[1]);
    EXPECT_TRUE(seen.insert(row[2]).second);
  }
  const Layout many = Random(100, 100, 0.5, 0, 7);
  EXPECT_EQ(MatmulDwPlan(BlockIndex(many.view(), false), 16384, kTarget).batch_splits(), 1);
  EXPECT_EQ(MatmulDwPlan(index, 1, kTarget).batch_splits(), 1);
}

TEST(LayoutPlans, EqualLayoutsShareOneObject) {
  const Layout a = Random(30, 30, 0.2, 0, 8);
  const Layout b = a;  // the same content elsewhere in memory
  std::string error;
  const auto first = FindLayoutPlans(a.view(), &error);
  EXPECT_EQ(first, FindLayoutPlans(b.view(), &error));
  Layout wider = a;
  wider.out_blocks += 1;
  EXPECT_NE(first, FindLayoutPlans(wider.view(), &error));
  EXPECT_EQ(first->matmul_plan(false, 100, kTarget), first->matmul_plan(false, 128, kTarget));
  EXPECT_NE(first->matmul_plan(false, 100, kTarget), first->matmul_plan(true, 100, kTarget));
  EXPECT_NE(first->matmul_plan(false, 100, kTarget), first->matmul_plan(false, 4096, kTarget));
}

TEST(LayoutPlans, RejectsBadLayouts) {
  std::string error;
  EXPECT_EQ(FindLayoutPlans(Layout{{5, 0}, 2, 2}.view(), &error), nullptr);
  EXPECT_NE(error.find("coords[0] = (5, 0)"), std::string::npos);
}

TEST(LayoutPlans, OutliveTheirEviction) {
  std::string error;
  const Layout kept = Random(20, 20, 0.3, 0, 9);
  const auto plans = FindLayoutPlans(kept.view(), &error);
  for (int i = 0; i < 2 * kLayoutCacheSize; ++i) {
    FindLayoutPlans(Random(20, 20, 0.3, 0, 100 + i).view(), &error);
  }
  EXPECT_EQ(plans->index(false).num_blocks(), kept.view().num_blocks);
  EXPECT_NE(plans, FindLayoutPlans(kept.view(), &error));
}

TEST(LayoutPlans, MayBeAskedFromManyThreads) {
  const Layout layout = Random(100, 100, 0.1, 1, 10);
  std::vector<std::thread> threads;
  std::vector<const MatmulPlan*> plans(8);
  for (size_t t = 0; t < plans.size(); ++t) {
    threads.emplace_back([&, t] {
      std::string error;
      plans[t] = FindLayoutPlans(layout.view(), &error)->matmul_plan(true, 64, kTarget).get();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const MatmulPlan* plan : plans) EXPECT_EQ(plan, plans[0]);
}

TEST(PlanCApi, DescribesAndReportsErrors) {
  const Layout layout = Random(50, 40, 0.2, 1, 11);
  bsparse_plan_request request{layout.coords.data(), layout.view().num_blocks, 50, 40,
                               /*batch=*/64, 132, 128, 2, BSPARSE_SM80, 1, 1, 1, 0, 0};
  char error[256];
  bsparse_plan* const plan = bsparse_plan_matmul(&request, 1, error, sizeof(error));
  ASSERT_NE(plan, nullptr);
  bsparse_plan_summary summary;
  bsparse_plan_describe(plan, &summary);
  EXPECT_GE(summary.num_items, 50);
  EXPECT_EQ(summary.tables_size,
            4 * summary.num_items + 2 * request.num_blocks + 3 * summary.num_splits + 50);
  EXPECT_GE(summary.balance, 1.0);
  bsparse_plan_free(plan);
  request.in_blocks = 3;
  EXPECT_EQ(bsparse_plan_matmul(&request, 0, error, sizeof(error)), nullptr);
  EXPECT_NE(std::string(error).find("out of range"), std::string::npos);
}

}  // namespace
}  // namespace bsparse
