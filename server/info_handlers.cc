// What the server can do.
#include "core/base/version.h"
#include "core/methods/schema.h"
#include "server/service_core.h"

namespace orthomerge {

void ListMethods(ServiceCore&, const CallPtr& call, v1::ListMethodsRequest) {
  v1::ListMethodsResponse response;
  for (const MethodSchema& method : MethodSchemas()) {
    *response.add_methods() = MethodToProto(method);
  }
  call->Succeed(response);
}

void GetServerInfo(ServiceCore& core, const CallPtr& call, v1::GetServerInfoRequest) {
  const ServiceLimits& limits = core.parts.limits;
  v1::ServerInfo info;
  info.set_version(kVersion);
  for (const std::string& device : core.parts.devices) info.add_devices(device);
  info.add_input_formats("safetensors");
  info.add_uri_schemes("file");
  info.add_uri_schemes("s3");
  info.mutable_limits()->set_max_spec_bytes(static_cast<int64_t>(limits.max_spec_bytes));
  info.mutable_limits()->set_max_queued_jobs(limits.max_queued_jobs);
  info.mutable_limits()->set_max_models(limits.max_models);
  info.mutable_limits()->set_host_memory_budget(static_cast<int64_t>(limits.host_memory_budget));
  info.mutable_limits()->set_max_page_size(kMaxPageSize);
  info.set_draining(core.draining);
  call->Succeed(info);
}

}  // namespace orthomerge
