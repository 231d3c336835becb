// The parallel loop with helpers that come at once, late, and never.

#include "cc/cpu/shared_loop.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "cc/cpu/thread_pool_testing.h"
#include "gtest/gtest.h"

namespace bsparse {
namespace {

using Tasks = std::vector<std::function<void()>>;

constexpr int64_t kTotal = 1000;
constexpr int64_t kCost = 10'000;  // cycles of a unit: a few units are worth a thread

// A body that counts how often each unit runs.
class Counter {
 public:
  void operator()(int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++counts_[i];
  }

  bool EachOnce() const {
    for (const std::atomic<int>& count : counts_) {
      if (count != 1) return false;
    }
    return true;
  }

 private:
  std::vector<std::atomic<int>> counts_ = std::vector<std::atomic<int>>(kTotal);
};

TEST(SharedLoop, ManyThreadsRunEachUnitOnce) {
  for (int repeat = 0; repeat < 50; ++repeat) {
    std::vector<std::thread> threads;
    Counter counter;
    OverThreads(4, [&](std::function<void()> task) {
      threads.emplace_back(std::move(task));
    })(kTotal, kCost, std::ref(counter));
    EXPECT_TRUE(counter.EachOnce());
    for (std::thread& thread : threads) thread.join();
  }
}

TEST(SharedLoop, DoesNotWaitForHelpersThatNeverStart) {
  Tasks tasks;
  Counter counter;
  OverThreads(4, [&](std::function<void()> task) {
    tasks.push_back(std::move(task));
  })(kTotal, kCost, std::ref(counter));
  EXPECT_EQ(tasks.size(), 3);
  EXPECT_TRUE(counter.EachOnce());
}

TEST(SharedLoop, HelpersThatStartLateFindNothingToDo) {
  Tasks tasks;
  {
    Counter counter;
    OverThreads(2, [&](std::function<void()> task) {
      tasks.push_back(std::move(task));
    })(kTotal, kCost, std::ref(counter));
  }
  for (const auto& task : tasks) task();  // the body is gone
}

TEST(SharedLoop, CallersShareARoomOfWaitingThreads) {
  LoopWaitingRoom room;
  ThreadPool pool(3);
  const ParallelFor parallel_for = OverThreads(
      4, [&](std::function<void()> task) { pool.Schedule(std::move(task)); }, &room);
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 3; ++caller) {
    callers.emplace_back([&] {
      for (int repeat = 0; repeat < 200; ++repeat) {
        Counter counter;
        parallel_for(kTotal, kCost, std::ref(counter));
        EXPECT_TRUE(counter.EachOnce());
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

TEST(SharedLoop, TakesAThreadThatWaitsBeforeItSchedulesOne) {
  LoopWaitingRoom room;
  ThreadPool pool(1);
  int64_t scheduled = 0;
  const ParallelFor parallel_for = OverThreads(
      2, [&](std::function<void()> task) { ++scheduled, pool.Schedule(std::move(task)); }, &room);
  const auto sleep = [](int64_t begin, int64_t end) {
    std::this_thread::sleep_for(std::chrono::microseconds(10 * (end - begin)));
  };
  // The thread waits for 0.1 ms only, and may be late for that on a busy machine; but not always.
  for (int repeat = 0; repeat < 1000; ++repeat) {
    parallel_for(100, kCost, sleep);
    const int64_t before = scheduled;
    parallel_for(100, kCost, sleep);
    if (scheduled == before) return;
  }
  FAIL() << "no loop took a waiting thread";
}

TEST(SharedLoop, SmallLoopsAndSingleThreadsStayWithTheCaller) {
  const auto fails = [](std::function<void()>) { FAIL() << "scheduled a helper"; };
  int64_t units = 0;
  const auto add = [&](int64_t begin, int64_t end) { units += end - begin; };
  OverThreads(4, fails)(0, kCost, add);
  EXPECT_EQ(units, 0);
  OverThreads(4, fails)(3, /*cost_per_unit=*/1, add);
  EXPECT_EQ(units, 3);
  OverThreads(1, fails)(kTotal, kCost, add);
  OverThreads(0, fails)(kTotal, kCost, add);  // a pool that lends no thread
  EXPECT_EQ(units, 3 + 2 * kTotal);
}

}  // namespace
}  // namespace bsparse
