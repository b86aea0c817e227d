// adapter_config.json: what an adapter of PEFT (https://github.com/huggingface/peft) says of
// itself.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace orthomerge {

struct AdapterConfig {
  enum class Bias { kNone, kAll, kLoraOnly };

  int64_t rank = 8;
  double alpha = 8;
  bool rank_stabilised = false;  // the change is scaled by alpha / sqrt(rank), not alpha / rank
  bool fan_in_fan_out = false;   // the layers keep their weights as [in, out]
  bool lora_bias = false;        // the second factor has a bias of its own
  Bias bias = Bias::kNone;       // whose biases come with the adapter
  // Regular expressions of modules' names, in the order of the file, with what they have instead.
  std::vector<std::pair<std::string, double>> rank_pattern, alpha_pattern;
  std::vector<std::string> modules_to_save;  // ends of modules' names
  // Rows of an embedding that were trained, by the end of its name; "": whichever it is.
  std::vector<std::pair<std::string, std::vector<int64_t>>> token_indices;
  std::string base_model, task_type;  // for those who load it; may be empty
  std::vector<std::string> unknown;   // keys that are set and that this version has never heard of
};

// Settings under which a change is no sum of low-rank products (DoRA, activated LoRA, other kinds
// of adapters ...) are kUnsupported, with the reason; values of the wrong kind are kInputCorrupt.
absl::StatusOr<AdapterConfig> ParseAdapterConfig(absl::string_view json);

// What a module's factors must have, and what their product is multiplied by.
struct AdapterScale {
  int64_t rank = 0;
  double scale = 0;
};

// For each of the modules' names. kInputCorrupt where a pattern is no regular expression (as RE2
// reads them), kUnsupported where patterns and modules are too many.
absl::StatusOr<std::vector<AdapterScale>> ScalesOf(const AdapterConfig& config,
                                                   const std::vector<std::string>& modules);

}  // namespace orthomerge
