// Plans of sweeps: every stored block once, where its warp's header and its place say.

#include "cc/plan/sweep_stages.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <set>
#include <vector>

#include "cc/plan/block_index.h"
#include "cc/plan/layout_testing.h"
#include "cc/plan/matmul_plan.h"
#include "cuda/bsparse_cuda.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

SweepShape Shape(int32_t block_size, int32_t ctas, int32_t stage_kib) {
  return {ctas, 512 / block_size, 16 / block_size, 64 / block_size, 1024 * stage_kib};
}

// Calls visit(group, cta, warp, column, in_block, weight_block) for each block as a kernel would find it.
template <class Visit>
void ForEachBlock(const SweepStages& cut, const SweepShape& shape, const Visit& visit) {
  const int32_t columns = shape.ctas * shape.cta_columns;
  const int32_t warp_columns = shape.cta_columns / BSPARSE_SWEEP_WARPS;
  const auto* const records = reinterpret_cast<const uint8_t*>(cut.records.data());
  for (size_t i = 0; i < cut.items.size(); i += 4) {
    for (int32_t s = cut.items[i + 1]; s < cut.items[i + 2]; ++s) {
      for (int32_t cta = 0; cta < shape.ctas; ++cta) {
        const int32_t* const stage =
            cut.stages.data() + (int64_t{s} * shape.ctas + cta) * BSPARSE_SWEEP_STAGE_WORDS;
        const uint8_t* const record = records + int64_t{stage[0]} * 16;
        const int32_t boxes = stage[1] >> 16;
        ASSERT_LE((stage[0] + (stage[1] & 0xffff)) * int64_t{4}, static_cast<int64_t>(cut.records.size()));
        int32_t taken = 0;
        for (int32_t warp = 0; warp < BSPARSE_SWEEP_WARPS; ++warp) {
          uint32_t header[2];
          std::memcpy(header, record + 8 * warp, 8);
          ASSERT_EQ(header[1] >> 16, static_cast<uint32_t>(boxes));
          ASSERT_EQ(header[1] & 0xffff, static_cast<uint32_t>(taken));
          for (int32_t c = 0; c < warp_columns; ++c) {
            const int32_t count = header[0] >> 8 * c & 0xff;
            for (int32_t b = 0; b < count; ++b, ++taken) {
              const int32_t place = record[8 * BSPARSE_SWEEP_WARPS + taken];
              const int32_t box = place / shape.box_blocks;
              ASSERT_LT(box, boxes);
              const int32_t number = static_cast<uint32_t>(stage[4 + box / 2]) >> 16 * (box % 2) & 0xffff;
              const int32_t slot = cta * shape.cta_columns + warp * warp_columns + c;
              visit(cut.items[i], cta, warp, cut.groups[cut.items[i] * columns + slot],
                    number * shape.box_blocks + place % shape.box_blocks,
                    cut.order[stage[2] + taken]);
            }
          }
        }
        ASSERT_EQ(taken, stage[3]);
      }
    }
  }
}

TEST(CutIntoSweeps, HasEveryBlockOnce) {
  for (const int32_t block_size : {8, 16}) {
    for (const int32_t ctas : {1, 2}) {
      for (const bool transpose : {false, true}) {
        const TestLayout layout = RandomLayout(133, 211, 0.07, 3);
        const BlockIndex index(layout.view(), transpose);
        const SweepShape shape = Shape(block_size, ctas, 37);
        const SweepStages cut = CutIntoSweeps(index, shape);
        std::set<int32_t> found;
        ForEachBlock(cut, shape, [&](int32_t, int32_t, int32_t, int32_t column, int32_t in_block,
                                     int32_t weight_block) {
          const int32_t c = layout.coords[2 * weight_block], k = layout.coords[2 * weight_block + 1];
          EXPECT_EQ(in_block, transpose ? k : c);
          EXPECT_EQ(column, transpose ? c : k);
          EXPECT_TRUE(found.insert(weight_block).second);
        });
        EXPECT_EQ(found.size(), layout.coords.size() / 2);
        EXPECT_EQ(cut.num_packed, static_cast<int32_t>(found.size()));
        EXPECT_EQ(cut.order.size() % 4, 0u);
        EXPECT_LE(cut.fullest_stage, 37);
        std::set<int32_t> columns(cut.groups.begin(), cut.groups.end());
        columns.erase(-1);
        EXPECT_EQ(static_cast<int32_t>(columns.size()), index.out_blocks());
      }
    }
  }
}

TEST(CutIntoSweeps, ADenseBoxFitsInAStageOfItsOwn) {
  const TestLayout layout = LayoutWhere(64, 64, [](int32_t, int32_t) { return true; });
  const SweepShape shape = Shape(8, 1, 37);
  const SweepStages cut = CutIntoSweeps(BlockIndex(layout.view(), false), shape);
  EXPECT_EQ(cut.items[2] - cut.items[1], 8);
  EXPECT_EQ(cut.fullest_stage, 73);  // 1 + 8 + 64
}

TEST(CutIntoSweeps, LeavesOutBoxesThatNobodyUses) {
  const TestLayout layout = LayoutWhere(64, 64, [](int32_t c, int32_t) { return c / 8 == 1 || c / 8 == 5; });
  const SweepShape shape = Shape(8, 2, 75);
  const SweepStages cut = CutIntoSweeps(BlockIndex(layout.view(), false), shape);
  std::set<int32_t> boxes;
  for (size_t s = 0; s < cut.stages.size(); s += BSPARSE_SWEEP_STAGE_WORDS) {
    for (int32_t i = 0; i < cut.stages[s + 1] >> 16; ++i) {
      boxes.insert(static_cast<uint32_t>(cut.stages[s + 4 + i / 2]) >> 16 * (i % 2) & 0xffff);
    }
  }
  EXPECT_EQ(boxes, (std::set<int32_t>{1, 5}));
}

// The most that warps of a group differ by, over the most that one of them has.
double Imbalance(const TestLayout& layout) {
  const SweepShape shape = Shape(16, 2, 37);
  const SweepStages cut = CutIntoSweeps(BlockIndex(layout.view(), false), shape);
  const size_t warps = static_cast<size_t>(shape.ctas) * BSPARSE_SWEEP_WARPS;
  std::vector<int64_t> blocks(cut.items.size() / 4 * warps, 0);
  ForEachBlock(cut, shape, [&](int32_t group, int32_t cta, int32_t warp, int32_t, int32_t, int32_t) {
    ++blocks[group * warps + cta * BSPARSE_SWEEP_WARPS + warp];
  });
  double worst = 0;
  for (auto begin = blocks.begin(); begin != blocks.end(); begin += warps) {
    const auto [least, most] = std::minmax_element(begin, begin + warps);
    worst = std::max(worst, static_cast<double>(*most - *least) / *most);
  }
  return worst;
}

TEST(CutIntoSweeps, WarpsOfAGroupHaveAboutTheSameToDo) {
  EXPECT_LE(Imbalance(RandomLayout(256, 256, 0.1, 7)), 0.2);  // as they come 0.4
  // Columns of all weights, from none to full: those of a group differ by up to twice, and add up in pairs.
  const auto stored = [](int32_t c, int32_t k) { return c < k * 37 % 256; };
  EXPECT_LE(Imbalance(LayoutWhere(256, 256, stored)), 0.34);
  // Hubs, four times as heavy as others and scattered among them, have a group of their own.
  const auto hubs = [](int32_t c, int32_t k) { return c % (k % 4 == 0 ? 2 : 8) == 0; };
  EXPECT_EQ(Imbalance(LayoutWhere(256, 256, hubs)), 0.0);
}

TEST(CutIntoSweeps, OfALayoutWithoutBlocksItemsHaveEmptyStages) {
  const TestLayout layout{10, 100, {}};
  const SweepShape shape = Shape(16, 2, 75);
  const SweepStages cut = CutIntoSweeps(BlockIndex(layout.view(), false), shape);
  EXPECT_EQ(cut.items, (std::vector<int32_t>{0, 0, 1, -1, 1, 1, 2, -1}));
  EXPECT_EQ(cut.num_packed, 0);
  EXPECT_EQ(cut.fullest_stage, 1);
  ForEachBlock(cut, shape, [](int32_t, int32_t, int32_t, int32_t, int32_t, int32_t) { FAIL(); });
}

TEST(MatmulPlan, OfASweepHasItsTablesInOrder) {
  const TestLayout layout = RandomLayout(40, 70, 0.1, 5);
  const BlockIndex index(layout.view(), false);
  PlanTarget target;
  target.sm_count = 132;
  target.batch_tile = 64;
  target.kernel = BSPARSE_SM90_SWEEP;
  target.columns = 64;
  target.cta_columns = 32;
  target.packed = 1;
  target.chunk_blocks = 4;
  target.chunks = 56;
  const MatmulPlan plan(index, 8192, target);
  const SweepStages cut = CutIntoSweeps(index, Shape(16, 2, 56));
  const std::vector<int32_t>& tables = plan.tables();
  EXPECT_EQ(plan.num_items(), static_cast<int32_t>(cut.items.size() / 4));
  EXPECT_EQ(plan.num_packed(), cut.num_packed);
  EXPECT_EQ(plan.fullest_stage(), cut.fullest_stage);
  EXPECT_EQ(plan.entries_offset() % 4, 0);
  const auto starts_with = [&](int64_t offset, const std::vector<int32_t>& part) {
    return std::equal(part.begin(), part.end(), tables.begin() + offset);
  };
  const auto order = plan.entries_offset() + static_cast<int64_t>(cut.stages.size());
  EXPECT_EQ(order, plan.entries_offset() + plan.num_entries() * plan.entry_words());
  EXPECT_TRUE(starts_with(0, cut.items));
  EXPECT_TRUE(starts_with(plan.entries_offset(), cut.stages));
  EXPECT_TRUE(starts_with(order, cut.order));
  EXPECT_TRUE(starts_with(order + static_cast<int64_t>(cut.order.size()), cut.records));
  EXPECT_TRUE(starts_with(plan.groups_offset(), cut.groups));
  EXPECT_GE(plan.PredictedBalance(8192), 1.0);
}

}  // namespace
}  // namespace bsparse
