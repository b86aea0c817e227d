#include "core/checkpoint/safetensors.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/numeric/int128.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "core/base/status.h"
#include "core/checkpoint/json_events.h"

namespace orthomerge {
namespace {

constexpr absl::string_view kMetadataKey = "__metadata__";
constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kAlignment = 8;

absl::Status Corrupt(absl::string_view message) {
  return MakeError(Reason::kInputCorrupt, message);
}

uint64_t LittleEndian(absl::string_view bytes) {
  uint64_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) {
    value = value << 8 | static_cast<unsigned char>(bytes[i]);
  }
  return value;
}

// Bytes of a tensor. It overflows where elements or bytes pass 63 bits; a dimension of 0 hides no
// overflow of the others.
struct Size {
  bool overflows = false;
  uint64_t bits_over = 0;  // bits beyond the last whole byte
  uint64_t bytes = 0;
};

Size SizeOf(DType dtype, const std::vector<int64_t>& shape) {
  constexpr uint64_t kLimit = std::numeric_limits<int64_t>::max();
  Size size;
  uint64_t elements = 1;
  bool empty = false;
  for (const int64_t dimension : shape) {
    if (dimension == 0) {
      empty = true;
    } else if (dimension < 0 ||
               __builtin_mul_overflow(elements, static_cast<uint64_t>(dimension), &elements) ||
               elements > kLimit) {
      size.overflows = true;
      return size;
    }
  }
  const absl::uint128 bits = absl::uint128(elements) * static_cast<unsigned>(BitsOf(dtype));
  if (bits / 8 > kLimit) {
    size.overflows = true;
  } else if (!empty) {
    size.bits_over = static_cast<uint64_t>(bits % 8);
    size.bytes = static_cast<uint64_t>(bits / 8);
  }
  return size;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

// Collects the entries of a header. Offsets stay relative to the start of the data.
class HeaderEvents final : public JsonEvents {
 public:
  std::vector<TensorInfo> TakeTensors() { return std::move(tensors_); }

 private:
  enum class Place { kEntry, kMetadata };
  enum class Field { kNone, kDtype, kShape, kOffsets, kOther };
  static constexpr int kTop = 1, kInEntry = 2, kInField = 3;

  bool Open(bool array) override {
    if (depth() == kTop) return true;
    if (depth() == kInEntry) return OpenEntry(array);
    if (place_ == Place::kMetadata) return Fail("has a __metadata__ value that is not text");
    if (field_ == Field::kOther) return true;
    if (depth() == kInField && array && field_ == Field::kShape) {
      has_shape_ = true;
      return true;
    }
    if (depth() == kInField && array && field_ == Field::kOffsets) return true;
    return WrongField();
  }

  bool OpenEntry(bool array) {
    if (place_ == Place::kMetadata) return !array || Fail("has a __metadata__ that is no object");
    if (array) return FailEntry("is described by something else than an object");
    has_dtype_ = has_shape_ = false;
    offsets_.clear();
    return true;
  }

  bool Close() override {
    if (depth() != kInEntry || place_ == Place::kMetadata) return true;
    if (!has_dtype_) return FailEntry("has no dtype");
    if (!has_shape_) return FailEntry("has no shape");
    if (offsets_.size() != 2) return FailEntry("has no pair of data_offsets");
    tensor_.begin = offsets_[0];
    tensor_.end = offsets_[1];
    tensors_.push_back(std::move(tensor_));
    return true;
  }

  bool Key(std::string& name) override {
    if (depth() == kTop) {
      if (name == kMetadataKey) {
        if (std::exchange(has_metadata_, true)) return Fail("has __metadata__ twice");
        place_ = Place::kMetadata;
      } else {
        place_ = Place::kEntry;
        tensor_ = TensorInfo();
        tensor_.name = std::move(name);
      }
    } else if (depth() == kInEntry && place_ == Place::kEntry) {
      field_ = name == "dtype"          ? Field::kDtype
               : name == "shape"        ? Field::kShape
               : name == "data_offsets" ? Field::kOffsets
                                        : Field::kOther;
    }
    return true;
  }

  bool Scalar(const JsonScalar& value) override {
    if (place_ == Place::kMetadata) {
      if (depth() == kTop) {
        return value.kind == JsonScalar::Kind::kNull ||
               Fail("has a __metadata__ that is no object");
      }
      return value.kind == JsonScalar::Kind::kString ||
             Fail("has a __metadata__ value that is not text");
    }
    if (depth() == kTop) return FailEntry("is described by something else than an object");
    switch (field_) {
      case Field::kDtype:
        return Dtype(value);
      case Field::kShape:
        return Dimension(value);
      case Field::kOffsets:
        return Offset(value);
      default:
        return true;
    }
  }

  bool Dtype(const JsonScalar& value) {
    if (value.kind != JsonScalar::Kind::kString) return WrongField();
    const std::optional<DType> dtype = DTypeFromName(*value.text);
    if (!dtype.has_value()) return FailEntry("has the unknown dtype " + Quoted(*value.text));
    tensor_.dtype = *dtype;
    has_dtype_ = true;
    return true;
  }

  bool Dimension(const JsonScalar& value) {
    if (depth() != kInField || value.kind != JsonScalar::Kind::kUnsigned ||
        value.number > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return WrongField();
    }
    if (tensor_.shape.size() == kMaxRank) {
      return FailEntry(absl::StrCat("has more than ", kMaxRank, " dimensions"));
    }
    tensor_.shape.push_back(static_cast<int64_t>(value.number));
    return true;
  }

  bool Offset(const JsonScalar& value) {
    if (depth() != kInField || value.kind != JsonScalar::Kind::kUnsigned) return WrongField();
    if (offsets_.size() == 2) return FailEntry("has more than two data_offsets");
    offsets_.push_back(value.number);
    return true;
  }

  bool FailTwice(const std::string& key) override {
    if (place_ == Place::kMetadata) return JsonEvents::FailTwice(key);
    return FailEntry(absl::StrCat("has the field ", Quoted(key), " twice"));
  }

  bool WrongField() {
    switch (field_) {
      case Field::kDtype:
        return FailEntry("has a dtype that is not text");
      case Field::kShape:
        return FailEntry("has a shape that is no list of non-negative integers");
      default:
        return FailEntry("has data_offsets that are no list of non-negative integers");
    }
  }

  bool FailEntry(absl::string_view fault) {
    return Fail(absl::StrCat("is wrong: tensor ", Quoted(tensor_.name), " ", fault));
  }

  Place place_ = Place::kEntry;
  Field field_ = Field::kNone;
  TensorInfo tensor_;
  bool has_dtype_ = false, has_shape_ = false, has_metadata_ = false;
  std::vector<uint64_t> offsets_;
  std::vector<TensorInfo> tensors_;
};

absl::Status CheckNames(const std::vector<TensorInfo>& sorted) {
  for (size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i].name == sorted[i - 1].name) {
      return Corrupt(absl::StrCat("header names tensor ", Quoted(sorted[i].name), " twice"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSize(const TensorInfo& tensor, uint64_t data_size) {
  const auto fault = [&](const auto&... parts) {
    return Corrupt(absl::StrCat("tensor ", Quoted(tensor.name), " ", parts...));
  };
  if (tensor.end < tensor.begin) {
    return fault("ends (", tensor.end, ") before it begins (", tensor.begin, ")");
  }
  if (tensor.end > data_size) {
    return fault("ends at byte ", tensor.end, " of the data, which has only ", data_size,
                 "; is the file complete?");
  }
  const std::string what =
      absl::StrCat(NameOf(tensor.dtype), " of shape ", ShapeText(tensor.shape));
  const Size size = SizeOf(tensor.dtype, tensor.shape);
  if (size.overflows) return fault("(", what, ") is larger than any file");
  if (size.bits_over != 0) return fault("(", what, ") does not fill whole bytes");
  if (size.bytes != tensor.bytes()) {
    return fault("(", what, ") needs ", size.bytes, " bytes but has ", tensor.bytes());
  }
  return absl::OkStatus();
}

// The tensors, in the order of their offsets, follow each other from 0 to `data_size`.
absl::Status CheckTiling(const std::vector<TensorInfo>& tensors, uint64_t data_size) {
  std::vector<const TensorInfo*> order(tensors.size());
  for (size_t i = 0; i < tensors.size(); ++i) order[i] = &tensors[i];
  std::sort(order.begin(), order.end(), [](const TensorInfo* a, const TensorInfo* b) {
    return std::tie(a->begin, a->end, a->name) < std::tie(b->begin, b->end, b->name);
  });
  uint64_t end = 0;
  for (const TensorInfo* tensor : order) {
    if (tensor->begin != end) {
      return Corrupt(absl::StrCat(
          "tensor ", Quoted(tensor->name), " begins at byte ", tensor->begin, " of the data where ",
          end, " is due: ", tensor->begin < end ? "it overlaps another tensor" : "a hole"));
    }
    end = tensor->end;
  }
  if (end != data_size) {
    return Corrupt(absl::StrCat(data_size - end, " bytes lie behind the last tensor",
                                order.empty() ? "" : " " + Quoted(order.back()->name)));
  }
  return absl::OkStatus();
}

}  // namespace

int64_t TensorInfo::elements() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

absl::StatusOr<uint64_t> SafetensorsHeaderLength(absl::string_view first8, uint64_t file_size) {
  if (file_size < kLengthBytes || first8.size() < kLengthBytes) {
    return Corrupt(absl::StrCat("not a safetensors file: it has only ",
                                std::min<uint64_t>(file_size, first8.size()), " bytes"));
  }
  const uint64_t length = LittleEndian(first8.substr(0, kLengthBytes));
  if (length > kMaxSafetensorsHeader) {
    return Corrupt(absl::StrCat("not a safetensors file: a header of ", length,
                                " bytes is announced, more than the format's ",
                                kMaxSafetensorsHeader));
  }
  if (length > file_size - kLengthBytes) {
    return Corrupt(absl::StrCat("a header of ", length,
                                " bytes is announced but the file has only ", file_size,
                                "; is it complete?"));
  }
  return length;
}

absl::StatusOr<std::vector<TensorInfo>> ParseSafetensorsHeader(absl::string_view json,
                                                               uint64_t file_size) {
  if (json.size() > kMaxSafetensorsHeader || file_size < kLengthBytes ||
      json.size() > file_size - kLengthBytes) {
    return Corrupt("the header does not fit the file");
  }
  if (json.empty() || json[0] != '{') return Corrupt("header does not begin with '{'");
  HeaderEvents events;
  RETURN_IF_ERROR(events.Read(json, "header"));
  std::vector<TensorInfo> tensors = events.TakeTensors();
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
  RETURN_IF_ERROR(CheckNames(tensors));
  const uint64_t data_begin = kLengthBytes + json.size();
  const uint64_t data_size = file_size - data_begin;
  for (const TensorInfo& tensor : tensors) RETURN_IF_ERROR(CheckSize(tensor, data_size));
  RETURN_IF_ERROR(CheckTiling(tensors, data_size));
  for (TensorInfo& tensor : tensors) {
    tensor.begin += data_begin;
    tensor.end += data_begin;
  }
  return tensors;
}

absl::StatusOr<std::string> LayOutSafetensors(std::vector<TensorLayout>* tensors) {
  std::sort(tensors->begin(), tensors->end(), [](const TensorLayout& a, const TensorLayout& b) {
    return std::tie(a.dtype, a.name) < std::tie(b.dtype, b.name);
  });
  std::string json = R"({"__metadata__":{"format":"pt"})";
  uint64_t end = 0;
  for (TensorLayout& tensor : *tensors) {
    const Size size = SizeOf(tensor.dtype, tensor.shape);
    constexpr uint64_t kLargest = std::numeric_limits<int64_t>::max() - 2 * kMaxSafetensorsHeader;
    if (tensor.name == kMetadataKey || tensor.shape.size() > kMaxRank || size.overflows ||
        size.bits_over != 0 || size.bytes > kLargest - end) {
      return MakeError(
          Reason::kOutOfRange,
          absl::StrCat("tensor ", Quoted(tensor.name), " (", NameOf(tensor.dtype), " of shape ",
                       ShapeText(tensor.shape), ") cannot be stored in a safetensors file"));
    }
    tensor.begin = end;
    tensor.end = end += size.bytes;
    std::string name;
    try {
      name = nlohmann::json(tensor.name).dump();
    } catch (const nlohmann::json::exception&) {
      return MakeError(Reason::kOutOfRange,
                       absl::StrCat("the tensor name ", Quoted(tensor.name), " is not UTF-8"));
    }
    absl::StrAppend(&json, ",", name, R"(:{"dtype":")", NameOf(tensor.dtype), R"(","shape":[)",
                    absl::StrJoin(tensor.shape, ","), R"(],"data_offsets":[)", tensor.begin, ",",
                    tensor.end, "]}");
  }
  json += '}';
  json.append((kAlignment - json.size() % kAlignment) % kAlignment, ' ');
  if (json.size() > kMaxSafetensorsHeader) {
    return MakeError(Reason::kOutOfRange,
                     absl::StrCat("a header of ", json.size(), " bytes for ", tensors->size(),
                                  " tensors is more than the format's ", kMaxSafetensorsHeader,
                                  "; write smaller shards (max_shard_size)"));
  }
  std::string head(kLengthBytes, '\0');
  for (size_t i = 0; i < kLengthBytes; ++i) head[i] = static_cast<char>(json.size() >> (8 * i));
  for (TensorLayout& tensor : *tensors) {
    tensor.begin += kLengthBytes + json.size();
    tensor.end += kLengthBytes + json.size();
  }
  return head + json;
}

}  // namespace orthomerge
