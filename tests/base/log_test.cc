#include "core/base/log.h"

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace orthomerge {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::MatchesRegex;
using testing::Not;
using testing::SizeIs;

class LogTest : public testing::Test {
 protected:
  LogTest() {
    SetLogLevel(LogLevel::kInfo);
    SetLogFormat(LogFormat::kJson);
    SetLogWriter([this](const std::string& line) { lines_.push_back(line); });
  }
  ~LogTest() override {
    SetLogWriter(nullptr);
    SetLogFormat(LogFormat::kText);
  }

  std::vector<std::string> lines_;
};

TEST_F(LogTest, AJsonLineHasTheFixedFieldsAndItsOwn) {
  ORTHOMERGE_LOG(kWarning, "job lost").With("job", "tenants/a/mergeJobs/b").With("attempt", 3);
  ASSERT_THAT(lines_, SizeIs(1));
  EXPECT_THAT(lines_[0],
              MatchesRegex("\\{\"severity\":\"WARNING\",\"time\":\"20[0-9]{2}-[0-9]{2}-[0-9]{2}T"
                           "[0-9:]{8}\\.[0-9]{6}Z\",\"msg\":\"job lost\","
                           "\"job\":\"tenants/a/mergeJobs/b\",\"attempt\":3,"
                           "\"file\":\"[^\"]*base/log_test.cc\",\"line\":[0-9]+\\}\n"));
}

TEST_F(LogTest, ValuesKeepTheirTypes) {
  ORTHOMERGE_LOG(kInfo, "x")
      .With("yes", true)
      .With("rate", 0.5)
      .With("nan", std::stod("nan"))
      .With("big", uint64_t{18446744073709551615u});
  EXPECT_THAT(lines_[0],
              HasSubstr("\"yes\":true,\"rate\":0.5,\"nan\":null,\"big\":18446744073709551615,"));
}

TEST_F(LogTest, TextFromOutsideCannotForgeALine) {
  ORTHOMERGE_LOG(kInfo, "a\n{\"severity\":\"ERROR\"}").With("name", "\x1b[2J\xff\\ \xc3\xa9");
  ASSERT_THAT(lines_, SizeIs(1));
  EXPECT_THAT(lines_[0], HasSubstr("\"msg\":\"a\\n{\\\"severity\\\":\\\"ERROR\\\"}\""));
  EXPECT_THAT(lines_[0], HasSubstr("\"name\":\"\\u001b[2J\xEF\xBF\xBD\\\\ \xc3\xa9\""));
}

TEST_F(LogTest, TerminalsGetPlainText) {
  SetLogFormat(LogFormat::kText);
  ORTHOMERGE_LOG(kInfo, "serves on 127.0.0.1:1").With("a", "b").With("c", "d e").With("n", 7);
  EXPECT_THAT(lines_[0], EndsWith("Z INFO serves on 127.0.0.1:1 a=b c=\"d e\" n=7\n"));
}

TEST_F(LogTest, LevelsBelowTheChosenOneAreLeftOut) {
  SetLogLevel(LogLevel::kWarning);
  ORTHOMERGE_LOG(kInfo, "no").With("a", 1);
  EXPECT_THAT(lines_, IsEmpty());
  ORTHOMERGE_LOG(kError, "yes");
  EXPECT_THAT(lines_, SizeIs(1));
}

TEST_F(LogTest, OnePlaceCannotFloodTheLog) {
  for (int i = 0; i < 10 * kLogBurst; ++i) ORTHOMERGE_LOG(kInfo, "again");
  // The second may change on the way, and starts a new burst then.
  EXPECT_THAT(lines_.size(), testing::AllOf(testing::Ge(100u), testing::Le(300u)));
  ORTHOMERGE_LOG(kInfo, "another place is not concerned");
  EXPECT_THAT(lines_.back(), HasSubstr("another place"));
}

TEST_F(LogTest, TheNextLineSaysHowManyWereLeftOut) {
  LogSite site;
  const absl::Time start = absl::FromUnixSeconds(1000);
  int64_t suppressed = 0;
  for (int i = 0; i < kLogBurst; ++i) EXPECT_TRUE(site.Allows(start, &suppressed));
  EXPECT_FALSE(site.Allows(start, &suppressed));
  EXPECT_FALSE(site.Allows(start, &suppressed));
  EXPECT_TRUE(site.Allows(start + absl::Seconds(1), &suppressed));
  EXPECT_EQ(suppressed, 2);
  EXPECT_TRUE(site.Allows(start + absl::Seconds(1), &suppressed));
  EXPECT_EQ(suppressed, 0);
}

TEST_F(LogTest, LinesOfThreadsDoNotMix) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([] {
      for (int i = 0; i < 20; ++i)
        ORTHOMERGE_LOG(kInfo, "line").With("text", std::string(200, 'x'));
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_THAT(lines_, SizeIs(80));
  for (const std::string& line : lines_) EXPECT_THAT(line, EndsWith("}\n"));
}

TEST_F(LogTest, LongValuesAreCut) {
  ORTHOMERGE_LOG(kInfo, std::string(1 << 20, 'x'));
  EXPECT_LT(lines_[0].size(), 10000u);
  EXPECT_THAT(lines_[0], HasSubstr("xxx...\""));
}

TEST(LogLevelTest, NamesRoundTrip) {
  EXPECT_EQ(ParseLogLevel("warning"), LogLevel::kWarning);
  EXPECT_EQ(LogLevelName(LogLevel::kDebug), "debug");
  EXPECT_EQ(ParseLogLevel("loud"), std::nullopt);
}

}  // namespace
}  // namespace orthomerge
