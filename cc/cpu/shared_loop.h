// ParallelFor over a pool of threads that may be busy or asleep.
#ifndef BSPARSE_CC_CPU_SHARED_LOOP_H_
#define BSPARSE_CC_CPU_SHARED_LOOP_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "cc/cpu/parallel_for.h"
#include "cc/cpu/waiting_room.h"

namespace bsparse {

// One parallel loop: a counter that hands chunks to whoever comes.
//
// The caller takes chunks as well, and at the end waits only for chunks that some thread has begun:
// a thread that wakes up late holds up nobody, and a caller that is itself one of the pool's
// threads cannot wait for a pool full of such callers. A helper that starts too late finds no chunk
// left and touches nothing but this object, which it keeps alive.
class SharedLoop {
 public:
  using Body = std::function<void(int64_t, int64_t)>;

  // `body` must stay valid until Finish() has returned. Chunks shrink from a share of what is left
  // to `smallest_chunk`, so that threads end together.
  SharedLoop(int64_t total, int64_t smallest_chunk, int64_t threads, const Body& body)
      : total_(total), smallest_(smallest_chunk), shares_(2 * threads), body_(body) {}

  // Runs chunks until none is left.
  void Help() {
    int64_t begin = next_.load(std::memory_order_relaxed);
    while (begin < total_) {
      const int64_t left = total_ - begin;
      const int64_t end = begin + std::min(left, std::max(left / shares_, smallest_));
      if (!next_.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
      body_(begin, end);
      if (done_.fetch_add(end - begin, std::memory_order_acq_rel) + (end - begin) == total_) {
        std::lock_guard<std::mutex> lock(mutex_);
        finished_.notify_all();
      }
      begin = next_.load(std::memory_order_relaxed);
    }
  }

  // Waits for chunks that other threads have begun. Those are small as a rule, and to sleep
  // meanwhile would take longer.
  void Finish() {
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(50);
    do {
      if (done_.load(std::memory_order_acquire) == total_) return;
      std::this_thread::yield();
    } while (std::chrono::steady_clock::now() < until);
    std::unique_lock<std::mutex> lock(mutex_);
    finished_.wait(lock, [this] { return done_.load(std::memory_order_acquire) == total_; });
  }

 private:
  const int64_t total_, smallest_, shares_;
  const Body& body_;
  std::atomic<int64_t> next_{0};
  std::atomic<int64_t> done_{0};
  std::mutex mutex_;
  std::condition_variable finished_;
};

using LoopWaitingRoom = WaitingRoom<SharedLoop>;

// `threads` counts the caller; `schedule` runs a std::function<void()> on another thread. With a
// `room`, which must outlive those threads, they stay there between loops.
template <class Schedule>
ParallelFor OverThreads(int64_t threads, const Schedule& schedule,
                        LoopWaitingRoom* room = nullptr) {
  return [=](int64_t total, int64_t cost_per_unit, const SharedLoop::Body& body) {
    static constexpr int64_t kChunkCycles = 50'000;  // waking a thread costs some microseconds
    static constexpr std::chrono::microseconds kLongestWait(100), kLongestStay(5000);
    if (total <= 0) return;
    const int64_t chunk = std::max<int64_t>(1, kChunkCycles / std::max<int64_t>(1, cost_per_unit));
    const int64_t helpers = std::min(threads, (total + chunk - 1) / chunk) - 1;
    if (helpers <= 0) return body(0, total);
    const auto loop = std::make_shared<SharedLoop>(total, chunk, threads, body);
    for (int64_t i = room != nullptr ? room->Invite(loop, helpers) : 0; i < helpers; ++i) {
      schedule([loop, room] {
        if (room == nullptr) return loop->Help();
        room->Serve(loop, kLongestWait, kLongestStay);
      });
    }
    loop->Help();
    loop->Finish();
  };
}

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_SHARED_LOOP_H_
