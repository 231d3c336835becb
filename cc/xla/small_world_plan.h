// The plan of one product of a small-world LSTM, as numbers of an attribute, and back.
#ifndef BSPARSE_CC_XLA_SMALL_WORLD_PLAN_H_
#define BSPARSE_CC_XLA_SMALL_WORLD_PLAN_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/bsparse_cuda.h"

namespace bsparse {

inline constexpr int kSmallWorldPlanNumbers = 13;
// A plan has another field? Then it is to be written and read here, too.
static_assert(sizeof(bsparse_matmul_plan) == 9 * sizeof(int32_t) + 4 + 4 * sizeof(void*));

// `tables` holds the plans' tables of all products; this plan's begin at `begin`. The plan's pointers
// point into `own`.
inline void WriteSmallWorldPlan(const bsparse_matmul_plan& plan, const int32_t* own, size_t begin,
                                std::vector<int32_t>* numbers) {
  const auto place = [own, begin](const int32_t* table) {
    return static_cast<int32_t>(begin + (table - own));
  };
  numbers->insert(numbers->end(),
                  {plan.kernel, plan.columns, plan.num_items, plan.num_splits, plan.num_partials,
                   plan.num_entries, plan.num_blocks, plan.num_packed, plan.fullest_stage,
                   place(plan.items), place(plan.entries), place(plan.splits), place(plan.groups)});
}

inline bsparse_matmul_plan ReadSmallWorldPlan(const int32_t* numbers, const int32_t* tables) {
  bsparse_matmul_plan plan{};
  plan.kernel = numbers[0];
  plan.columns = numbers[1];
  plan.num_items = numbers[2];
  plan.num_splits = numbers[3];
  plan.num_partials = numbers[4];
  plan.num_entries = numbers[5];
  plan.num_blocks = numbers[6];
  plan.num_packed = numbers[7];
  plan.fullest_stage = numbers[8];
  plan.items = tables + numbers[9];
  plan.entries = tables + numbers[10];
  plan.splits = tables + numbers[11];
  plan.groups = tables + numbers[12];
  return plan;
}

}  // namespace bsparse

#endif  // BSPARSE_CC_XLA_SMALL_WORLD_PLAN_H_
