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

// Of a stage of so many CTAs, whose words begin at `stage`, the number of a box.
int32_t BoxOf(const int32_t* stage, int32_t ctas, int32_t box) {
  const int32_t* const words = stage + (box % ctas) * BSPARSE_SWEEP_STAGE_WORDS;
  const int32_t i = box / ctas;
  return static_cast<uint32_t>(words[4 + i / 2]) >> 16 * (i % 2) & 0xffff;
}

// Of 16-bit blocks unless said otherwise.
SweepShape Shape(int32_t block_size, int32_t ctas, int32_t stage_kib, int32_t batch_tile = 64,
                 int32_t box_features = 64) {
  return SweepShapeOf(ctas, BSPARSE_SWEEP_SUMS / batch_tile / block_size, 16 / block_size, box_features / block_size,
                      batch_tile, stage_kib);
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
          uint32_t header[4];
          std::memcpy(header, record + BSPARSE_SWEEP_HEADER_BYTES * warp, sizeof(header));
          ASSERT_EQ(header[2] >> 16, static_cast<uint32_t>(boxes));
          ASSERT_EQ(header[2] & 0xffff, static_cast<uint32_t>(taken));
          ASSERT_EQ(header[3], 0u);
          for (int32_t c = 0; c < warp_columns; ++c) {
            const int32_t count = header[c / 4] >> c % 4 * 8 & 0xff;
            for (int32_t b = 0; b < count; ++b, ++taken) {
              const int32_t place = record[BSPARSE_SWEEP_HEADER_BYTES * BSPARSE_SWEEP_WARPS + taken];
              const int32_t box = place / shape.box_blocks;
              ASSERT_LT(box, boxes);
              const int32_t number =
                  BoxOf(stage - cta * BSPARSE_SWEEP_STAGE_WORDS, shape.ctas, box);
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
        // Every other shape is wide and in TF32; a heavy box comes in several stages.
        const bool other = (block_size == 8) == transpose;
        const TestLayout layout = LayoutWhere(133, 211, [](int32_t c, int32_t k) {
          return (c * 31 + k * 17) % 13 == 0 || c == 40 || (c / 2 == 30 && k % 3 != 0);
        });
        const BlockIndex index(layout.view(), transpose);
        const SweepShape shape = Shape(block_size, ctas, 37, other ? 32 : 64, other ? 32 : 64);
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

TEST(SweepShapeOf, KnowsSizesByTheTile) {
  const SweepShape bf16 = SweepShapeOf(2, 64, 2, 8, 64, 37);  // blocks of 8
  EXPECT_EQ(bf16.block_bytes, 8 * 8 * 2);
  EXPECT_EQ(bf16.box_bytes, 64 * 64 * 2);
  const SweepShape wide_tf32 = SweepShapeOf(2, 64, 1, 2, 32, 37);  // of 16
  EXPECT_EQ(wide_tf32.block_bytes, 16 * 16 * 4);
  EXPECT_EQ(wide_tf32.box_bytes, 32 * 32 * 4);
}

TEST(CutIntoSweeps, ADenseBoxComesInSeveralStages) {
  const TestLayout layout = LayoutWhere(64, 64, [](int32_t, int32_t) { return true; });
  const BlockIndex index(layout.view(), false);
  // A quarter of a row of blocks takes 2 KiB: 14 of the 32 fit beside the box and the record.
  const SweepStages cut = CutIntoSweeps(index, Shape(8, 1, 37));
  EXPECT_EQ(cut.items[2] - cut.items[1], 8 * 3);
  EXPECT_EQ(cut.fullest_stage, 37);
  const SweepStages small = CutIntoSweeps(index, Shape(8, 1, 11));
  EXPECT_EQ(small.items[2] - small.items[1], 8 * 32);
  EXPECT_EQ(small.fullest_stage, 11);
}

// The sizes that a record has for places, too: what is stored in a stage is counted in bytes.
TEST(CutIntoSweeps, NoStageIsFullerThanAllowed) {
  for (const int32_t batch_tile : {32, 64}) {
    for (const int32_t box_features : {32, 64}) {
      for (const double density : {0.02, 0.3, 1.0}) {
        const TestLayout layout = RandomLayout(70, 300, density, 11);
        const SweepShape shape = Shape(8, 2, 75, batch_tile, box_features);
        const SweepStages cut = CutIntoSweeps(BlockIndex(layout.view(), false), shape);
        EXPECT_LE(cut.fullest_stage, 75);
        int64_t taken = 0;
        for (size_t s = 0; s < cut.stages.size(); s += BSPARSE_SWEEP_STAGE_WORDS) {
          EXPECT_LE(16 * (cut.stages[s + 1] & 0xffff), BSPARSE_SWEEP_RECORD_BYTES);
          taken += cut.stages[s + 3];
        }
        EXPECT_EQ(taken, cut.num_packed);
      }
    }
  }
}

TEST(CutIntoSweeps, LeavesOutBoxesThatNobodyUses) {
  const TestLayout layout = LayoutWhere(64, 64, [](int32_t c, int32_t) { return c / 8 == 1 || c / 8 == 5; });
  const SweepShape shape = Shape(8, 2, 75);
  const SweepStages cut = CutIntoSweeps(BlockIndex(layout.view(), false), shape);
  std::set<int32_t> boxes;
  for (size_t s = 0; s < cut.stages.size(); s += shape.ctas * BSPARSE_SWEEP_STAGE_WORDS) {
    for (int32_t i = 0; i < cut.stages[s + 1] >> 16; ++i) {
      boxes.insert(BoxOf(cut.stages.data() + s, shape.ctas, i));
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
