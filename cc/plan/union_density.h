// How full the tiles of kernels that compute several columns together would be.
#ifndef BSPARSE_CC_PLAN_UNION_DENSITY_H_
#define BSPARSE_CC_PLAN_UNION_DENSITY_H_

#include <cstdint>

#include "cc/plan/block_index.h"

namespace bsparse {

// A unit is `unit_blocks` neighbouring blocks along each side, of 16 features. Of neighbourhoods of four columns of units,
// put together by what they have in common (column_groups.h), the share of input units that any of the four uses, on the
// average: what union tiles multiply of a dense product. Estimated by some neighbourhoods.
double UnionDensity(const BlockIndex& index, int32_t unit_blocks);

}  // namespace bsparse

#endif  // BSPARSE_CC_PLAN_UNION_DENSITY_H_
