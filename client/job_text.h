// Jobs, servers and methods as people read them.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "orthomerge/v1/merge_service.pb.h"

namespace orthomerge::client {

std::string JobText(const v1::MergeJob& job);
std::string JobTable(const std::vector<v1::MergeJob>& jobs, absl::Time now);
// What came of a merge, the last words of submit and watch: output, files, time.
std::string ResultText(const v1::MergeJob& job);
std::string ServerInfoText(const v1::ServerInfo& info);
std::string MethodTable(const v1::ListMethodsResponse& methods);
std::string MethodText(const v1::Method& method);

}  // namespace orthomerge::client
