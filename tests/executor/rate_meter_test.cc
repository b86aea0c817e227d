#include "core/jobs/rate_meter.h"

#include "gtest/gtest.h"

namespace orthomerge {
namespace {

class RateMeterTest : public testing::Test {
 protected:
  JobProgress At(double seconds, uint64_t done, uint64_t resumed = 0) {
    JobProgress progress;
    progress.bytes_total = 10'000;
    progress.bytes_done = done;
    progress.bytes_resumed = resumed;
    meter_.Measure(absl::FromUnixSeconds(1000) + absl::Seconds(seconds), &progress);
    return progress;
  }
  RateMeter meter_;
};

TEST_F(RateMeterTest, OneReportIsNoRate) {
  EXPECT_EQ(At(0, 500).bytes_per_second, 0);
  EXPECT_FALSE(At(0, 500).time_left.has_value());
}

TEST_F(RateMeterTest, RateAndTimeLeft) {
  At(0, 0);
  const JobProgress progress = At(2, 1000);
  EXPECT_DOUBLE_EQ(progress.bytes_per_second, 500);
  EXPECT_EQ(progress.time_left, absl::Seconds(18));
}

TEST_F(RateMeterTest, OnlyTheLastSecondsCount) {
  for (int i = 0; i <= 20; ++i) At(i, static_cast<uint64_t>(i) * 10);
  JobProgress progress;
  for (int i = 21; i <= 35; ++i) progress = At(i, 200 + static_cast<uint64_t>(i - 20) * 100);
  EXPECT_NEAR(progress.bytes_per_second, 100, 1);
}

TEST_F(RateMeterTest, ResumedWorkIsNoSpeed) {
  At(0, 0);
  const JobProgress resumed = At(1, 5000, 5000);
  EXPECT_EQ(resumed.bytes_per_second, 0);
  EXPECT_FALSE(resumed.time_left.has_value());
  EXPECT_DOUBLE_EQ(At(2, 5200, 5000).bytes_per_second, 100);
}

TEST_F(RateMeterTest, StandingStillHasNoEnd) {
  At(0, 0);
  At(1, 100);
  for (int i = 2; i < 20; ++i) At(i, 100);
  EXPECT_FALSE(At(20, 100).time_left.has_value());
}

TEST_F(RateMeterTest, WorkThatTurnsIntoResumedWork) {
  At(0, 0);
  At(1, 1000);
  EXPECT_EQ(At(2, 1000, 800).bytes_per_second, 0);
  EXPECT_DOUBLE_EQ(At(3, 1050, 800).bytes_per_second, 50);
}

}  // namespace
}  // namespace orthomerge
