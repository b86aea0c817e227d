// Names of resources: "tenants/TENANT" and "tenants/TENANT/mergeJobs/JOB".
#pragma once

#include <optional>
#include <string>

#include "core/jobs/job.h"

namespace orthomerge {

inline constexpr char kJobType[] = "orthomerge/MergeJob";

std::string TenantName(const std::string& tenant);
std::string JobName(const JobKey& key);

// Null for what is no such name.
std::optional<std::string> ParseTenantName(const std::string& name);
std::optional<JobKey> ParseJobName(const std::string& name);

// [a-z]([a-z0-9-]{0,61}[a-z0-9])?
bool IsJobId(const std::string& id);
// "job-" and 20 random characters of lower-case base32.
std::string NewJobId();

}  // namespace orthomerge
