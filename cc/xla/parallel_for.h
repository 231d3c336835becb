// ParallelFor (cc/cpu/matmul.h) over the thread pool that XLA lends to a custom call.
#ifndef BSPARSE_CC_XLA_PARALLEL_FOR_H_
#define BSPARSE_CC_XLA_PARALLEL_FOR_H_

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>

#include "cc/cpu/matmul.h"
#include "xla/ffi/api/ffi.h"

namespace bsparse {

// One parallel loop: a counter that hands chunks to whoever comes.
//
// XLA:CPU runs custom calls on threads of the very pool that it lends, so a caller that slept
// until others had done all the work could wait for a pool full of such sleepers. Here the caller
// takes chunks as well, and at the end waits only for chunks that some thread has begun. A helper
// that the pool starts too late finds no chunk left and touches nothing but this object, which it
// keeps alive.
class SharedLoop {
 public:
  using Body = std::function<void(int64_t, int64_t)>;

  // `body` must stay valid until Finish() has returned.
  SharedLoop(int64_t total, int64_t chunk, const Body& body)
      : total_(total), chunk_(chunk), body_(body) {}

  // Runs chunks until none is left.
  void Help() {
    for (;;) {
      const int64_t begin = next_.fetch_add(chunk_, std::memory_order_relaxed);
      if (begin >= total_) return;
      const int64_t end = std::min(begin + chunk_, total_);
      body_(begin, end);
      if (done_.fetch_add(end - begin, std::memory_order_acq_rel) + (end - begin) == total_) {
        std::lock_guard<std::mutex> lock(mutex_);
        finished_.notify_all();
      }
    }
  }

  void Finish() {
    if (done_.load(std::memory_order_acquire) == total_) return;
    std::unique_lock<std::mutex> lock(mutex_);
    finished_.wait(lock, [this] { return done_.load(std::memory_order_acquire) == total_; });
  }

 private:
  const int64_t total_;
  const int64_t chunk_;
  const Body& body_;
  std::atomic<int64_t> next_{0};
  std::atomic<int64_t> done_{0};
  std::mutex mutex_;
  std::condition_variable finished_;
};

inline ParallelFor OverXlaThreadPool(xla::ffi::ThreadPool& pool) {
  return [&pool](int64_t total, int64_t cost_per_unit, const SharedLoop::Body& body) {
    // Waking a thread costs some microseconds: a chunk must be worth them. Several chunks a
    // thread, so that one thread that starts late or is slowed down does not hold up the rest.
    constexpr int64_t kChunkCycles = 50'000;
    constexpr int64_t kChunksPerThread = 4;
    if (total <= 0) return;
    const int64_t worth = std::max<int64_t>(1, kChunkCycles / std::max<int64_t>(1, cost_per_unit));
    const int64_t threads = std::max<int64_t>(1, pool.num_threads());  // 0: XLA lends none
    const int64_t fair = (total + threads * kChunksPerThread - 1) / (threads * kChunksPerThread);
    const int64_t chunk = std::max(worth, fair);
    const int64_t helpers = std::min(threads, (total + chunk - 1) / chunk) - 1;
    if (helpers <= 0) {
      body(0, total);
      return;
    }
    const auto loop = std::make_shared<SharedLoop>(total, chunk, body);
    for (int64_t i = 0; i < helpers; ++i) {
      pool.Schedule([loop] { loop->Help(); });
    }
    loop->Help();
    loop->Finish();
  };
}

}  // namespace bsparse

#endif  // BSPARSE_CC_XLA_PARALLEL_FOR_H_
