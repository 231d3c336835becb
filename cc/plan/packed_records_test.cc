// Packed plans: every stored block once, where its CTA's records say.

#include <algorithm>
#include <cstdint>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "cc/plan/block_index.h"
#include "cc/plan/matmul_plan.h"
#include "cc/plan/packed_records.h"
#include "cuda/bsparse_cuda.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

struct Layout {
  std::vector<int32_t> coords;
  int32_t in_blocks, out_blocks;
  LayoutView view() const {
    return {coords.data(), static_cast<int64_t>(coords.size() / 2), in_blocks, out_blocks};
  }
};

Layout Random(int32_t in_blocks, int32_t out_blocks, double density, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::pair<int32_t, int32_t>> blocks;
  for (int32_t c = 0; c < in_blocks; ++c) {
    for (int32_t k = 0; k < out_blocks; ++k) {
      if (std::uniform_real_distribution<>(0, 1)(random) < density) blocks.emplace_back(c, k);
    }
  }
  std::shuffle(blocks.begin(), blocks.end(), random);
  Layout layout{{}, in_blocks, out_blocks};
  for (const auto& [c, k] : blocks) layout.coords.insert(layout.coords.end(), {c, k});
  return layout;
}

struct Units {
  int32_t entry_blocks, column_blocks;
};

PlanTarget Target(const Units& units, int32_t ctas) {
  PlanTarget target;
  target.sm_count = 132;
  target.batch_tile = 256;
  target.kernel = BSPARSE_SM90;
  target.columns = 8 * ctas;
  target.cta_columns = 8;
  target.shared_columns = 4;
  target.entry_blocks = units.entry_blocks;
  target.column_blocks = units.column_blocks;
  target.packed = 1;
  return target;
}

TEST(GatherUnits, HoldEveryBlockAtItsPlace) {
  const Layout layout = Random(13, 7, 0.3, 1);  // no multiples of a unit's sides
  const BlockIndex index(layout.view(), false);
  const UnitIndex units = GatherUnits(index, 4, 2);
  EXPECT_EQ(units.index.in_blocks(), 4);
  EXPECT_EQ(units.index.out_blocks(), 4);
  int64_t found = 0;
  for (int32_t k = 0; k < units.index.out_blocks(); ++k) {
    for (int64_t e = units.index.offsets()[k]; e < units.index.offsets()[k + 1]; ++e) {
      const BlockIndex::Entry& unit = units.index.entries()[e];
      for (int32_t i = 0; i < 8; ++i) {
        const int32_t block = units.weight_blocks[8 * unit.weight_block + i];
        if (block < 0) continue;
        ++found;
        EXPECT_EQ(layout.coords[2 * block], 4 * unit.in_block + i / 2);
        EXPECT_EQ(layout.coords[2 * block + 1], 2 * k + i % 2);
      }
    }
  }
  EXPECT_EQ(found, index.num_blocks());
}

class PackedPlan : public testing::TestWithParam<std::pair<Units, int32_t>> {};

TEST_P(PackedPlan, RecordsNameEveryBlockOnceInOrder) {
  const auto& [units, ctas] = GetParam();
  const Layout layout = Random(50, 61, 0.12, 2);
  const BlockIndex index(layout.view(), false);
  for (const int64_t batch : {64, 8192}) {
    const PlanTarget target = Target(units, ctas);
    const MatmulPlan plan(index, batch, target);
    ASSERT_EQ(plan.entry_words(), BSPARSE_PACKED_RECORD_WORDS * ctas);
    const int32_t* const entries = plan.tables().data() + plan.entries_offset();
    const int32_t* const order = entries + plan.num_entries() * plan.entry_words();
    const int32_t* const groups = plan.tables().data() + plan.groups_offset();
    const int32_t square = units.column_blocks * units.column_blocks;
    ASSERT_EQ(order + int64_t{plan.num_packed()} * square,
              plan.tables().data() + plan.splits_offset());
    std::set<int32_t> seen;
    for (int32_t i = 0; i < plan.num_items(); ++i) {
      const int32_t* const item = plan.tables().data() + 4 * i;
      for (int32_t cta = 0; cta < ctas; ++cta) {
        int32_t expected = -1;  // a CTA's squares lie one behind the other
        for (int32_t e = item[1]; e < item[2]; ++e) {
          const int32_t* const record =
              entries + (int64_t{e} * ctas + cta) * BSPARSE_PACKED_RECORD_WORDS;
          if (expected >= 0) { EXPECT_EQ(record[2], expected); }
          expected = record[2];
          for (int32_t bit = 0; bit < 32; ++bit) {
            if ((static_cast<uint32_t>(record[3]) >> bit & 1) == 0) continue;
            const int32_t column = groups[(int64_t{item[0]} * ctas + cta) * 8 + bit % 8];
            const int32_t inputs = record[0] * units.entry_blocks + bit / 8 * units.column_blocks;
            bool any = false;
            for (int32_t b = 0; b < square; ++b) {
              const int32_t block = order[int64_t{expected} * square + b];
              if (block < 0) continue;
              any = true;
              EXPECT_TRUE(seen.insert(block).second);
              EXPECT_EQ(layout.coords[2 * block], inputs + b / units.column_blocks);
              EXPECT_EQ(layout.coords[2 * block + 1],
                        column * units.column_blocks + b % units.column_blocks);
            }
            EXPECT_TRUE(any);
            ++expected;
          }
        }
      }
    }
    EXPECT_EQ(seen.size(), static_cast<size_t>(index.num_blocks()));
  }
}

INSTANTIATE_TEST_SUITE_P(
    UnitsAndClusters, PackedPlan,
    testing::Values(std::pair(Units{1, 1}, 1), std::pair(Units{2, 1}, 2), std::pair(Units{2, 2}, 1),
                    std::pair(Units{4, 2}, 4), std::pair(Units{2, 1}, 8)));

}  // namespace
}  // namespace bsparse
