// Equal layouts share their plans, also among threads and beyond the cache; the C API.

#include "cc/plan/layout_plans.h"

#include <string>
#include <thread>
#include <vector>

#include "cc/plan/layout_testing.h"
#include "cc/plan/matmul_plan.h"
#include "cc/plan/plan_c_api.h"
#include "cuda/bsparse_cuda.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

constexpr PlanTarget kTarget{/*sm_count=*/132, /*batch_tile=*/128, /*ctas_per_sm=*/2};

TEST(LayoutPlans, EqualLayoutsShareOneObject) {
  const TestLayout a = RandomWithHubs(30, 30, 0.2, 0, 8);
  const TestLayout b = a;  // the same content elsewhere in memory
  std::string error;
  const auto first = FindLayoutPlans(a.view(), &error);
  EXPECT_EQ(first, FindLayoutPlans(b.view(), &error));
  TestLayout wider = a;
  wider.out_blocks += 1;
  EXPECT_NE(first, FindLayoutPlans(wider.view(), &error));
  EXPECT_EQ(first->matmul_plan(false, 100, kTarget), first->matmul_plan(false, 128, kTarget));
  EXPECT_NE(first->matmul_plan(false, 100, kTarget), first->matmul_plan(true, 100, kTarget));
  EXPECT_NE(first->matmul_plan(false, 100, kTarget), first->matmul_plan(false, 4096, kTarget));
}

TEST(LayoutPlans, RejectsBadLayouts) {
  std::string error;
  EXPECT_EQ(FindLayoutPlans(TestLayout{2, 2, {5, 0}}.view(), &error), nullptr);
  EXPECT_NE(error.find("coords[0] = (5, 0)"), std::string::npos);
}

TEST(LayoutPlans, OutliveTheirEviction) {
  std::string error;
  const TestLayout kept = RandomWithHubs(20, 20, 0.3, 0, 9);
  const auto plans = FindLayoutPlans(kept.view(), &error);
  for (int i = 0; i < 2 * kLayoutCacheSize; ++i) {
    FindLayoutPlans(RandomWithHubs(20, 20, 0.3, 0, 100 + i).view(), &error);
  }
  EXPECT_EQ(plans->index(false).num_blocks(), kept.view().num_blocks);
  EXPECT_NE(plans, FindLayoutPlans(kept.view(), &error));
}

TEST(LayoutPlans, MayBeAskedFromManyThreads) {
  const TestLayout layout = RandomWithHubs(100, 100, 0.1, 1, 10);
  std::vector<std::thread> threads;
  std::vector<const MatmulPlan*> plans(8);
  for (size_t t = 0; t < plans.size(); ++t) {
    threads.emplace_back([&, t] {
      std::string error;
      plans[t] = FindLayoutPlans(layout.view(), &error)->matmul_plan(true, 64, kTarget).get();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const MatmulPlan* plan : plans) EXPECT_EQ(plan, plans[0]);
}

TEST(PlanCApi, DescribesAndReportsErrors) {
  const TestLayout layout = RandomWithHubs(50, 40, 0.2, 1, 11);
  bsparse_plan_request request{layout.coords.data(), layout.view().num_blocks, 50, 40,
                               /*batch=*/64, 132, 128, 2, BSPARSE_SM80, 1, 1, 1, 0, 0};
  char error[256];
  bsparse_plan* const plan = bsparse_plan_matmul(&request, 1, error, sizeof(error));
  ASSERT_NE(plan, nullptr);
  bsparse_plan_summary summary;
  bsparse_plan_describe(plan, &summary);
  EXPECT_GE(summary.num_items, 50);
  EXPECT_EQ(summary.tables_size,
            4 * summary.num_items + 2 * request.num_blocks + 3 * summary.num_splits + 50);
  EXPECT_GE(summary.balance, 1.0);
  bsparse_plan_free(plan);
  request.in_blocks = 3;
  EXPECT_EQ(bsparse_plan_matmul(&request, 0, error, sizeof(error)), nullptr);
  EXPECT_NE(std::string(error).find("out of range"), std::string::npos);
}

}  // namespace
}  // namespace bsparse
