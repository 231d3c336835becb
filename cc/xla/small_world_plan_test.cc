#include "cc/xla/small_world_plan.h"

#include <cstdint>
#include <vector>

#include "gtest/gtest.h"

namespace bsparse {
namespace {

// A plan each of whose numbers differs from the others, tables included.
bsparse_matmul_plan PlanOf(int32_t first, const int32_t* tables) {
  bsparse_matmul_plan plan{};
  int32_t number = first;
  for (int32_t* field : {&plan.kernel, &plan.columns, &plan.num_items, &plan.num_splits,
                         &plan.num_partials, &plan.num_entries, &plan.num_blocks, &plan.num_packed,
                         &plan.fullest_stage}) {
    *field = number++;
  }
  plan.items = tables;
  plan.entries = tables + 3;
  plan.splits = tables + 5;
  plan.groups = tables + 9;
  return plan;
}

TEST(SmallWorldPlanTest, PlansComeBackWithTheirTablesInOneArray) {
  const std::vector<int32_t> own(12), all(40);
  std::vector<int32_t> numbers;
  const size_t begins[] = {0, 16};
  for (const size_t begin : begins) {
    WriteSmallWorldPlan(PlanOf(100 + begin, own.data()), own.data(), begin, &numbers);
  }
  ASSERT_EQ(numbers.size(), 2 * kSmallWorldPlanNumbers);
  for (int j = 0; j < 2; ++j) {
    const auto wanted = PlanOf(100 + begins[j], all.data() + begins[j]);
    const auto found =
        ReadSmallWorldPlan(numbers.data() + j * kSmallWorldPlanNumbers, all.data());
    EXPECT_EQ(found.kernel, wanted.kernel);
    EXPECT_EQ(found.columns, wanted.columns);
    EXPECT_EQ(found.num_items, wanted.num_items);
    EXPECT_EQ(found.num_splits, wanted.num_splits);
    EXPECT_EQ(found.num_partials, wanted.num_partials);
    EXPECT_EQ(found.num_entries, wanted.num_entries);
    EXPECT_EQ(found.num_blocks, wanted.num_blocks);
    EXPECT_EQ(found.num_packed, wanted.num_packed);
    EXPECT_EQ(found.fullest_stage, wanted.fullest_stage);
    EXPECT_EQ(found.items, wanted.items);
    EXPECT_EQ(found.entries, wanted.entries);
    EXPECT_EQ(found.splits, wanted.splits);
    EXPECT_EQ(found.groups, wanted.groups);
  }
}

}  // namespace
}  // namespace bsparse
