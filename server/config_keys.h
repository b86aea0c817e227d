// The keys of the configuration as a table: name, how a value is read.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "core/recipe/yaml.h"
#include "server/config.h"

namespace orthomerge {

struct ConfigKey {
  enum class Kind { kScalar, kTexts, kProfiles };

  std::string name;  // "workers.memory_budget"
  Kind kind = Kind::kScalar;
  // Sets the key; faults go to `diagnostics` with `field` and the value's place. Paths resolve
  // against `folder`, and ~ is `home`.
  struct Context {
    const std::string& folder;
    const std::string& home;
    Diagnostics* diagnostics;
  };
  std::function<void(const YamlValue& value, const std::string& field, const Context& context,
                     ServerConfig* config)>
      read;
};

// In the order of deploy/config.yaml.
const std::vector<ConfigKey>& ConfigKeys();

// The keys of an entry of storage.s3.
std::vector<std::string> S3ProfileKeys();

// Absolute and lexically normal. `text` is a path, maybe relative or starting with ~/.
std::string ResolvePath(const std::string& text, const std::string& folder,
                        const std::string& home);

}  // namespace orthomerge
