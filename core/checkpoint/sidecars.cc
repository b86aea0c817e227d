// Which files of a model's folder travel with it.

#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/bytes.h"
#include "core/base/status.h"
#include "core/checkpoint/checkpoint.h"

namespace orthomerge {
namespace {

constexpr absl::string_view kTemplates = "additional_chat_templates";
constexpr uint64_t kLargest = 64 * kMiB;

bool IsPlain(absl::string_view name) {
  return !name.empty() && name[0] != '.' && std::all_of(name.begin(), name.end(), [](char c) {
    return c != '/' && !absl::ascii_iscntrl(static_cast<unsigned char>(c));
  });
}

// Weights, code and archives never travel, whatever their names begin with.
bool IsRefused(absl::string_view lower) {
  constexpr std::array<absl::string_view, 9> kSuffixes = {
      ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".py", ".pkl", ".zip"};
  return std::any_of(kSuffixes.begin(), kSuffixes.end(),
                     [&](absl::string_view suffix) { return absl::EndsWith(lower, suffix); });
}

// LICENSE, LICENSE.txt, LICENSE-MODEL and the like.
bool IsLicence(absl::string_view lower) {
  constexpr std::array<absl::string_view, 4> kStems = {"license", "licence", "notice",
                                                       "use_policy"};
  return std::any_of(kStems.begin(), kStems.end(), [&](absl::string_view stem) {
    return absl::StartsWith(lower, stem) &&
           (lower.size() == stem.size() || absl::StrContains(".-_", lower[stem.size()]));
  });
}

bool IsTokenizer(absl::string_view name) {
  constexpr std::array<absl::string_view, 6> kNames = {"special_tokens_map.json",
                                                       "added_tokens.json",
                                                       "merges.txt",
                                                       "tekken.json",
                                                       "spiece.model",
                                                       "spm.model"};
  return std::find(kNames.begin(), kNames.end(), name) != kNames.end() ||
         absl::StartsWith(name, "tokenizer") || absl::StartsWith(name, "vocab.") ||
         absl::StartsWith(name, "chat_template.") || absl::EndsWith(name, ".tiktoken") ||
         absl::EndsWith(name, ".spm") ||
         (absl::StartsWith(name, "sentencepiece") && absl::EndsWith(name, ".model"));
}

bool IsSidecar(absl::string_view name) {
  const std::string lower = absl::AsciiStrToLower(name);
  if (!IsPlain(name) || IsRefused(lower)) return false;
  return name == "generation_config.json" || IsTokenizer(name) || IsLicence(lower) ||
         absl::EndsWith(name, "processor_config.json");
}

}  // namespace

absl::StatusOr<std::vector<Sidecar>> FindSidecars(Storage& storage, const Checkpoint& checkpoint,
                                                  const CallOptions& options) {
  // As with config.json: what lies beside a file that was named itself need not belong to it.
  if (checkpoint.is_lone_file()) return std::vector<Sidecar>();
  return FindSidecars(storage, checkpoint.folder(), options);
}

absl::StatusOr<std::vector<Sidecar>> FindSidecars(Storage& storage, const Uri& folder,
                                                  const CallOptions& options) {
  std::vector<Sidecar> sidecars;
  ASSIGN_OR_RETURN(ObjectStore* const store, storage.For(folder, StorageAccess::kRead));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, store->ListNames(folder, "", options));
  std::vector<std::string> wanted;
  for (const std::string& name : names) {
    if (IsSidecar(name)) wanted.push_back(name);
    if (name != kTemplates) continue;
    ASSIGN_OR_RETURN(const std::vector<std::string> templates,
                     store->ListNames(folder.Child(kTemplates), "", options));
    for (const std::string& file : templates) {
      if (IsPlain(file) && !IsRefused(file)) wanted.push_back(absl::StrCat(kTemplates, "/", file));
    }
  }
  std::sort(wanted.begin(), wanted.end());
  for (const std::string& name : wanted) {
    const Uri uri = folder.Child(name);
    const absl::StatusOr<ObjectInfo> info = store->Stat(uri, options);
    if (!info.ok()) {
      // On S3 a folder has a name but is no object; on disk the name is a broken link.
      const bool folder_name =
          uri.scheme == Uri::Scheme::kS3 && ReasonOf(info.status()) == Reason::kInputNotFound;
      if (folder_name) continue;
      return info.status();
    }
    if (info->is_directory) continue;
    if (info->size > kLargest) {
      return MakeError(Reason::kInputCorrupt,
                       absl::StrCat(uri.ToString(), ": ", FormatBytes(info->size),
                                    " is too large for a file that travels with a model (at most ",
                                    FormatBytes(kLargest), ")"));
    }
    const bool is_tokenizer = IsTokenizer(name) || absl::StartsWith(name, kTemplates);
    sidecars.push_back({name, {uri, info->size, info->etag}, is_tokenizer});
  }
  return sidecars;
}

}  // namespace orthomerge
