// adapter_config.json of an adapter that is written, as PEFT reads it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace orthomerge {

struct WrittenModule {
  std::string name;
  int64_t rank = 0;
  double alpha = 0;  // the product of the factors is multiplied by alpha / rank
};

struct WrittenAdapter {
  std::vector<WrittenModule> modules = {};      // with factors; not empty
  std::vector<std::string> saved_modules = {};  // in full
  bool biases = false;                          // of modules with factors, in full
  bool fan_in_fan_out = false;                  // of some modules the weights are [in, out]
  bool ensure_weight_tying = false;             // the head is tied to an embedding that is saved
  std::string base_model = {}, task_type = {};  // may be empty
};

// The rank and the alpha that most modules have are r and lora_alpha; modules with others have
// entries in rank_pattern and alpha_pattern under their full names.
std::string AdapterConfigText(const WrittenAdapter& adapter);

}  // namespace orthomerge
