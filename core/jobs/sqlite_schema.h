// The tables of the job store in SQLite. A PostgreSQL store keeps the same columns.
#pragma once

#include "absl/status/status.h"
#include "core/jobs/sqlite_database.h"

namespace orthomerge {

// Brings the database to this program's version of the schema, in one transaction. kUsage for a
// database that a newer program made.
absl::Status MigrateSchema(SqliteDatabase& database, const std::string& path);

}  // namespace orthomerge
