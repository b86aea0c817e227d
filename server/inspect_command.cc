#include <algorithm>
#include <map>
#include <ostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/bytes.h"
#include "core/checkpoint/checkpoint.h"
#include "core/storage/storage.h"
#include "server/commands.h"
#include "server/result_json.h"
#include "server/table.h"

namespace orthomerge {
namespace {

using Align = TextTable::Align;

struct Totals {
  int64_t parameters = 0;
  std::map<std::string, int64_t> by_dtype;  // parameters
};

Totals Count(const Checkpoint& checkpoint) {
  Totals totals;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    totals.parameters += tensor.elements();
    totals.by_dtype[std::string(NameOf(tensor.dtype))] += tensor.elements();
  }
  return totals;
}

std::string FileName(const Checkpoint& checkpoint, int file) {
  return checkpoint.files()[static_cast<size_t>(file)].uri.Name();
}

Json CheckpointJson(const Checkpoint& checkpoint, size_t shown,
                    absl::Span<const Diagnostic> diagnostics) {
  const Totals totals = Count(checkpoint);
  Json json;
  json["ok"] = true;
  json["uri"] = checkpoint.uri().ToString();
  json["files"] = Json::array();
  for (const InputFile& file : checkpoint.files()) {
    json["files"].push_back({{"name", file.uri.Name()}, {"size", file.size}, {"etag", file.etag}});
  }
  json["tensor_count"] = checkpoint.tensors().size();
  json["total_bytes"] = checkpoint.total_bytes();
  json["parameters"] = totals.parameters;
  json["parameters_by_dtype"] = totals.by_dtype;
  json["tensors"] = Json::array();
  for (size_t i = 0; i < shown; ++i) {
    const TensorInfo& tensor = checkpoint.tensors()[i];
    json["tensors"].push_back({{"name", tensor.name},
                               {"dtype", std::string(NameOf(tensor.dtype))},
                               {"shape", tensor.shape},
                               {"bytes", tensor.bytes()},
                               {"file", FileName(checkpoint, tensor.file)}});
  }
  json["diagnostics"] = DiagnosticsJson(diagnostics);
  return json;
}

std::string CheckpointText(const Checkpoint& checkpoint, size_t shown) {
  const Totals totals = Count(checkpoint);
  std::vector<std::string> dtypes;
  for (const auto& [dtype, count] : totals.by_dtype) {
    dtypes.push_back(absl::StrCat(dtype, " ", count));
  }
  TextTable facts({Align::kLeft, Align::kLeft});
  facts.AddRow({"Checkpoint", checkpoint.uri().ToString()});
  facts.AddRow({"Files", absl::StrCat(checkpoint.files().size())});
  facts.AddRow({"Tensors", absl::StrCat(checkpoint.tensors().size(), ", ",
                                        FormatBytes(checkpoint.total_bytes()))});
  facts.AddRow({"Parameters", absl::StrCat(totals.parameters, dtypes.empty() ? "" : ": ",
                                           absl::StrJoin(dtypes, ", "))});
  std::string text = facts.ToString();

  TextTable files({Align::kLeft, Align::kRight});
  files.AddRow({"FILE", "SIZE"});
  for (const InputFile& file : checkpoint.files()) {
    files.AddRow({file.uri.Name(), FormatBytes(file.size)});
  }
  absl::StrAppend(&text, "\n", files.ToString());

  TextTable tensors({Align::kLeft, Align::kLeft, Align::kLeft, Align::kRight, Align::kLeft});
  tensors.AddRow({"TENSOR", "DTYPE", "SHAPE", "BYTES", "FILE"});
  for (size_t i = 0; i < shown; ++i) {
    const TensorInfo& tensor = checkpoint.tensors()[i];
    tensors.AddRow({tensor.name, std::string(NameOf(tensor.dtype)),
                    absl::StrCat("[", absl::StrJoin(tensor.shape, ", "), "]"),
                    absl::StrCat(tensor.bytes()), FileName(checkpoint, tensor.file)});
  }
  absl::StrAppend(&text, "\n", tensors.ToString());
  const size_t hidden = checkpoint.tensors().size() - shown;
  if (hidden > 0) absl::StrAppend(&text, "(", hidden, " more)\n");
  return text;
}

}  // namespace

int InspectCommand(CommandContext& context, const InspectOptions& options) {
  Storage storage;
  Diagnostics diagnostics;
  const auto open = [&]() -> absl::StatusOr<Checkpoint> {
    ASSIGN_OR_RETURN(const Uri uri, Uri::Parse(options.uri, context.working_directory));
    return Checkpoint::Open(storage, uri, {}, &diagnostics, {.allow_pickle = true});
  };
  const absl::StatusOr<Checkpoint> checkpoint = open();
  PrintWarnings(context.err, diagnostics.items());
  if (!checkpoint.ok()) {
    return ReportFailure(context, options.format, checkpoint.status(), diagnostics.items());
  }
  const size_t count = checkpoint->tensors().size();
  const size_t shown = std::min<uint64_t>(count, options.limit.value_or(count));
  if (options.format == OutputFormat::kJson) {
    context.out << OneLine(CheckpointJson(*checkpoint, shown, diagnostics.items())) << '\n';
  } else {
    context.out << CheckpointText(*checkpoint, shown);
  }
  return 0;
}

}  // namespace orthomerge
