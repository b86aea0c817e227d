#include "core/checkpoint/adapter_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/status.h"
#include "core/checkpoint/json_events.h"
#include "re2/re2.h"

namespace orthomerge {
namespace {

using Kind = JsonScalar::Kind;

// Larger ones are no ranks; it keeps sizes of factors far from overflow.
constexpr uint64_t kMaxRank = 1u << 20;
constexpr double kMaxMatches = 2e7;  // a few seconds of matching

struct Variant {
  absl::string_view key;
  absl::string_view reason;
};

// Set to anything but null, false or nothing, each makes the change something else than a sum of
// low-rank products.
constexpr std::array kVariants = {
    Variant{"use_dora",
            "DoRA rescales every row of the merged weight; merge the adapter into its base with "
            "PEFT and give the full model"},
    Variant{"alora_invocation_tokens",
            "activated LoRA applies only after its invocation tokens and cannot be merged"},
    Variant{"arrow_config", "Arrow chooses among adapters for every token and cannot be merged"},
    Variant{"use_qalora", "QALoRA's factors work on pooled inputs and are not read"},
    Variant{"use_bdlora", "block-diagonal factors are not read"},
    Variant{"kasa_config", "KaSA's change has singular values of its own and is not read"},
    Variant{"monteclora_config", "MonteCLoRA's change is a random one and is not read"},
    Variant{"velora_config", "VeLoRA's factors are not read"},
    Variant{"layer_replication",
            "replicated layers are not read; give the replicated model as base"},
    Variant{"target_parameters", "changes of raw parameters, such as fused experts, are not read"},
};

// Keys that say how training went and change nothing here.
constexpr std::array<absl::string_view, 18> kIgnored = {
    "auto_mapping",   "corda_config",    "ensure_weight_tying", "eva_config",   "exclude_modules",
    "inference_mode", "layers_pattern",  "layers_to_transform", "loftq_config", "lora_dropout",
    "lora_ga_config", "megatron_config", "megatron_core",       "peft_version", "qalora_group_size",
    "revision",       "runtime_config",  "target_modules"};

// One scalar of the file: `member` is the key below `key`, where there is one.
struct Item {
  std::string key, member;
  Kind kind = Kind::kNull;
  double real = 0;
  uint64_t number = 0;
  bool truth = false;
  std::string text;
  int depth = 0;
  bool in_array = false;

  bool off() const { return kind == Kind::kNull || (kind == Kind::kBoolean && !truth); }
  bool finite() const {
    return (kind == Kind::kUnsigned || kind == Kind::kOtherNumber) && std::isfinite(real);
  }
};

// Flattens the file into its scalars, in order. Empty objects and arrays vanish: they say nothing.
class ConfigEvents final : public JsonEvents {
 public:
  std::vector<Item> Take() { return std::move(items_); }

 private:
  bool Open(bool array) override {
    arrays_.push_back(array);
    return true;
  }
  bool Close() override {
    arrays_.pop_back();
    return true;
  }

  bool Key(std::string& name) override {
    if (depth() == 1) {
      if (!seen_.insert(name).second) return FailTwice(name);
      key_ = std::move(name);
      member_.clear();
    } else if (depth() == 2) {
      member_ = std::move(name);
    }
    return true;
  }

  bool Scalar(const JsonScalar& value) override {
    Item item;
    item.key = key_;
    item.member = depth() > 1 && !arrays_[1] ? member_ : "";
    item.kind = value.kind;
    item.real = value.real;
    item.number = value.number;
    item.truth = value.truth;
    if (value.text != nullptr) item.text = std::move(*value.text);
    item.depth = depth();
    item.in_array = arrays_.back();
    items_.push_back(std::move(item));
    return true;
  }

  std::vector<Item> items_;
  std::vector<bool> arrays_;  // per open object or array
  std::set<std::string> seen_;
  std::string key_, member_;
};

absl::Status Wrong(const Item& item, absl::string_view wanted) {
  return MakeError(
      Reason::kInputCorrupt,
      absl::StrCat(Quoted(item.key), item.member.empty() ? "" : " of " + Quoted(item.member),
                   " is not ", wanted));
}

absl::Status Refused(absl::string_view key, absl::string_view reason) {
  return MakeError(Reason::kUnsupported, absl::StrCat(key, ": ", reason));
}

class Interpreter {
 public:
  absl::StatusOr<AdapterConfig> Read(const std::vector<Item>& items) {
    for (const Item& item : items) RETURN_IF_ERROR(Take(item));
    if (!has_type_) return MakeError(Reason::kInputCorrupt, "it has no peft_type");
    return std::move(config_);
  }

 private:
  absl::Status Take(const Item& item) {
    const std::string& key = item.key;
    for (const Variant& variant : kVariants) {
      if (key == variant.key) {
        return item.off() ? absl::OkStatus() : Refused(key, variant.reason);
      }
    }
    if (key == "peft_type") return TakeType(item);
    if (key == "r") return TakeRank(item, &config_.rank);
    if (key == "lora_alpha") return TakeNumber(item, 1, &config_.alpha);
    if (key == "use_rslora") return TakeBool(item, &config_.rank_stabilised);
    if (key == "fan_in_fan_out") return TakeBool(item, &config_.fan_in_fan_out);
    if (key == "lora_bias") return TakeBool(item, &config_.lora_bias);
    if (key == "bias") return TakeBias(item);
    if (key == "rank_pattern") return TakePattern(item, &config_.rank_pattern);
    if (key == "alpha_pattern") return TakePattern(item, &config_.alpha_pattern);
    if (key == "modules_to_save") return TakeModule(item);
    if (key == "base_model_name_or_path" || key == "task_type") {
      (key == "task_type" ? config_.task_type : config_.base_model) = item.text;
      return absl::OkStatus();
    }
    if (key == "trainable_token_indices") return TakeToken(item);
    if (key == "init_lora_weights") return TakeInit(item);
    const bool ignored = std::find(kIgnored.begin(), kIgnored.end(), key) != kIgnored.end();
    if (!ignored && !item.off() && (config_.unknown.empty() || config_.unknown.back() != key)) {
      config_.unknown.push_back(key);
    }
    return absl::OkStatus();
  }

  absl::Status TakeType(const Item& item) {
    if (item.kind != Kind::kString || item.depth != 1) return Wrong(item, "text");
    has_type_ = true;
    if (item.text == "LORA") return absl::OkStatus();
    return Refused("peft_type", absl::StrCat("adapters of type ", Quoted(item.text),
                                             " are not read, only LORA; merge it into its base "
                                             "and give the full model"));
  }

  static absl::Status TakeRank(const Item& item, int64_t* rank) {
    const bool plausible = item.kind == Kind::kUnsigned && item.depth == 1 && item.number > 0 &&
                           item.number <= kMaxRank;
    if (!plausible) return Wrong(item, "a rank of at least 1");
    *rank = static_cast<int64_t>(item.number);
    return absl::OkStatus();
  }

  static absl::Status TakeNumber(const Item& item, int depth, double* number) {
    if (!item.finite() || item.depth != depth) return Wrong(item, "a number");
    *number = item.real;
    return absl::OkStatus();
  }

  static absl::Status TakeBool(const Item& item, bool* value) {
    const bool plausible = item.kind == Kind::kBoolean || item.kind == Kind::kNull;
    if (!plausible || item.depth != 1) return Wrong(item, "true or false");
    *value = item.truth;
    return absl::OkStatus();
  }

  absl::Status TakeBias(const Item& item) {
    if (item.depth != 1) return Wrong(item, "'none', 'all' or 'lora_only'");
    if (item.kind == Kind::kNull || item.text == "none") return absl::OkStatus();
    if (item.text != "all" && item.text != "lora_only") {
      return Wrong(item, "'none', 'all' or 'lora_only'");
    }
    config_.bias = item.text == "all" ? AdapterConfig::Bias::kAll : AdapterConfig::Bias::kLoraOnly;
    return absl::OkStatus();
  }

  static absl::Status TakePattern(const Item& item,
                                  std::vector<std::pair<std::string, double>>* patterns) {
    if (item.kind == Kind::kNull && item.depth == 1) return absl::OkStatus();
    if (item.depth != 2 || item.in_array || !item.finite()) {
      return Wrong(item, "an object of numbers");
    }
    if (item.key == "rank_pattern" &&
        (item.kind != Kind::kUnsigned || item.number == 0 || item.number > kMaxRank)) {
      return Wrong(item, "a rank of at least 1");
    }
    patterns->emplace_back(item.member, item.real);
    return absl::OkStatus();
  }

  absl::Status TakeModule(const Item& item) {
    if (item.kind == Kind::kNull && item.depth == 1) return absl::OkStatus();
    if (item.kind != Kind::kString || item.depth != 2 || !item.in_array || item.text.empty()) {
      return Wrong(item, "a list of names");
    }
    config_.modules_to_save.push_back(item.text);
    return absl::OkStatus();
  }

  absl::Status TakeToken(const Item& item) {
    if (item.kind == Kind::kNull && item.depth == 1) return absl::OkStatus();
    const bool nested = item.depth == 3 && !item.member.empty();
    if (item.kind != Kind::kUnsigned || !item.in_array || (item.depth != 2 && !nested) ||
        item.number > INT64_MAX) {
      return Wrong(item, "a list of token ids, or an object of such lists");
    }
    auto& lists = config_.token_indices;
    if (lists.empty() || lists.back().first != item.member) lists.push_back({item.member, {}});
    lists.back().second.push_back(static_cast<int64_t>(item.number));
    return absl::OkStatus();
  }

  // Some initialisations take the first product of the factors out of the base's weights. Their
  // adapters belong to that other base, unless they were converted, which PEFT notes as `true`.
  static absl::Status TakeInit(const Item& item) {
    if (item.depth != 1) return Wrong(item, "true, false or a name");
    if (item.kind == Kind::kNull || item.kind == Kind::kBoolean) return absl::OkStatus();
    if (item.kind != Kind::kString) return Wrong(item, "true, false or a name");
    for (const absl::string_view harmless : {"gaussian", "eva", "orthogonal"}) {
      if (item.text == harmless) return absl::OkStatus();
    }
    return Refused(item.key,
                   absl::StrCat(Quoted(item.text),
                                " may have changed the base's weights, which are not here; save "
                                "the adapter with path_initial_model_for_weight_conversion, or "
                                "merge it with PEFT and give the full model"));
  }

  AdapterConfig config_;
  bool has_type_ = false;
};

using Patterns = std::vector<std::pair<std::string, double>>;

// For each module what the first pattern that matches gives, else `otherwise`. One expression is
// compiled at a time, so that a hostile file cannot fill the memory with them.
absl::StatusOr<std::vector<double>> Matches(absl::string_view key, const Patterns& patterns,
                                            const std::vector<std::string>& modules,
                                            double otherwise) {
  if (static_cast<double>(patterns.size()) * static_cast<double>(modules.size()) > kMaxMatches) {
    return Refused(key, absl::StrCat(patterns.size(), " patterns are too many for ", modules.size(),
                                     " modules"));
  }
  RE2::Options options;
  options.set_log_errors(false);
  options.set_max_mem(int64_t{1} << 20);
  std::vector<double> values(modules.size(), otherwise);
  std::vector<bool> matched(modules.size(), false);
  for (const auto& [pattern, value] : patterns) {
    // PEFT puts the text together like this, too, and matches it from a name's start.
    const RE2 expression(absl::StrCat("(.*\\.)?(", pattern, ")$"), options);
    if (!expression.ok()) {
      return MakeError(
          Reason::kInputCorrupt,
          absl::StrCat(key, ": ", Quoted(pattern),
                       " cannot be read as a regular expression: ", expression.error()));
    }
    for (size_t i = 0; i < modules.size(); ++i) {
      if (matched[i] ||
          !expression.Match(modules[i], 0, modules[i].size(), RE2::ANCHOR_START, nullptr, 0)) {
        continue;
      }
      matched[i] = true;
      values[i] = value;
    }
  }
  return values;
}

}  // namespace

absl::StatusOr<AdapterConfig> ParseAdapterConfig(absl::string_view json) {
  ConfigEvents events;
  RETURN_IF_ERROR(events.Read(json, "it"));
  return Interpreter().Read(events.Take());
}

absl::StatusOr<std::vector<AdapterScale>> ScalesOf(const AdapterConfig& config,
                                                   const std::vector<std::string>& modules) {
  ASSIGN_OR_RETURN(
      const std::vector<double> ranks,
      Matches("rank_pattern", config.rank_pattern, modules, static_cast<double>(config.rank)));
  ASSIGN_OR_RETURN(const std::vector<double> alphas,
                   Matches("alpha_pattern", config.alpha_pattern, modules, config.alpha));
  std::vector<AdapterScale> scales;
  for (size_t i = 0; i < modules.size(); ++i) {
    const double divisor = config.rank_stabilised ? std::sqrt(ranks[i]) : ranks[i];
    scales.push_back({static_cast<int64_t>(ranks[i]), alphas[i] / divisor});
  }
  return scales;
}

}  // namespace orthomerge
