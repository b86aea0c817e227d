// How commands answer: tables for people; one JSON object on one line, or YAML, for programs.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "client/context.h"
#include "client/options.h"
#include "google/protobuf/message.h"

namespace orthomerge::client {

using Json = nlohmann::ordered_json;

// Every field by its name in the proto: numbers as numbers, enum values without their prefix
// (RUNNING), times as RFC 3339 texts, durations in seconds, google.rpc.Status as ErrorJson has it,
// texts named *_json as what they hold. Fields that are not set and cannot have a default are left
// out.
Json ToJson(const google::protobuf::Message& message);

// {reason, code, message, metadata}
Json ErrorJson(const absl::Status& status);
// The faults of a request, each as `orthomerge run` has it: {severity, message, field}. Empty where
// the error names none.
Json DiagnosticsJson(const absl::Status& status);

// One line without line feed. Bytes that are no UTF-8 are replaced, never thrown over.
std::string OneLine(const Json& json);

// Block style, ends with a line feed.
std::string ToYaml(const Json& json);

// Prints what programs get; nothing for kTable.
void PrintForPrograms(CommandContext& context, OutputFormat format, const Json& json);

// "SUCCEEDED" of STATE_SUCCEEDED.
std::string EnumName(const google::protobuf::EnumDescriptor* type, int number);

// Prints the error with what may help against it, and for programs the result object. Returns the
// exit code.
int ReportFailure(CommandContext& context, const CommonOptions& options,
                  const absl::Status& status);

// The exit code with which a command that was stopped ends: the signal's, where there was one.
int ExitCodeFor(const CommandContext& context, const absl::Status& status);

// What ReportFailure says, for commands with more to say.
std::string FailureText(const CommonOptions& options, const absl::Status& status);

}  // namespace orthomerge::client
