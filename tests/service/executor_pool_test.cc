#include "server/executor_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

namespace orthomerge {
namespace {

TEST(ExecutorPoolTest, RefusesBeyondItsQueueAndRunsAllItTook) {
  std::atomic<int> ran{0};
  std::promise<void> started;
  std::promise<void> release;
  {
    ExecutorPool pool("test", 1, 2);
    EXPECT_TRUE(pool.TrySubmit([&] {
      started.set_value();
      release.get_future().wait();
      ++ran;
    }));
    started.get_future().wait();
    EXPECT_TRUE(pool.TrySubmit([&] { ++ran; }));
    EXPECT_TRUE(pool.TrySubmit([&] { ++ran; }));
    EXPECT_FALSE(pool.TrySubmit([&] { ran += 100; }));
    pool.Submit([&] { ++ran; });
    release.set_value();
  }
  EXPECT_EQ(ran, 4);
}

}  // namespace
}  // namespace orthomerge
