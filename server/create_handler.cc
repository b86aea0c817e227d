// CreateMergeJob and Plan: everything that reads recipes and inputs.
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "core/base/digest.h"
#include "server/resource_name.h"
#include "server/service_core.h"
#include "server/utf8_text.h"

namespace orthomerge {
namespace {

// The same bytes for equal messages.
std::string Serialize(const google::protobuf::Message& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream output(&stream);
  output.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&output);
  output.Trim();
  return bytes;
}

// Of all that the request says: not its id, nor what the server would have ignored.
std::string DigestOf(const v1::CreateMergeJobRequest& request) {
  v1::CreateMergeJobRequest said = request;
  said.clear_request_id();
  said.clear_merge_job();
  *said.mutable_merge_job()->mutable_spec() = request.merge_job().spec();
  *said.mutable_merge_job()->mutable_labels() = request.merge_job().labels();
  return Sha256Hex(Serialize(said));
}

// One creation, handed from thread to thread.
struct Creation {
  ServiceCore& core;
  CallPtr call;
  v1::CreateMergeJobRequest request;
  NewJob job;
  std::string name;  // empty until there is one

  ErrorContext context() const {
    return {.job = name, .output_uri = job.plan.output_uri, .field = ""};
  }
  void Fail(const absl::Status& status) const { call->Fail(MakeStoreError(status, context())); }
};
using CreationPtr = std::shared_ptr<Creation>;

// Planning for CreateMergeJob and Plan. Answers the call and returns null where the job is faulty.
std::optional<JobPlan> MakeJobPlan(ServiceCore& core, const CallPtr& call,
                                   const v1::MergeJobSpec& spec, const std::string& field,
                                   const JobSpec& job, PlanDetails* details, CallError* error) {
  // The engine knows what the machine has, the service what its workers run on.
  const WorkerCapacity workers{core.parts.devices, std::numeric_limits<uint64_t>::max()};
  if (const std::string why = WhyBlocked(workers, job.device, 0); !why.empty()) {
    *error = InvalidRequest({{absl::StrCat(field, ".device"), Reason::kUnsupported, why}});
    return std::nullopt;
  }
  Diagnostics diagnostics;
  absl::StatusOr<JobPlan> plan =
      core.parts.executor->Plan(job, call->options(), &diagnostics, details);
  if (!plan.ok()) {
    const ErrorContext context{.job = "",
                               .output_uri = job.output_uri.value_or(spec.recipe().output().uri()),
                               .field = ""};
    *error = PlanningError(plan.status(), diagnostics, field, spec, context);
    return std::nullopt;
  }
  if (plan->output_uri.empty()) {
    *error = InvalidRequest({{absl::StrCat(field, ".document.output_uri"), Reason::kMissingKey,
                              "nothing says where the model goes; set it, or `output` in the "
                              "document"}});
    return std::nullopt;
  }
  return *std::move(plan);
}

// Another call with this request id may have made the job meanwhile, and even run it, so that its
// own output is in the way now.
void AnswerUnlessMade(const CreationPtr& creation, CallError error) {
  if (creation->job.request_id.empty() || creation->request.validate_only()) {
    creation->call->Fail(error);
    return;
  }
  creation->core.OnStore(creation->call, [creation, error = std::move(error)] {
    const NewJob& job = creation->job;
    const absl::StatusOr<std::optional<Job>> made =
        creation->core.parts.store->FindRequest(job.key.tenant, job.request_id, job.request_digest);
    if (made.ok() && made->has_value()) {
      creation->call->Succeed(JobToProto(**made));
    } else {
      creation->call->Fail(error);
    }
  });
}

v1::MergeJob Preview(const Creation& creation) {
  v1::MergeJob job;
  if (!creation.request.merge_job_id().empty()) job.set_name(creation.name);
  *job.mutable_spec() = creation.request.merge_job().spec();
  *job.mutable_labels() = creation.request.merge_job().labels();
  job.set_state(v1::MergeJob::STATE_QUEUED);
  *job.mutable_plan() = PlanToProto(creation.job.plan);
  return job;
}

void Store(const CreationPtr& creation) {
  ServiceCore& core = creation->core;
  const absl::StatusOr<CreatedJob> created =
      core.parts.store->Create(creation->job, core.parts.limits.max_queued_jobs);
  if (!created.ok()) {
    CallError error = MakeStoreError(created.status(), creation->context());
    if (error.reason == Reason::kQueueFull) {
      error.quota_subject = TenantName(creation->job.key.tenant);
    }
    creation->call->Fail(error);
    return;
  }
  if (!created->existed && core.parts.metrics != nullptr) {
    core.parts.metrics->JobSubmitted(created->job.key.tenant, created->job.plan.method);
  }
  creation->call->Succeed(JobToProto(created->job));
}

void PlanAndStore(const CreationPtr& creation) {
  CallError error;
  std::optional<JobPlan> plan =
      MakeJobPlan(creation->core, creation->call, creation->request.merge_job().spec(),
                  "merge_job.spec", creation->job.spec, nullptr, &error);
  if (!plan.has_value()) {
    AnswerUnlessMade(creation, std::move(error));
    return;
  }
  creation->job.plan = *std::move(plan);
  if (creation->request.validate_only()) {
    creation->call->Succeed(Preview(*creation));
  } else {
    creation->core.OnStore(creation->call, [creation] { Store(creation); });
  }
}

// Before the work of planning: whether this request has made its job already, whether the name is
// free. The store decides again when the job is stored.
void LookUp(const CreationPtr& creation) {
  JobStore& store = *creation->core.parts.store;
  const NewJob& job = creation->job;
  if (!job.request_id.empty() && !creation->request.validate_only()) {
    const absl::StatusOr<std::optional<Job>> made =
        store.FindRequest(job.key.tenant, job.request_id, job.request_digest);
    if (!made.ok()) return creation->Fail(made.status());
    if (made->has_value()) return creation->call->Succeed(JobToProto(**made));
  }
  if (!creation->request.merge_job_id().empty()) {
    const absl::StatusOr<Job> same_name = store.Get(job.key);
    if (same_name.ok()) {
      return creation->Fail(
          MakeError(Reason::kJobExists,
                    absl::StrCat(creation->name, " exists; choose another merge_job_id")));
    }
    if (ReasonOf(same_name.status()) != Reason::kJobNotFound) {
      return creation->Fail(same_name.status());
    }
  }
  creation->core.OnPlanner(creation->call, [creation] { PlanAndStore(creation); });
}

}  // namespace

void CreateMergeJob(ServiceCore& core, const CallPtr& call, v1::CreateMergeJobRequest request) {
  if (auto error = Admit(call->principal(), request, request.parent(), core.parts.limits)) {
    return call->Fail(*error);
  }
  if (core.draining) {
    return call->Fail(MakeCallError(MakeError(
        Reason::kServerDraining, "the server is shutting down; submit to another, or again soon")));
  }
  auto creation = std::make_shared<Creation>(Creation{core, call, std::move(request), {}, ""});
  const v1::CreateMergeJobRequest& asked = creation->request;
  NewJob& job = creation->job;
  job.key.tenant = TenantOf(asked.parent());
  job.key.id = asked.merge_job_id().empty() ? NewJobId() : asked.merge_job_id();
  creation->name = JobName(job.key);
  job.request_id = absl::AsciiStrToLower(asked.request_id());
  job.request_digest = DigestOf(asked);
  job.request = Serialize(asked.merge_job().spec());
  job.spec = SpecFromProto(asked.merge_job().spec());
  job.labels.insert(asked.merge_job().labels().begin(), asked.merge_job().labels().end());
  core.OnStore(call, [creation] { LookUp(creation); });
}

void PlanJob(ServiceCore& core, const CallPtr& call, v1::PlanRequest request) {
  if (auto error = Admit(call->principal(), request, request.parent(), core.parts.limits)) {
    return call->Fail(*error);
  }
  core.OnPlanner(call, [&core, call, request = std::move(request)] {
    CallError error;
    PlanDetails details;
    const std::optional<JobPlan> plan = MakeJobPlan(
        core, call, request.spec(), "spec", SpecFromProto(request.spec()), &details, &error);
    if (!plan.has_value()) return call->Fail(error);
    v1::PlanResponse response;
    *response.mutable_plan() = PlanToProto(*plan);
    response.set_plan_json(ToUtf8(details.json));
    response.set_plan_text(ToUtf8(details.text));
    FitAnswer(&response);
    call->Succeed(response);
  });
}

}  // namespace orthomerge
