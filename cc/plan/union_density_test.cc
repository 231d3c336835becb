#include "cc/plan/union_density.h"

#include <cstdint>
#include <random>
#include <vector>

#include "cc/plan/block_index.h"
#include "cc/plan/column_groups.h"
#include "cc/plan/layout_testing.h"
#include "cc/plan/layout_plans.h"
#include "cc/plan/packed_records.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

// Some columns have ten times as many blocks as others.
TestLayout ScaleFree(int32_t size) {
  std::mt19937 random(2);
  return LayoutWhere(size, size, [&](int32_t c, int32_t k) {
    const double weight = 8.0 / (8 + c) + 8.0 / (8 + k);
    return std::uniform_real_distribution<>(0, 1)(random) < weight / 2;
  });
}

double DensityOf(const TestLayout& layout, int32_t unit_blocks, bool transpose = false) {
  return UnionDensity(BlockIndex(layout.view(), transpose), unit_blocks);
}

// Of all neighbourhoods of union tiles, as plans have them.
double Counted(const TestLayout& layout, int32_t unit_blocks) {
  const UnitIndex units =
      GatherUnits(BlockIndex(layout.view(), /*transpose=*/false), unit_blocks, unit_blocks);
  const BlockIndex& index = units.index;
  const std::vector<int32_t> groups = GroupColumns(index, 8, 4);
  int64_t used = 0;
  for (size_t first = 0; first < groups.size(); first += 4) {
    std::vector<bool> has(index.in_blocks(), false);
    for (size_t i = first; i < first + 4; ++i) {
      if (groups[i] < 0) continue;
      for (int64_t e = index.offsets()[groups[i]]; e < index.offsets()[groups[i] + 1]; ++e) {
        used += !has[index.entries()[e].in_block];
        has[index.entries()[e].in_block] = true;
      }
    }
  }
  return static_cast<double>(used) / (groups.size() / 4.0 * index.in_blocks());
}

TEST(UnionDensity, IsNearlyThatOfThePlansNeighbourhoods) {
  for (const int32_t unit_blocks : {1, 2}) {
    for (const TestLayout& layout :
         {RandomLayout(256, 256, 0.2, 1), RandomLayout(256, 256, 0.03, 1), RandomLayout(64, 512, 0.1, 1), ScaleFree(256)}) {
      const double counted = Counted(layout, unit_blocks);
      EXPECT_NEAR(DensityOf(layout, unit_blocks), counted, 0.25 * counted)
          << layout.in_blocks << " " << layout.coords.size() / 2 << " " << unit_blocks;
    }
  }
}

TEST(UnionDensity, OfColumnsThatAreAlikeIsTheirOwn) {
  const TestLayout layout = LayoutWhere(120, 120, [](int32_t c, int32_t k) { return c / 12 == k / 12; });
  EXPECT_DOUBLE_EQ(DensityOf(layout, 1), 0.1);
  EXPECT_NEAR(DensityOf(layout, 2), 0.1, 0.06);  // six columns of units have no fours
}

TEST(UnionDensity, OfColumnsWithNothingInCommonIsTheirSum) {
  const TestLayout layout = LayoutWhere(64, 64, [](int32_t c, int32_t k) { return c == k; });
  EXPECT_DOUBLE_EQ(DensityOf(layout, 1), 4.0 / 64);
}

TEST(UnionDensity, OfFewColumns) {
  EXPECT_DOUBLE_EQ(DensityOf(LayoutWhere(8, 1, [](int32_t c, int32_t) { return c < 2; }), 1), 0.25);
  EXPECT_DOUBLE_EQ(DensityOf(LayoutWhere(5, 3, [](int32_t c, int32_t k) { return c == k; }), 2), 2.0 / 3);
  EXPECT_EQ(DensityOf(LayoutWhere(5, 5, [](int32_t, int32_t) { return false; }), 1), 0.0);
}

TEST(LayoutPlans, KnowBothDensitiesOfADirection) {
  // Four outputs of one input, and one of another.
  const std::vector<int32_t> coords = {0, 0, 0, 1, 0, 2, 0, 3, 1, 0};
  const LayoutPlans plans({coords.data(), 5, 4, 4});
  for (const bool transpose : {false, true}) {
    EXPECT_DOUBLE_EQ(plans.statistics(transpose, 16).density, 5.0 / 16);
    EXPECT_EQ(plans.statistics(transpose, 32).union_density, 0.0);
  }
  EXPECT_DOUBLE_EQ(plans.statistics(false, 16).union_density, 2.0 / 4);
  EXPECT_DOUBLE_EQ(plans.statistics(true, 16).union_density, 4.0 / 4);
  EXPECT_DOUBLE_EQ(plans.statistics(false, 8).union_density, 1.0 / 2);
}

}  // namespace
}  // namespace bsparse
