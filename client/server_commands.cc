// `plan`, `methods` and `server-info` of a server.
#include <ostream>

#include "absl/strings/str_cat.h"
#include "client/commands.h"
#include "client/job_text.h"
#include "client/spec.h"
#include "core/base/status.h"
#include "core/base/text.h"
#include "core/base/text_table.h"

namespace orthomerge::client {

int PlanCommand(CommandContext& context, const PlanOptions& options) {
  v1::PlanRequest request;
  request.set_parent("tenants/" + options.tenant);
  absl::StatusOr<v1::MergeJobSpec> spec = MakeSpec(context, options.spec);
  if (!spec.ok()) return ReportFailure(context, options, spec.status());
  *request.mutable_spec() = *std::move(spec);
  const absl::StatusOr<std::unique_ptr<MergeClient>> client = OpenClient(context, options);
  if (!client.ok()) return ReportFailure(context, options, client.status());
  const absl::StatusOr<v1::PlanResponse> plan = (*client)->Plan(request);
  if (!plan.ok()) return ReportFailure(context, options, plan.status());
  for (const std::string& warning : plan->plan().warnings()) {
    context.err << Printable(absl::StrCat("warning: ", warning)) << '\n' << std::flush;
  }
  if (options.format == OutputFormat::kTable) {
    context.out << Printable(plan->plan_text());
    if (plan->plan_text().empty() || plan->plan_text().back() != '\n') context.out << '\n';
    context.out.flush();
    return 0;
  }
  Json json = Json::parse(plan->plan_json(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) json = ToJson(plan->plan());
  json["ok"] = true;
  PrintForPrograms(context, options.format, json);
  return 0;
}

int MethodsCommand(CommandContext& context, const MethodsOptions& options) {
  const absl::StatusOr<std::unique_ptr<MergeClient>> client = OpenClient(context, options);
  if (!client.ok()) return ReportFailure(context, options, client.status());
  const absl::StatusOr<v1::ListMethodsResponse> methods = (*client)->ListMethods();
  if (!methods.ok()) return ReportFailure(context, options, methods.status());
  Json json = {{"ok", true}, {"methods", Json::array()}};
  std::vector<std::string> names;
  const v1::Method* found = nullptr;
  for (const v1::Method& method : methods->methods()) {
    names.push_back(method.name());
    if (method.name() == options.name) found = &method;
    if (options.name.empty() || found == &method) json["methods"].push_back(ToJson(method));
  }
  if (!options.name.empty() && found == nullptr) {
    return ReportFailure(
        context, options,
        MakeError(Reason::kUnknownMethod,
                  absl::StrCat("the server has no method '", options.name, "'",
                               DidYouMean(options.name, names), " (see 'orthomerge methods",
                               ServerOption(context, options), "')")));
  }
  if (options.format != OutputFormat::kTable) {
    PrintForPrograms(context, options.format, json);
  } else {
    context.out << (found != nullptr ? MethodText(*found) : MethodTable(*methods)) << std::flush;
  }
  return 0;
}

int ServerInfoCommand(CommandContext& context, const ServerInfoOptions& options) {
  const absl::StatusOr<std::unique_ptr<MergeClient>> client = OpenClient(context, options);
  if (!client.ok()) return ReportFailure(context, options, client.status());
  const absl::StatusOr<v1::ServerInfo> info = (*client)->GetServerInfo();
  if (!info.ok()) return ReportFailure(context, options, info.status());
  if (options.format == OutputFormat::kTable) {
    context.out << ServerInfoText(*info) << std::flush;
    return 0;
  }
  Json json = {{"ok", true}};
  json.update(ToJson(*info));
  PrintForPrograms(context, options.format, json);
  return 0;
}

}  // namespace orthomerge::client
