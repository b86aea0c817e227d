// Any bytes as a filter of a list: a filter within its limits or a fault, and SQL either way.
#include <algorithm>
#include <string>

#include "core/jobs/job_filter.h"
#include "core/jobs/sqlite_filter.h"
#include "tests/fuzz/fuzz.h"

namespace {

using Kind = orthomerge::JobFilter::Kind;

int Check(const orthomerge::JobFilter& filter, int level) {
  FUZZ_CHECK(level <= 64);
  FUZZ_CHECK(filter.kind != Kind::kNot || filter.operands.size() == 1);
  FUZZ_CHECK((filter.kind != Kind::kAnd && filter.kind != Kind::kOr) ||
             filter.operands.size() >= 2);
  int comparisons = filter.kind == Kind::kCompare ? 1 : 0;
  for (const auto& operand : filter.operands) comparisons += Check(operand, level + 1);
  return comparisons;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  const auto filter = orthomerge::ParseJobFilter(text);
  if (!filter.ok()) {
    FUZZ_CHECK(orthomerge::ReasonOf(filter.status()) == orthomerge::Reason::kInvalidFilter);
    FUZZ_CHECK(filter.status().message().size() < 6000);
    return 0;
  }
  FUZZ_CHECK(Check(*filter, 0) <= 64);
  // No byte of the text gets into the SQL: as many parameters as values, and no quotes.
  const orthomerge::SqlCondition sql = orthomerge::CompileFilter(*filter);
  FUZZ_CHECK(std::count(sql.text.begin(), sql.text.end(), '?') ==
             static_cast<std::ptrdiff_t>(sql.values.size()));
  FUZZ_CHECK(sql.text.find_first_of("'\";-") == std::string::npos);
  return 0;
}
