// Lists of about equal length that hold every block once.

#include "cc/plan/stream_cut.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <utility>

#include "cc/plan/block_index.h"
#include "cc/plan/layout_testing.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

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
      if (before >= 0) { EXPECT_LE(rank(entries[e - 1]), rank(entry)) << "order of " << e; }
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
      const BlockIndex index(RandomWithHubs(70, 23, density, hubs, 11).view(), /*transpose=*/false);
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
  const BlockIndex even(RandomWithHubs(640, 640, 0.016, 0, 12).view(), /*transpose=*/false);
  const StreamCut columns = CutIntoStreams(even, 132);
  EXPECT_EQ(columns.num_partials, 0);
  EXPECT_LE(columns.length, 1.1 * mean(even));
  const BlockIndex hubs(RandomWithHubs(640, 640, 0.012, 5, 12).view(), /*transpose=*/false);
  const StreamCut split = CutIntoStreams(hubs, 132);
  EXPECT_GE(split.splits.size(), 5u);
  EXPECT_LE(split.length, 1.1 * mean(hubs));
}

}  // namespace
}  // namespace bsparse
