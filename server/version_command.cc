#include <curl/curlver.h>
#include <openssl/opensslv.h>

#include <CLI/Version.hpp>
#include <nlohmann/json.hpp>
#include <ostream>

#include "absl/base/config.h"
#include "absl/strings/str_cat.h"
#include "core/base/version.h"
#include "server/commands.h"
#include "server/result_json.h"
#include "server/table.h"

namespace orthomerge {
namespace {

Json VersionJson() {
  Json json;
  json["ok"] = true;
  json["name"] = "orthomerged";
  json["version"] = kVersion;
  json["compiler"] = absl::StrCat(
#ifdef __clang__
      "clang ", __clang_version__);
#else
      "g++ ", __VERSION__);
#endif
  json["build_type"] = ORTHOMERGE_BUILD_TYPE;
  json["sanitizers"] = ORTHOMERGE_SANITIZE;
  json["devices"] = {"cpu"};
  json["libtorch"] = ORTHOMERGE_WITH_TORCH != 0;  // the module for dense linear algebra
  json["libraries"] = {
      {"abseil", absl::StrCat(ABSL_LTS_RELEASE_VERSION)},
      {"CLI11", CLI11_VERSION},
      {"libcurl", LIBCURL_VERSION},
      {"nlohmann_json", absl::StrCat(NLOHMANN_JSON_VERSION_MAJOR, ".", NLOHMANN_JSON_VERSION_MINOR,
                                     ".", NLOHMANN_JSON_VERSION_PATCH)},
      {"OpenSSL", OPENSSL_VERSION_STR},
  };
  return json;
}

}  // namespace

int VersionCommand(CommandContext& context, const VersionOptions& options) {
  const Json json = VersionJson();
  if (options.format == OutputFormat::kJson) {
    context.out << OneLine(json) << '\n';
    return 0;
  }
  context.out << json["name"].get<std::string>() << ' ' << kVersion << '\n';
  TextTable table({TextTable::Align::kLeft, TextTable::Align::kLeft}, 2);
  for (const char* key : {"compiler", "build_type", "sanitizers"}) {
    const auto value = json[key].get<std::string>();
    if (!value.empty()) table.AddRow({key, value});
  }
  table.AddRow({"devices", "cpu"});
  table.AddRow({"libtorch", json["libtorch"].get<bool>() ? "yes" : "no"});
  for (const auto& library : json["libraries"].items()) {
    table.AddRow({library.key(), library.value().get<std::string>()});
  }
  context.out << table.ToString();
  return 0;
}

}  // namespace orthomerge
