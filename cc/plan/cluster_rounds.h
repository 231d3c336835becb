// In which order the CTAs of a cluster take the input blocks that their columns use, when a block
// that several need is read once and sent to all of them.
#ifndef BSPARSE_CC_PLAN_CLUSTER_ROUNDS_H_
#define BSPARSE_CC_PLAN_CLUSTER_ROUNDS_H_

#include <cstdint>
#include <vector>

#include "cc/plan/block_index.h"

namespace bsparse {

// Groups of `columns` output columns, dealt to clusters of `ctas` groups each, (clusters, ctas *
// columns) row-major. Groups of about the same length come together, since the CTAs of a cluster
// keep step; -1 fills up the last cluster.
std::vector<int32_t> DealToClusters(const BlockIndex& index, const std::vector<int32_t>& groups,
                                    int32_t columns, int32_t ctas);

// Appends the rounds of one cluster, whose CTA r has columns[r * cta_columns ...] (-1: none). In a
// round every CTA takes one input block that it needs, or none. A row of the table is a round:
// `ctas` records of `words` numbers, which are the input block or -1; the CTAs that this one sends
// it to, itself among them, as bits, or 0 where another sends it; and each column's weight block
// or -1. There are as many rounds as the busiest CTA has blocks. Greedy: a round begins with the
// first input block left, and is filled up with those that most of the CTAs left over need at
// once; only a CTA that no round may pass by gets a block alone which others need later.
void AppendRounds(const BlockIndex& index, const int32_t* columns, int32_t ctas,
                  int32_t cta_columns, int32_t words, std::vector<int32_t>* table);

}  // namespace bsparse

#endif  // BSPARSE_CC_PLAN_CLUSTER_ROUNDS_H_
