#include "core/checkpoint/checkpoint.h"

#include <algorithm>
#include <initializer_list>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/bytes.h"
#include "core/base/status.h"
#include "core/checkpoint/config.h"
#include "core/checkpoint/header_reader.h"
#include "core/checkpoint/json_events.h"
#include "core/checkpoint/shard_index.h"
#include "core/checkpoint/tensor_names.h"
#include "core/checkpoint/torch_file.h"

namespace orthomerge {
namespace {

constexpr absl::string_view kModelName = "model.safetensors";
constexpr absl::string_view kTorchModelName = "pytorch_model.bin";
constexpr absl::string_view kIndexName = "model.safetensors.index.json";
constexpr absl::string_view kIndexSuffix = ".safetensors.index.json";
constexpr absl::string_view kTorchIndexSuffix = ".bin.index.json";
constexpr absl::string_view kSuffix = ".safetensors";
constexpr absl::string_view kTorchSuffix = ".bin";
constexpr absl::string_view kConfigName = "config.json";
constexpr absl::string_view kAdapterName = "adapter_model.safetensors";
constexpr absl::string_view kTorchAdapterName = "adapter_model.bin";
constexpr absl::string_view kAdapterConfigName = "adapter_config.json";
constexpr uint64_t kMaxText = 64 * kMiB;
constexpr uint64_t kMaxAdapterConfig = kMiB;

bool EndsInAny(absl::string_view name, std::initializer_list<absl::string_view> suffixes) {
  return std::any_of(suffixes.begin(), suffixes.end(),
                     [&](absl::string_view suffix) { return absl::EndsWith(name, suffix); });
}

bool IsForeignModel(absl::string_view name) {
  return EndsInAny(name, {".ckpt", ".gguf", ".msgpack", ".h5", ".onnx"});
}

// A torch file that may be a model, and not what a trainer left beside it.
bool IsTorchModel(absl::string_view name) {
  return IsTorchName(name) && !absl::StartsWith(name, "training_args") &&
         !absl::StartsWith(name, "optimizer") && !absl::StartsWith(name, "scheduler") &&
         !absl::StartsWith(name, "rng_state");
}

absl::Status Foreign(const Uri& uri) {
  return MakeError(Reason::kUnsupported,
                   absl::StrCat(uri.ToString(),
                                ": neither a safetensors nor a torch file, and "
                                "other formats are not read; convert it to safetensors first"));
}

// What `uri` is, and for a folder the names in it.
struct Place {
  bool is_folder = false;
  std::vector<std::string> names;
};

// A folder of an S3 bucket is no object, so its names are asked for first where the name does not
// look like a file's: without the right to list, S3 answers for an absent object as for a secret
// one.
absl::StatusOr<Place> Locate(ObjectStore& store, const Uri& uri, const CallOptions& options) {
  const bool s3 = uri.scheme == Uri::Scheme::kS3;
  const auto list = [&]() -> absl::StatusOr<Place> {
    ASSIGN_OR_RETURN(std::vector<std::string> names, store.ListNames(uri, "", options));
    return Place{.is_folder = !names.empty(), .names = std::move(names)};
  };
  const bool like_file = EndsInAny(uri.key, {kSuffix, ".json"}) || IsTorchName(uri.Name()) ||
                         IsForeignModel(uri.Name());
  if (s3 && !like_file) {
    ASSIGN_OR_RETURN(Place place, list());
    if (place.is_folder) return place;
  }
  const absl::Status absent =
      MakeError(Reason::kInputNotFound,
                absl::StrCat("no checkpoint at ", uri.ToString(), ": no such file or folder"));
  if (uri.key.empty()) return absent;
  const absl::StatusOr<ObjectInfo> info = store.Stat(uri, options);
  if (info.ok() && !info->is_directory) return Place{};
  if (info.ok()) {
    ASSIGN_OR_RETURN(Place place, list());
    place.is_folder = true;
    return place;
  }
  if (ReasonOf(info.status()) != Reason::kInputNotFound) return info.status();
  if (s3 && like_file) {
    ASSIGN_OR_RETURN(Place place, list());
    if (place.is_folder) return place;
  }
  return absent;
}

std::string FirstNames(const std::vector<std::string>& names) {
  constexpr size_t kMost = 12;
  if (names.empty()) return "nothing";
  std::vector<std::string> shown;
  for (size_t i = 0; i < std::min(kMost, names.size()); ++i) shown.push_back(Quoted(names[i]));
  return absl::StrCat(
      absl::StrJoin(shown, ", "),
      names.size() > kMost ? absl::StrCat(" and ", names.size() - kMost, " more") : "");
}

// The file of a folder to open: an index or a file of weights, safetensors before torch.
absl::StatusOr<std::string> ChooseFile(const Uri& folder, const std::vector<std::string>& names) {
  const auto has = [&](absl::string_view name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (has(kAdapterConfigName)) {
    if (has(kAdapterName)) return std::string(kAdapterName);
    if (has(kTorchAdapterName)) return std::string(kTorchAdapterName);
    return MakeError(
        Reason::kInputNotFound,
        absl::StrCat(folder.ToString(), ": an adapter (it has ", kAdapterConfigName, ") without ",
                     kAdapterName, " or ", kTorchAdapterName, "; found ", FirstNames(names)));
  }
  if (has(kIndexName)) return std::string(kIndexName);
  if (has(kModelName)) return std::string(kModelName);
  std::vector<std::string> indexes, files, torch_indexes, torch_files, foreign;
  for (const std::string& name : names) {
    if (absl::StartsWith(name, ".")) continue;
    if (absl::EndsWith(name, kIndexSuffix)) indexes.push_back(name);
    if (absl::EndsWith(name, kSuffix)) files.push_back(name);
    if (absl::EndsWith(name, kTorchIndexSuffix)) torch_indexes.push_back(name);
    if (IsTorchModel(name)) torch_files.push_back(name);
    if (IsForeignModel(name)) foreign.push_back(name);
  }
  if (indexes.size() == 1) return indexes[0];
  if (indexes.empty() && files.size() == 1) return files[0];
  if (indexes.empty() && files.empty()) {
    if (torch_indexes.size() == 1) return torch_indexes[0];
    if (has(kTorchModelName)) return std::string(kTorchModelName);
    if (torch_indexes.empty() && torch_files.size() == 1) return torch_files[0];
  }
  if (files.empty() && torch_files.empty() && !foreign.empty()) {
    return MakeError(
        Reason::kUnsupported,
        absl::StrCat(folder.ToString(), ": only safetensors and torch files are read, and here is ",
                     FirstNames(foreign), "; convert the model to safetensors first"));
  }
  return MakeError(Reason::kInputNotFound,
                   absl::StrCat("no checkpoint in ", folder.ToString(), ": looked for ", kIndexName,
                                ", ", kModelName, " or a single ", kSuffix, " file, then for ",
                                kTorchModelName, " and its index; found ", FirstNames(names),
                                files.size() > 1 || torch_files.size() > 1
                                    ? "; is the index missing? a single file can be named directly"
                                    : ""));
}

struct Contents {
  std::vector<InputFile> files;
  std::vector<TensorInfo> tensors;
};

absl::StatusOr<Contents> OpenFile(ObjectStore& store, const Uri& uri, const CallOptions& options,
                                  const OpenOptions& open) {
  ASSIGN_OR_RETURN(FileHeader header, ReadHeader(store, uri, options, open));
  Contents contents;
  contents.files.push_back(std::move(header.file));
  contents.tensors = std::move(header.tensors);
  return contents;
}

const TensorInfo* FindByName(const std::vector<TensorInfo>& sorted, absl::string_view name) {
  const auto found = std::lower_bound(
      sorted.begin(), sorted.end(), name,
      [](const TensorInfo& tensor, absl::string_view wanted) { return tensor.name < wanted; });
  return found != sorted.end() && found->name == name ? &*found : nullptr;
}

// Every tensor of the index lies in its shard.
absl::Status CheckIndex(const ShardIndex& index, const std::vector<FileHeader>& shards) {
  std::string first;
  size_t faults = 0;
  for (const ShardIndex::Entry& entry : index.entries) {
    if (FindByName(shards[entry.shard].tensors, entry.tensor) != nullptr) continue;
    if (++faults > 1) continue;
    const auto other = std::find_if(shards.begin(), shards.end(), [&](const FileHeader& shard) {
      return FindByName(shard.tensors, entry.tensor) != nullptr;
    });
    first = absl::StrCat(
        "tensor ", Quoted(entry.tensor), " should be in ", Quoted(index.shards[entry.shard]),
        other == shards.end() ? " but is in no shard"
                              : " but is in " + Quoted(index.shards[other - shards.begin()]));
  }
  if (faults == 0) return absl::OkStatus();
  if (faults > 1) absl::StrAppend(&first, ", and ", faults - 1, " more like it");
  return MakeError(Reason::kInputCorrupt, first);
}

// Keeps the tensors that the index maps to the shard they are in.
std::vector<TensorInfo> TakeListed(const ShardIndex& index, std::vector<FileHeader>* shards,
                                   absl::string_view where, Diagnostics* diagnostics) {
  std::vector<TensorInfo> tensors;
  tensors.reserve(index.entries.size());
  std::string unlisted, twice;
  size_t unlisted_count = 0, twice_count = 0;
  for (size_t i = 0; i < shards->size(); ++i) {
    for (TensorInfo& tensor : (*shards)[i].tensors) {
      const auto entry = std::lower_bound(
          index.entries.begin(), index.entries.end(), tensor.name,
          [](const ShardIndex::Entry& a, const std::string& name) { return a.tensor < name; });
      if (entry == index.entries.end() || entry->tensor != tensor.name) {
        if (unlisted_count++ == 0) unlisted = Quoted(tensor.name);
      } else if (entry->shard != static_cast<int>(i)) {
        if (twice_count++ == 0) twice = Quoted(tensor.name);
      } else {
        tensor.file = static_cast<int>(i);
        tensors.push_back(std::move(tensor));
      }
    }
  }
  if (diagnostics != nullptr && unlisted_count > 0) {
    diagnostics->Warning(absl::StrCat(where,
                                      ": tensors of the shards that the index does not list "
                                      "are left out: ",
                                      unlisted_count, ", the first is ", unlisted));
  }
  if (diagnostics != nullptr && twice_count > 0) {
    diagnostics->Warning(absl::StrCat(where,
                                      ": tensors lie in more than one shard and are taken "
                                      "from the one that the index names: ",
                                      twice_count, ", the first is ", twice));
  }
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
  return tensors;
}

absl::StatusOr<Contents> OpenIndex(ObjectStore& store, const Uri& uri, const CallOptions& options,
                                   Diagnostics* diagnostics, const OpenOptions& open) {
  ASSIGN_OR_RETURN(const std::string text, ReadObject(store, uri, kMaxText, options));
  const absl::StatusOr<ShardIndex> index =
      ParseShardIndex(text, absl::EndsWith(uri.key, kTorchIndexSuffix) ? kTorchSuffix : kSuffix);
  if (!index.ok()) {
    const absl::Status foreign = RecogniseForeignFile(text);
    return foreign.ok() ? Annotate(index.status(), uri.ToString())
                        : Annotate(foreign, absl::StrCat(uri.ToString(), ": not an index"));
  }
  std::vector<Uri> uris;
  for (const std::string& shard : index->shards) uris.push_back(uri.Sibling(shard));
  absl::StatusOr<std::vector<FileHeader>> shards = ReadHeaders(store, uris, options, open);
  if (!shards.ok()) {
    if (ReasonOf(shards.status()) != Reason::kInputNotFound) return shards.status();
    return MakeError(Reason::kShardMissing,
                     absl::StrCat(uri.ToString(), ": the index names a shard that is not there: ",
                                  shards.status().message()));
  }
  const absl::Status fits = CheckIndex(*index, *shards);
  if (!fits.ok()) return Annotate(fits, uri.ToString());
  Contents contents;
  contents.tensors = TakeListed(*index, &*shards, uri.ToString(), diagnostics);
  for (FileHeader& shard : *shards) contents.files.push_back(std::move(shard.file));
  return contents;
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(Storage& storage, const Uri& uri,
                                            const CallOptions& options, Diagnostics* diagnostics,
                                            const OpenOptions& open) {
  ASSIGN_OR_RETURN(ObjectStore* const store, storage.For(uri, StorageAccess::kRead));
  ASSIGN_OR_RETURN(const Place place, Locate(*store, uri, options));
  Checkpoint checkpoint;
  checkpoint.uri_ = uri;
  Uri file = uri;
  if (place.is_folder) {
    ASSIGN_OR_RETURN(const std::string name, ChooseFile(uri, place.names));
    file = uri.Child(name);
  }
  checkpoint.folder_ = place.is_folder ? uri : uri.Parent();
  const bool is_index = absl::EndsWith(file.key, ".json");
  if (IsForeignModel(file.Name())) return Foreign(file);

  ASSIGN_OR_RETURN(Contents contents, is_index ? OpenIndex(*store, file, options, diagnostics, open)
                                               : OpenFile(*store, file, options, open));
  if (contents.tensors.empty()) {
    return MakeError(Reason::kInputCorrupt, absl::StrCat(file.ToString(), ": holds no tensors"));
  }
  checkpoint.files_ = std::move(contents.files);
  checkpoint.tensors_ = std::move(contents.tensors);

  const auto read_text = [&](absl::string_view name,
                             uint64_t limit) -> absl::StatusOr<std::optional<std::string>> {
    absl::StatusOr<std::string> text =
        ReadObject(*store, checkpoint.folder_.Child(name), limit, options);
    if (text.ok()) return *std::move(text);
    if (ReasonOf(text.status()) == Reason::kInputNotFound) return std::nullopt;
    return text.status();
  };
  if (file.Name() == kAdapterName || file.Name() == kTorchAdapterName) {
    ASSIGN_OR_RETURN(checkpoint.adapter_config_, read_text(kAdapterConfigName, kMaxAdapterConfig));
    if (checkpoint.adapter_config_.has_value()) return checkpoint;
  }
  checkpoint.lone_file_ =
      !place.is_folder && !is_index && file.Name() != kModelName && file.Name() != kTorchModelName;
  if (!checkpoint.lone_file_) {
    ASSIGN_OR_RETURN(checkpoint.config_, read_text(kConfigName, kMaxText));
  }
  return checkpoint;
}

const TensorInfo* Checkpoint::Find(absl::string_view name) const {
  return FindByName(tensors_, name);
}

const TensorInfo* Checkpoint::TiedStandIn(absl::string_view name) const {
  if (!IsHeadName(name) || !config_.has_value() || !TiesHead(*config_)) return nullptr;
  const TensorInfo* embedding = nullptr;
  for (const TensorInfo& tensor : tensors_) {
    if (!IsEmbeddingName(tensor.name)) continue;
    if (embedding != nullptr) return nullptr;
    embedding = &tensor;
  }
  return embedding;
}

uint64_t Checkpoint::total_bytes() const {
  uint64_t total = 0;
  for (const TensorInfo& tensor : tensors_) total += tensor.bytes();
  return total;
}

}  // namespace orthomerge
