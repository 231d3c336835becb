// Cuts the layout into tiles for the weight gradient: a CTA loads some chunks of
// inputs and of outputs once, and computes all the blocks stored where they cross.
#ifndef BSPARSE_CC_PLAN_DW_TILES_H_
#define BSPARSE_CC_PLAN_DW_TILES_H_

#include <cstdint>
#include <vector>

#include "cc/plan/block_index.h"

namespace bsparse {

// What a kernel computes at once, and the device that it runs on.
struct DwTileTarget {
  int32_t blocks;        // of a CTA, at most
  int32_t block_cells;   // along each side of a block; all that follows counts these as blocks
  int32_t slot_blocks;   // of one output column, that one product computes
  int32_t chunk_blocks;  // side by side in a chunk
  int32_t chunks;        // of a CTA, at most, of inputs and of outputs: two stages of them fit
  int32_t ctas;          // of an item, which share their input chunks
  int32_t depth;         // batch entries of a stage
  int64_t slots;         // items that run at once
  int64_t steps;         // of the batch, of 16 entries
  int64_t max_splits;    // ranges of the batch that tiles may be cut into
};

struct DwTiles {
  int32_t num_items = 0;
  int32_t chunks = 0;        // the most of a CTA
  int32_t whole_items = 0;   // the first, which take the whole batch
  int32_t batch_splits = 1;  // that the others cut it into
  // As of a bsparse_matmul_dw_plan for BSPARSE_SM90_DW_TILES.
  std::vector<int32_t> items;
  std::vector<int32_t> blocks;
};

// `index` is of the forward product. Items come heaviest first.
DwTiles CutIntoDwTiles(const BlockIndex& index, const DwTileTarget& target);

}  // namespace bsparse

#endif  // BSPARSE_CC_PLAN_DW_TILES_H_
