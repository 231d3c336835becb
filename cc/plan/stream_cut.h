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
    int32_t in_block;  // or -1: a column without blocks, or filling at its end
    int32_t weight_block;
    // -1: these are all of the column; else the slot of the float32 partial that they make, or
    // -2 - s: the partials of splits[s] are added to what they make.
    int32_t partial;
  };
  struct Split {
    int32_t column;
    int32_t first_partial;
    int32_t num_partials;  // one less than lists that the column is on
  };

  int32_t lists = 0;
  int32_t length = 0;          // of each list
  // (lists, length). Entries of a column in a list are neighbours, a multiple of what is taken at once;
  // partials come first, and at most
  // one share that partials are added to, at the end. Their lists come before its own.
  std::vector<Entry> entries;
  std::vector<Split> splits;   // columns on several lists
  int32_t num_partials = 0;
};

// At most `lists` lists of about equal length, of which `entries` of a column are taken at once. A
// column is cut, into partials on several lists, only if that shortens the longest list by more than
// adding the partials costs.
StreamCut CutIntoStreams(const BlockIndex& index, int64_t lists, int32_t entries = 1);

}  // namespace bsparse

#endif  // BSPARSE_CC_PLAN_STREAM_CUT_H_
