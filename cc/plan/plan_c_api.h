// The planner for callers without C++: benchmarks and tests of the kernels on a machine without
// TensorFlow, and Python's plan inspection.
#ifndef BSPARSE_CC_PLAN_PLAN_C_API_H_
#define BSPARSE_CC_PLAN_PLAN_C_API_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BSPARSE_PLAN_EXPORT __attribute__((visibility("default")))

typedef struct {
  const int32_t* coords;  // (num_blocks, 2)
  int64_t num_blocks;
  int32_t in_blocks, out_blocks;
  int64_t batch;
  int32_t sm_count, batch_tile, ctas_per_sm;
  int32_t kernel, columns, cta_columns, shared_columns;  // of a bsparse_tile
  int32_t entry_blocks, column_blocks, packed, block_cells, chunk_blocks, chunks;
} bsparse_plan_request;

// A plan and the numbers of its bsparse_matmul_plan. `tables` belongs to the plan.
typedef struct {
  int32_t num_items;
  int32_t num_splits, num_partials, num_entries;  // of a matmul plan
  int32_t num_packed, fullest_stage;             // likewise
  int32_t num_blocks, batch_splits;             // of a weight-gradient plan
  int32_t ctas, chunks, whole_items;            // likewise
  const int32_t* tables;
  int64_t tables_size;                                 // in int32
  int64_t items_offset, entries_offset;  // entries: of a weight-gradient plan, its blocks
  int64_t splits_offset, groups_offset;  // of a matmul plan
  double balance;  // busiest over mean load; of a matmul plan
} bsparse_plan_summary;

typedef struct bsparse_plan bsparse_plan;

// Null if the layout is not valid; `error` then holds a sentence.
BSPARSE_PLAN_EXPORT bsparse_plan* bsparse_plan_matmul(const bsparse_plan_request* request,
                                                      int32_t transpose, char* error,
                                                      size_t error_size);
BSPARSE_PLAN_EXPORT bsparse_plan* bsparse_plan_matmul_dw(const bsparse_plan_request* request,
                                                         char* error, size_t error_size);
// The `union_density` of a bsparse_tile_request (cuda/bsparse_cuda.h), or -1 if the layout is not valid.
BSPARSE_PLAN_EXPORT double bsparse_plan_union_density(const int32_t* coords, int64_t num_blocks,
                                                      int32_t in_blocks, int32_t out_blocks,
                                                      int32_t transpose, int32_t block_size);
BSPARSE_PLAN_EXPORT void bsparse_plan_describe(const bsparse_plan* plan,
                                               bsparse_plan_summary* summary);
BSPARSE_PLAN_EXPORT void bsparse_plan_free(bsparse_plan* plan);

#ifdef __cplusplus
}
#endif

#endif  // BSPARSE_CC_PLAN_PLAN_C_API_H_
