#include "core/jobs/job_filter.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace orthomerge {
namespace {

using testing::HasSubstr;

// The structure in full parentheses.
std::string Show(const JobFilter& filter) {
  using Kind = JobFilter::Kind;
  using Field = JobFilter::Field;
  if (filter.kind == Kind::kAll) return "all";
  if (filter.kind == Kind::kNot) return "!" + Show(filter.operands.at(0));
  if (filter.kind == Kind::kAnd || filter.kind == Kind::kOr) {
    std::string text = "(";
    for (const JobFilter& operand : filter.operands) {
      if (text.size() > 1) text += filter.kind == Kind::kAnd ? " & " : " | ";
      text += Show(operand);
    }
    return text + ")";
  }
  static const char* const kFields[] = {"state",    "method",      "error.reason", "label",
                                        "priority", "create_time", "end_time"};
  static const char* const kOps[] = {"=", "!=", "<", "<=", ">", ">=", ":"};
  std::string text = kFields[static_cast<int>(filter.field)];
  if (filter.field == Field::kLabel) text += "[" + filter.label + "]";
  text += kOps[static_cast<int>(filter.op)];
  if (filter.field == Field::kPriority) return text + std::to_string(filter.number);
  if (filter.field == Field::kCreateTime || filter.field == Field::kEndTime) {
    return text + absl::FormatTime("%Y-%m-%dT%H:%M:%E*S", filter.time, absl::UTCTimeZone());
  }
  return text + filter.text;
}

std::string Parse(const std::string& text) {
  const auto filter = ParseJobFilter(absl::string_view(text.data(), text.size()));
  if (filter.ok()) return Show(*filter);
  EXPECT_EQ(ReasonOf(filter.status()), Reason::kInvalidFilter);
  return std::string(filter.status().message());
}

TEST(JobFilter, Comparisons) {
  EXPECT_EQ(Parse(""), "all");
  EXPECT_EQ(Parse(" \t\n"), "all");
  EXPECT_EQ(Parse("state = RUNNING"), "state=RUNNING");
  EXPECT_EQ(Parse("state!=FAILED"), "state!=FAILED");
  EXPECT_EQ(Parse("method = mergekit.ties"), "method=mergekit.ties");
  EXPECT_EQ(Parse("error.reason=\"OUTPUT_EXISTS\""), "error.reason=OUTPUT_EXISTS");
  EXPECT_EQ(Parse("labels.team = \"n \\\"l\\\\p\""), "label[team]=n \"l\\p");
  EXPECT_EQ(Parse("labels.a-b/c.d != x"), "label[a-b/c.d]!=x");
  EXPECT_EQ(Parse("labels.team = *"), "label[team]:");
  EXPECT_EQ(Parse("labels.team:*"), "label[team]:");
  EXPECT_EQ(Parse("labels.team = \"*\""), "label[team]=*");
  EXPECT_EQ(Parse("labels.team = \"\""), "label[team]=");
  EXPECT_EQ(Parse("priority>=-5"), "priority>=-5");
  EXPECT_EQ(Parse("priority < 5"), "priority<5");
  EXPECT_EQ(Parse("create_time > 2026-01-31T12:00:00.25+01:00"),
            "create_time>2026-01-31T11:00:00.25");
  EXPECT_EQ(Parse("end_time <= \"2026-01-31T12:00:00Z\""), "end_time<=2026-01-31T12:00:00");
}

TEST(JobFilter, OrBindsTighterThanAnd) {
  EXPECT_EQ(Parse("priority=1 AND priority=2 OR priority=3 AND priority=4"),
            "(priority=1 & (priority=2 | priority=3) & priority=4)");
  EXPECT_EQ(Parse("(priority=1 AND priority=2) OR priority=3"),
            "((priority=1 & priority=2) | priority=3)");
  EXPECT_EQ(Parse("NOT priority=1 OR -priority=2"), "(!priority=1 | !priority=2)");
  EXPECT_EQ(Parse("-(priority=1 OR priority=2) AND((state=FAILED))"),
            "(!(priority=1 | priority=2) & state=FAILED)");
}

TEST(JobFilter, FaultsSayWhereAndWhatWouldDo) {
  EXPECT_THAT(Parse("stat = RUNNING"), HasSubstr("column 1: unknown field 'stat'; did you mean "
                                                 "'state'?; the fields are state, method"));
  EXPECT_THAT(Parse("state = RUNING"), HasSubstr("column 9: unknown state 'RUNING'; did you mean "
                                                 "'RUNNING'?; the states are QUEUED, RUNNING"));
  EXPECT_THAT(Parse("state > RUNNING"), HasSubstr("column 7: '>' works with priority"));
  EXPECT_THAT(Parse("method:awd"), HasSubstr("column 7: ':' works with labels.KEY only"));
  EXPECT_THAT(Parse("labels. = x"), HasSubstr("column 1: expected labels.KEY"));
  EXPECT_THAT(Parse("labels.a:b"), HasSubstr("for a value use labels.a ="));
  EXPECT_THAT(Parse("labels.a != *"), HasSubstr("use NOT labels.a:*"));
  EXPECT_THAT(Parse("priority = high"), HasSubstr("column 12: expected a whole number"));
  EXPECT_THAT(Parse("create_time > yesterday"), HasSubstr("column 15: expected a time like"));
  EXPECT_THAT(Parse("create_time > infinite-past"), HasSubstr("expected a time like"));
  EXPECT_THAT(Parse("state RUNNING"), HasSubstr("column 7: expected one of = !="));
  EXPECT_THAT(Parse("state ="), HasSubstr("column 8: expected a value after '='"));
  EXPECT_THAT(Parse("state = RUNNING priority = 1"), HasSubstr("column 17: expected AND, OR"));
  EXPECT_THAT(Parse("state = RUNNING AND"), HasSubstr("column 20: expected a field"));
  EXPECT_THAT(Parse("(state = RUNNING"), HasSubstr("')' for the '(' at column 1"));
  EXPECT_THAT(Parse("state = RUNNING)"), HasSubstr("column 16: no '(' for this ')'"));
  EXPECT_THAT(Parse("method = \"awd"), HasSubstr("column 10: the quote is not closed"));
  EXPECT_THAT(Parse("method = \"a\\n\""), HasSubstr("only \\\" and \\\\ may follow"));
  EXPECT_THAT(Parse("method ! awd"), HasSubstr("column 8: expected '!='"));
  EXPECT_THAT(Parse("method = 'awd'"), HasSubstr("column 10: unexpected character"));
  EXPECT_THAT(Parse("NOT NOT state = FAILED"), HasSubstr("NOT of NOT"));
  EXPECT_THAT(Parse(std::string("method = \"a\0\"", 13)), HasSubstr("NUL"));
}

TEST(JobFilter, Limits) {
  const auto join = [](int count) {
    std::string text = "priority=1";
    for (int i = 1; i < count; ++i) text += " AND priority=1";
    return text;
  };
  EXPECT_THAT(Parse(join(64)), HasSubstr("priority=1 & "));
  EXPECT_THAT(Parse(join(65)), HasSubstr("more than 64 comparisons"));
  const auto nest = [](int levels) {
    return std::string(levels - 1, '(') + "priority=1" + std::string(levels - 1, ')');
  };
  EXPECT_EQ(Parse(nest(16)), "priority=1");
  EXPECT_THAT(Parse(nest(17)), HasSubstr("more than 16 levels"));
  EXPECT_EQ(Parse("priority=1" + std::string(4086, ' ')), "priority=1");
  EXPECT_THAT(Parse("priority=1" + std::string(4087, ' ')), HasSubstr("at most 4096"));
}

}  // namespace
}  // namespace orthomerge
