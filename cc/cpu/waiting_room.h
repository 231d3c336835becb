// Threads that have just helped with a loop stay awake a little, for the next one.
#ifndef BSPARSE_CC_CPU_WAITING_ROOM_H_
#define BSPARSE_CC_CPU_WAITING_ROOM_H_

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace bsparse {

// To wake a thread takes longer than many a product, and products come in rows: the thread that
// has just helped with one is awake when the next one begins. While it waits it yields the
// processor to whoever wants it.
//
// Thread-safe. `Loop` has Help(), which works until nothing is left.
template <class Loop>
class WaitingRoom {
 public:
  using Clock = std::chrono::steady_clock;

  // Helps with `loop`, then with those it is invited to. Returns when no invitation came for
  // `longest_wait`, or for as long as it has worked; and after `longest_stay` in any case, for a
  // pool may have other tasks for this thread.
  void Serve(std::shared_ptr<Loop> loop, Clock::duration longest_wait,
             Clock::duration longest_stay) {
    const Clock::time_point start = Clock::now();
    while (loop != nullptr) {
      const Clock::time_point before = Clock::now();
      loop->Help();
      loop.reset();
      const Clock::time_point after = Clock::now();
      if (after - start >= longest_stay) return;
      loop = Wait(after + std::min(longest_wait, after - before));
    }
  }

  // Sends up to `count` of the waiting threads to `loop`; returns how many.
  int64_t Invite(const std::shared_ptr<Loop>& loop, int64_t count) {
    if (waiting_.load(std::memory_order_relaxed) == 0) return 0;
    std::lock_guard<std::mutex> lock(mutex_);
    const int64_t invited = std::min(count, waiting_.load(std::memory_order_relaxed));
    invitations_.insert(invitations_.end(), invited, loop);
    waiting_.fetch_sub(invited, std::memory_order_relaxed);
    open_.store(invitations_.size(), std::memory_order_release);
    return invited;
  }

 private:
  std::shared_ptr<Loop> Wait(Clock::time_point until) {
    waiting_.fetch_add(1, std::memory_order_relaxed);
    for (;;) {
      const bool late = Clock::now() >= until;
      if (late || open_.load(std::memory_order_acquire) > 0) {
        // All who wait see an invitation at once; those who do not get at it need not queue.
        std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
        if (late) {
          lock.lock();
        } else if (!lock.try_lock()) {
          std::this_thread::yield();
          continue;
        }
        if (!invitations_.empty()) {
          std::shared_ptr<Loop> loop = std::move(invitations_.back());
          invitations_.pop_back();
          open_.store(invitations_.size(), std::memory_order_release);
          return loop;
        }
        // Without an invitation this thread is still counted, so that nobody misses it.
        if (late) {
          waiting_.fetch_sub(1, std::memory_order_relaxed);
          return nullptr;
        }
      }
      std::this_thread::yield();
    }
  }

  std::mutex mutex_;
  std::vector<std::shared_ptr<Loop>> invitations_;  // one for each thread invited
  std::atomic<size_t> open_{0};                     // how many those are
  std::atomic<int64_t> waiting_{0};                 // threads without an invitation
};

}  // namespace bsparse

#endif  // BSPARSE_CC_CPU_WAITING_ROOM_H_
