#include "core/checkpoint/quantisation.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status.h"
#include "core/checkpoint/config_text.h"
#include "core/checkpoint/json_events.h"
#include "nlohmann/json.hpp"

namespace orthomerge {
namespace {

constexpr absl::string_view kConfig = "quantization_config";
constexpr absl::string_view kTextConfig = "text_config";
constexpr absl::string_view kInverse = "_scale_inv";
constexpr absl::string_view kScale = "_scale";
constexpr int64_t kUsualBlock = 128;

// What config.json says.
struct Settings {
  bool quantised = false;
  std::optional<std::pair<int64_t, int64_t>> block;
};

bool IsFloat8(DType dtype) { return dtype == DType::kF8E4M3 || dtype == DType::kF8E5M2; }

int64_t CeilDivide(int64_t a, int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

// The value of the last member of this name, as in Python; empty without one, and for null.
absl::string_view Member(absl::string_view object, absl::string_view name) {
  absl::string_view value;
  const absl::StatusOr<std::vector<JsonMember>> members = JsonMembers(object);
  if (!members.ok()) return value;
  for (const JsonMember& member : *members) {
    if (member.key == name) value = ValueOf(object, member);
  }
  return value == "null" ? absl::string_view() : value;
}

absl::Status Refuse(absl::string_view what) {
  return MakeError(Reason::kUnsupported,
                   absl::StrCat(what,
                                ": its codes cannot be merged and are not read; give the "
                                "model before it was quantised, in 16 or 32 bits"));
}

absl::StatusOr<Settings> ReadSettings(const Checkpoint& checkpoint) {
  Settings settings;
  if (!checkpoint.config().has_value()) return settings;
  absl::string_view config = Member(*checkpoint.config(), kConfig);
  if (config.empty()) config = Member(Member(*checkpoint.config(), kTextConfig), kConfig);
  if (config.empty()) return settings;
  settings.quantised = true;
  const absl::string_view method = Member(config, "quant_method");
  if (!method.empty() && method != "\"fp8\"" && method != "\"fbgemm_fp8\"") {
    return Refuse(absl::StrCat("config.json says quant_method ", Quoted(method)));
  }
  const absl::string_view block = Member(config, "weight_block_size");
  if (block.empty()) return settings;
  const auto sizes = nlohmann::json::parse(block, nullptr, false);
  const bool pair = sizes.is_array() && sizes.size() == 2 && sizes[0].is_number_unsigned() &&
                    sizes[1].is_number_unsigned();
  if (pair) settings.block = {sizes[0].get<int64_t>(), sizes[1].get<int64_t>()};
  if (!pair || settings.block->first <= 0 || settings.block->second <= 0) {
    return MakeError(Reason::kInputCorrupt,
                     absl::StrCat("config.json: weight_block_size ", Quoted(block),
                                  " is no pair of sizes above 0"));
  }
  return settings;
}

// Names by which packed and integer codes give themselves away where config.json does not.
bool IsPacked(const TensorInfo& tensor) {
  constexpr std::array<absl::string_view, 6> kSuffixes = {
      ".qweight", ".qzeros", ".weight_packed", ".weight.absmax", ".weight.quant_map", "_blocks"};
  return IsIntegral(tensor.dtype) &&
         (absl::StrContains(tensor.name, ".quant_state.") ||
          std::any_of(kSuffixes.begin(), kSuffixes.end(), [&](absl::string_view suffix) {
            return absl::EndsWith(tensor.name, suffix);
          }));
}

absl::Status Corrupt(const TensorInfo& tensor, absl::string_view fault) {
  return MakeError(Reason::kInputCorrupt, absl::StrCat("tensor ", Quoted(tensor.name), " ", fault));
}

// How `scale` covers `weight`.
absl::StatusOr<BlockScale> Cover(const TensorInfo& weight, const TensorInfo& scale,
                                 const Settings& settings, bool inverse) {
  if (scale.dtype != DType::kF32 && scale.dtype != DType::kBF16 && scale.dtype != DType::kF16) {
    return MakeError(Reason::kUnsupportedDtype,
                     absl::StrCat("tensor ", Quoted(scale.name), " is ", NameOf(scale.dtype),
                                  "; scales of F32, BF16 and F16 are read"));
  }
  BlockScale cover;
  cover.scale = scale;
  const bool matrix = weight.shape.size() == 2;
  const int64_t rows = matrix ? weight.shape[0] : 1;
  cover.columns = matrix ? weight.shape[1] : weight.elements();
  cover.block_rows = std::max<int64_t>(1, rows);
  cover.block_columns = std::max<int64_t>(1, cover.columns);
  const bool blocks = matrix && inverse && (settings.block.has_value() || scale.elements() != 1);
  if (blocks) {
    const auto [block_rows, block_columns] =
        settings.block.value_or(std::make_pair(kUsualBlock, kUsualBlock));
    cover.block_rows = block_rows;
    cover.block_columns = block_columns;
    cover.grid_rows = CeilDivide(rows, block_rows);
    cover.grid_columns = CeilDivide(cover.columns, block_columns);
  } else if (matrix && !inverse && scale.elements() != 1) {
    cover.block_rows = 1;
    cover.grid_rows = rows;
  }
  const std::vector<int64_t> grid = {cover.grid_rows, cover.grid_columns};
  const bool single = scale.elements() == 1 && cover.grid_rows == 1 && cover.grid_columns == 1;
  if (scale.shape == grid || single) return cover;
  return Corrupt(scale,
                 absl::StrCat("has shape [", absl::StrJoin(scale.shape, ", "), "] but scales for ",
                              Quoted(weight.name), " of shape [", absl::StrJoin(weight.shape, ", "),
                              "] have [", absl::StrJoin(grid, ", "), "]"));
}

// One object without its quantisation; `inner`: that of text_config.
absl::StatusOr<std::string> Drop(absl::string_view text, bool inner) {
  ASSIGN_OR_RETURN(const std::vector<JsonMember> members, JsonMembers(text));
  const auto is_kept = [](const JsonMember& member) { return member.key != kConfig; };
  const size_t kept_end = members.rend() - std::find_if(members.rbegin(), members.rend(), is_kept);
  std::string result;
  size_t done = 0;  // what stands before it was taken over or left out
  for (size_t i = 0; i < kept_end; ++i) {
    const JsonMember& member = members[i];
    const absl::string_view value = ValueOf(text, member);
    if (!is_kept(member)) {  // with the comma behind it
      absl::StrAppend(&result, text.substr(done, member.key_begin - done));
      done = members[i + 1].key_begin;
    } else if (member.key == kTextConfig && !inner && absl::StartsWith(value, "{")) {
      ASSIGN_OR_RETURN(const std::string below, Drop(value, true));
      absl::StrAppend(&result, text.substr(done, member.value_begin - done), below);
      done = member.value_end;
    }
  }
  if (kept_end < members.size()) {  // with the comma before them
    const size_t end = kept_end > 0 ? members[kept_end - 1].value_end : members[0].key_begin;
    absl::StrAppend(&result, text.substr(done, end - done));
    done = members.back().value_end;
  }
  absl::StrAppend(&result, text.substr(done));
  return result;
}

}  // namespace

absl::StatusOr<Quantisation> Quantisation::Of(const Checkpoint& checkpoint) {
  Quantisation result;
  const absl::Status status = result.Read(checkpoint);
  if (!status.ok()) return Annotate(status, checkpoint.uri().ToString());
  return result;
}

absl::Status Quantisation::Read(const Checkpoint& checkpoint) {
  ASSIGN_OR_RETURN(const Settings settings, ReadSettings(checkpoint));
  const TensorInfo* bare = nullptr;  // of 8 bits without a scale
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    if (IsPacked(tensor)) return Refuse(absl::StrCat("tensor ", Quoted(tensor.name), " is packed"));
    const TensorInfo* const inverse = checkpoint.Find(absl::StrCat(tensor.name, kInverse));
    if (!IsFloat8(tensor.dtype)) {
      if (inverse == nullptr) continue;
      return Corrupt(*inverse,
                     absl::StrCat("is a scale, but its weight is ", NameOf(tensor.dtype)));
    }
    const TensorInfo* const plain = checkpoint.Find(absl::StrCat(tensor.name, kScale));
    if (inverse == nullptr && plain == nullptr) {
      if (bare == nullptr) bare = &tensor;
      continue;
    }
    if (inverse != nullptr && plain != nullptr) {
      return Corrupt(*plain, "is a second scale for one weight");
    }
    const TensorInfo& scale = inverse != nullptr ? *inverse : *plain;
    ASSIGN_OR_RETURN(BlockScale cover, Cover(tensor, scale, settings, inverse != nullptr));
    weights_.emplace(tensor.name, std::move(cover));
    scales_.insert(scale.name);
    const std::string module = tensor.name.substr(0, tensor.name.rfind('.'));
    for (const absl::string_view of_inputs : {".input_scale", ".input_scale_inv"}) {
      const std::string name = absl::StrCat(module, of_inputs);
      if (checkpoint.Find(name) != nullptr) scales_.insert(name);
    }
  }
  if (bare != nullptr && (settings.quantised || !empty())) {
    return Corrupt(*bare,
                   absl::StrCat("is quantised (", NameOf(bare->dtype), ") but its scale ",
                                Quoted(absl::StrCat(bare->name, kInverse)), " is not there"));
  }
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    if (!absl::EndsWith(tensor.name, kInverse) || IsScale(tensor.name)) continue;
    return Corrupt(tensor, "is a scale, but its weight is not there");
  }
  return absl::OkStatus();
}

const BlockScale* Quantisation::Find(absl::string_view weight) const {
  const auto found = weights_.find(weight);
  return found == weights_.end() ? nullptr : &found->second;
}

absl::StatusOr<std::string> DropQuantisation(const std::string& config) {
  absl::StatusOr<std::string> result = Drop(config, false);
  if (!result.ok()) return Annotate(result.status(), "config.json");
  return result;
}

}  // namespace orthomerge
