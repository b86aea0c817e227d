// A list's filter as a SQL condition with bound parameters.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "core/jobs/job_filter.h"
#include "core/jobs/sqlite_database.h"

namespace orthomerge {

using SqlValue = std::variant<int64_t, std::string>;

struct SqlCondition {
  std::string text;  // on the table `job`; two-valued: never NULL
  std::vector<SqlValue> values;
};

SqlCondition CompileFilter(const JobFilter& filter);

// A label that every matching job carries with this value, if the filter says so: a list can walk
// the index of that label then. Null otherwise.
const JobFilter* RequiredLabel(const JobFilter& filter);

void BindAll(SqliteQuery& query, const std::vector<SqlValue>& values);

}  // namespace orthomerge
