#include "core/base/bytes.h"
#include "core/base/diagnostics.h"
#include "core/base/digest.h"
#include "core/base/status.h"
#include "core/base/text.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace orthomerge {
namespace {

using testing::HasSubstr;

TEST(Bytes, Parses) {
  EXPECT_EQ(*ParseBytes("64MiB"), 64 * kMiB);
  EXPECT_EQ(*ParseBytes("5GB"), 5'000'000'000u);
  EXPECT_EQ(*ParseBytes(" 1.5 GiB "), 3 * kGiB / 2);
  EXPECT_EQ(*ParseBytes("4096"), 4096u);
  EXPECT_EQ(*ParseBytes("2k"), 2048u);
  for (const char* bad : {"", "MiB", "0", "-1", "1XB", "1e30GB", "nan", "5 5"}) {
    EXPECT_EQ(ReasonOf(ParseBytes(bad).status()), Reason::kOutOfRange) << bad;
  }
}

TEST(Bytes, FormatsForPeople) {
  EXPECT_EQ(FormatBytes(999), "999 B");
  EXPECT_EQ(FormatBytes(1536), "1.50 KiB");
  EXPECT_EQ(FormatBytes(64 * kMiB), "64.0 MiB");
  EXPECT_EQ(FormatSeconds(4.24), "4.2 s");
  EXPECT_EQ(FormatSeconds(3723), "1:02:03");
}

TEST(Status, CarriesReasonCodeAndExitCode) {
  const absl::Status status = MakeError(Reason::kOutputExists, "x exists");
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(ReasonOf(status), Reason::kOutputExists);
  EXPECT_EQ(ReasonName(Reason::kOutputExists), "OUTPUT_EXISTS");
  EXPECT_EQ(ExitCode(Reason::kOutputExists), 3);
  EXPECT_EQ(ExitCode(Reason::kUnknownKey), 2);
  EXPECT_EQ(ExitCode(Reason::kStorageUnavailable), 6);
  EXPECT_EQ(ExitCode(Reason::kPermissionDenied), 7);
  EXPECT_EQ(ReasonOf(absl::InternalError("other")), Reason::kInternal);
}

TEST(Status, AnnotateKeepsTheReason) {
  const absl::Status status = Annotate(MakeError(Reason::kDiskFull, "no room"), "write");
  EXPECT_EQ(status.message(), "write: no room");
  EXPECT_EQ(ReasonOf(status), Reason::kDiskFull);
  EXPECT_TRUE(Annotate(absl::OkStatus(), "write").ok());
}

TEST(Diagnostics, CollectsAllFaults) {
  Diagnostics diagnostics;
  diagnostics.Warning("odd");
  EXPECT_TRUE(diagnostics.ToStatus().ok());
  diagnostics.Error(Reason::kUnknownKey, "unknown key 'a'", "models[0]", {"r.yaml", 3, 5});
  diagnostics.Add(MakeError(Reason::kWrongType, "wanted a number"), "lambda");
  diagnostics.Add(absl::OkStatus());
  const absl::Status status = diagnostics.ToStatus();
  EXPECT_EQ(ReasonOf(status), Reason::kUnknownKey);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("r.yaml:3:5: error: models[0]: unknown key 'a'\nerror: lambda: wanted"));
  EXPECT_EQ(diagnostics.items().size(), 3u);
}

TEST(Text, SuggestsWhatWasMeant) {
  const std::vector<std::string> known = {"models", "method", "base"};
  EXPECT_EQ(Closest("modles", known), "models");
  EXPECT_EQ(Closest("Method", known), "method");
  EXPECT_EQ(Closest("quantum", known), "");
  EXPECT_EQ(DidYouMean("bas", known), "; did you mean 'base'?");
  EXPECT_EQ(DidYouMean("zzz", known), "");
}

TEST(Digest, KnownAnswers) {
  EXPECT_EQ(Sha256Hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Xxh3Hex(""), "2d06800538d394c2");
}

}  // namespace
}  // namespace orthomerge
