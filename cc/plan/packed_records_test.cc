// Packed plans: every stored block once, where its CTA's records say.

#include <algorithm>
#include <cstdint>
#include <set>
#include <utility>
#include <vector>

#include "cc/plan/block_index.h"
#include "cc/plan/layout_testing.h"
#include "cc/plan/matmul_plan.h"
#include "cc/plan/packed_records.h"
#include "cuda/bsparse_cuda.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

struct Units {
  int32_t entry_blocks, column_blocks;
};

PlanTarget Target(const Units& units, int32_t ctas) {
  PlanTarget target = UnionTarget(ctas, 8, 4);
  target.entry_blocks = units.entry_blocks;
  target.column_blocks = units.column_blocks;
  target.packed = 1;
  return target;
}

TEST(GatherUnits, HoldEveryBlockAtItsPlace) {
  const TestLayout layout = Shuffled(RandomLayout(13, 7, 0.3, 1), 1);  // no multiples of a unit's sides
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
  const TestLayout layout = Shuffled(RandomLayout(50, 61, 0.12, 2), 2);
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

    // What a CTA takes at once, from the first entry of an item on.
    const int32_t stage_entries = 4 * units.column_blocks / units.entry_blocks;
    int32_t fullest = 0;
    for (int32_t i = 0; i < plan.num_items(); ++i) {
      const int32_t* const item = plan.tables().data() + 4 * i;
      std::vector<int32_t> squares(ctas * (1 + (item[2] - item[1]) / stage_entries), 0);
      for (int32_t e = 0; e < (item[2] - item[1]) * ctas; ++e) {
        const int32_t mask = entries[4 * (int64_t{item[1]} * ctas + e) + 3];
        int32_t& stage = squares[e / ctas / stage_entries * ctas + e % ctas];
        stage += __builtin_popcount(static_cast<uint32_t>(mask));
        fullest = std::max(fullest, stage);
      }
    }
    EXPECT_EQ(plan.fullest_stage(), fullest);
  }
}

// 16 inputs an entry: four in a stage.
constexpr int32_t kSixteens = 8;  // columns of a CTA

std::vector<int32_t> SortedRounds(const std::vector<int32_t>& records, int32_t row) {
  std::vector<std::vector<int32_t>> rounds;
  for (size_t r = 0; r < records.size(); r += row) {
    rounds.emplace_back(records.begin() + r, records.begin() + r + row);
  }
  std::sort(rounds.begin(), rounds.end());
  std::vector<int32_t> sorted;
  for (const auto& round : rounds) sorted.insert(sorted.end(), round.begin(), round.end());
  return sorted;
}

TEST(KeepStagesSmall, OrdersRounds) {
  const int32_t words = bsparse_record_words(kSixteens);
  for (const int32_t ctas : {1, 2, 8}) {
    const int32_t row = ctas * words;
    for (const double density : {0.05, 0.1, 0.2}) {
      const TestLayout layout = Shuffled(RandomLayout(1000, kSixteens * ctas, density, 3), 3);
      const UnitIndex units = GatherUnits(BlockIndex(layout.view(), false), 1, 1);
      std::vector<int32_t> before = {7, 7}, records;  // what lies before stays
      // Rounds as they come: an input block each, of which every CTA takes what it has.
      for (int32_t c = 0; c < 1000; ++c) {
        std::vector<int32_t> round(row, -1);
        for (int32_t cta = 0; cta < ctas; ++cta) {
          round[cta * words] = c;
          round[cta * words + 1] = 1 << cta;
          for (int32_t k = 0; k < kSixteens; ++k) {
            const auto column = cta * kSixteens + k;
            const auto begin = units.index.entries().begin();
            for (auto e = begin + units.index.offsets()[column];
                 e != begin + units.index.offsets()[column + 1]; ++e) {
              if (e->in_block == c) round[cta * words + 2 + k] = e->weight_block;
            }
          }
        }
        records.insert(records.end(), round.begin(), round.end());
      }
      before.insert(before.end(), records.begin(), records.end());
      std::vector<int32_t> after = before;
      KeepStagesSmall(units, ctas, kSixteens, 2, &after);
      EXPECT_EQ(after[0], 7);
      after.erase(after.begin(), after.begin() + 2);
      ASSERT_EQ(after.size() % row, 0u);
      std::vector<int32_t> stored;
      for (size_t r = 0; r < after.size(); r += row) {
        const bool nothing = after[r] < 0;
        for (int32_t i = 0; i < row && nothing; ++i) EXPECT_EQ(after[r + i], i % words == 1 ? 0 : -1);
        if (!nothing) stored.insert(stored.end(), after.begin() + r, after.begin() + r + row);
      }
      EXPECT_EQ(SortedRounds(stored, row), SortedRounds(records, row));
      EXPECT_LE(after.size(), records.size() + records.size() / 32);
      // 4 of 8 columns in four rounds on the average at a density of 0.1; 12 are a small stage.
      const PackedRecords packed =
          PackRecords(units, after, {0, static_cast<int64_t>(after.size() / row)}, ctas, kSixteens);
      const StageShape stage = StageOf(1, 1, kSixteens);
      EXPECT_EQ(stage.entries, 4);
      EXPECT_EQ(stage.small_squares, 12);
      const int32_t fullest = FullestStage(
          packed.records, 0, static_cast<int64_t>(after.size()) / row, ctas, stage);
      EXPECT_LE(fullest, 12) << ctas << " CTAs, density " << density;
    }
  }
}

TEST(KeepStagesSmall, LeavesFullRoundsAlone) {
  const TestLayout layout = Shuffled(RandomLayout(64, kSixteens, 1.0, 3), 3);
  const UnitIndex units = GatherUnits(BlockIndex(layout.view(), false), 1, 1);
  std::vector<int32_t> records;
  for (int32_t c = 0; c < 64; ++c) {
    const size_t begin = records.size();
    records.resize(begin + bsparse_record_words(kSixteens), -1);
    for (int32_t k = 0; k < kSixteens; ++k) records[begin + 2 + k] = c * kSixteens + k;
  }
  const std::vector<int32_t> before = records;
  KeepStagesSmall(units, 1, kSixteens, 0, &records);
  EXPECT_EQ(records, before);
}

INSTANTIATE_TEST_SUITE_P(
    UnitsAndClusters, PackedPlan,
    testing::Values(std::pair(Units{1, 1}, 1), std::pair(Units{2, 1}, 2), std::pair(Units{2, 2}, 1),
                    std::pair(Units{4, 2}, 4), std::pair(Units{2, 1}, 8)));

}  // namespace
}  // namespace bsparse
