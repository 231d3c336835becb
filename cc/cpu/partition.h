// How a product is cut into units of work for threads.
#ifndef BSPARSE_CC_CPU_PARTITION_H_
#define BSPARSE_CC_CPU_PARTITION_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cc/plan/block_index.h"

namespace bsparse {

// Bounds of runs of output columns with about equal numbers of blocks: run i is columns [result[i],
// result[i + 1]). A column counts as at least one block, as its outputs have to be written. Columns
// are not divided, so a hub column may exceed `blocks_per_run`.
inline std::vector<int32_t> RunsOfColumns(const BlockIndex& index, int64_t blocks_per_run) {
  std::vector<int32_t> bounds{0};
  int64_t blocks = 0;
  for (int32_t k = 0; k < index.out_blocks(); ++k) {
    const int64_t column = std::max<int64_t>(index.offsets()[k + 1] - index.offsets()[k], 1);
    if (blocks > 0 && blocks + column > blocks_per_run) {
      bounds.push_back(k);
      blocks = 0;
    }
    blocks += column;
  }
  bounds.push_back(index.out_blocks());
  return bounds;
}

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// [0, total) in pieces of about equal size, each at most `largest` and, but for the end of the
// last, a multiple of `multiple`.
struct Pieces {
  Pieces(int64_t total, int64_t largest, int64_t multiple)
      : total(total),
        multiple(multiple),
        units(CeilDiv(total, multiple)),
        count(CeilDiv(units, largest / multiple)) {}

  int64_t Begin(int64_t i) const { return std::min(units * i / count * multiple, total); }
  int64_t End(int64_t i) const { return Begin(i + 1); }

  int64_t total, multiple, units, count;
};

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_PARTITION_H_
