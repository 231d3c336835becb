// Cuts the work of y = x W for kernels that sweep over x: a CTA computes many output columns, loads
// whole boxes of x, some features by a batch tile, and multiplies what is stored in them.
#ifndef BSPARSE_CC_PLAN_SWEEP_STAGES_H_
#define BSPARSE_CC_PLAN_SWEEP_STAGES_H_

#include <cstdint>
#include <vector>

#include "cc/plan/block_index.h"

namespace bsparse {

// How a kernel wants it.
struct SweepShape {
  int32_t ctas;         // of an item: they share the boxes
  int32_t cta_columns;  // output columns of a CTA
  int32_t unit_columns; // neighbours that stay together, 16 outputs
  int32_t box_blocks;   // blocks along a box's features
  int32_t box_bytes;
  int32_t block_bytes;  // of its weights
  int32_t stage_bytes;  // that a stage has at most; a box and a quarter of a row of blocks must fit
};

// Of a kernel's tile (cuda/bsparse_cuda.h).
SweepShape SweepShapeOf(int32_t ctas, int32_t cta_columns, int32_t unit_columns, int32_t box_blocks,
                        int32_t batch_tile, int32_t stage_kib);

// The tables of bsparse_matmul_plan (cuda/bsparse_cuda.h).
struct SweepStages {
  std::vector<int32_t> items;    // (items, 4)
  std::vector<int32_t> stages;   // (stages, ctas, BSPARSE_SWEEP_STAGE_WORDS)
  std::vector<int32_t> order;    // weight blocks as they are used, filled up with -1 to a multiple of 4
  std::vector<int32_t> records;  // of 16-byte pieces
  std::vector<int32_t> groups;   // (items, ctas * cta_columns)
  int32_t num_packed = 0;        // of `order`
  int32_t fullest_stage = 0;     // in KiB
};

// Groups are of units of the same magnitude, so that the warps of a CTA, which wait for each other, have
// about the same to do; of these neighbours come together, as they often use the same boxes. In a group units
// are dealt to the warps heaviest first, back and forth. A box that no column of an item uses is left out;
// one whose blocks do not fit in a stage comes in several. An item has at least one stage.
SweepStages CutIntoSweeps(const BlockIndex& index, const SweepShape& shape);

}  // namespace bsparse

#endif  // BSPARSE_CC_PLAN_SWEEP_STAGES_H_
