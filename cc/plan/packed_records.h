// Plans for kernels that take weight blocks packed, in the order in which they use them.
//
// Such kernels' columns and entries may be made of several neighbouring blocks. A layout is seen in
// units, of an entry's input blocks and a column's output blocks, and planned as if they were blocks;
// then records get masks of the blocks there are in place of the numbers of units.
#ifndef BSPARSE_CC_PLAN_PACKED_RECORDS_H_
#define BSPARSE_CC_PLAN_PACKED_RECORDS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cc/plan/block_index.h"

namespace bsparse {

struct UnitIndex {
  BlockIndex index;  // of the units that hold a block; its weight_blocks are numbers of units
  int32_t entry_blocks, column_blocks;
  // Of each unit, by input and then output: the weight block there, or -1.
  std::vector<int32_t> weight_blocks;
};

// Counts of blocks that are no multiples of a unit's are rounded up.
UnitIndex GatherUnits(const BlockIndex& index, int32_t entry_blocks, int32_t column_blocks);

// What a CTA takes at once.
struct StageShape {
  int32_t entries;
  int32_t small_squares;  // as many as fit where stages are small
};
StageShape StageOf(int32_t entry_blocks, int32_t column_blocks, int32_t cta_columns);

// Puts the rounds of a group, which are `records` from number `first` on, in an order in which no stage
// has more squares than a small one, with rounds of nothing where none of the next few would fit. Leaves
// them as they are if that would make many more of them. Stages begin with the group.
void KeepStagesSmall(const UnitIndex& units, int32_t ctas, int32_t cta_columns, size_t first,
                     std::vector<int32_t>* records);

// The most squares of a CTA in a stage of entries [first, end).
int32_t FullestStage(const std::vector<int32_t>& packed_records, int64_t first, int64_t end,
                     int32_t ctas, const StageShape& stage);

// Packed records (cuda/bsparse_cuda.h) of all entries, and the order of their weight blocks. Group g has
// entries offsets[g] to offsets[g + 1]. `records`: as for unpacked weights, of units.
struct PackedRecords {
  std::vector<int32_t> records;
  std::vector<int32_t> order;  // the weight blocks of all squares
  int32_t num_packed = 0;      // squares
};
PackedRecords PackRecords(const UnitIndex& units, const std::vector<int32_t>& records,
                          const std::vector<int64_t>& offsets, int32_t ctas, int32_t cta_columns);

}  // namespace bsparse

#endif  // BSPARSE_CC_PLAN_PACKED_RECORDS_H_
