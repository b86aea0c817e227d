#include "core/checkpoint/zip_directory.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "core/base/bytes.h"
#include "core/base/status.h"
#include "core/checkpoint/json_events.h"
#include "core/checkpoint/parallel_reads.h"

namespace orthomerge {
namespace {

constexpr uint64_t kEndBytes = 22;
constexpr uint64_t kLocatorBytes = 20;
constexpr uint64_t kEnd64Bytes = 56;
constexpr uint64_t kEntryBytes = 46;
constexpr uint64_t kLocalBytes = 30;
constexpr uint64_t kTailRead = 64 * kKiB;  // holds most directories
constexpr uint64_t kMaxDirectory = 32 * kMiB;
constexpr uint64_t kMaxGap = 4 * kKiB;  // local headers closer than this are read together
constexpr size_t kThreads = 4;

constexpr absl::string_view kEndMark = "PK\5\6";
constexpr absl::string_view kLocatorMark = "PK\6\7";
constexpr absl::string_view kEnd64Mark = "PK\6\6";
constexpr absl::string_view kEntryMark = "PK\1\2";
constexpr absl::string_view kLocalMark = "PK\3\4";

constexpr uint64_t kIn64 = 0xffffffff;  // the value is in a 64-bit record
constexpr uint64_t kEncrypted = 1, kSizesBehind = 8;
// Hints of the compressor, sizes behind the data, names in UTF-8.
constexpr uint64_t kKnownFlags = 2 | 4 | kSizesBehind | 0x800;

absl::Status Corrupt(absl::string_view message) {
  return MakeError(Reason::kInputCorrupt, message);
}

// `width` bytes at `at`, little-endian; the caller has checked that they are there.
uint64_t Field(absl::string_view bytes, size_t at, size_t width) {
  uint64_t value = 0;
  for (size_t i = width; i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[at + i]);
  return value;
}

absl::StatusOr<std::string> ReadRange(const RangeReader& read, uint64_t offset, uint64_t size) {
  std::string bytes(size, '\0');
  if (size > 0) RETURN_IF_ERROR(read(offset, absl::MakeSpan(&bytes[0], bytes.size())));
  return bytes;
}

struct Place {
  uint64_t begin = 0, size = 0, entries = 0;  // of the directory
};

// A value of the end record, which may be in the 64-bit one. kIn64 has as many bits as the field.
bool Agrees(uint64_t narrow, uint64_t all_ones, uint64_t wide) {
  return narrow == wide || narrow == all_ones;
}

// Where the directory is, from the file's last bytes.
absl::StatusOr<Place> FindDirectory(absl::string_view tail, uint64_t file_size) {
  const absl::string_view end = tail.substr(tail.size() - std::min(tail.size(), kEndBytes));
  // No comment behind it: torch writes none, and one could hide another archive.
  if (end.size() < kEndBytes || !absl::StartsWith(end, kEndMark) || Field(end, 20, 2) != 0) {
    return Corrupt(absl::StrCat("not a zip archive: no directory at the end of its ", file_size,
                                " bytes; is the file complete?"));
  }
  Place place{Field(end, 16, 4), Field(end, 12, 4), Field(end, 10, 2)};
  uint64_t disks = Field(end, 4, 2) | Field(end, 6, 2);
  uint64_t entries_here = Field(end, 8, 2);
  uint64_t limit = file_size - kEndBytes;  // where the directory must end
  const absl::string_view before = tail.substr(0, tail.size() - kEndBytes);
  const bool has_64 = before.size() >= kLocatorBytes + kEnd64Bytes &&
                      absl::StartsWith(before.substr(before.size() - kLocatorBytes), kLocatorMark);
  if (has_64) {
    const absl::string_view locator = before.substr(before.size() - kLocatorBytes);
    const absl::string_view wide = before.substr(before.size() - kLocatorBytes - kEnd64Bytes);
    limit -= kLocatorBytes + kEnd64Bytes;
    const Place place64{Field(wide, 48, 8), Field(wide, 40, 8), Field(wide, 32, 8)};
    if (!absl::StartsWith(wide, kEnd64Mark) || Field(locator, 8, 8) != limit ||
        Field(wide, 4, 8) != kEnd64Bytes - 12 || Field(locator, 4, 4) != 0 ||
        Field(locator, 16, 4) > 1 || !Agrees(place.begin, kIn64, place64.begin) ||
        !Agrees(place.size, kIn64, place64.size) ||
        !Agrees(place.entries, 0xffff, place64.entries) ||
        !Agrees(entries_here, 0xffff, Field(wide, 24, 8))) {
      return Corrupt("the records at the end of the archive contradict each other");
    }
    place = place64;
    disks = Field(wide, 16, 4) | Field(wide, 20, 4);
    entries_here = Field(wide, 24, 8);
  }
  if (disks != 0 || entries_here != place.entries) {
    return Corrupt("the archive is one of several volumes, or its end is wrong");
  }
  if (place.size > limit || place.begin != limit - place.size) {
    return Corrupt(absl::StrCat("the archive's directory should be ", place.size,
                                " bytes from byte ", place.begin, " on, but ends at byte ", limit));
  }
  if (place.size > kMaxDirectory) {
    return Corrupt(absl::StrCat("the archive's directory has ", place.size, " bytes; at most ",
                                kMaxDirectory, " are read"));
  }
  if (place.entries > place.size / kEntryBytes) {
    return Corrupt(absl::StrCat("the archive's directory announces ", place.entries,
                                " entries but has only ", place.size, " bytes"));
  }
  return place;
}

// An entry as the directory has it.
struct Listed {
  ZipEntry entry;       // end: its size until the local header says where it begins
  uint64_t offset = 0;  // of its local header
};

// Puts the values that an entry keeps in its 64-bit record, in that record's order, into `fields`.
bool TakeWideFields(absl::string_view extra, std::array<uint64_t*, 3> fields) {
  while (extra.size() >= 4) {
    const uint64_t id = Field(extra, 0, 2), size = Field(extra, 2, 2);
    if (size > extra.size() - 4) return false;
    absl::string_view record = extra.substr(4, size);
    extra.remove_prefix(4 + size);
    if (id != 1) continue;
    for (uint64_t* field : fields) {
      if (*field != kIn64) continue;
      if (record.size() < 8) return false;
      *field = Field(record, 0, 8);
      record.remove_prefix(8);
    }
    return true;
  }
  return true;  // a size of 0xffffffff may be meant
}

absl::Status CheckFlags(absl::string_view name, uint64_t flags, uint64_t method) {
  if ((flags & kEncrypted) != 0) {
    return Corrupt(absl::StrCat("the entry ", Quoted(name), " is encrypted"));
  }
  if (method != 0) {
    return MakeError(Reason::kUnsupported,
                     absl::StrCat("the entry ", Quoted(name),
                                  " is compressed, and only stored ones are read; load and save "
                                  "the file with torch again, or convert it to safetensors"));
  }
  if ((flags & ~kKnownFlags) != 0) {
    return Corrupt(absl::StrCat("the entry ", Quoted(name), " has unknown flags (", flags, ")"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Listed>> ParseDirectory(absl::string_view bytes, const Place& place) {
  std::vector<Listed> entries;
  entries.reserve(place.entries);
  for (uint64_t i = 0; i < place.entries; ++i) {
    const auto cut = [&] { return Corrupt(absl::StrCat("entry ", i, " of the archive is cut")); };
    if (bytes.size() < kEntryBytes || !absl::StartsWith(bytes, kEntryMark)) return cut();
    const uint64_t name_size = Field(bytes, 28, 2), extra_size = Field(bytes, 30, 2);
    const uint64_t all = kEntryBytes + name_size + extra_size + Field(bytes, 32, 2);
    if (all > bytes.size()) return cut();
    Listed listed;
    ZipEntry& entry = listed.entry;
    entry.name = std::string(bytes.substr(kEntryBytes, name_size));
    entry.crc = static_cast<uint32_t>(Field(bytes, 16, 4));
    uint64_t stored = Field(bytes, 20, 4);
    entry.end = Field(bytes, 24, 4);
    listed.offset = Field(bytes, 42, 4);
    const auto fault = [&](absl::string_view what) {
      return Corrupt(absl::StrCat("the entry ", Quoted(entry.name), " ", what));
    };
    if (!TakeWideFields(bytes.substr(kEntryBytes + name_size, extra_size),
                        {&entry.end, &stored, &listed.offset})) {
      return fault("has a damaged record of 64-bit sizes");
    }
    RETURN_IF_ERROR(CheckFlags(entry.name, Field(bytes, 8, 2), Field(bytes, 10, 2)));
    if (stored != entry.end) return fault("has two sizes although it is not compressed");
    if (Field(bytes, 34, 2) != 0) return fault("is in another volume");
    const uint64_t head = kLocalBytes + name_size;
    if (listed.offset > place.begin || head > place.begin - listed.offset ||
        entry.end > place.begin - listed.offset - head) {
      return fault("does not lie inside the file; is it complete?");
    }
    entries.push_back(std::move(listed));
    bytes.remove_prefix(all);
  }
  if (!bytes.empty()) return Corrupt("the archive's directory is longer than its entries");
  return entries;
}

// Sets where the data of `listed` are, from its local header, name included.
absl::Status TakeLocalHeader(absl::string_view header, uint64_t limit, Listed* listed) {
  ZipEntry& entry = listed->entry;
  const auto fault = [&](absl::string_view what) {
    return Corrupt(absl::StrCat("the entry ", Quoted(entry.name), " ", what));
  };
  if (!absl::StartsWith(header, kLocalMark)) return fault("has no header where it should be");
  if (Field(header, 26, 2) != entry.name.size() || header.substr(kLocalBytes) != entry.name) {
    return fault("has another name in its own header than in the directory");
  }
  const uint64_t flags = Field(header, 6, 2);
  RETURN_IF_ERROR(CheckFlags(entry.name, flags, Field(header, 8, 2)));
  const uint64_t size = entry.end;
  const auto agrees = [&](uint64_t local, uint64_t value) {
    return local == value || ((flags & kSizesBehind) != 0 && local == 0);
  };
  const uint64_t stored = Field(header, 18, 4), plain = Field(header, 22, 4);
  if (!agrees(Field(header, 14, 4), entry.crc) || (stored != kIn64 && !agrees(stored, size)) ||
      (plain != kIn64 && !agrees(plain, size))) {
    return fault("has another size or checksum in its own header than in the directory");
  }
  entry.begin = listed->offset + kLocalBytes + entry.name.size() + Field(header, 28, 2);
  if (entry.begin > limit || size > limit - entry.begin) {
    return fault("does not lie inside the file; is it complete?");
  }
  entry.end = entry.begin + size;
  return absl::OkStatus();
}

// Reads the local headers of `entries`, which are sorted by offset; neighbours in one read.
absl::Status ReadLocalHeaders(const RangeReader& read, uint64_t limit,
                              std::vector<Listed>* entries) {
  const auto head_end = [&](size_t i) {
    return (*entries)[i].offset + kLocalBytes + (*entries)[i].entry.name.size();
  };
  std::vector<size_t> firsts;  // of the groups
  for (size_t i = 0; i < entries->size(); ++i) {
    const bool near = i > 0 && (*entries)[i].offset <= head_end(i - 1) + kMaxGap &&
                      head_end(i) - (*entries)[firsts.back()].offset <= kTailRead;
    if (!near) firsts.push_back(i);
  }
  return ReadInParallel(firsts.size(), kThreads, [&](size_t group) -> absl::Status {
    const size_t first = firsts[group];
    const size_t last = group + 1 < firsts.size() ? firsts[group + 1] : entries->size();
    const uint64_t begin = (*entries)[first].offset;
    uint64_t end = begin;
    for (size_t i = first; i < last; ++i) end = std::max(end, head_end(i));
    ASSIGN_OR_RETURN(const std::string bytes, ReadRange(read, begin, end - begin));
    for (size_t i = first; i < last; ++i) {
      Listed& listed = (*entries)[i];
      const absl::string_view header = absl::string_view(bytes).substr(
          listed.offset - begin, kLocalBytes + listed.entry.name.size());
      RETURN_IF_ERROR(TakeLocalHeader(header, limit, &listed));
    }
    return absl::OkStatus();
  });
}

uint32_t Crc32(absl::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = [] {
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0u);
      table[i] = value;
    }
    return table;
  }();
  uint32_t crc = ~uint32_t{0};
  for (const char c : bytes) crc = crc >> 8 ^ kTable[(crc ^ static_cast<uint8_t>(c)) & 0xff];
  return ~crc;
}

}  // namespace

const ZipEntry* ZipDirectory::Find(absl::string_view name) const {
  const auto found = std::lower_bound(
      entries.begin(), entries.end(), name,
      [](const ZipEntry& entry, absl::string_view wanted) { return entry.name < wanted; });
  return found != entries.end() && found->name == name ? &*found : nullptr;
}

absl::StatusOr<ZipDirectory> ReadZipDirectory(const RangeReader& read, uint64_t file_size) {
  const uint64_t tail_size = std::min(file_size, kTailRead);
  ASSIGN_OR_RETURN(const std::string tail, ReadRange(read, file_size - tail_size, tail_size));
  ASSIGN_OR_RETURN(const Place place, FindDirectory(tail, file_size));
  std::string bytes;
  const uint64_t tail_begin = file_size - tail_size;
  if (place.begin >= tail_begin) {
    bytes = tail.substr(place.begin - tail_begin, place.size);
  } else {
    ASSIGN_OR_RETURN(bytes, ReadRange(read, place.begin, place.size));
  }
  ASSIGN_OR_RETURN(std::vector<Listed> entries, ParseDirectory(bytes, place));
  std::sort(entries.begin(), entries.end(),
            [](const Listed& a, const Listed& b) { return a.entry.name < b.entry.name; });
  for (size_t i = 1; i < entries.size(); ++i) {
    if (entries[i].entry.name == entries[i - 1].entry.name) {
      return Corrupt(absl::StrCat("the archive has two entries ", Quoted(entries[i].entry.name)));
    }
  }
  std::stable_sort(entries.begin(), entries.end(),
                   [](const Listed& a, const Listed& b) { return a.offset < b.offset; });
  if (!entries.empty() && entries[0].offset != 0) {
    return Corrupt("something else lies before the archive's first entry");
  }
  RETURN_IF_ERROR(ReadLocalHeaders(read, place.begin, &entries));
  for (size_t i = 1; i < entries.size(); ++i) {
    if (entries[i].offset < entries[i - 1].entry.end) {
      return Corrupt(absl::StrCat("the entries ", Quoted(entries[i - 1].entry.name), " and ",
                                  Quoted(entries[i].entry.name), " overlap"));
    }
  }
  ZipDirectory directory;
  directory.entries.reserve(entries.size());
  for (Listed& listed : entries) directory.entries.push_back(std::move(listed.entry));
  std::sort(directory.entries.begin(), directory.entries.end(),
            [](const ZipEntry& a, const ZipEntry& b) { return a.name < b.name; });
  return directory;
}

absl::StatusOr<std::string> ReadZipEntry(const RangeReader& read, const ZipEntry& entry,
                                         uint64_t max_bytes) {
  if (entry.bytes() > max_bytes) {
    return Corrupt(absl::StrCat("the entry ", Quoted(entry.name), " has ", entry.bytes(),
                                " bytes; at most ", max_bytes, " are read"));
  }
  ASSIGN_OR_RETURN(std::string bytes, ReadRange(read, entry.begin, entry.bytes()));
  if (Crc32(bytes) != entry.crc) {
    return Corrupt(absl::StrCat("the entry ", Quoted(entry.name),
                                " does not have its checksum; the file is damaged"));
  }
  return bytes;
}

}  // namespace orthomerge
