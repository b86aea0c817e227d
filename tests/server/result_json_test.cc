#include "server/result_json.h"

#include <signal.h>

#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/report_text.h"
#include "server/signals.h"

namespace orthomerge {
namespace {

using testing::HasSubstr;
using testing::Not;

std::vector<std::string> Keys(const Json& json) {
  std::vector<std::string> keys;
  for (const auto& item : json.items()) keys.push_back(item.key());
  return keys;
}

RunResult Example() {
  RunResult result;
  result.output = "/models/merged";
  result.plan_digest = "00ff";
  result.resumed = true;
  result.files = {{"model.safetensors", 1000, "xxh3-parts:1"}};
  result.stages = {{"write", 2.0, 3000, 1000}, {"publish", 0.0, 0, 0}};
  result.seconds = 2.5;
  result.peak_rss = 1 << 20;
  result.report_json = R"({"method": "awd", "models": ["a", "b"], "norms": [1.5, 2],
      "cosines_before": [[1, 0.25], [0.25, 1]], "g0_over_alpha": 12.5,
      "nonfinite": {"total": 3, "models": {"b": 3}, "tensors": [{"nonfinite": 3}]}, "warnings": ["said before", "new"]})";
  return result;
}

TEST(ResultJson, SuccessHasTheDocumentedShape) {
  const std::vector<Diagnostic> warnings = {
      {false, Reason::kInternal, "twice", "models[1]", {"m.yaml", 3, 5}}};
  const std::string line = OneLine(RunResultJson(Example(), warnings));
  EXPECT_THAT(line, Not(HasSubstr("\n")));
  const Json json = Json::parse(line);
  EXPECT_THAT(Keys(json), testing::ElementsAre("ok", "output", "plan_digest", "already_complete",
                                               "resumed", "files", "stages", "seconds", "peak_rss",
                                               "report", "diagnostics"));
  EXPECT_EQ(json["ok"], true);
  EXPECT_EQ(json["files"][0]["size"], 1000);
  EXPECT_EQ(json["stages"][0]["bytes_per_second"], 2000.0);
  EXPECT_EQ(json["stages"][1]["bytes_per_second"], 0);
  EXPECT_EQ(json["report"]["g0_over_alpha"], 12.5);
  EXPECT_EQ(json["diagnostics"][0], Json::parse(R"({"severity": "warning", "message": "twice",
      "field": "models[1]", "file": "m.yaml", "line": 3, "column": 5})"));
}

TEST(ResultJson, AReportThatIsNoJsonBecomesNull) {
  RunResult result = Example();
  result.report_json = "{";
  EXPECT_TRUE(RunResultJson(result, {})["report"].is_null());
}

TEST(ResultJson, FailureNamesReasonCodeAndExitCode) {
  const absl::Status status = MakeError(Reason::kOutputExists, "out: exists");
  EXPECT_EQ(OneLine(FailureJson(status, {}, 3)),
            R"({"ok":false,"error":{"reason":"OUTPUT_EXISTS","code":"ALREADY_EXISTS",)"
            R"("message":"out: exists"},"diagnostics":[],"exit_code":3})");
}

TEST(ResultJson, BytesThatAreNoTextDoNotThrow) {
  const absl::Status status = MakeError(Reason::kInputCorrupt, "tensor \xff");
  EXPECT_THAT(OneLine(FailureJson(status, {}, 3)), HasSubstr("tensor \xef\xbf\xbd"));
}

TEST(ResultJson, ExitCodes) {
  EXPECT_EQ(ExitCodeOf(absl::OkStatus(), SIGINT), 0);
  EXPECT_EQ(ExitCodeOf(MakeError(Reason::kUnknownKey, ""), 0), 2);
  EXPECT_EQ(ExitCodeOf(MakeError(Reason::kDiskFull, ""), SIGINT), 3);
  EXPECT_EQ(ExitCodeOf(MakeError(Reason::kPlanRunning, ""), 0), 6);
  EXPECT_EQ(ExitCodeOf(MakeError(Reason::kCredentialsMissing, ""), 0), 7);
  EXPECT_EQ(ExitCodeOf(MakeError(Reason::kCancelled, ""), 0), 4);
  EXPECT_EQ(ExitCodeOf(MakeError(Reason::kCancelled, ""), SIGINT), 130);
  EXPECT_EQ(ExitCodeOf(MakeError(Reason::kCancelled, ""), SIGTERM), 143);
  EXPECT_EQ(ExitCodeOf(absl::UnknownError("from a library"), 0), 1);
}

TEST(ReportFailure, SaysEachFaultOnce) {
  std::istringstream in;
  std::ostringstream out, err;
  CommandContext context{.in = in, .out = out, .err = err, .working_directory = "/"};
  Diagnostics diagnostics;
  diagnostics.Warning("a warning");
  diagnostics.Error(Reason::kUnknownKey, "no such key", "modles", {"m.yaml", 2, 1});
  EXPECT_EQ(
      ReportFailure(context, OutputFormat::kTable, diagnostics.ToStatus(), diagnostics.items()), 2);
  EXPECT_EQ(err.str(), "m.yaml:2:1: error: modles: no such key\n");
  err.str("");
  const std::vector<Diagnostic> bare = {{true, Reason::kBudgetTooSmall, "too small", "", {}}};
  ReportFailure(context, OutputFormat::kTable, MakeError(Reason::kBudgetTooSmall, "too small"),
                bare);
  EXPECT_EQ(err.str(), "error: too small\n");
  err.str("");
  ReportFailure(context, OutputFormat::kTable, MakeError(Reason::kDiskFull, "full"), {});
  EXPECT_EQ(err.str(), "error: full\n");
  EXPECT_EQ(out.str(), "");
}

TEST(Report, PrintsWhatIsThere) {
  const std::vector<Diagnostic> printed = {{false, Reason::kInternal, "said before", "", {}}};
  const std::string text = RunReportText(Example(), printed);
  EXPECT_THAT(text, HasSubstr("Method  awd\nModels  2: a, b\n"));
  EXPECT_THAT(text, HasSubstr("  a  1.0000  0.2500\n"));
  EXPECT_THAT(text, HasSubstr("Non-finite values  3\n  b  3\n"));
  EXPECT_THAT(text, HasSubstr("Warning  new\n"));
  EXPECT_THAT(text, Not(HasSubstr("said before")));
  EXPECT_THAT(text, HasSubstr("/models/merged (resumed an earlier run)"));
  EXPECT_THAT(text, Not(HasSubstr("Cosines after")));
}

TEST(Report, TakesAnyShape) {
  for (const char* report :
       {"", "[]", "3", R"({"models": 3, "norms": "x", "cosines_before": [[1], [2, 3]]})",
        R"({"models": [{"name": 1}, null], "norms": {"a": [1]}, "warnings": [1, {"message": 2}]})",
        R"({"norms": [null, 1], "nonfinite_elements": {"a": [0, {"b": 0}]}, "warnings": {}})"}) {
    RunResult result = Example();
    result.report_json = report;
    EXPECT_THAT(RunReportText(result, {}), HasSubstr("/models/merged")) << report;
  }
}

TEST(Signals, TheFirstStopsInOrderTheSecondAtOnce) {
  EXPECT_EXIT(
      {
        const Cancellation* cancellation = WatchSignals();
        raise(SIGTERM);
        if (cancellation->cancelled() && ReceivedSignal() == SIGTERM) raise(SIGINT);
        _exit(1);
      },
      testing::ExitedWithCode(130), "");
}

}  // namespace
}  // namespace orthomerge
