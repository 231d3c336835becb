// Items hold every block once, and are balanced; splits are added up in order.

#include "cc/plan/matmul_plan.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <set>
#include <vector>

#include "cc/plan/block_index.h"
#include "cc/plan/layout_testing.h"
#include "cuda/bsparse_cuda.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

constexpr PlanTarget kTarget{/*sm_count=*/132, /*batch_tile=*/128, /*ctas_per_sm=*/2};

MatmulPlan::Item ItemOf(const MatmulPlan& plan, int32_t i) {
  const int32_t* row = plan.tables().data() + plan.items_offset() + 4 * i;
  return {row[0], row[1], row[2], row[3]};
}

// A hub column of so many blocks beside columns of one.
TestLayout Hub(int32_t blocks) {
  TestLayout layout{blocks, 16, {}};
  for (int32_t k = 0; k < 16; ++k) {
    for (int32_t c = 0; c < (k == 0 ? blocks : 1); ++c) {
      layout.coords.insert(layout.coords.end(), {c, k});
    }
  }
  return layout;
}

TEST(MatmulPlan, ItemsCoverEveryColumnOnceHeaviestFirst) {
  for (const int hubs : {0, 1, 3}) {
    const TestLayout layout = RandomWithHubs(200, 150, 0.05, hubs, 3);
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
  const TestLayout layout = RandomWithHubs(400, 60, 0.02, 2, 4);
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
  const TestLayout layout = RandomWithHubs(576, 576, 0.03, 2, 5);
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
  TestLayout layout{64, 64, {}};
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
  const BlockIndex index(TestLayout{2, 3, {0, 1}}.view(), false);
  const MatmulPlan plan(index, 1, kTarget);
  EXPECT_EQ(plan.num_items(), 3);
  const BlockIndex nothing(TestLayout{2, 3, {}}.view(), false);
  EXPECT_EQ(MatmulPlan(nothing, 0, kTarget).num_items(), 3);
  EXPECT_EQ(MatmulPlan(nothing, 100, kTarget).PredictedBalance(100), 1.0);
}

TEST(MatmulPlan, AUnionIsSplitOnlyIfThatPaysForAnotherKernel) {
  PlanTarget large = UnionTarget(1, 4, 2);  // blocks of 128, whose entries take longer
  large.columns = large.cta_columns = large.shared_columns = 1;
  const TestLayout small_hub = Hub(30), hub = Hub(100);
  const BlockIndex small(small_hub.view(), false), long_column(hub.view(), false);
  EXPECT_EQ(MatmulPlan(small, 256, UnionTarget(1, 4, 2)).num_splits(), 0);
  EXPECT_EQ(MatmulPlan(small, 256, large).num_splits(), 1);
  EXPECT_EQ(MatmulPlan(long_column, 256, UnionTarget(1, 4, 2)).num_splits(), 1);
}

TEST(MatmulPlan, RoundsGiveEveryCtaWhatItsColumnsUse) {
  const TestLayout layout = RandomWithHubs(60, 45, 0.15, 2, 13);
  const BlockIndex index(layout.view(), false);
  constexpr int32_t kWords = 8;
  for (const int32_t ctas : {1, 2, 4, 8}) {
    for (const int64_t batch : {64, 8192}) {
      const MatmulPlan plan(index, batch, UnionTarget(ctas, 4, 2));
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

TEST(MatmulPlan, OfStreamsHasListsForAllSlots) {
  PlanTarget target{/*sm_count=*/132, /*batch_tile=*/64};
  target.kernel = BSPARSE_SM90_STREAM;
  const TestLayout layout = RandomWithHubs(200, 200, 0.1, 1, 13);
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
  const TestLayout layout = RandomWithHubs(60, 45, 0.3, 2, 14);
  const BlockIndex index(layout.view(), false);
  PlanTarget target = UnionTarget(2, 4, 2);
  target.cta_columns = target.columns;
  const MatmulDwPlan plan(index, /*batch=*/8192, target);
  const int32_t* items = plan.tables().data() + plan.items_offset();
  const int32_t* blocks = plan.tables().data() + plan.blocks_offset();
  int32_t next = 0, longest = 0;
  for (int32_t i = 0; i < plan.num_items(); ++i) {
    const int32_t* item = items + 4 * i;
    EXPECT_EQ(item[1], next);
    EXPECT_GT(item[2], item[1]);
    EXPECT_LE(item[2] - item[1], 8);
    for (int32_t b = item[1]; b < item[2]; ++b) EXPECT_EQ(blocks[3 * b + 1], item[0]);
    longest = std::max(longest, item[2] - item[1]);
    next = item[2];
  }
  EXPECT_EQ(next, plan.num_blocks());
  EXPECT_EQ(plan.chunks(), longest);
}

PlanTarget DenseTarget() {
  PlanTarget dense;
  dense.sm_count = 132;
  dense.batch_tile = std::numeric_limits<int32_t>::max();
  dense.kernel = BSPARSE_DENSE;
  return dense;
}

TEST(MatmulPlan, TheDenseProductIsNotSplit) {
  const TestLayout layout = RandomWithHubs(400, 60, 0.9, 2, 15);
  const MatmulPlan plan(BlockIndex(layout.view(), false), 64, DenseTarget());
  EXPECT_EQ(plan.num_items(), 60);
  EXPECT_EQ(plan.num_splits(), 0);
}

TEST(MatmulDwPlan, TheDenseProductListsBlocksByColumn) {
  const TestLayout layout = RandomWithHubs(40, 60, 0.3, 2, 16);
  const MatmulDwPlan plan(BlockIndex(layout.view(), false), 64, DenseTarget());
  const int32_t* blocks = plan.tables().data() + plan.blocks_offset();
  for (int32_t b = 1; b < plan.num_blocks(); ++b) {
    EXPECT_GE(blocks[3 * b + 1], blocks[3 * b - 2]);
  }
}

TEST(MatmulDwPlan, ListsEveryBlockAndSplitsTheBatchWhenThereAreFew) {
  const TestLayout few = RandomWithHubs(4, 4, 1.0, 0, 6);
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
  const TestLayout many = RandomWithHubs(100, 100, 0.5, 0, 7);
  EXPECT_EQ(MatmulDwPlan(BlockIndex(many.view(), false), 16384, kTarget).batch_splits(), 1);
  EXPECT_EQ(MatmulDwPlan(index, 1, kTarget).batch_splits(), 1);
}

TEST(MatmulDwPlan, SplitsTheBatchSoThatTheLastRoundIsFull) {
  // 280 blocks in 264 slots: two rounds of the whole batch, of which the second is nearly empty.
  const TestLayout layout = RandomWithHubs(14, 20, 1.0, 0, 8);
  const MatmulDwPlan plan(BlockIndex(layout.view(), false), /*batch=*/16384, kTarget);
  const int64_t parts = int64_t{280} * plan.batch_splits(), slots = 264;
  EXPECT_GT(plan.batch_splits(), 1);
  EXPECT_GE(parts, 0.8 * ((parts - 1) / slots + 1) * slots);
}

}  // namespace
}  // namespace bsparse
