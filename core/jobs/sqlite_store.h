// The job store of one server: a SQLite file.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "core/base/clock.h"
#include "core/jobs/job_store.h"

namespace orthomerge {

// Makes the file, and the folders above it, for their owner alone where they are missing. The store
// holds `path`.lock for life: kUsage while another server does. kUsage also for a schema newer than
// this program's; kInternal for a damaged file.
absl::StatusOr<std::unique_ptr<JobStore>> OpenSqliteStore(const std::string& path,
                                                          Clock clock = RealClock());

}  // namespace orthomerge
