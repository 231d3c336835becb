// Columns that have inputs in common come together, and clusters share what they read.

#include "cc/plan/cluster_rounds.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <set>
#include <vector>

#include "cc/plan/block_index.h"
#include "cc/plan/column_groups.h"
#include "cc/plan/layout_testing.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

TEST(ColumnGroups, HoldEveryColumnOnce) {
  const TestLayout layout = RandomWithHubs(40, 53, 0.1, 1, 12);
  const BlockIndex index(layout.view(), false);
  const std::vector<int32_t> groups = GroupColumns(index, 8, 2);
  ASSERT_EQ(groups.size(), 7 * 8);
  std::multiset<int32_t> columns(groups.begin(), groups.end());
  EXPECT_EQ(columns.count(-1), 7 * 8 - 53);
  for (int32_t k = 0; k < 53; ++k) EXPECT_EQ(columns.count(k), 1);
}

TEST(ColumnGroups, BringTogetherColumnsThatUseTheSameInputs) {
  // Columns k and k + 8 are alike, and no others share anything.
  TestLayout layout{64, 16, {}};
  for (int32_t k = 0; k < 16; ++k) {
    for (int32_t i = 0; i < 8; ++i) layout.coords.insert(layout.coords.end(), {8 * (k % 8) + i, k});
  }
  const BlockIndex index(layout.view(), false);
  const std::vector<int32_t> groups = GroupColumns(index, 2, 2);
  for (size_t g = 0; g < groups.size(); g += 2) EXPECT_EQ(groups[g] % 8, groups[g + 1] % 8);
}

TEST(ClusterRounds, AreAsManyAsTheBusiestCtaNeedsAndShareWhatTheyCan) {
  // Four CTAs of one column. Blocks 0 to 3 are for all; 4 for 0 and 1, 5 for 2 and 3; 6 for 0, 1
  // and 2, 7 for 3: six rounds, in which every block is read once.
  TestLayout layout{8, 4, {}};
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
  TestLayout layout{6, 3, {0, 0, 0, 1, 1, 0, 1, 1, 2, 1, 2, 2, 3, 1, 3, 2, 4, 0, 4, 2, 5, 0, 5, 2}};
  const BlockIndex index(layout.view(), false);
  const int32_t columns[3] = {0, 1, 2};
  std::vector<int32_t> table;
  AppendRounds(index, columns, 3, 1, 4, &table);
  EXPECT_EQ(table.size(), 4 * 3 * 4);
}

TEST(ClusterRounds, DealGroupsOfLikeLengthTogether) {
  const TestLayout layout = RandomWithHubs(50, 24, 0.3, 2, 21);
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

}  // namespace
}  // namespace bsparse
