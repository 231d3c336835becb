// ParallelFor (cc/cpu/parallel_for.h) over the thread pool that XLA lends to a custom call.
#ifndef BSPARSE_CC_XLA_PARALLEL_FOR_H_
#define BSPARSE_CC_XLA_PARALLEL_FOR_H_

#include <cstdint>
#include <functional>
#include <utility>

#include "cc/cpu/shared_loop.h"
#include "xla/ffi/api/ffi.h"

namespace bsparse {

// XLA:CPU runs custom calls on threads of the very pool that it lends; a pool of 0 threads is none.
inline ParallelFor OverXlaThreadPool(xla::ffi::ThreadPool& pool) {
  return OverThreads(pool.num_threads(), [&pool](std::function<void()> task) {
    pool.Schedule(std::move(task));
  });
}

}  // namespace bsparse

#endif  // BSPARSE_CC_XLA_PARALLEL_FOR_H_
