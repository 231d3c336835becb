#include "cc/plan/union_density.h"

#include <cstdint>
#include <random>
#include <vector>

#include "cc/plan/block_index.h"
#include "cc/plan/column_groups.h"
#include "cc/plan/layout_plans.h"
#include "cc/plan/packed_records.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

struct Layout {
  int32_t inputs, outputs;
  std::vector<int32_t> coords;
  LayoutView view() const {
    return {coords.data(), static_cast<int64_t>(coords.size() / 2), inputs, outputs};
  }
};

template <class Stored>
Layout Make(int32_t inputs, int32_t outputs, const Stored& stored) {
  Layout layout{inputs, outputs, {}};
  for (int32_t c = 0; c < inputs; ++c) {
    for (int32_t k = 0; k < outputs; ++k) {
      if (stored(c, k)) layout.coords.insert(layout.coords.end(), {c, k});
    }
  }
  return layout;
}

Layout Random(int32_t inputs, int32_t outputs, double density) {
  std::mt19937 random(1);
  return Make(inputs, outputs, [&](int32_t, int32_t) {
    return std::uniform_real_distribution<>(0, 1)(random) < density;
  });
}

// Some columns have ten times as many blocks as others.
Layout ScaleFree(int32_t size) {
  std::mt19937 random(2);
  return Make(size, size, [&](int32_t c, int32_t k) {
    const double weight = 8.0 / (8 + c) + 8.0 / (8 + k);
    return std::uniform_real_distribution<>(0, 1)(random) < weight / 2;
  });
}

double DensityOf(const Layout& layout, int32_t unit_blocks, bool transpose = false) {
  return UnionDensity(BlockIndex(layout.view(), transpose), unit_blocks);
}

// Of all neighbourhoods of union tiles, as plans have them.
double Counted(const Layout& layout, int32_t unit_blocks) {
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
    for (const Layout& layout :
         {Random(256, 256, 0.2), Random(256, 256, 0.03), Random(64, 512, 0.1), ScaleFree(256)}) {
      const double counted = Counted(layout, unit_blocks);
      EXPECT_NEAR(DensityOf(layout, unit_blocks), counted, 0.25 * counted)
          << layout.inputs << " " << layout.coords.size() / 2 << " " << unit_blocks;
    }
  }
}

TEST(UnionDensity, OfColumnsThatAreAlikeIsTheirOwn) {
  const Layout layout = Make(120, 120, [](int32_t c, int32_t k) { return c / 12 == k / 12; });
  EXPECT_DOUBLE_EQ(DensityOf(layout, 1), 0.1);
  EXPECT_NEAR(DensityOf(layout, 2), 0.1, 0.06);  // six columns of units have no fours
}

TEST(UnionDensity, OfColumnsWithNothingInCommonIsTheirSum) {
  const Layout layout = Make(64, 64, [](int32_t c, int32_t k) { return c == k; });
  EXPECT_DOUBLE_EQ(DensityOf(layout, 1), 4.0 / 64);
}

TEST(UnionDensity, OfFewColumns) {
  EXPECT_DOUBLE_EQ(DensityOf(Make(8, 1, [](int32_t c, int32_t) { return c < 2; }), 1), 0.25);
  EXPECT_DOUBLE_EQ(DensityOf(Make(5, 3, [](int32_t c, int32_t k) { return c == k; }), 2), 2.0 / 3);
  EXPECT_EQ(DensityOf(Make(5, 5, [](int32_t, int32_t) { return false; }), 1), 0.0);
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
