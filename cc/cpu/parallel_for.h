#ifndef BSPARSE_CC_CPU_PARALLEL_FOR_H_
#define BSPARSE_CC_CPU_PARALLEL_FOR_H_

#include <cstdint>
#include <functional>

namespace bsparse {

// Runs body(begin, end) over sub-ranges of [0, total), on any threads, and returns when all are
// done. `cost_per_unit` is a hint in CPU cycles.
using ParallelFor = std::function<void(int64_t total, int64_t cost_per_unit,
                                       const std::function<void(int64_t, int64_t)>& body)>;

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_PARALLEL_FOR_H_
