// Cuts the work of y = x W for kernels whose CTAs all run at once, each with an equal list of
// stored blocks: for small batches, where the weights stream through the device once.
#ifndef BSPARSE_CC_PLAN_STREAM_CUT_H_
#define BSPARSE_CC_PLAN_STREAM_CUT_H_

#include <cstdint>
#include <vector>

#include "cc/plan/block_index.h"

namespace bsparse {

struct StreamCut {
  struct Entry {
    int32_t column;  // of the output, or -1: filling, at the end of a list
    int32_t in_block;  // or -1: a column without blocks
    int32_t weight_block;
    int32_t partial;  // slot of the float32 partial that these entries of the column make, or -1
  };
  struct Split {
    int32_t column;
    int32_t first_partial;
    int32_t num_partials;
  };

  int32_t lists = 0;
  int32_t length = 0;          // of each list
  std::vector<Entry> entries;  // (lists, length); entries of a column in a list are neighbours
  std::vector<Split> splits;   // columns on several lists
  int32_t num_partials = 0;
};

// At most `lists` lists of about equal length. A column is cut, into partials on several lists,
// only if that shortens the longest list by more than adding the partials costs.
StreamCut CutIntoStreams(const BlockIndex& index, int64_t lists);

}  // namespace bsparse

#endif  // BSPARSE_CC_PLAN_STREAM_CUT_H_
