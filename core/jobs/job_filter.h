// The filter of a list of jobs: a documented subset of AIP-160.
//
//   filter     = sequence of factors joined by AND
//   factor     = terms joined by OR (binds tighter than AND)
//   term       = [NOT | -] (comparison | '(' filter ')')
//   comparison = field (= | != | < | <= | > | >=) value
//
// Fields: state (= != with a state's name), method, error.reason (text: = !=), labels.KEY (text: =
// !=; `labels.KEY = *` and `labels.KEY:*` mean that it is set), priority (number), create_time,
// end_time (RFC 3339). Values are words or "quoted text" with \" and \\.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "core/jobs/job.h"

namespace orthomerge {

struct JobFilter {
  enum class Kind { kAll, kAnd, kOr, kNot, kCompare };
  enum class Field { kState, kMethod, kErrorReason, kLabel, kPriority, kCreateTime, kEndTime };
  enum class Op { kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kPresent };

  Kind kind = Kind::kAll;
  std::vector<JobFilter> operands;  // kAnd, kOr: two or more; kNot: one
  // kCompare:
  Field field = Field::kState;
  std::string label;  // kLabel
  Op op = Op::kEqual;
  std::string text;  // kState: its name; kMethod, kErrorReason, kLabel
  int64_t number = 0;
  absl::Time time;
};

// The empty text is kAll. kInvalidFilter says what is wrong, at which column, and what would do. At
// most 4 KiB, 64 comparisons and 16 levels.
absl::StatusOr<JobFilter> ParseJobFilter(absl::string_view text);

}  // namespace orthomerge
