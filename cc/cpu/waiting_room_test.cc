// Threads that stay for the next loop: invited, not invited, and kept too long.

#include "cc/cpu/waiting_room.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace bsparse {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Takes a while, and counts who helped.
struct CountingLoop {
  explicit CountingLoop(milliseconds duration) : duration(duration) {}

  void Help() {
    std::this_thread::sleep_for(duration);
    ++helped;
  }

  const milliseconds duration;
  std::atomic<int> helped{0};
};

using Room = WaitingRoom<CountingLoop>;

TEST(WaitingRoom, NobodyToInvite) {
  Room room;
  EXPECT_EQ(room.Invite(std::make_shared<CountingLoop>(milliseconds(0)), 3), 0);
}

TEST(WaitingRoom, ThoseWhoWaitAreInvitedOnce) {
  Room room;
  std::atomic<bool> over{false};
  std::thread helper([&] {  // comes again and again, so that no delay of this machine matters
    while (!over) {
      room.Serve(std::make_shared<CountingLoop>(milliseconds(20)), seconds(1), seconds(9));
    }
  });
  std::vector<std::shared_ptr<CountingLoop>> loops;
  for (int i = 0; i < 5; ++i) {
    const auto loop = std::make_shared<CountingLoop>(milliseconds(20));
    loops.push_back(loop);
    int64_t invited = 0;
    while ((invited = room.Invite(loop, 3)) == 0) std::this_thread::yield();
    EXPECT_EQ(invited, 1);  // there is one, whatever was asked for
    while (loop->helped == 0) std::this_thread::yield();
  }
  over = true;
  helper.join();
  for (const auto& loop : loops) EXPECT_EQ(loop->helped, 1);
}

TEST(WaitingRoom, LeavesIfNoInvitationComes) {
  Room room;
  const auto loop = std::make_shared<CountingLoop>(milliseconds(5));
  room.Serve(loop, hours(1), hours(2));  // waits no longer than it worked
  room.Serve(loop, hours(0), hours(2));
  EXPECT_EQ(loop->helped, 2);
  EXPECT_EQ(room.Invite(loop, 1), 0);
  EXPECT_EQ(loop.use_count(), 1);
}

TEST(WaitingRoom, LeavesAfterItsStayAlthoughThereIsWork) {
  Room room;
  std::atomic<bool> over{false};
  std::thread inviter([&] {
    while (!over) room.Invite(std::make_shared<CountingLoop>(milliseconds(1)), 1);
  });
  room.Serve(std::make_shared<CountingLoop>(milliseconds(1)), hours(1), milliseconds(30));
  over = true;
  inviter.join();
}

}  // namespace
}  // namespace bsparse
