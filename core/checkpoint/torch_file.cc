#include "core/checkpoint/torch_file.h"

#include <algorithm>
#include <array>
#include <limits>
#include <memory>
#include <string>
#include <unordered_set>
#include <utility>

#include "absl/numeric/int128.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/bytes.h"
#include "core/base/status.h"
#include "core/checkpoint/header_reader.h"
#include "core/checkpoint/json_events.h"
#include "core/checkpoint/pickle.h"
#include "core/checkpoint/strided_view.h"
#include "core/storage/utf8.h"

namespace orthomerge {
namespace {

using Kind = PickleValue::Kind;
using Role = PickleGlobal::Role;
using FindStorage = absl::FunctionRef<const ZipEntry*(absl::string_view key)>;

constexpr absl::string_view kPickleName = "/data.pkl";
// Tensors that lie backwards in the file are read block by block over and over.
constexpr uint64_t kMaxOutOfOrder = 256 * kMiB;
// Tied and expanded tensors make more bytes than the file has; beyond this it is an attack.
constexpr uint64_t kMostCopies = 16;
constexpr uint64_t kSmallTotal = 64 * kMiB;

absl::Status Corrupt(absl::string_view message) {
  return MakeError(Reason::kInputCorrupt, message);
}

absl::Status Unsupported(absl::string_view message) {
  return MakeError(Reason::kUnsupported, message);
}

// Bytes of a storage in the file, and its class.
struct TorchStorage {
  uint64_t begin = 0;
  uint64_t bytes = 0;
  const PickleGlobal* type = nullptr;
};

// A persistent id is ('storage', class, key, location, number of elements).
absl::StatusOr<TorchStorage> ReadStorage(const PickleValue& value, FindStorage find) {
  const PickleValue& id = *value.items[0];
  const auto& items = id.items;
  const bool right = id.kind == Kind::kTuple && items.size() == 5 &&
                     items[0]->kind == Kind::kText && items[0]->text == "storage" &&
                     items[1]->kind == Kind::kGlobal && items[1]->global->role == Role::kStorage &&
                     items[2]->kind == Kind::kText && items[3]->kind == Kind::kText &&
                     items[4]->kind == Kind::kInteger;
  if (!right) return Corrupt("the pickle has a persistent id that describes no storage");
  const absl::string_view key = items[2]->text;
  const ZipEntry* const entry = find(key);
  if (entry == nullptr) {
    return Corrupt(absl::StrCat("the storage ", Quoted(key), " is not in the archive"));
  }
  TorchStorage storage{entry->begin, entry->bytes(), items[1]->global};
  const uint64_t width = storage.type->dtype.has_value() ? BitsOf(*storage.type->dtype) / 8 : 1;
  const int64_t elements = items[4]->number;
  if (elements < 0 || absl::uint128(static_cast<uint64_t>(elements)) * width != storage.bytes) {
    return Corrupt(absl::StrCat("the storage ", Quoted(key), " should have ", elements,
                                " elements of ", width, " bytes but has ", storage.bytes,
                                " bytes; is the file complete?"));
  }
  return storage;
}

bool TakeIntegers(const PickleValue& tuple, std::vector<int64_t>* numbers) {
  if (tuple.kind != Kind::kTuple) return false;
  for (const PickleValue* item : tuple.items) {
    if (item->kind != Kind::kInteger || item->number < 0) return false;
    numbers->push_back(item->number);
  }
  return true;
}

// Places a tensor of `shape` and `strides` at `offset` (in elements) in its storage.
absl::Status Place(const TorchStorage& storage, int64_t offset, const std::vector<int64_t>& strides,
                   TensorInfo* tensor) {
  constexpr uint64_t kLimit = std::numeric_limits<int64_t>::max();
  const uint64_t width = BitsOf(tensor->dtype) / 8;
  uint64_t bytes = width;
  bool empty = false;
  // 63 bits times 63 bits, at most 64 times: no sum or product of these passes 128 bits.
  absl::uint128 last = static_cast<uint64_t>(offset);  // the furthest element
  for (size_t d = 0; d < strides.size(); ++d) {
    const auto size = static_cast<uint64_t>(tensor->shape[d]);
    empty = empty || size == 0;
    if (size == 0) continue;
    if (__builtin_mul_overflow(bytes, size, &bytes) || bytes > kLimit) {
      return Corrupt("is larger than any file");
    }
    // A stride of a dimension of 1 moves nothing; it may be anything.
    last = std::min<absl::uint128>(
        last + absl::uint128(size - 1) * static_cast<uint64_t>(strides[d]), absl::uint128(kLimit));
  }
  if (empty) {
    tensor->begin = tensor->end = storage.begin;
    return absl::OkStatus();
  }
  if ((last + 1) * width > storage.bytes) return Corrupt("reaches beyond its storage");
  const uint64_t begin = storage.begin + static_cast<uint64_t>(offset) * width;
  StridedView view = StridedView::Of(begin, width, tensor->shape, strides);
  if (view.contiguous()) {
    tensor->begin = begin;
    tensor->end = begin + bytes;
    return absl::OkStatus();
  }
  if (!view.in_order() && bytes > kMaxOutOfOrder) {
    return Unsupported(absl::StrCat("is transposed or expanded and has ", FormatBytes(bytes),
                                    "; at most ", FormatBytes(kMaxOutOfOrder),
                                    " are read that way: save it with contiguous()"));
  }
  tensor->begin = 0;
  tensor->end = bytes;
  tensor->view = std::make_shared<const StridedView>(std::move(view));
  return absl::OkStatus();
}

// _rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata]); v3 has the
// dtype before the metadata.
absl::StatusOr<TensorInfo> ReadTensor(const PickleValue& call, FindStorage find) {
  const bool v3 = call.global->role == Role::kTensorV3;
  const auto& items = call.items[0]->items;
  const size_t least = v3 ? 7 : 6;
  TensorInfo tensor;
  std::vector<int64_t> strides;
  if (items.size() < least || items.size() > least + 1 || items[0]->kind != Kind::kStorage ||
      items[1]->kind != Kind::kInteger || items[1]->number < 0 ||
      !TakeIntegers(*items[2], &tensor.shape) || !TakeIntegers(*items[3], &strides) ||
      items[4]->kind != Kind::kBool ||
      (items[5]->kind != Kind::kDict && items[5]->kind != Kind::kNone)) {
    return Corrupt("is not described as torch describes tensors");
  }
  if (strides.size() != tensor.shape.size()) {
    return Corrupt("has more or fewer strides than dimensions");
  }
  if (strides.size() > kMaxRank) {
    return Corrupt(absl::StrCat("has more than ", kMaxRank, " dimensions"));
  }
  ASSIGN_OR_RETURN(const TorchStorage storage, ReadStorage(*items[0], find));
  const PickleGlobal* type = storage.type;
  if (v3) {
    type = items[6]->global;
    if (type != nullptr && type->role != Role::kDType) type = nullptr;
  }
  if (type == nullptr || !type->dtype.has_value()) return Corrupt("has no dtype");
  tensor.dtype = *type->dtype;
  // Flags of the values, such as a conjugation that is still to be done.
  if (items.size() > least && items[least]->kind != Kind::kNone &&
      !(items[least]->kind == Kind::kDict && items[least]->items.empty())) {
    return Unsupported("has metadata, which is not read");
  }
  RETURN_IF_ERROR(Place(storage, items[1]->number, strides, &tensor));
  return tensor;
}

// A tensor, or the one in a parameter: _rebuild_parameter(data, requires_grad, hooks[, state]).
absl::StatusOr<TensorInfo> ReadCall(const PickleValue& call, FindStorage find) {
  const Role role = call.global->role;
  if (role == Role::kTensorV2 || role == Role::kTensorV3) return ReadTensor(call, find);
  const auto& items = call.items[0]->items;
  const bool right =
      items.size() == (role == Role::kParameter ? 3 : 4) && items[0]->kind == Kind::kCall &&
      (items[0]->global->role == Role::kTensorV2 || items[0]->global->role == Role::kTensorV3);
  if (!right) return Corrupt("is a parameter without a tensor");
  return ReadTensor(*items[0], find);
}

bool HoldsTensor(const PickleValue& value) {
  return std::any_of(value.items.begin(), value.items.end(),
                     [](const PickleValue* item) { return item->kind == Kind::kCall; });
}

// Whether there is a tensor at any depth of `value`. What is in `seen` has none and is not looked
// at again, so that all calls together take linear time.
bool HidesTensor(const PickleValue& value, std::unordered_set<const PickleValue*>* seen) {
  std::vector<const PickleValue*> open = {&value};
  while (!open.empty()) {
    const PickleValue* const next = open.back();
    open.pop_back();
    if (next->kind == Kind::kCall) return true;
    if (next->items.empty() || !seen->insert(next).second) continue;
    open.insert(open.end(), next->items.begin(), next->items.end());
  }
  return false;
}

// The dictionary that holds the weights.
absl::StatusOr<const PickleValue*> FindWeights(const PickleValue& root) {
  constexpr std::array<absl::string_view, 4> kKeys = {"state_dict", "model_state_dict", "model",
                                                      "module"};
  if (root.kind != Kind::kDict) return Corrupt("the pickle is no dictionary of tensors");
  if (HoldsTensor(root)) return &root;
  const PickleValue* found = nullptr;
  for (size_t i = 0; i + 1 < root.items.size(); i += 2) {
    const PickleValue& key = *root.items[i];
    const PickleValue& value = *root.items[i + 1];
    const bool known =
        key.kind == Kind::kText && std::find(kKeys.begin(), kKeys.end(), key.text) != kKeys.end();
    if (!known || value.kind != Kind::kDict || !HoldsTensor(value)) continue;
    if (found != nullptr) {
      return Unsupported(absl::StrCat("the pickle holds several models (", Quoted(key.text),
                                      " and another one); save one alone"));
    }
    found = &value;
  }
  if (found == nullptr) {
    return Corrupt(absl::StrCat("the pickle holds no tensors, neither directly nor under ",
                                absl::StrJoin(kKeys, ", ")));
  }
  return found;
}

absl::Status CheckTotal(const std::vector<TensorInfo>& tensors, uint64_t file_size) {
  absl::uint128 total = 0;
  for (const TensorInfo& tensor : tensors) total += tensor.bytes();
  if (total <= absl::uint128(file_size) * kMostCopies + kSmallTotal) return absl::OkStatus();
  const auto largest = std::max_element(
      tensors.begin(), tensors.end(),
      [](const TensorInfo& a, const TensorInfo& b) { return a.bytes() < b.bytes(); });
  return Corrupt(absl::StrCat("the tensors would have more than ", kMostCopies,
                              " times the bytes of the file, ", Quoted(largest->name), " alone ",
                              largest->bytes(), ": it is expanded or shared too often"));
}

absl::Status CheckByteOrder(const RangeReader& read, const ZipDirectory& zip,
                            absl::string_view root) {
  constexpr uint64_t kLongest = 64;
  const ZipEntry* const entry = zip.Find(absl::StrCat(root, "/byteorder"));
  if (entry == nullptr) return absl::OkStatus();  // older files are little-endian
  ASSIGN_OR_RETURN(const std::string order, ReadZipEntry(read, *entry, kLongest));
  if (order == "little") return absl::OkStatus();
  return Unsupported(absl::StrCat("its data have the byte order ", Quoted(order),
                                  ", and only little is read; convert it to safetensors first"));
}

// The folder in the archive that holds everything.
absl::StatusOr<std::string> FindRoot(const ZipDirectory& zip) {
  std::string root;
  for (const ZipEntry& entry : zip.entries) {
    const absl::string_view name = entry.name;
    if (!absl::EndsWith(name, kPickleName) || name.find('/') != name.size() - kPickleName.size()) {
      continue;
    }
    if (!root.empty()) {
      return Corrupt(absl::StrCat("the archive has two pickles, ", Quoted(root + "/data.pkl"),
                                  " and ", Quoted(name)));
    }
    root = std::string(name.substr(0, name.size() - kPickleName.size()));
  }
  if (root.empty()) return Corrupt("the archive has no data.pkl: it is no torch checkpoint");
  for (const ZipEntry& entry : zip.entries) {
    if (!absl::StartsWith(entry.name, root + "/")) {
      return Corrupt(absl::StrCat("the archive's entry ", Quoted(entry.name), " lies outside of ",
                                  Quoted(root)));
    }
    const absl::string_view name = absl::string_view(entry.name).substr(root.size() + 1);
    if (name == "constants.pkl" || absl::StartsWith(name, "code/")) {
      return Unsupported("it is a TorchScript program, not a checkpoint; save its state_dict()");
    }
  }
  return root;
}

// Why a file is no archive, judged by its first bytes; `fault` where they say nothing.
absl::Status Recognise(const RangeReader& read, uint64_t file_size, const absl::Status& fault) {
  constexpr uint64_t kHead = 1024;
  constexpr absl::string_view kLegacy = "\x80\x02\x8a\nl\xfc\x9c\x46\xf9 j\xa8P\x19.";
  std::string head(std::min(file_size, kHead), '\0');
  if (!head.empty()) RETURN_IF_ERROR(read(0, absl::MakeSpan(&head[0], head.size())));
  if (absl::StartsWith(head, "PK")) return fault;
  if (absl::StartsWith(head, kLegacy)) {
    return Unsupported(
        "it has the format of before torch 1.6; load and save it with a newer torch");
  }
  if (absl::StartsWith(head, "\x80")) {
    return Unsupported("it is a bare pickle, not an archive as torch.save writes it");
  }
  RETURN_IF_ERROR(Annotate(RecogniseForeignFile(head), "not a torch checkpoint"));
  return fault;
}

}  // namespace

bool IsTorchName(absl::string_view name) {
  return absl::EndsWith(name, ".bin") || absl::EndsWith(name, ".pt") ||
         absl::EndsWith(name, ".pth");
}

absl::StatusOr<std::vector<TensorInfo>> ReadStateDict(absl::string_view pickle, FindStorage find,
                                                      uint64_t file_size) {
  ASSIGN_OR_RETURN(const Pickle parsed, ParsePickle(pickle));
  // Also those that nobody asks for: a file that is wrong anywhere is not trusted.
  for (const PickleValue& value : parsed.values) {
    if (value.kind == Kind::kStorage) RETURN_IF_ERROR(ReadStorage(value, find).status());
  }
  ASSIGN_OR_RETURN(const PickleValue* const weights, FindWeights(*parsed.root));
  std::vector<TensorInfo> tensors;
  std::unordered_set<const PickleValue*> seen;
  for (size_t i = 0; i + 1 < weights->items.size(); i += 2) {
    const PickleValue& key = *weights->items[i];
    const PickleValue& value = *weights->items[i + 1];
    const bool is_tensor = value.kind == Kind::kCall;
    if (!is_tensor && !HidesTensor(value, &seen)) continue;
    if (key.kind != Kind::kText || !IsUtf8(key.text)) {
      return Corrupt("the pickle has a tensor whose name is no text");
    }
    if (!is_tensor) {
      return Unsupported(absl::StrCat("the pickle has tensors inside of ", Quoted(key.text),
                                      " beside others; save the state_dict alone"));
    }
    absl::StatusOr<TensorInfo> tensor = ReadCall(value, find);
    if (!tensor.ok()) {
      return MakeError(ReasonOf(tensor.status()),
                       absl::StrCat("tensor ", Quoted(key.text), " ", tensor.status().message()));
    }
    tensor->name = std::string(key.text);
    tensors.push_back(*std::move(tensor));
  }
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
  for (size_t i = 1; i < tensors.size(); ++i) {
    if (tensors[i].name == tensors[i - 1].name) {
      return Corrupt(absl::StrCat("the pickle has the tensor ", Quoted(tensors[i].name), " twice"));
    }
  }
  RETURN_IF_ERROR(CheckTotal(tensors, file_size));
  return tensors;
}

absl::StatusOr<std::vector<TensorInfo>> ReadTorchFile(const RangeReader& read, uint64_t file_size) {
  const absl::StatusOr<ZipDirectory> zip = ReadZipDirectory(read, file_size);
  if (ReasonOf(zip.status()) == Reason::kInputCorrupt) {
    return Recognise(read, file_size, zip.status());
  }
  RETURN_IF_ERROR(zip.status());
  ASSIGN_OR_RETURN(const std::string root, FindRoot(*zip));
  RETURN_IF_ERROR(CheckByteOrder(read, *zip, root));
  ASSIGN_OR_RETURN(const std::string pickle,
                   ReadZipEntry(read, *zip->Find(absl::StrCat(root, kPickleName)), kMaxPickle));
  return ReadStateDict(
      pickle, [&](absl::string_view key) { return zip->Find(absl::StrCat(root, "/data/", key)); },
      file_size);
}

}  // namespace orthomerge
