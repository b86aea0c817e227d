// Calls about jobs that are stored: get, list, cancel, delete.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/base/digest.h"
#include "core/jobs/job_filter.h"
#include "google/protobuf/empty.pb.h"
#include "server/page_token.h"
#include "server/resource_name.h"
#include "server/service_core.h"

namespace orthomerge {
namespace {

constexpr int kDefaultPage = 50;

std::optional<int64_t> ExpectedVersion(const std::string& etag) {
  if (etag.empty()) return std::nullopt;
  return VersionOf(etag);
}

void AnswerJob(const CallPtr& call, const std::string& name, const absl::StatusOr<Job>& job) {
  if (!job.ok()) {
    call->Fail(MakeStoreError(job.status(), {.job = name, .output_uri = "", .field = ""}));
  } else {
    call->Succeed(JobToProto(*job));
  }
}

// One page; a shorter one where the jobs are large.
absl::StatusOr<v1::ListMergeJobsResponse> ReadPage(JobStore& store, JobQuery query,
                                                   const std::string& arguments) {
  for (;;) {
    ASSIGN_OR_RETURN(const JobPage page, store.List(query));
    v1::ListMergeJobsResponse response;
    size_t bytes = 0;
    int fitting = 0;
    for (const Job& job : page.jobs) {
      v1::MergeJob* item = response.add_merge_jobs();
      *item = JobToProto(job);
      item->mutable_result()->clear_report_json();
      item->mutable_plan()->clear_inputs();
      if (!job.result.has_value()) item->clear_result();
      bytes += item->ByteSizeLong() + 8;
      if (bytes > kMaxAnswerBytes) break;
      ++fitting;
    }
    if (fitting == static_cast<int>(page.jobs.size()) || page.jobs.size() == 1) {
      if (!page.next.empty()) response.set_next_page_token(MakePageToken(page.next, arguments));
      return response;
    }
    query.page_size = std::max(fitting, 1);
  }
}

}  // namespace

void GetMergeJob(ServiceCore& core, const CallPtr& call, v1::GetMergeJobRequest request) {
  if (auto error = Admit(call->principal(), request, request.name(), core.parts.limits)) {
    return call->Fail(*error);
  }
  core.OnStore(call, [&core, call, name = request.name()] {
    AnswerJob(call, name, core.parts.store->Get(*ParseJobName(name)));
  });
}

void ListMergeJobs(ServiceCore& core, const CallPtr& call, v1::ListMergeJobsRequest request) {
  if (auto error = Admit(call->principal(), request, request.parent(), core.parts.limits)) {
    return call->Fail(*error);
  }
  JobQuery query;
  query.tenant = TenantOf(request.parent());
  query.oldest_first =
      request.order_by() == "create_time" || request.order_by() == "create_time asc";
  query.page_size =
      request.page_size() == 0 ? kDefaultPage : std::min(request.page_size(), kMaxPageSize);
  absl::StatusOr<JobFilter> filter = ParseJobFilter(request.filter());
  if (!filter.ok()) {
    return call->Fail(
        MakeCallError(filter.status(), {.job = "", .output_uri = "", .field = "filter"}));
  }
  query.filter = *std::move(filter);
  const std::string arguments =
      Sha256Hex(absl::StrCat(request.parent(), "\n", query.oldest_first, "\n", request.filter()))
          .substr(0, 32);
  const ErrorContext context{.job = "", .output_uri = "", .field = "page_token"};
  if (!request.page_token().empty()) {
    absl::StatusOr<std::string> cursor = ReadPageToken(request.page_token(), arguments);
    if (!cursor.ok()) return call->Fail(MakeCallError(cursor.status(), context));
    query.after = *std::move(cursor);
  }
  core.OnStore(call, [&core, call, context, arguments, query = std::move(query)] {
    const absl::StatusOr<v1::ListMergeJobsResponse> page =
        ReadPage(*core.parts.store, query, arguments);
    if (!page.ok()) return call->Fail(MakeStoreError(page.status(), context));
    call->Succeed(*page);
  });
}

void CancelMergeJob(ServiceCore& core, const CallPtr& call, v1::CancelMergeJobRequest request) {
  if (auto error = Admit(call->principal(), request, request.name(), core.parts.limits)) {
    return call->Fail(*error);
  }
  core.OnStore(call, [&core, call, request = std::move(request)] {
    AnswerJob(call, request.name(),
              core.parts.store->Cancel(*ParseJobName(request.name()),
                                       ExpectedVersion(request.etag()), request.reason()));
  });
}

void DeleteMergeJob(ServiceCore& core, const CallPtr& call, v1::DeleteMergeJobRequest request) {
  if (auto error = Admit(call->principal(), request, request.name(), core.parts.limits)) {
    return call->Fail(*error);
  }
  core.OnStore(call, [&core, call, request = std::move(request)] {
    const absl::Status status =
        core.parts.store->Delete(*ParseJobName(request.name()), ExpectedVersion(request.etag()));
    if (!status.ok()) {
      return call->Fail(
          MakeStoreError(status, {.job = request.name(), .output_uri = "", .field = ""}));
    }
    call->Succeed(google::protobuf::Empty());
  });
}

}  // namespace orthomerge
