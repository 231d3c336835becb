// What OpKernels on the CPU take from their context: memory and threads.
#ifndef BSPARSE_CC_KERNELS_CPU_CONTEXT_H_
#define BSPARSE_CC_KERNELS_CPU_CONTEXT_H_

#include <functional>
#include <utility>

#include "cc/cpu/shared_loop.h"
#include "cc/kernels/tensor_data.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/lib/core/threadpool.h"

namespace bsparse {

inline ParallelFor OverThreadPool(tensorflow::OpKernelContext* ctx) {
  tensorflow::thread::ThreadPool* const pool =
      ctx->device()->tensorflow_cpu_worker_threads()->workers;
  // Not the pool's own ParallelFor, whose caller waits for threads that have yet to wake up.
  static LoopWaitingRoom* const room = new LoopWaitingRoom;  // never destroyed, as the pools
  return OverThreads(
      pool->NumThreads(), [pool](std::function<void()> task) { pool->Schedule(std::move(task)); },
      room);
}

}  // namespace bsparse

#endif  // BSPARSE_CC_KERNELS_CPU_CONTEXT_H_
