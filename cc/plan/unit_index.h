// A layout seen in units, squares of neighbouring blocks, for kernels whose operands are wider than a
// block.
#ifndef BSPARSE_CC_PLAN_UNIT_INDEX_H_
#define BSPARSE_CC_PLAN_UNIT_INDEX_H_

#include <cstdint>
#include <vector>

#include "cc/plan/block_index.h"

namespace bsparse {

struct UnitIndex {
  BlockIndex index;  // of the units that hold a block; its weight_blocks are numbers of units
  int32_t unit_blocks;  // along each side
  // Of each unit, by input and then output: the weight block there, or -1.
  std::vector<int32_t> weight_blocks;

  int32_t blocks_of_unit() const { return unit_blocks * unit_blocks; }
};

// Counts of blocks that are no multiple of `unit_blocks` are rounded up.
UnitIndex GatherUnits(const BlockIndex& index, int32_t unit_blocks);

// Records of `words` numbers, two and then units of `index` or -1, with the units' weight blocks in
// their places, in records of `new_words` numbers.
std::vector<int32_t> NameBlocksOfUnits(const UnitIndex& units, const std::vector<int32_t>& records,
                                       int32_t columns, int32_t words, int32_t new_words);

}  // namespace bsparse

#endif  // BSPARSE_CC_PLAN_UNIT_INDEX_H_
