#include "server/config.h"

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "core/base/text.h"
#include "server/address.h"
#include "server/config_keys.h"

namespace orthomerge {
namespace {

constexpr size_t kMaxFile = 1 * kMiB;

const ConfigKey* FindKey(absl::string_view name) {
  for (const ConfigKey& key : ConfigKeys()) {
    if (key.name == name) return &key;
  }
  return nullptr;
}

bool IsSection(const std::string& prefix) {
  return std::any_of(ConfigKeys().begin(), ConfigKeys().end(), [&](const ConfigKey& key) {
    return absl::StartsWith(key.name, prefix + ".");
  });
}

// "; did you mean 'x'?" for a key that is not known. First what stands in the same section, then a
// key of that very name in another section, then the nearest of all.
std::string Suggestion(const std::string& section, const std::string& name) {
  std::vector<std::string> siblings, all;
  std::string elsewhere;
  for (const ConfigKey& key : ConfigKeys()) {
    all.push_back(key.name);
    absl::string_view rest = key.name;
    if (absl::ConsumePrefix(&rest, section)) siblings.emplace_back(rest.substr(0, rest.find('.')));
    if (absl::EndsWith(key.name, "." + name)) elsewhere = key.name;
  }
  std::string suggestion = DidYouMean(name, siblings);
  if (suggestion.empty() && !elsewhere.empty()) {
    suggestion = absl::StrCat("; did you mean '", elsewhere, "'?");
  }
  return suggestion.empty() ? DidYouMean(section + name, all) : suggestion;
}

void ReadSection(const YamlValue& section, const std::string& prefix,
                 const ConfigKey::Context& context, ServerConfig* config) {
  for (const YamlEntry& entry : section.entries) {
    const std::string field = prefix + entry.key;
    // A key has one form, so that no two of them can stand for the same thing.
    const bool dotted = absl::StrContains(entry.key, '.');
    if (const ConfigKey* key = FindKey(field); key != nullptr && !dotted) {
      key->read(entry.value, field, context, config);
    } else if (key != nullptr) {
      context.diagnostics->Error(
          Reason::kUnknownKey,
          "dots are for --set; here the parts stand below one another, indented", field,
          entry.key_location);
    } else if (!dotted && IsSection(field)) {
      if (entry.value.kind == YamlValue::Kind::kMapping) {
        ReadSection(entry.value, field + ".", context, config);
      } else if (!entry.value.is_null()) {
        context.diagnostics->Error(Reason::kWrongType, "needs keys of its own, indented", field,
                                   entry.value.location);
      }
    } else {
      context.diagnostics->Error(Reason::kUnknownKey,
                                 absl::StrCat("unknown key", Suggestion(prefix, entry.key)), field,
                                 entry.key_location);
    }
  }
}

void ReadFile(const ConfigSources& sources, ServerConfig* config, Diagnostics* diagnostics) {
  const std::filesystem::path path =
      std::filesystem::path(sources.working_directory) / sources.file;
  const auto fault = [&](absl::string_view why) {
    diagnostics->Error(Reason::kUsage, absl::StrCat("cannot read the configuration: ", why), "",
                       {sources.file, 0, 0});
  };
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) return fault("it is a folder");
  std::ifstream stream(path, std::ios::binary);
  std::string text(kMaxFile + 1, '\0');
  if (!stream) return fault(std::generic_category().message(errno));
  stream.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(stream.gcount()));
  if (text.size() > kMaxFile) return fault("it is larger than 1 MiB");

  const std::optional<YamlValue> root = ParseYaml(sources.file, text, diagnostics);
  if (!root.has_value() || root->is_null()) return;
  if (root->kind != YamlValue::Kind::kMapping) {
    diagnostics->Error(Reason::kWrongType, "the configuration is not a mapping of keys to values",
                       "", root->location);
    return;
  }
  const std::string folder = path.parent_path().string();
  ReadSection(*root, "", {folder, sources.home, diagnostics}, config);
}

// A value of the command line as YAML would have it. Only lists need YAML's own syntax there.
std::optional<YamlValue> ValueOf(const ConfigOverride& item, const ConfigKey& key,
                                 Diagnostics* diagnostics) {
  const auto scalar = [&](const std::string& text) {
    YamlValue value;
    value.kind = text == "true" || text == "false" ? YamlValue::Kind::kBool
                 : ParseInteger(text).has_value()  ? YamlValue::Kind::kInteger
                                                   : YamlValue::Kind::kText;
    value.text = text;
    value.location = {item.source, 0, 0};
    return value;
  };
  const std::string first = item.values.empty() ? "" : item.values[0];
  if (key.kind == ConfigKey::Kind::kScalar) return scalar(first);
  if (item.values.size() == 1 && absl::StartsWith(first, "[")) {
    return ParseYaml(item.source, first, diagnostics);
  }
  YamlValue list;
  list.kind = YamlValue::Kind::kList;
  list.location = {item.source, 0, 0};
  for (const std::string& text : item.values) list.items.push_back(scalar(text));
  return list;
}

void Apply(const ConfigOverride& item, const ConfigSources& sources, ServerConfig* config,
           Diagnostics* diagnostics) {
  const ConfigKey* key = FindKey(item.key);
  if (key == nullptr) {
    diagnostics->Error(Reason::kUnknownKey, absl::StrCat("unknown key", Suggestion("", item.key)),
                       item.key, {item.source, 0, 0});
    return;
  }
  const std::optional<YamlValue> value = ValueOf(item, *key, diagnostics);
  if (!value.has_value()) return;
  const ServerConfig before = *config;
  key->read(*value, item.key, {sources.working_directory, sources.home, diagnostics}, config);
  if (!item.adds) return;
  for (auto [list, old] : {std::pair(&config->storage.read, &before.storage.read),
                           std::pair(&config->storage.write, &before.storage.write)}) {
    if (*list != *old) list->insert(list->begin(), old->begin(), old->end());
  }
}

void ResolveDefaults(const ConfigSources& sources, ServerConfig* config, Diagnostics* diagnostics) {
  if (absl::StartsWith(config->data_dir, "~")) {
    if (sources.home.empty()) {
      diagnostics->Error(Reason::kUsage,
                         "the home directory is unknown; say where the server may keep its data "
                         "(--data-dir)",
                         "data_dir", {sources.file, 0, 0});
      return;
    }
    config->data_dir = ResolvePath(config->data_dir, "/", sources.home);
  }
  if (config->data_dir.empty()) {
    diagnostics->Error(Reason::kMissingKey, "needs the folder where the server may keep its data",
                       "data_dir", {sources.file, 0, 0});
  }
  if (config->jobs.database.empty()) {
    config->jobs.database = (std::filesystem::path(config->data_dir) / "jobs.db").string();
  }
}

}  // namespace

void CheckExposure(const ServerConfig& config, Diagnostics* diagnostics) {
  const auto fault = [&](absl::string_view field, std::string message) {
    diagnostics->Error(Reason::kUsage, std::move(message), std::string(field));
  };
  const ServerConfig::Tls& tls = config.tls;
  if (tls.certificate.empty() != tls.key.empty()) {
    fault(tls.key.empty() ? "tls.key" : "tls.certificate",
          "is missing; TLS needs tls.certificate and tls.key");
  }
  if (!tls.client_ca.empty() && tls.certificate.empty()) {
    fault("tls.client_ca", "needs TLS; set tls.certificate and tls.key too");
  }
  const absl::StatusOr<ListenAddress> address = ListenAddress::Parse(config.listen);
  if (!address.ok() || address->is_local() || config.insecure) return;
  const bool tokens = !config.authentication.token_file.empty();
  if (!tokens && tls.client_ca.empty()) {
    fault("listen",
          absl::StrCat("other machines can reach ", config.listen,
                       ", and nothing says who may call: set authentication.token_file or "
                       "tls.client_ca (or, on a network that you trust, insecure: true or "
                       "--insecure)"));
  } else if (tokens && tls.certificate.empty()) {
    fault("authentication.token_file",
          absl::StrCat("tokens would cross the network to ", config.listen,
                       " in plain text: set tls.certificate and tls.key (or, behind a proxy that "
                       "encrypts, insecure: true or --insecure)"));
  }
}

absl::StatusOr<ServerConfig> LoadConfig(const ConfigSources& sources, Diagnostics* diagnostics) {
  ServerConfig config;
  Diagnostics found;
  if (!sources.file.empty()) ReadFile(sources, &config, &found);
  for (const ConfigOverride& item : sources.overrides) Apply(item, sources, &config, &found);
  ResolveDefaults(sources, &config, &found);
  if (!found.has_errors()) CheckExposure(config, &found);
  for (const Diagnostic& item : found.items()) {
    if (item.is_error) {
      diagnostics->Error(item.reason, item.message, item.field, item.location);
    } else {
      diagnostics->Warning(item.message, item.field, item.location);
    }
  }
  RETURN_IF_ERROR(found.ToStatus());
  return config;
}

}  // namespace orthomerge
