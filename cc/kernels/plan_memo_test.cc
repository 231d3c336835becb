#include "cc/kernels/plan_memo.h"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace bsparse {
namespace {

std::shared_ptr<const LayoutPlans> Layout(const std::vector<int32_t>& coords) {
  return std::make_shared<const LayoutPlans>(
      LayoutView{coords.data(), static_cast<int64_t>(coords.size() / 2), 2, 2});
}

// A plan is the number of its choice.
class PlanMemoTest : public testing::Test {
 protected:
  int Find(const PlanRequest& request) {
    std::shared_ptr<const int> plan;
    EXPECT_TRUE(memo_.Find(request, [this](auto* chosen) { return Choose(chosen); }, &plan).ok());
    return *plan;
  }

  GpuStatus Choose(std::shared_ptr<const int>* chosen) {
    *chosen = std::make_shared<const int>(++choices_);
    return {};
  }

  PlanMemo<int> memo_;
  int choices_ = 0;
};

TEST_F(PlanMemoTest, AsksOnceForEqualRequests) {
  const PlanRequest request = {Layout({0, 0}), 64, BSPARSE_FLOAT32_EXACT, false, true};
  EXPECT_EQ(Find(request), 1);
  EXPECT_EQ(Find(request), 1);
  EXPECT_EQ(choices_, 1);
}

TEST_F(PlanMemoTest, AsksAgainWhereAnythingDiffers) {
  const PlanRequest request = {Layout({0, 0}), 64, BSPARSE_FLOAT32_EXACT, false, true};
  std::vector<PlanRequest> others(5, request);
  others[0].layout = Layout({0, 1});
  others[1].batch = 65;
  others[2].float32_math = BSPARSE_FLOAT32_TF32;
  others[3].gated = true;
  others[4].aligned = false;
  int choices = 0;
  for (const PlanRequest& other : others) {
    EXPECT_EQ(Find(request), ++choices);
    EXPECT_EQ(Find(other), ++choices);
    EXPECT_EQ(Find(other), choices);
  }
}

TEST_F(PlanMemoTest, ForgetsWhatFailed) {
  const PlanRequest request = {Layout({0, 0}), 64, BSPARSE_FLOAT32_EXACT, false, true};
  std::shared_ptr<const int> plan;
  const GpuStatus status = memo_.Find(
      request, [](auto*) { return GpuStatus{BSPARSE_UNSUPPORTED, "no such kernel"}; }, &plan);
  EXPECT_EQ(status.code, BSPARSE_UNSUPPORTED);
  EXPECT_EQ(status.message, "no such kernel");
  EXPECT_EQ(Find(request), 1);
}

TEST_F(PlanMemoTest, KeepsTheLayoutThatItComparesWith) {
  std::weak_ptr<const LayoutPlans> layout;
  {
    const PlanRequest request = {Layout({0, 0}), 64, BSPARSE_FLOAT32_EXACT, false, true};
    layout = request.layout;
    Find(request);
  }
  EXPECT_FALSE(layout.expired());
  Find({Layout({0, 1}), 64, BSPARSE_FLOAT32_EXACT, false, true});
  EXPECT_TRUE(layout.expired());
}

}  // namespace
}  // namespace bsparse
