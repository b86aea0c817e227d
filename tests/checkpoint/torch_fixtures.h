// Makes torch checkpoints: archives and pickles of any content, right and wrong.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace orthomerge {

inline std::string LittleEndianBytes(uint64_t value, int width) {
  std::string bytes;
  for (int i = 0; i < width; ++i, value >>= 8) bytes += static_cast<char>(value);
  return bytes;
}

inline uint32_t Crc32Of(absl::string_view bytes) {
  uint32_t crc = 0xffffffff;
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0u);
  }
  return ~crc;
}

struct ZipPart {
  std::string name;
  std::string data;
  uint64_t method = 0;
  uint64_t flags = 0x800;
};

// What an archive may have or lack beside its parts.
struct ZipStyle {
  uint64_t alignment = 64;    // of the data
  bool sizes_behind = false;  // in a record behind the data and not before it
  bool end64 = false;         // 64-bit records at the end
  bool wide = false;          // 64-bit sizes of every entry
  std::string before = {};    // bytes in front of everything
};

inline std::string MakeZip(const std::vector<ZipPart>& parts, const ZipStyle& style = {}) {
  std::string file = style.before, directory;
  const auto le = LittleEndianBytes;
  for (const ZipPart& part : parts) {
    const uint64_t flags = part.flags | (style.sizes_behind ? 8 : 0);
    const uint64_t offset = file.size();
    const uint64_t crc = Crc32Of(part.data), size = part.data.size();
    const uint64_t local_crc = style.sizes_behind ? 0 : crc;
    const uint64_t local_size = style.sizes_behind ? 0 : size;
    const uint64_t head = offset + 30 + part.name.size();
    const std::string padding((style.alignment - head % style.alignment) % style.alignment, 'Z');
    absl::StrAppend(&file, "PK\3\4", le(0, 2), le(flags, 2), le(part.method, 2), le(0, 4),
                    le(local_crc, 4), le(local_size, 4), le(local_size, 4), le(part.name.size(), 2),
                    le(padding.size(), 2), part.name, padding, part.data);
    if (style.sizes_behind) {
      absl::StrAppend(&file, "PK\7\10", le(crc, 4), le(size, 4), le(size, 4));
    }
    std::string extra = absl::StrCat(le(7, 2), le(3, 2), "abc");  // of somebody else
    if (style.wide) {
      absl::StrAppend(&extra, le(1, 2), le(24, 2), le(size, 8), le(size, 8), le(offset, 8));
    }
    const uint64_t ones = 0xffffffff;
    absl::StrAppend(&directory, "PK\1\2", le(0, 2), le(0, 2), le(flags, 2), le(part.method, 2),
                    le(0, 4), le(crc, 4));
    absl::StrAppend(&directory, le(style.wide ? ones : size, 4), le(style.wide ? ones : size, 4),
                    le(part.name.size(), 2), le(extra.size(), 2), le(0, 2), le(0, 2), le(0, 6),
                    le(style.wide ? ones : offset, 4), part.name, extra);
  }
  const uint64_t begin = file.size(), count = parts.size();
  file += directory;
  if (style.end64) {
    const uint64_t end64 = file.size();
    absl::StrAppend(&file, "PK\6\6", le(44, 8), le(0, 4), le(0, 4), le(0, 4), le(count, 8));
    absl::StrAppend(&file, le(count, 8), le(directory.size(), 8), le(begin, 8));
    absl::StrAppend(&file, "PK\6\7", le(0, 4), le(end64, 8), le(1, 4));
  }
  const uint64_t small = style.end64 ? 0xffff : count;
  absl::StrAppend(&file, "PK\5\6", le(0, 4), le(small, 2), le(small, 2),
                  le(style.end64 ? 0xffffffff : directory.size(), 4),
                  le(style.end64 ? 0xffffffff : begin, 4), le(0, 2));
  return file;
}

// Pieces of pickles.
namespace pickled {

inline std::string Text(absl::string_view text) {
  return absl::StrCat("X", LittleEndianBytes(text.size(), 4), text);
}
inline std::string Int(int64_t value) {
  return absl::StrCat("\x8a\x08", LittleEndianBytes(static_cast<uint64_t>(value), 8));
}
inline std::string Name(absl::string_view module, absl::string_view name) {
  return absl::StrCat("c", module, "\n", name, "\n");
}
inline std::string Tuple(const std::vector<std::string>& items) {
  std::string bytes = "(";
  for (const std::string& item : items) bytes += item;
  return bytes + "t";
}
inline std::string Ints(const std::vector<int64_t>& values) {
  std::vector<std::string> items;
  for (const int64_t value : values) items.push_back(Int(value));
  return Tuple(items);
}
inline std::string Call(const std::string& function, const std::vector<std::string>& arguments) {
  return function + Tuple(arguments) + "R";
}
inline std::string OrderedDict() { return Call(Name("collections", "OrderedDict"), {}); }
inline std::string Dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string bytes = "}(";
  for (const auto& [key, value] : items) bytes += Text(key) + value;
  return bytes + "u";
}
inline std::string StorageOf(const std::string& type, const std::string& key, int64_t elements) {
  return Tuple({Text("storage"), type, Text(key), Text("cpu"), Int(elements)}) + "Q";
}
inline std::string FloatStorage(const std::string& key, int64_t elements) {
  return StorageOf(Name("torch", "FloatStorage"), key, elements);
}
inline std::string Tensor(const std::string& storage, int64_t offset,
                          const std::vector<int64_t>& shape, const std::vector<int64_t>& strides) {
  return Call(Name("torch._utils", "_rebuild_tensor_v2"),
              {storage, Int(offset), Ints(shape), Ints(strides), "\x89", OrderedDict()});
}
inline std::string Whole(const std::string& body) { return "\x80\x02" + body + "."; }

}  // namespace pickled

// A checkpoint of this pickle, with these storages ("0", its bytes).
inline std::string TorchFile(const std::string& pickle,
                             const std::vector<std::pair<std::string, std::string>>& storages,
                             const ZipStyle& style = {.sizes_behind = true, .end64 = true}) {
  std::vector<ZipPart> parts = {{"archive/data.pkl", pickle}, {"archive/byteorder", "little"}};
  for (const auto& [key, bytes] : storages) parts.push_back({"archive/data/" + key, bytes});
  parts.push_back({"archive/version", "3\n"});
  return MakeZip(parts, style);
}

// A checkpoint with F32 tensors of one dimension, of these names and numbers of elements, all 'x'.
inline std::string TorchFileWith(const std::vector<std::pair<std::string, int64_t>>& tensors) {
  std::vector<std::pair<std::string, std::string>> items, storages;
  for (const auto& [name, elements] : tensors) {
    const std::string key = absl::StrCat(storages.size());
    items.emplace_back(name,
                       pickled::Tensor(pickled::FloatStorage(key, elements), 0, {elements}, {1}));
    storages.emplace_back(key, std::string(4 * static_cast<size_t>(elements), 'x'));
  }
  return TorchFile(pickled::Whole(pickled::Dict(items)), storages);
}

}  // namespace orthomerge
