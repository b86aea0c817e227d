#include "core/base/progress_line.h"

#include "core/base/bytes.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace orthomerge {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

absl::Time At(double seconds) { return absl::UnixEpoch() + absl::Seconds(seconds); }

ProgressSample Made(const std::string& stage, uint64_t done_mib, uint64_t total_mib,
                    uint64_t resumed_mib = 0) {
  ProgressSample sample;
  sample.stage = stage;
  sample.bytes_done = done_mib * kMiB;
  sample.bytes_total = total_mib * kMiB;
  sample.bytes_resumed = resumed_mib * kMiB;
  return sample;
}

TEST(RateMeter, SteadyWorkGivesItsRate) {
  RateMeter meter;
  for (int i = 0; i <= 20; ++i) {
    meter.Update(Made("write", static_cast<uint64_t>(100 * i), 10000), At(i));
  }
  EXPECT_NEAR(meter.bytes_per_second(), 100.0 * kMiB, 1);
}

TEST(RateMeter, WorkOfAnEarlierRunIsNotSpeed) {
  RateMeter meter;
  meter.Update(Made("write", 0, 10000), At(0));
  meter.Update(Made("write", 5100, 10000, 5000), At(1));
  EXPECT_NEAR(meter.bytes_per_second(), 100.0 * kMiB, 1);
}

TEST(RateMeter, FallsWhileNothingMoves) {
  RateMeter meter;
  meter.Update(Made("write", 0, 1000), At(0));
  meter.Update(Made("write", 100, 1000), At(1));
  const double before = meter.bytes_per_second();
  for (int i = 2; i < 20; ++i) meter.Update(Made("write", 100, 1000), At(i));
  EXPECT_LT(meter.bytes_per_second(), before / 20);
}

TEST(ProgressLine, SaysWhatAUserWantsToKnow) {
  const std::string line = ProgressLine(Made("reduce 1/2", 1024, 4096), 512.0 * kMiB, 120);
  EXPECT_EQ(line,
            "reduce 1/2 [=========>                            ]  25%  1.00 GiB of 4.00 GiB  "
            "512 MiB/s  6.0 s left");
}

TEST(ProgressLine, FitsAnyTerminal) {
  for (int columns = 1; columns < 200; ++columns) {
    const std::string line = ProgressLine(Made("reduce 1/2", 1, 4096), 512.0 * kMiB, columns);
    EXPECT_LT(line.size(), static_cast<size_t>(columns));
  }
  EXPECT_LT(ProgressLine(Made("write", 1, 2), 0, 0).size(), 80u);
}

TEST(ProgressLine, NothingKnownYetAndAllDone) {
  EXPECT_THAT(ProgressLine(Made("reduce 1/2", 0, 0), 0, 80), HasSubstr("  0%"));
  const std::string done = ProgressLine(Made("publish", 10, 10), 5.0 * kMiB, 80);
  EXPECT_THAT(done, HasSubstr("100%"));
  EXPECT_THAT(done, HasSubstr("5.0 MiB/s"));
  EXPECT_THAT(done, Not(HasSubstr("left")));
}

TEST(ProgressRenderer, PlainLinesComeSeldomAndAtEveryStage) {
  ProgressRenderer renderer(/*redraw=*/false);
  EXPECT_EQ(renderer.Update(Made("", 0, 1000), At(0)), "");
  EXPECT_EQ(renderer.Update(Made("reduce", 0, 1000), At(0)), "reduce: 0 B of 1000.0 MiB (0%)\n");
  EXPECT_EQ(renderer.Update(Made("reduce", 100, 1000), At(1)), "");
  EXPECT_EQ(renderer.Update(Made("reduce", 490, 1000), At(4.9)), "");
  EXPECT_EQ(renderer.Update(Made("reduce", 500, 1000), At(5)),
            "reduce: 500.0 MiB of 1000.0 MiB (50%), 100 MiB/s, 5.0 s left\n");
  EXPECT_THAT(renderer.Update(Made("write", 510, 1000), At(5.1)), StartsWith("write: "));
  EXPECT_EQ(renderer.Update(Made("write", 520, 1000), At(6)), "");
  EXPECT_EQ(renderer.Finish(), "");
}

TEST(ProgressRenderer, OneLineIsRedrawnOnATerminal) {
  ProgressRenderer renderer(/*redraw=*/true);
  const std::string first = renderer.Update(Made("reduce", 0, 1000), At(0), 80);
  EXPECT_THAT(first, StartsWith("\rreduce ["));
  EXPECT_THAT(first, EndsWith("\x1b[K"));
  EXPECT_THAT(first, Not(HasSubstr("\n")));
  EXPECT_EQ(renderer.Update(Made("reduce", 10, 1000), At(0.05), 80), "");
  EXPECT_THAT(renderer.Update(Made("reduce", 20, 1000), At(0.3), 80), HasSubstr("20.0 MiB of"));
  EXPECT_THAT(renderer.Update(Made("reduce", 1000, 1000), At(0.31), 80), HasSubstr("100%"));
  EXPECT_THAT(renderer.Finish(80), EndsWith("\n"));
  EXPECT_EQ(renderer.Finish(80), "");
}

TEST(ProgressRenderer, ARateThatSomebodyMeasuredIsShown) {
  ProgressRenderer renderer(/*redraw=*/false);
  ProgressSample sample = Made("write", 100, 300);
  sample.bytes_per_second = 50.0 * kMiB;
  EXPECT_THAT(renderer.Update(sample, At(0)), HasSubstr("50 MiB/s, 4.0 s left"));
}

TEST(ProgressRenderer, NothingShownNeedsNoEnd) {
  EXPECT_EQ(ProgressRenderer(/*redraw=*/true).Finish(80), "");
}

}  // namespace
}  // namespace orthomerge
