// Layouts checked, and every block found once.

#include "cc/plan/block_index.h"

#include <cstdint>
#include <set>
#include <string>

#include "cc/plan/layout_testing.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

TEST(ValidateLayout, TakesAnyOrderAndNoBlocks) {
  EXPECT_EQ(ValidateLayout(RandomWithHubs(7, 5, 0.5, 0, 1).view()), "");
  EXPECT_EQ(ValidateLayout(TestLayout{3, 3, {}}.view()), "");
}

TEST(ValidateLayout, NamesTheFirstBadCoordinate) {
  EXPECT_EQ(ValidateLayout(TestLayout{2, 2, {0, 0, 1, 2}}.view()),
            "coords[1] = (1, 2) is out of range: the layout has 2 input blocks and 2 output blocks");
  EXPECT_NE(ValidateLayout(TestLayout{2, 2, {0, -1}}.view()).find("coords[0] = (0, -1)"),
            std::string::npos);
  EXPECT_EQ(ValidateLayout(TestLayout{2, 2, {1, 1, 0, 0, 1, 1}}.view()),
            "coords[2] = (1, 1) repeats coords[0]: each block may be given once");
}

TEST(ValidateLayout, DoesNotOverflowOnHugeLayouts) {
  const int32_t last = 2147483646;
  EXPECT_EQ(ValidateLayout(TestLayout{last + 1, last + 1, {last, last, last, last - 1}}.view()), "");
}

TEST(BlockIndex, ListsEachBlockOnceInOrder) {
  const TestLayout layout = RandomWithHubs(9, 14, 0.3, 1, 2);
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
  const TestLayout layout = RandomWithHubs(6, 5, 0.4, 1, 3);
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

}  // namespace
}  // namespace bsparse
