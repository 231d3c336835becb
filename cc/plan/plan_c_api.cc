#include "cc/plan/plan_c_api.h"

#include <cstdio>
#include <memory>
#include <string>

#include "cc/plan/layout_plans.h"

struct bsparse_plan {
  std::shared_ptr<const bsparse::MatmulPlan> matmul;
  std::shared_ptr<const bsparse::MatmulDwPlan> matmul_dw;
  int64_t batch;
};

namespace {

std::shared_ptr<const bsparse::LayoutPlans> Find(const bsparse_plan_request& request, char* error,
                                                 size_t error_size) {
  std::string message;
  auto plans = bsparse::FindLayoutPlans(
      {request.coords, request.num_blocks, request.in_blocks, request.out_blocks}, &message);
  if (plans == nullptr) std::snprintf(error, error_size, "%s", message.c_str());
  return plans;
}

bsparse::PlanTarget Target(const bsparse_plan_request& request) {
  bsparse::PlanTarget target;
  target.sm_count = request.sm_count;
  target.batch_tile = request.batch_tile;
  target.ctas_per_sm = request.ctas_per_sm;
  target.kernel = request.kernel;
  target.columns = request.columns;
  target.cta_columns = request.cta_columns;
  target.shared_columns = request.shared_columns;
  target.entry_blocks = request.entry_blocks;
  target.column_blocks = request.column_blocks;
  target.packed = request.packed;
  target.block_cells = request.block_cells;
  target.chunk_blocks = request.chunk_blocks;
  target.chunks = request.chunks;
  return target;
}

}  // namespace

extern "C" {

bsparse_plan* bsparse_plan_matmul(const bsparse_plan_request* request, int32_t transpose,
                                  char* error, size_t error_size) {
  const auto plans = Find(*request, error, error_size);
  if (plans == nullptr) return nullptr;
  return new bsparse_plan{
      plans->matmul_plan(transpose != 0, request->batch, Target(*request)), nullptr,
      request->batch};
}

bsparse_plan* bsparse_plan_matmul_dw(const bsparse_plan_request* request, char* error,
                                     size_t error_size) {
  const auto plans = Find(*request, error, error_size);
  if (plans == nullptr) return nullptr;
  return new bsparse_plan{nullptr, plans->matmul_dw_plan(request->batch, Target(*request)),
                          request->batch};
}

double bsparse_plan_union_density(const int32_t* coords, int64_t num_blocks, int32_t in_blocks,
                                  int32_t out_blocks, int32_t transpose, int32_t block_size) {
  std::string message;
  const auto plans =
      bsparse::FindLayoutPlans({coords, num_blocks, in_blocks, out_blocks}, &message);
  return plans == nullptr ? -1.0
                          : plans->statistics(transpose != 0, block_size).union_density;
}

void bsparse_plan_describe(const bsparse_plan* plan, bsparse_plan_summary* summary) {
  *summary = {};
  if (plan->matmul != nullptr) {
    const bsparse::MatmulPlan& matmul = *plan->matmul;
    summary->num_items = matmul.num_items();
    summary->num_splits = matmul.num_splits();
    summary->num_partials = matmul.num_partials();
    summary->num_entries = static_cast<int32_t>(matmul.num_entries());
    summary->num_packed = matmul.num_packed();
    summary->fullest_stage = matmul.fullest_stage();
    summary->tables = matmul.tables().data();
    summary->tables_size = static_cast<int64_t>(matmul.tables().size());
    summary->items_offset = matmul.items_offset();
    summary->entries_offset = matmul.entries_offset();
    summary->splits_offset = matmul.splits_offset();
    summary->groups_offset = matmul.groups_offset();
    summary->balance = matmul.PredictedBalance(plan->batch);
  } else {
    summary->num_blocks = plan->matmul_dw->num_blocks();
    summary->num_items = plan->matmul_dw->num_items();
    summary->entries_offset = plan->matmul_dw->blocks_offset();
    summary->batch_splits = plan->matmul_dw->batch_splits();
    summary->ctas = plan->matmul_dw->ctas();
    summary->chunks = plan->matmul_dw->chunks();
    summary->whole_items = plan->matmul_dw->whole_items();
    summary->tables = plan->matmul_dw->tables().data();
    summary->tables_size = static_cast<int64_t>(plan->matmul_dw->tables().size());
  }
}

void bsparse_plan_free(bsparse_plan* plan) { delete plan; }

}  // extern "C"
