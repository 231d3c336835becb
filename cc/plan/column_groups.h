// Which output block columns are computed together, so that an input block loaded for one serves
// the others.
#ifndef BSPARSE_CC_PLAN_COLUMN_GROUPS_H_
#define BSPARSE_CC_PLAN_COLUMN_GROUPS_H_

#include <cstdint>
#include <vector>

#include "cc/plan/block_index.h"

namespace bsparse {

// Groups of `columns` output columns, (groups, columns) row-major; every column is in one group,
// and -1 fills up the last. Columns that use the same input blocks come together: first in
// neighbourhoods of `shared` columns, then neighbourhoods in groups. Greedy: a group grows
// from the heaviest column left by the one with the largest Jaccard similarity among the
// kCandidates heaviest left.
std::vector<int32_t> GroupColumns(const BlockIndex& index, int32_t columns, int32_t shared);

}  // namespace bsparse

#endif  // BSPARSE_CC_PLAN_COLUMN_GROUPS_H_
